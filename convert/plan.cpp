#include "convert/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <span>
#include <vector>

#include "runtime/base/try.h"
#include "runtime/io/file.h"
#include "runtime/model_file/model_file.h"

namespace r1::convert {
namespace {

using quant::TensorClass;

// Sums by class, in order of first appearance.
class Summary {
 public:
  void add(const rt::ModelConfig& config, const rt::PlannedBlob& blob) {
    for (std::size_t i = 0; i < blob.stored.parts.size(); ++i) {
      const rt::MatrixSpec& matrix = blob.spec.matrices[blob.spec.matrices.size() == blob.stored.parts.size() ? i : 0];
      const rt::PartLayout& part = blob.stored.parts[i];
      const std::string name = class_label(matrix.tensor_class);
      auto found =
          std::find_if(classes_.begin(), classes_.end(), [&](const ClassSummary& c) { return c.name == name; });
      if (found == classes_.end()) found = classes_.insert(classes_.end(), ClassSummary{name, {}, 0, 0, 0, 0});
      found->n_matrices += 1;
      found->parameters += std::uint64_t{matrix.rows} * matrix.k;
      found->bytes += part.layout.bytes;
      found->read_bytes += read_bytes_per_token(config, blob.spec, matrix, part.layout.bytes);
      ++formats_[name][part.format];
    }
  }

  [[nodiscard]] std::vector<ClassSummary> take() {
    for (ClassSummary& c : classes_) c.formats = formats_text(formats_[c.name]);
    return std::move(classes_);
  }

  [[nodiscard]] ClassSummary total(std::string name) const {
    ClassSummary total{std::move(name), {}, 0, 0, 0, 0};
    std::map<quant::Format, std::uint64_t> formats;
    for (const ClassSummary& c : classes_) {
      total.n_matrices += c.n_matrices;
      total.parameters += c.parameters;
      total.bytes += c.bytes;
      total.read_bytes += c.read_bytes;
      for (const auto& [format, n] : formats_.at(c.name)) formats[format] += n;
    }
    total.formats = formats_text(formats);
    return total;
  }

 private:
  static std::string formats_text(const std::map<quant::Format, std::uint64_t>& formats) {
    if (formats.size() == 1) return quant::info(formats.begin()->first).name;
    std::string text;
    for (const auto& [format, n] : formats)
      text += fmt::format("{}{} ×{}", text.empty() ? "" : ", ", quant::info(format).name, n);
    return text;
  }

