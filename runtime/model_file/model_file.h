// A model directory, open and checked: blobs by name, mapped read-only. FORMAT.md is its byte-exact description.
#pragma once

#include <r1/result.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quant/format.h"
#include "runtime/model_file/config.h"
#include "runtime/model_file/layout.h"
#include "runtime/model_file/tensor_specs.h"
#include "simd/kernels.h"

namespace r1::rt {

struct BlobInfo {
  std::string name;
  std::string file;                       // shard's path
  std::uint64_t offset_bytes = 0;         // in the shard; a multiple of 4096
  std::uint64_t length_bytes = 0;         // a multiple of 4096
  std::uint64_t xxh3 = 0;                 // of the blob's length_bytes
  std::vector<simd::PackedMatrix> parts;  // 1; 3 for experts (gate, up, down); num_attention_heads for k_b, v_b
};

class ModelFile {
 public:
  // Reads config.json, the index and every shard's header, checks names, shapes, formats, offsets and sizes against
  // expected_blobs(config), that all shards are of one conversion, and maps them. Checksums are verified by verify()
  // alone (it reads every byte).
  static Result<std::shared_ptr<const ModelFile>> open(const std::string& directory);

  [[nodiscard]] const std::string& directory() const;
  [[nodiscard]] const ModelConfig& config() const;
  [[nodiscard]] std::span<const BlobInfo> blobs() const;            // in order of expected_blobs
  [[nodiscard]] const BlobInfo* find(std::string_view name) const;  // null if absent
  [[nodiscard]] Result<void> verify(const BlobInfo& blob) const;    // checksum; the error names file, tensor and byte

  // The same model with its blobs at other places in memory, in order of blobs(), which `memory` keeps alive. It holds
  // no map of the files.
  [[nodiscard]] std::shared_ptr<const ModelFile> moved_to(std::span<const std::byte* const> places,
                                                          std::shared_ptr<const void> memory) const;
  // `file` with these blobs in place of those of their names: of the same shapes, in other formats. `memory` keeps the
  // parts alive; offsets and checksums mean nothing.
  [[nodiscard]] static std::shared_ptr<const ModelFile> with_blobs(std::shared_ptr<const ModelFile> file,
                                                                   std::span<const BlobInfo> blobs,
                                                                   std::shared_ptr<const void> memory);
  ~ModelFile();

 private:
  ModelFile();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace r1::rt
