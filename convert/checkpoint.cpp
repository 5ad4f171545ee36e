#include "convert/checkpoint.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "quant/fp8.h"
#include "runtime/base/try.h"
#include "runtime/io/json.h"

namespace r1::convert {
namespace {

constexpr std::uint64_t max_json_bytes = 256 << 20;

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

std::uint32_t blocks(std::uint32_t n, std::uint32_t block) {
  return (n + block - 1) / block;
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

std::string shape_text(const std::vector<std::uint64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& directory) {
  Checkpoint c;
  c.directory_ = directory;
  const std::string config_path = directory + "/config.json";
  R1_TRY(c.config_text_, rt::read_text_file(config_path, max_json_bytes));
  R1_TRY(c.config_, rt::parse_config(c.config_text_, config_path));
  if (c.config_.r1_format_version != 0) {
    return Error{ErrorCode::unsupported, "is an r1rt model already; convert from the original checkpoint", directory};
  }

  const std::string index_path = directory + "/model.safetensors.index.json";
  if (!exists(index_path)) {
    const std::string path = directory + "/model.safetensors";
    if (!exists(path)) {
      return Error{ErrorCode::not_found, "holds neither model.safetensors.index.json nor model.safetensors", directory};
    }
    R1_TRY(rt::SafetensorsFile shard, rt::SafetensorsFile::open(path));
    for (const auto& entry : shard.entries()) c.shard_of_[entry.name] = "model.safetensors";
    c.shards_.emplace("model.safetensors", std::move(shard));
    return c;
  }

  R1_TRY(const std::string index_text, rt::read_text_file(index_path, max_json_bytes));
  R1_TRY(const rt::Json document, rt::parse_json(index_text, index_path));
  const rt::JsonObject json(document, index_path);
  R1_TRY(const rt::JsonObject weight_map, json.object("weight_map"));
  for (const auto& [name, file] : (*json.find("weight_map")).items()) {
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos) {
      return weight_map.error(name.c_str(), "must be a plain file name");
    }
    c.shard_of_[name] = file.get<std::string>();
  }
  std::map<std::string, std::string> first_tensor;  // of each shard, for the message
  for (const auto& [name, file] : c.shard_of_) first_tensor.emplace(file, name);
  for (const auto& [file, tensor] : first_tensor) {
    const std::string path = directory + "/" + file;
    if (!exists(path)) {
      return Error{ErrorCode::not_found, fmt::format("is missing; the index names it for tensor {}", tensor), path};
    }
    R1_TRY(rt::SafetensorsFile shard, rt::SafetensorsFile::open(path));
    for (const auto& entry : shard.entries()) {
      const auto named = c.shard_of_.find(entry.name);
      if (named == c.shard_of_.end()) {
        return Error{ErrorCode::corrupt, "is not in the index", fmt::format("{}: tensor {}", path, entry.name)};
      }
      if (named->second != file) {
        return Error{ErrorCode::corrupt, "the index says it is in " + named->second,
                     fmt::format("{}: tensor {}", path, entry.name)};
      }
    }
    c.shards_.emplace(file, std::move(shard));
  }
  for (const auto& [name, file] : c.shard_of_) {
    if (c.shards_.at(file).find(name) == nullptr) {
      return Error{ErrorCode::corrupt, "is missing, though the index names it here",
                   fmt::format("{}/{}: tensor {}", directory, file, name)};
    }
  }
  return c;
}

std::uint64_t Checkpoint::bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [name, shard] : shards_) bytes += shard.file()->size();
  return bytes;
}

