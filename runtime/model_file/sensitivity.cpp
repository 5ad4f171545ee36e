#include "runtime/model_file/sensitivity.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "runtime/base/try.h"
#include "runtime/io/file.h"
#include "runtime/io/json.h"
#include "runtime/model_file/tensor_specs.h"

namespace r1::rt {
namespace {

using quant::TensorClass;

constexpr int sensitivity_version = 1;
constexpr std::uint64_t max_file_bytes = 64 << 20;
constexpr int max_layer = 1 << 20;
constexpr double max_kld = 1e6, max_error = 1e6;

Result<Lowered> read_lowered(const Json& value, const std::string& where) {
  const JsonObject json(value, where);
  R1_TRY(const std::string name, json.string("format"));
  const auto format = quant::format_from_name(name);
  if (!format || !quant::info(*format).is_packed()) return json.error("format", name.substr(0, 32) + " is no format");
  Lowered lowered;
  lowered.format = *format;
  R1_TRY(lowered.error, json.number("error", 0, max_error));
  R1_TRY(lowered.kld, json.number("kld", 0, max_kld));
  R1_TRY(lowered.kld_error, json.number("kld_error", 0, max_kld, 0.0));
  return lowered;
}

Result<SensitivityItem> read_item(const Json& value, const std::string& where) {
  const JsonObject json(value, where);
  SensitivityItem item;
  R1_TRY(const std::string name, json.string("class"));
  const auto tensor_class = quant::class_from_name(name);
  if (!tensor_class) return json.error("class", name.substr(0, 32) + " is no tensor class");
  item.tensor_class = *tensor_class;
  R1_TRY(const std::int64_t first, json.integer("first_layer", -1, max_layer));
  R1_TRY(const std::int64_t last, json.integer("last_layer", first, max_layer));
  item.first_layer = static_cast<int>(first);
  item.last_layer = static_cast<int>(last);
  if (json.has("floor")) {
    R1_TRY(item.floor, json.number("floor", 0, max_kld));
  }
  const Json* measured = json.find("measured");
  if (measured == nullptr || !measured->is_array()) return json.error("measured", "must be a list");
  for (std::size_t i = 0; i < measured->size(); ++i) {
    R1_TRY(const Lowered lowered, read_lowered((*measured)[i], fmt::format("{}: measured: {}", where, i)));
    item.measured.push_back(lowered);
  }
  return item;
}

}  // namespace

Result<Sensitivity> Sensitivity::load(const std::string& path) {
  R1_TRY(const std::string text, read_text_file(path, max_file_bytes));
  R1_TRY(const Json document, parse_json(text, path));
  const JsonObject json(document, path);
  if (!json.has("r1_sensitivity")) return Error{ErrorCode::corrupt, "is no file of r1-quantize sensitivity", path};
  R1_TRY([[maybe_unused]] const auto version, json.integer("r1_sensitivity", sensitivity_version, sensitivity_version));
  Sensitivity sensitivity;
  R1_TRY(sensitivity.identity, json.string("model"));
  R1_TRY(sensitivity.description, json.string("model_description"));
  R1_TRY(sensitivity.work, json.string("work"));
  R1_TRY(const std::int64_t n_tokens, json.integer("tokens", 0, INT64_MAX));
  R1_TRY(const std::int64_t n_scored, json.integer("scored_tokens", 0, INT64_MAX));
  sensitivity.n_tokens = static_cast<std::uint64_t>(n_tokens);
  sensitivity.n_scored_tokens = static_cast<std::uint64_t>(n_scored);
  const Json* items = json.find("items");
  if (items == nullptr || !items->is_array()) return json.error("items", "must be a list");
  for (std::size_t i = 0; i < items->size(); ++i) {
    R1_TRY(SensitivityItem item, read_item((*items)[i], fmt::format("{}: items: {}", path, i)));
    sensitivity.items.push_back(std::move(item));
  }
  return sensitivity;
}

Result<void> Sensitivity::save(const std::string& path) const {
  nlohmann::ordered_json json = {{"r1_sensitivity", sensitivity_version},
                                 {"model", identity},
                                 {"model_description", description},
                                 {"work", work},
                                 {"tokens", n_tokens},
                                 {"scored_tokens", n_scored_tokens},
                                 {"items", nlohmann::ordered_json::array()}};
  for (const SensitivityItem& item : items) {
    nlohmann::ordered_json measured = nlohmann::ordered_json::array();
    for (const Lowered& lowered : item.measured) {
      measured.push_back({{"format", quant::info(lowered.format).name},
                          {"error", lowered.error},
                          {"kld", lowered.kld},
                          {"kld_error", lowered.kld_error}});
    }
    nlohmann::ordered_json written = {{"class", quant::class_name(item.tensor_class)},
                                      {"first_layer", item.first_layer},
                                      {"last_layer", item.last_layer}};
    if (item.floor) written["floor"] = *item.floor;
    written["measured"] = std::move(measured);
    json["items"].push_back(std::move(written));
  }
  const std::string text = json.dump(1) + "\n";
  return write_file_atomically(path, std::as_bytes(std::span(text)));
}

std::vector<SensitivityItem> sensitivity_items(const ModelConfig& config, int layers_per_group) {
  std::map<TensorClass, std::set<int>> layers;
  for (const BlobSpec& blob : expected_blobs(config)) {
    if (blob.layer >= static_cast<int>(config.num_hidden_layers)) continue;
    for (const MatrixSpec& matrix : blob.matrices) {
      if (matrix.tensor_class != TensorClass::norm && matrix.tensor_class != TensorClass::router)
        layers[recipe_class(config, matrix)].insert(blob.layer);
    }
  }
  std::vector<SensitivityItem> items;
  for (const auto& [tensor_class, all] : layers) {
    int n = 0;
    for (const int layer : all) {
      if (n++ % layers_per_group == 0) items.push_back({tensor_class, layer, layer, {}, {}});
      items.back().last_layer = layer;
    }
  }
  return items;
}

}  // namespace r1::rt
