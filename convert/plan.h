// What a conversion will write, known from config.json and the mix alone.
#pragma once

#include <r1/result.h>

#include <functional>
#include <string>
#include <vector>

#include "convert/mix.h"
#include "quant/encode.h"
#include "quant/recipe.h"
#include "runtime/model_file/config.h"
#include "runtime/model_file/shard_writer.h"

namespace r1::convert {

struct ShardPlan {
  std::string name;  // file name in the output directory
  std::vector<rt::PlannedBlob> blobs;
  std::uint64_t file_bytes = 0;
};

// One line of the summary: tensors of one class that share their formats.
struct ClassSummary {
  std::string name;     // "routed gate, up"
  std::string formats;  // "t2 ×104, t3 ×12"
  std::uint64_t n_matrices = 0, parameters = 0, bytes = 0;
  std::uint64_t read_bytes = 0;  // per decoded token
};

struct ConversionPlan {
  Mix mix;
  quant::Effort effort = quant::Effort::normal;
  std::string fingerprint;  // of source, mix and all else that the bytes depend on; goes into each shard
  std::vector<ShardPlan> shards;
  std::vector<ClassSummary> classes;                        // without the MTP layer
  ClassSummary mtp;                                         // the MTP layer, all classes
  std::uint64_t parameters = 0, bytes = 0, read_bytes = 0;  // without the MTP layer; bytes of blobs
  std::uint64_t file_bytes = 0;                             // of all shards, MTP layer included

  [[nodiscard]] double bits_per_weight() const {
    return 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters);
  }
};

// Tells whether the checkpoint stores a matrix as BF16 (the recipe `exact` keeps it so).
using IsBf16 = std::function<bool(const rt::BlobSpec&, const rt::MatrixSpec&)>;

// `extra` joins the fingerprint: what else the bytes depend on (effort, importance matrix); empty: nothing.
[[nodiscard]] Result<ConversionPlan> make_plan(const rt::ModelConfig& config, const Mix& mix, const IsBf16& is_bf16,
                                               const std::string& source_fingerprint, const std::string& extra = {});
[[nodiscard]] Result<ConversionPlan> make_plan(const rt::ModelConfig& config, const quant::Recipe& recipe,
                                               const IsBf16& is_bf16, const std::string& source_fingerprint,
                                               const std::string& extra = {});

// Bytes of a part, `part_bytes` on disk, that one decoded token reads, on average over the experts.
[[nodiscard]] std::uint64_t read_bytes_per_token(const rt::ModelConfig& config, const rt::BlobSpec& blob,
                                                 const rt::MatrixSpec& matrix, std::uint64_t part_bytes);

// What a tensor class is called in reports.
[[nodiscard]] const char* class_label(quant::TensorClass tensor_class);

// What checkpoints of this config usually store as BF16: everything if it names no FP8 quantization, else embedding,
// head, router and norms.
[[nodiscard]] IsBf16 usual_bf16(const rt::ModelConfig& config);

// The largest recipe (`exact` and `w8` aside) that fits a machine of memory_bytes with room for the KV cache; the
// smallest if none does.
[[nodiscard]] Result<const quant::Recipe*> default_recipe(const rt::ModelConfig& config, std::uint64_t memory_bytes);

}  // namespace r1::convert
