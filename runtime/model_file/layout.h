// How the parts of a blob lie in it, and how a shard's header describes them (FORMAT.md, "Header metadata").
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <string>
#include <vector>

#include "quant/format.h"
#include "runtime/model_file/tensor_specs.h"

namespace r1::rt {

inline constexpr int format_version = 1;
inline constexpr std::uint64_t page_bytes = 4096;

struct PartLayout {
  quant::Format format = quant::Format::f32;
  quant::BlobLayout layout;
  std::uint64_t offset_bytes = 0;  // in the blob, a multiple of 64
};

struct StoredBlob {
  std::vector<PartLayout> parts;
  std::uint64_t length_bytes = 0;  // rounded up to a page
};

// `formats` holds one per matrix of the spec (k_b, v_b: one for all parts). Fails if sizes overflow.
[[nodiscard]] Result<StoredBlob> stored_blob(const BlobSpec& spec, const std::vector<quant::Format>& formats);

// The metadata value of one blob: compact JSON. The checksum is always 16 hexadecimal digits, so its length is known
// before it is.
[[nodiscard]] std::string blob_metadata(const BlobSpec& spec, const StoredBlob& stored, std::uint64_t xxh3);

struct ParsedBlobMetadata {
  StoredBlob stored;
  std::uint64_t xxh3 = 0;
};
// Reads it back and checks it against the spec: shapes, formats, offsets, length. `where` names file and tensor.
[[nodiscard]] Result<ParsedBlobMetadata> parse_blob_metadata(const BlobSpec& spec, const std::string& json,
                                                             const std::string& where);

// The shard a blob lives in: "common.safetensors" or "experts-LLL.safetensors".
[[nodiscard]] std::string shard_name(const BlobSpec& spec);

// Keys of __metadata__ that describe the shard, not a blob.
inline constexpr const char* key_format_version = "r1.format_version";
// Of source and recipe: the same in all shards of a model; a rerun of the converter keeps a shard that matches.
inline constexpr const char* key_fingerprint = "r1.fingerprint";

}  // namespace r1::rt
