// A Hugging Face checkpoint directory: tensors by name, rows as f32 whatever they are stored as.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/safetensors.h"
#include "runtime/model_file/config.h"
#include "runtime/model_file/tensor_specs.h"

namespace r1::convert {

// One matrix [rows, k] (vectors: [1, k]) in a shard, with its FP8 block scales where it has them.
struct SourceTensor {
  const rt::SafetensorsFile* shard = nullptr;
  const rt::SafetensorsEntry* entry = nullptr;
  std::uint32_t rows = 0, k = 0;
  const float* scale_inv = nullptr;  // [ceil(rows / block_rows), ceil(k / block_columns)], FP8 only
  std::uint32_t block_rows = 0, block_columns = 0;

  [[nodiscard]] bool is_bf16() const { return entry->dtype == rt::Dtype::bf16; }
};

class Checkpoint {
 public:
  // Reads config.json, the index (or the one model.safetensors) and every shard's header; all of them must agree.
  static Result<Checkpoint> open(const std::string& directory);

  [[nodiscard]] const std::string& directory() const { return directory_; }
  [[nodiscard]] const rt::ModelConfig& config() const { return config_; }
  [[nodiscard]] const std::string& config_text() const { return config_text_; }
  [[nodiscard]] std::uint64_t bytes() const;

  // Checks that every tensor the model needs is there with a readable type and the right shape, and that none is
  // unknown.
  [[nodiscard]] Result<void> check(const std::vector<rt::BlobSpec>& blobs) const;

  // The checkpoint's tensor for a matrix; kv_b_proj for k_b and v_b parts. Shapes as config.json implies.
  [[nodiscard]] Result<SourceTensor> find(const rt::BlobSpec& blob, const rt::MatrixSpec& matrix) const;

  // Identifies the content without reading all of it: names, sizes, headers and pages spread over each shard.
  [[nodiscard]] std::string fingerprint() const;

 private:
  [[nodiscard]] Result<SourceTensor> find(const std::string& name, std::uint32_t rows, std::uint32_t k) const;
  [[nodiscard]] Result<void> check_copy(const std::string& name, const std::string& original) const;

  std::string directory_, config_text_;
  rt::ModelConfig config_;
  std::map<std::string, rt::SafetensorsFile> shards_;         // by file name
  std::map<std::string, std::string, std::less<>> shard_of_;  // tensor → file name
};

// Rows [row_begin, row_end) as f32, out [row_end − row_begin, k]; FP8: value × scale of its block, in f32.
void read_rows(const SourceTensor& source, std::uint32_t row_begin, std::uint32_t row_end, float* out);

// Drops the mapped pages of these rows from memory.
void release_rows(const SourceTensor& source, std::uint32_t row_begin, std::uint32_t row_end);

}  // namespace r1::convert