Result<SourceTensor> Checkpoint::find(const std::string& name, std::uint32_t rows, std::uint32_t k) const {
  const auto file = shard_of_.find(name);
  if (file == shard_of_.end())
    return Error{ErrorCode::not_found, "is missing from the checkpoint", directory_ + ": tensor " + name};
  SourceTensor source;
  source.shard = &shards_.at(file->second);
  source.entry = source.shard->find(name);
  source.rows = rows;
  source.k = k;
  const std::string where = fmt::format("{}: tensor {}", source.shard->path(), name);
  const std::vector<std::uint64_t> expected = rows == 1 && source.entry->shape.size() == 1
                                                  ? std::vector<std::uint64_t>{k}
                                                  : std::vector<std::uint64_t>{rows, k};
  if (source.entry->shape != expected) {
    return Error{
        ErrorCode::corrupt,
        fmt::format("has shape {}, but config.json implies {}", shape_text(source.entry->shape), shape_text(expected)),
        where};
  }
  switch (source.entry->dtype) {
    case rt::Dtype::bf16:
    case rt::Dtype::f16:
    case rt::Dtype::f32:
      return source;
    case rt::Dtype::f8_e4m3:
      break;
    default:
      return Error{
          ErrorCode::unsupported,
          fmt::format("type {} is not supported, only F8_E4M3, BF16, F16 and F32", rt::dtype_name(source.entry->dtype)),
          where};
  }
  if (config_.fp8_block_rows == 0) {
    return Error{ErrorCode::corrupt, "is F8_E4M3, but config.json has no quantization_config with weight_block_size",
                 where};
  }
  source.block_rows = config_.fp8_block_rows;
  source.block_columns = config_.fp8_block_columns;
  const std::string scale_name = name + "_scale_inv";
  const auto scale_file = shard_of_.find(scale_name);
  if (scale_file == shard_of_.end())
    return Error{ErrorCode::not_found, "is missing from the checkpoint", directory_ + ": tensor " + scale_name};
  const rt::SafetensorsFile& scale_shard = shards_.at(scale_file->second);
  const rt::SafetensorsEntry& scale = *scale_shard.find(scale_name);
  const std::string scale_where = fmt::format("{}: tensor {}", scale_shard.path(), scale_name);
  const std::vector<std::uint64_t> scale_shape = {blocks(rows, source.block_rows), blocks(k, source.block_columns)};
  if (scale.dtype != rt::Dtype::f32 || scale.shape != scale_shape) {
    return Error{ErrorCode::corrupt,
                 fmt::format("is {} {}, but the blocks of its weight need F32 {}", rt::dtype_name(scale.dtype),
                             shape_text(scale.shape), shape_text(scale_shape)),
                 scale_where};
  }
  const std::byte* data = scale_shard.data(scale).data();
  if (reinterpret_cast<std::uintptr_t>(data) % alignof(float) != 0) {
    return Error{ErrorCode::corrupt, fmt::format("byte {}: is not aligned to 4", scale.offset_bytes), scale_where};
  }
  source.scale_inv = reinterpret_cast<const float*>(data);
  return source;
}

Result<SourceTensor> Checkpoint::find(const rt::BlobSpec& blob, const rt::MatrixSpec& matrix) const {
  if (blob.rule == rt::PartRule::k_b || blob.rule == rt::PartRule::v_b) {
    return find(matrix.source, config_.num_attention_heads * (config_.qk_nope_head_dim + config_.v_head_dim),
                config_.kv_lora_rank);
  }
  return find(matrix.source, matrix.rows, matrix.k);
}

Result<void> Checkpoint::check_copy(const std::string& name, const std::string& original) const {
  R1_TRY(const SourceTensor copy, find(name, config_.vocab_size, config_.hidden_size));
  R1_TRY(const SourceTensor first, find(original, config_.vocab_size, config_.hidden_size));
  const auto a = copy.shard->data(*copy.entry), b = first.shard->data(*first.entry);
  bool equal = a.size() == b.size();
  constexpr std::size_t step_bytes = std::size_t{16} << 20;  // compared and dropped: memory stays bounded
  for (std::size_t at = 0; equal && at < a.size(); at += step_bytes) {
    const std::size_t n = std::min(step_bytes, a.size() - at);
    equal = std::memcmp(a.data() + at, b.data() + at, n) == 0;
    copy.shard->file()->release(copy.entry->offset_bytes + at, n);
    first.shard->file()->release(first.entry->offset_bytes + at, n);
  }
  if (equal) return {};
  return Error{ErrorCode::unsupported, fmt::format("differs from {}, of which it should be a copy", original),
               fmt::format("{}: tensor {}", copy.shard->path(), name)};
}