  std::vector<ClassSummary> classes_;
  std::map<std::string, std::map<quant::Format, std::uint64_t>> formats_;
};

// A shard that was made with other codebooks would decode to other values.
std::string codebooks_fingerprint() {
  std::vector<std::int8_t> values;
  for (const quant::Format format : quant::all_formats) {
    const std::int8_t* codebook = quant::info(format).codebook;
    if (codebook != nullptr) values.insert(values.end(), codebook, codebook + 64);
  }
  return fmt::format("{:016x}", rt::xxh3_64(std::as_bytes(std::span(values))));
}

}  // namespace

std::uint64_t read_bytes_per_token(const rt::ModelConfig& config, const rt::BlobSpec& blob,
                                   const rt::MatrixSpec& matrix, std::uint64_t part_bytes) {
  if (blob.rule == rt::PartRule::experts) return part_bytes * config.num_experts_per_tok / config.n_routed_experts;
  // One row of an embedding that is not the head too.
  if (matrix.tensor_class == TensorClass::embed && !config.tie_word_embeddings) return part_bytes / matrix.rows;
  return part_bytes;
}

const char* class_label(quant::TensorClass tensor_class) {
  switch (tensor_class) {
    case TensorClass::embed:
      return "embedding";
    case TensorClass::head:
      return "head";
    case TensorClass::norm:
      return "norms, biases";
    case TensorClass::router:
      return "router";
    case TensorClass::routed_gate_up:
      return "routed gate, up";
    case TensorClass::routed_down:
      return "routed down";
    case TensorClass::shared_expert:
      return "shared expert";
    case TensorClass::dense_gate_up:
      return "dense gate, up";
    case TensorClass::dense_down:
      return "dense down";
    case TensorClass::q_a:
    case TensorClass::kv_a:
      return "q_a, kv_a";
    case TensorClass::q_b:
      return "q_b";
    case TensorClass::kv_b:
      return "kv_b";
    case TensorClass::q:
    case TensorClass::k:
      return "q, k";
    case TensorClass::v:
      return "v";
    case TensorClass::o:
      return "o";
    case TensorClass::eh_proj:
      return "eh_proj";
  }
  return "?";
}

Result<ConversionPlan> make_plan(const rt::ModelConfig& config, const quant::Recipe& recipe, const IsBf16& is_bf16,
                                 const std::string& source_fingerprint, const std::string& extra) {
  return make_plan(config, hand_made_mix(config, recipe), is_bf16, source_fingerprint, extra);
}

Result<ConversionPlan> make_plan(const rt::ModelConfig& config, const Mix& mix, const IsBf16& is_bf16,
                                 const std::string& source_fingerprint, const std::string& extra) {
  ConversionPlan plan;
  plan.mix = mix;
  plan.fingerprint = fmt::format("{}-{}-{}.{}{}{}", source_fingerprint, mix.fingerprint(), rt::format_version,
                                 codebooks_fingerprint(), extra.empty() ? "" : "-", extra);
  Summary model, mtp;
  for (rt::BlobSpec& spec : rt::expected_blobs(config)) {
    std::vector<quant::Format> formats;
    for (const rt::MatrixSpec& matrix : spec.matrices) {
      formats.push_back(mix.format(config, spec, matrix, is_bf16(spec, matrix)));
    }
    R1_TRY(rt::StoredBlob stored, rt::stored_blob(spec, formats));
    const std::string shard = rt::shard_name(spec);
    if (plan.shards.empty() || plan.shards.back().name != shard) plan.shards.push_back({shard, {}, 0});
    rt::PlannedBlob blob{std::move(spec), std::move(stored)};
    (blob.spec.layer >= static_cast<int>(config.num_hidden_layers) ? mtp : model).add(config, blob);
    plan.shards.back().blobs.push_back(std::move(blob));
  }
  for (ShardPlan& shard : plan.shards) {
    shard.file_bytes = rt::shard_file_bytes(shard.blobs, plan.fingerprint);
    plan.file_bytes += shard.file_bytes;
  }
  const ClassSummary total = model.total("total");
  plan.parameters = total.parameters;
  plan.bytes = total.bytes;
  plan.read_bytes = total.read_bytes;
  plan.mtp = mtp.total("MTP layer");
  plan.classes = model.take();
  return plan;
}

IsBf16 usual_bf16(const rt::ModelConfig& config) {
  const bool fp8 = config.fp8_block_rows > 0;
  return [fp8](const rt::BlobSpec&, const rt::MatrixSpec& matrix) {
    const TensorClass c = matrix.tensor_class;
    return !fp8 || c == TensorClass::embed || c == TensorClass::head || c == TensorClass::router ||
           c == TensorClass::eh_proj;
  };
}

Result<const quant::Recipe*> default_recipe(const rt::ModelConfig& config, std::uint64_t memory_bytes) {
  // Beside the weights: the KV cache of 16K tokens, scratch and the system.
  const std::uint64_t kv_values = config.is_mla() ? config.kv_lora_rank + config.qk_rope_head_dim
                                                  : std::uint64_t{2} * config.num_key_value_heads * config.head_dim;
  const std::uint64_t kv_bytes = 2 * kv_values * config.num_hidden_layers * 16384;
  const std::uint64_t reserve = kv_bytes + std::max<std::uint64_t>(std::uint64_t{2} << 30, memory_bytes / 20);
  const quant::Recipe* best = &quant::recipes().front();
  for (const quant::Recipe& recipe : quant::recipes()) {
    const std::string_view name = recipe.name;
    if (name == "w8" || name == "exact") continue;
    R1_TRY(const ConversionPlan plan, make_plan(config, recipe, usual_bf16(config), ""));
    if (plan.file_bytes + reserve <= memory_bytes) best = &recipe;
  }
  return best;
}

}  // namespace r1::convert
