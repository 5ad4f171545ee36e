// What a model weighs, and what one token reads of it.
#include <fmt/format.h>

#include <array>
#include <map>
#include <set>

#include "runtime/kv_cache/kv_cache.h"
#include "runtime/model/model_impl.h"

namespace r1::rt {
namespace {

// In the order in which people look at them.
struct NamedClass {
  quant::TensorClass tensor_class;
  const char* name;
};
constexpr std::array<NamedClass, 17> class_names = {{
    {quant::TensorClass::routed_gate_up, "routed gate, up"},
    {quant::TensorClass::routed_down, "routed down"},
    {quant::TensorClass::shared_expert, "shared experts"},
    {quant::TensorClass::dense_gate_up, "dense gate, up"},
    {quant::TensorClass::dense_down, "dense down"},
    {quant::TensorClass::q_a, "q_a"},
    {quant::TensorClass::q_b, "q_b"},
    {quant::TensorClass::kv_a, "kv_a"},
    {quant::TensorClass::kv_b, "kv_b"},
    {quant::TensorClass::q, "q"},
    {quant::TensorClass::k, "k"},
    {quant::TensorClass::v, "v"},
    {quant::TensorClass::o, "o"},
    {quant::TensorClass::router, "router"},
    {quant::TensorClass::norm, "norms, biases"},
    {quant::TensorClass::embed, "embedding"},
    {quant::TensorClass::head, "head"},
}};

struct ClassTotals {
  std::uint64_t parameters = 0, active_parameters = 0, bytes = 0, bytes_per_token = 0;
  std::map<quant::Format, std::set<int>> layers_of_format;
};

std::string describe_formats(const ClassTotals& totals) {
  std::string text;
  for (const auto& [format, layers] : totals.layers_of_format) {
    if (!text.empty()) text += ", ";
    text += quant::info(format).name;
    if (totals.layers_of_format.size() > 1)
      text += fmt::format(" ({} layer{})", layers.size(), layers.size() == 1 ? "" : "s");
  }
  return text;
}

}  // namespace

ModelInfo describe(const ModelFile& file) {
  const ModelConfig& config = file.config();
  ModelInfo info;
  info.path = file.directory();
  info.architecture = architecture_name(config.architecture);
  info.recipe = config.r1_recipe;
  info.format_version = config.r1_format_version;
  info.vocab_size = config.vocab_size;
  info.hidden_size = config.hidden_size;
  info.n_layers = config.num_hidden_layers;
  info.n_mtp_layers = config.num_nextn_predict_layers;
  info.max_context_tokens = config.max_position_embeddings;
  info.kv_bytes_per_token = kv_shape(config, simd::KvType::f16, false).bytes_per_token();

  std::map<quant::TensorClass, ClassTotals> classes;
  ClassTotals mtp;
  const std::vector<BlobSpec> specs = expected_blobs(config);
  for (const BlobSpec& spec : specs) {
    const BlobInfo* blob = file.find(spec.name);
    if (blob == nullptr) continue;
    info.bytes += blob->length_bytes;
    const bool in_mtp_layer = spec.layer >= static_cast<int>(config.num_hidden_layers);
    for (std::size_t i = 0; i < blob->parts.size(); ++i) {
      const Matrix& part = blob->parts[i];
      const quant::TensorClass tensor_class = spec.matrices[i < spec.matrices.size() ? i : 0].tensor_class;
      const std::uint64_t parameters = std::uint64_t{part.rows()} * part.k(), bytes = part.layout.bytes;
      ClassTotals& totals = in_mtp_layer ? mtp : classes[tensor_class];
      totals.parameters += parameters;
      totals.bytes += bytes;
      totals.layers_of_format[part.format].insert(spec.layer);
      if (in_mtp_layer) continue;
      // One token reads its own row of the embedding, the experts it is routed to, and all of the rest.
      std::uint64_t of = 1, reads = 1;
      if (tensor_class == quant::TensorClass::embed) of = config.vocab_size;
      if (spec.expert >= 0) of = config.n_routed_experts, reads = config.num_experts_per_tok;
      // Rounded once per class would be exact; per tensor it is wrong by less than one part in a thousand.
      totals.active_parameters += parameters * reads / of;
      totals.bytes_per_token += bytes * reads / of;
    }
  }
  if (config.tie_word_embeddings) {
    ClassTotals& embedding = classes[quant::TensorClass::embed];  // the head reads it all
    embedding.active_parameters = embedding.parameters;
    embedding.bytes_per_token = embedding.bytes;
  }
  for (const NamedClass& named : class_names) {
    const auto found = classes.find(named.tensor_class);
    if (found == classes.end()) continue;
    const ClassTotals& totals = found->second;
    info.parameters += totals.parameters;
    info.active_parameters += totals.active_parameters;
    info.bytes_per_token += totals.bytes_per_token;
    info.classes.push_back(
        {named.name, describe_formats(totals), totals.parameters, totals.bytes, totals.bytes_per_token});
  }
  if (mtp.parameters > 0) info.classes.push_back({"MTP layer", describe_formats(mtp), mtp.parameters, mtp.bytes, 0});
  return info;
}

}  // namespace r1::rt