Result<void> Checkpoint::check(const std::vector<rt::BlobSpec>& blobs) const {
  std::set<std::string, std::less<>> known;
  for (const rt::BlobSpec& blob : blobs) {
    for (const rt::MatrixSpec& matrix : blob.matrices) {
      R1_TRY(const SourceTensor source, find(blob, matrix));
      known.insert(matrix.source);
      if (source.scale_inv != nullptr) known.insert(matrix.source + "_scale_inv");
    }
  }
  const std::string head = config_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  for (const auto& [name, file] : shard_of_) {
    if (known.contains(name) || ends_with(name, ".rotary_emb.inv_freq")) continue;
    const bool in_layer = name.rfind("model.layers.", 0) == 0;
    if (in_layer && ends_with(name, ".embed_tokens.weight")) {
      R1_CHECK(check_copy(name, "model.embed_tokens.weight"));
    } else if ((in_layer && ends_with(name, ".shared_head.head.weight")) ||
               (config_.tie_word_embeddings && name == "lm_head.weight")) {
      R1_CHECK(check_copy(name, head));
    } else {
      return Error{ErrorCode::unsupported,
                   fmt::format("is unknown to the architecture {}", rt::architecture_name(config_.architecture)),
                   fmt::format("{}/{}: tensor {}", directory_, file, name)};
    }
  }
  return {};
}

std::string Checkpoint::fingerprint() const {
  // Sixty-four pages spread over each shard tell apart checkpoints of equal shape (a fine-tune, say) at the cost of
  // some ten thousand small reads for R1's 163 shards.
  constexpr std::size_t n_pages = 64, page_bytes = 4096;
  std::string facts;
  for (const auto& [name, shard] : shards_) {
    const auto bytes = shard.file()->bytes();
    std::uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, bytes.data(), 8);
    facts += fmt::format("{} {} {:016x}", name, bytes.size(), rt::xxh3_64(bytes.first(8 + header_bytes)));
    const std::size_t last = bytes.size() > page_bytes ? bytes.size() - page_bytes : 0;
    for (std::size_t i = 0; i < n_pages; ++i) {
      const std::size_t at = last / n_pages * i;
      facts += fmt::format(" {:016x}", rt::xxh3_64(bytes.subspan(at, std::min(page_bytes, bytes.size() - at))));
      shard.file()->release(at, 2 * page_bytes);
    }
    facts += '\n';
  }
  facts += config_text_;
  return fmt::format("{:016x}", rt::xxh3_64(std::as_bytes(std::span(facts))));
}

void read_rows(const SourceTensor& source, std::uint32_t row_begin, std::uint32_t row_end, float* out) {
  const std::size_t k = source.k, n = std::size_t{row_end - row_begin} * k;
  const std::byte* data =
      source.shard->data(*source.entry).data() + row_begin * k * rt::dtype_bytes(source.entry->dtype);
  // Header lengths are not always even, so 2- and 4-byte types may lie unaligned: copied element by element.
  const auto convert_16 = [&](float (*convert)(std::uint16_t)) {
    for (std::size_t i = 0; i < n; ++i) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, data + 2 * i, 2);
      out[i] = convert(bits);
    }
  };
  switch (source.entry->dtype) {
    case rt::Dtype::f32:
      std::memcpy(out, data, n * sizeof(float));
      break;
    case rt::Dtype::bf16:
      convert_16(quant::bf16_to_f32);
      break;
    case rt::Dtype::f16:
      convert_16(quant::f16_to_f32);
      break;
    default: {
      const auto* bytes = reinterpret_cast<const std::uint8_t*>(data);
      const std::uint32_t scale_columns = blocks(source.k, source.block_columns);
      for (std::uint32_t row = row_begin; row < row_end; ++row) {
        const float* scales = source.scale_inv + std::size_t{row / source.block_rows} * scale_columns;
        for (std::uint32_t begin = 0; begin < source.k; begin += source.block_columns) {
          const std::uint32_t length = std::min(source.block_columns, source.k - begin);
          quant::fp8_e4m3_to_f32(bytes, scales[begin / source.block_columns], length, out);
          bytes += length;
          out += length;
        }
      }
    }
  }
}

void release_rows(const SourceTensor& source, std::uint32_t row_begin, std::uint32_t row_end) {
  const std::uint64_t row_bytes = std::uint64_t{source.k} * rt::dtype_bytes(source.entry->dtype);
  source.shard->file()->release(source.entry->offset_bytes + row_begin * row_bytes, (row_end - row_begin) * row_bytes);
}

}  // namespace r1::convert
