#include "runtime/model_file/model_file.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "runtime/base/try.h"
#include "runtime/io/json.h"
#include "runtime/io/safetensors.h"

namespace r1::rt {
namespace {

constexpr std::uint64_t max_config_bytes = 16 << 20;
constexpr std::uint64_t max_index_bytes = 256 << 20;

using WeightMap = std::map<std::string, std::string, std::less<>>;  // blob → shard's file name

Result<WeightMap> read_weight_map(const std::string& path) {
  R1_TRY(const std::string text, read_text_file(path, max_index_bytes));
  R1_TRY(const Json document, parse_json(text, path));
  const JsonObject json(document, path);
  R1_TRY(const JsonObject weight_map, json.object("weight_map"));
  WeightMap result;
  for (const auto& [name, file] : json.find("weight_map")->items()) {
    if (!file.is_string()) return weight_map.error(name.c_str(), "must be a file name");
    const auto shard = file.get<std::string>();
    if (shard.empty() || shard.find('/') != std::string::npos || shard == "." || shard == "..") {
      return weight_map.error(name.c_str(), fmt::format("{} is not a plain file name", shard));
    }
    result[name] = shard;
  }
  return result;
}

// The index names exactly the blobs that the config asks for.
Result<void> check_names(const WeightMap& weight_map, const std::vector<BlobSpec>& specs, const std::string& path) {
  std::set<std::string_view> wanted;
  for (const BlobSpec& spec : specs) {
    wanted.insert(spec.name);
    if (!weight_map.contains(spec.name)) return Error{ErrorCode::corrupt, "does not name tensor " + spec.name, path};
  }
  for (const auto& [name, file] : weight_map) {
    if (!wanted.contains(name)) {
      return Error{ErrorCode::corrupt, fmt::format("names tensor {}, which config.json does not ask for", name), path};
    }
  }
  return {};
}

// A shard of this format version whose tensors the index knows, and knows to be here.
Result<SafetensorsFile> open_shard(const std::string& directory, const std::string& name, const WeightMap& weight_map) {
  const std::string path = directory + "/" + name;
  R1_TRY(SafetensorsFile shard, SafetensorsFile::open(path));
  // Linux from 6.16 on ext4, earlier on XFS and Btrfs, then caches the file in huge pages as it comes from disk: a
  // mapped model decodes as fast as one read into memory. Elsewhere it means nothing.
  shard.file()->advise_huge_pages();
  const auto version = shard.metadata().find(key_format_version);
  if (version == shard.metadata().end()) {
    return Error{ErrorCode::corrupt, fmt::format("__metadata__: {}: is missing", key_format_version), path};
  }
  if (version->second != std::to_string(format_version)) {
    return Error{ErrorCode::unsupported,
                 fmt::format("__metadata__: {}: {} is not the {} this r1rt reads; update r1rt", key_format_version,
                             version->second.substr(0, 20), format_version),
                 path};
  }
  for (const SafetensorsEntry& entry : shard.entries()) {
    const auto named = weight_map.find(entry.name);
    if (named == weight_map.end() || named->second != name) {
      return Error{ErrorCode::corrupt, "the index does not say that it is in this shard",
                   fmt::format("{}: tensor {}", path, entry.name)};
    }
  }
  return shard;
}

const std::string& fingerprint_of(const SafetensorsFile& shard) {
  static const std::string none;
  const auto found = shard.metadata().find(key_fingerprint);
  return found == shard.metadata().end() ? none : found->second;
}

Result<BlobInfo> read_blob(const BlobSpec& spec, const SafetensorsFile& shard) {
  const std::string where = fmt::format("{}: tensor {}", shard.path(), spec.name);
  const SafetensorsEntry* entry = shard.find(spec.name);
  if (entry == nullptr) return Error{ErrorCode::corrupt, "is missing, though the index names it", where};
  const auto text = shard.metadata().find(spec.name);
  if (text == shard.metadata().end()) return Error{ErrorCode::corrupt, "has no entry in __metadata__", where};
  R1_TRY(const ParsedBlobMetadata parsed, parse_blob_metadata(spec, text->second, where));
  if (entry->dtype != Dtype::u8 || entry->length_bytes != parsed.stored.length_bytes) {
    return Error{ErrorCode::corrupt,
                 fmt::format("is {} bytes of {}, expected {} of U8", entry->length_bytes, dtype_name(entry->dtype),
                             parsed.stored.length_bytes),
                 where};
  }
  if (entry->offset_bytes % page_bytes != 0) {
    return Error{ErrorCode::corrupt,
                 fmt::format("byte {}: does not start on a page of {} bytes", entry->offset_bytes, page_bytes), where};
  }
  BlobInfo blob{spec.name, shard.path(), entry->offset_bytes, entry->length_bytes, parsed.xxh3, {}};
  const std::byte* bytes = shard.data(*entry).data();
  blob.parts.reserve(parsed.stored.parts.size());
  for (const PartLayout& part : parsed.stored.parts) {
    blob.parts.push_back({part.format, part.layout, bytes + part.offset_bytes});
  }
  return blob;
}

// What a model file says, wherever its blobs lie.
struct Contents {
  std::string directory;
  ModelConfig config;
  std::vector<BlobInfo> blobs;
  std::map<std::string, std::size_t, std::less<>> by_name;
};

}  // namespace

struct ModelFile::State : Contents {
  std::map<std::string, SafetensorsFile> shards;  // by file name
  std::shared_ptr<const void> memory;             // of blobs that are not in shards
};

ModelFile::ModelFile() : state_(std::make_unique<State>()) {}
ModelFile::~ModelFile() = default;

Result<std::shared_ptr<const ModelFile>> ModelFile::open(const std::string& directory) {
  auto model = std::shared_ptr<ModelFile>(new ModelFile());
  State& state = *model->state_;
  state.directory = directory;
  const std::string config_path = directory + "/config.json";
  R1_TRY(const std::string config_text, read_text_file(config_path, max_config_bytes));
  R1_TRY(state.config, parse_config(config_text, config_path));
  if (state.config.r1_format_version == 0) {
    return Error{ErrorCode::unsupported,
                 "is a checkpoint, not an r1rt model; convert it with: r1-quantize " + directory + " OUT_DIR",
                 directory};
  }

  const std::string index_path = directory + "/model.safetensors.index.json";
  R1_TRY(const WeightMap weight_map, read_weight_map(index_path));
  const std::vector<BlobSpec> specs = expected_blobs(state.config);
  R1_CHECK(check_names(weight_map, specs, index_path));
  for (const BlobSpec& spec : specs) {
    const std::string& shard_file = weight_map.find(spec.name)->second;
    auto shard = state.shards.find(shard_file);
    if (shard == state.shards.end()) {
      R1_TRY(SafetensorsFile opened, open_shard(directory, shard_file, weight_map));
      shard = state.shards.emplace(shard_file, std::move(opened)).first;
      const SafetensorsFile& first = state.shards.begin()->second;
      if (fingerprint_of(shard->second) != fingerprint_of(first)) {
        return Error{ErrorCode::corrupt,
                     fmt::format("is of another conversion than {}: {} is {}, not {}; convert or copy the model again",
                                 first.path(), key_fingerprint, fingerprint_of(shard->second), fingerprint_of(first)),
                     shard->second.path()};
      }
    }
    R1_TRY(BlobInfo blob, read_blob(spec, shard->second));
    state.by_name[spec.name] = state.blobs.size();
    state.blobs.push_back(std::move(blob));
  }
  return std::shared_ptr<const ModelFile>(std::move(model));
}

const std::string& ModelFile::directory() const {
  return state_->directory;
}
const ModelConfig& ModelFile::config() const {
  return state_->config;
}
std::span<const BlobInfo> ModelFile::blobs() const {
  return state_->blobs;
}

const BlobInfo* ModelFile::find(std::string_view name) const {
  const auto it = state_->by_name.find(name);
  return it == state_->by_name.end() ? nullptr : &state_->blobs[it->second];
}

std::shared_ptr<const ModelFile> ModelFile::with_blobs(std::shared_ptr<const ModelFile> file,
                                                       std::span<const BlobInfo> blobs,
                                                       std::shared_ptr<const void> memory) {
  auto copy = std::shared_ptr<ModelFile>(new ModelFile());
  static_cast<Contents&>(*copy->state_) = *file->state_;
  for (const BlobInfo& blob : blobs) copy->state_->blobs[copy->state_->by_name.at(blob.name)] = blob;
  using Owners = std::pair<std::shared_ptr<const ModelFile>, std::shared_ptr<const void>>;
  copy->state_->memory = std::make_shared<const Owners>(std::move(file), std::move(memory));
  return copy;
}

std::shared_ptr<const ModelFile> ModelFile::moved_to(std::span<const std::byte* const> places,
                                                     std::shared_ptr<const void> memory) const {
  auto copy = std::shared_ptr<ModelFile>(new ModelFile());
  static_cast<Contents&>(*copy->state_) = *state_;
  copy->state_->memory = std::move(memory);
  for (std::size_t i = 0; i < places.size(); ++i) {
    BlobInfo& blob = copy->state_->blobs[i];
    const std::byte* const before = blob.parts[0].blob;  // the first part begins the blob
    for (simd::PackedMatrix& part : blob.parts) part.blob = places[i] + (part.blob - before);
  }
  return copy;
}

Result<void> ModelFile::verify(const BlobInfo& blob) const {
  const std::uint64_t found = xxh3_64({blob.parts[0].blob, blob.length_bytes});
  if (found == blob.xxh3) return {};
  return Error{ErrorCode::corrupt,
               fmt::format("bytes {} … {}: checksum {:016x}, expected {:016x}; convert or copy this shard again",
                           blob.offset_bytes, blob.offset_bytes + blob.length_bytes - 1, found, blob.xxh3),
               fmt::format("{}: tensor {}", blob.file, blob.name)};
}

}  // namespace r1::rt
