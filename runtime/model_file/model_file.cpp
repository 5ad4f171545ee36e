#include "runtime/model_file/model_file.h"

#include <fmt/format.h>

#include <map>

#include "runtime/base/try.h"
#include "runtime/io/json.h"
#include "runtime/io/safetensors.h"

namespace r1::rt {
namespace {

constexpr std::uint64_t max_config_bytes = 16 << 20;
constexpr std::uint64_t max_index_bytes = 256 << 20;

// weight_map of model.safetensors.index.json: blob → shard's file name.
Result<std::map<std::string, std::string, std::less<>>> read_weight_map(const std::string& path) {
  R1_TRY(const std::string text, read_text_file(path, max_index_bytes));
  R1_TRY(const Json document, parse_json(text, path));
  const JsonObject json(document, path);
  R1_TRY(const JsonObject weight_map, json.object("weight_map"));
  std::map<std::string, std::string, std::less<>> result;
  for (const auto& [name, file] : (*json.find("weight_map")).items()) {
    if (!file.is_string()) return weight_map.error(name.c_str(), "must be a file name");
    const auto shard = file.get<std::string>();
    if (shard.empty() || shard.find('/') != std::string::npos || shard == "." || shard == "..") {
      return weight_map.error(name.c_str(), fmt::format("{} is not a plain file name", shard));
    }
    result[name] = shard;
  }
  return result;
}

}  // namespace

struct ModelFile::State {
  std::string directory;
  ModelConfig config;
  std::vector<BlobInfo> blobs;
  std::map<std::string, std::size_t, std::less<>> by_name;
  std::map<std::string, SafetensorsFile> shards;  // by file name
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
  if (state.config.r1_format_version > format_version) {
    return Error{ErrorCode::unsupported,
                 fmt::format("format version {} is newer than the {} this r1rt reads; update r1rt",
                             state.config.r1_format_version, format_version),
                 config_path};
  }

  R1_TRY(const auto weight_map, read_weight_map(directory + "/model.safetensors.index.json"));
  const std::vector<BlobSpec> specs = expected_blobs(state.config);
  for (const BlobSpec& spec : specs) {
    const auto found = weight_map.find(spec.name);
    if (found == weight_map.end()) {
      return Error{ErrorCode::corrupt, "does not name tensor " + spec.name,
                   directory + "/model.safetensors.index.json"};
    }
    const std::string& shard_file = found->second;
    const std::string path = directory + "/" + shard_file;
    auto shard = state.shards.find(shard_file);
    if (shard == state.shards.end()) {
      R1_TRY(SafetensorsFile opened, SafetensorsFile::open(path));
      shard = state.shards.emplace(shard_file, std::move(opened)).first;
    }
    const SafetensorsFile& file = shard->second;
    const std::string where = path + ": tensor " + spec.name;
    const SafetensorsEntry* entry = file.find(spec.name);
    if (entry == nullptr) return Error{ErrorCode::corrupt, "is missing, though the index names it", where};
    const auto text = file.metadata().find(spec.name);
    if (text == file.metadata().end()) return Error{ErrorCode::corrupt, "has no entry in __metadata__", where};
    R1_TRY(const ParsedBlobMetadata parsed, parse_blob_metadata(spec, text->second, where));
    if (entry->dtype != Dtype::u8 || entry->length_bytes != parsed.stored.length_bytes) {
      return Error{ErrorCode::corrupt,
                   fmt::format("is {} bytes of {}, expected {} of U8", entry->length_bytes, dtype_name(entry->dtype),
                               parsed.stored.length_bytes),
                   where};
    }
    if (entry->offset_bytes % page_bytes != 0) {
      return Error{ErrorCode::corrupt,
                   fmt::format("byte {}: does not start on a page of {} bytes", entry->offset_bytes, page_bytes),
                   where};
    }
    BlobInfo blob{spec.name, path, entry->offset_bytes, entry->length_bytes, parsed.xxh3, {}};
    const std::byte* bytes = file.data(*entry).data();
    for (const PartLayout& part : parsed.stored.parts) {
      blob.parts.push_back({part.format, part.layout, bytes + part.offset_bytes});
    }
    state.by_name[spec.name] = state.blobs.size();
    state.blobs.push_back(std::move(blob));
  }
  if (weight_map.size() != specs.size()) {
    for (const auto& [name, file] : weight_map) {
      if (!state.by_name.contains(name)) {
        return Error{ErrorCode::corrupt, fmt::format("names tensor {}, which this architecture does not have", name),
                     directory + "/model.safetensors.index.json"};
      }
    }
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

Result<void> ModelFile::verify(const BlobInfo& blob) const {
  const std::uint64_t found = xxh3_64({blob.parts[0].blob, blob.length_bytes});
  if (found == blob.xxh3) return {};
  return Error{ErrorCode::corrupt,
               fmt::format("bytes {} … {}: checksum {:016x}, expected {:016x}; convert or copy this shard again",
                           blob.offset_bytes, blob.offset_bytes + blob.length_bytes, found, blob.xxh3),
               fmt::format("{}: tensor {}", blob.file, blob.name)};
}

}  // namespace r1::rt
