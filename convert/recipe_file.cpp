#include "convert/recipe_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>
#include <vector>

#include "runtime/base/try.h"
#include "runtime/io/file.h"
#include "runtime/io/json.h"

namespace r1::convert {
namespace {

using quant::Format;
using quant::TensorClass;
using rt::Json;

constexpr int recipe_version = 1;
constexpr std::uint64_t max_recipe_bytes = 16 << 20;
constexpr std::array known_keys = {"r1_recipe", "name", "summary", "base", "formats"};

// It becomes part of config.json and of messages.
bool is_good_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '_' ||
           c == '-' || c == '+';
  });
}

std::string format_names() {
  std::string names;
  for (const Format format : quant::all_formats) names += fmt::format("{}, ", quant::info(format).name);
  return names + "exact";
}

struct LayerRange {
  int first = 0, last = 0;
};

std::optional<LayerRange> parse_range(std::string_view text) {
  LayerRange range;
  const char* const end = text.data() + text.size();
  auto [at, error] = std::from_chars(text.data(), end, range.first);
  if (error != std::errc() || text.front() == '-') return std::nullopt;
  range.last = range.first;
  if (at == end) return range;
  if (*at != '-' || at + 1 == end || at[1] == '-') return std::nullopt;
  const auto [last_end, last_error] = std::from_chars(at + 1, end, range.last);
  if (last_error != std::errc() || last_end != end || range.last < range.first) return std::nullopt;
  return range;
}

class Reader {
 public:
  Reader(const rt::ModelConfig& config, std::string where) : config_(config), where_(std::move(where)) {
    for (const rt::BlobSpec& blob : rt::expected_blobs(config)) {
      for (const rt::MatrixSpec& matrix : blob.matrices) {
        if (matrix.tensor_class != TensorClass::norm) slots_[slot_of(config, blob, matrix)] = std::nullopt;
      }
    }
  }

  Result<Mix> read(const Json& document) {
    const rt::JsonObject json(document, where_);
    if (!document.is_object()) return problem("", "must be a JSON object");
    R1_TRY([[maybe_unused]] const std::int64_t version, json.integer("r1_recipe", recipe_version, recipe_version));
    for (const auto& [key, value] : document.items()) {
      if (std::find(known_keys.begin(), known_keys.end(), key) == known_keys.end())
        return problem(key, "no such key in a recipe");
    }
    R1_TRY(mix_.name, json.string("name", "custom"));
    if (!is_good_name(mix_.name)) return problem("name", "must be 1 to 64 of the characters A-Z a-z 0-9 . _ - +");
    R1_TRY(mix_.summary, json.string("summary", ""));
    R1_TRY(const std::string base, json.string("base", ""));
    R1_CHECK(start_from(base));
    R1_TRY([[maybe_unused]] const rt::JsonObject formats, json.object("formats"));
    for (const auto& [key, value] : json.find("formats")->items()) R1_CHECK(read_class(key, value));
    for (const auto& [slot, unused] : slots_) {
      if (mix_.formats.contains(slot)) continue;
      return problem(std::string("formats: ") + quant::class_name(slot.tensor_class),
                     slot.layer < 0 ? std::string("has no format, and there is no base")
                                    : fmt::format("layer {} has no format, and there is no base", slot.layer));
    }
    if (const quant::Recipe* hand_made = quant::find_recipe(mix_.name); hand_made != nullptr) {
      if (mix_.formats != hand_made_mix(config_, *hand_made).formats)
        return problem("name", mix_.name + " is a hand-made recipe with other formats; give another name");
    }
    return std::move(mix_);
  }

 private:
  [[nodiscard]] Error problem(const std::string& key, const std::string& what) const {
    return {ErrorCode::invalid_argument, key.empty() ? what : fmt::format("{}: {}", key, what), where_};
  }

  Result<void> start_from(const std::string& base) {
    if (base.empty()) {
      for (const auto& [slot, unused] : slots_) {
        if (slot.tensor_class == TensorClass::router) mix_.formats[slot] = Format::bf16;
      }
      return {};
    }
    const quant::Recipe* recipe = quant::find_recipe(base);
    if (recipe == nullptr) return problem("base", base + " is unknown; r1-quantize recipes lists them");
    mix_.formats = hand_made_mix(config_, *recipe).formats;
    return {};
  }

  Result<FormatChoice> read_format(const std::string& key, TensorClass tensor_class, const Json& value) const {
    if (!value.is_string()) return problem(key, "must be a format's name");
    const auto name = value.get<std::string>();
    const std::optional<Format> format = quant::format_from_name(name);
    if (!format && name != "exact")
      return problem(key, fmt::format("{} is no format; there are {}", name.substr(0, 32), format_names()));
    if (tensor_class == TensorClass::router && format && quant::info(*format).is_packed())
      return problem(key, "a router must be bf16, f32 or exact");
    return format;
  }

  Result<void> read_class(const std::string& name, const Json& value) {
    const std::string key = "formats: " + name;
    const std::optional<TensorClass> tensor_class = quant::class_from_name(name);
    if (!tensor_class || tensor_class == TensorClass::norm) {
      std::string names;
      for (int i = 0; i < quant::n_tensor_classes; ++i) {
        const auto c = static_cast<TensorClass>(i);
        if (c != TensorClass::norm) names += fmt::format("{}{}", names.empty() ? "" : ", ", quant::class_name(c));
      }
      return problem(key, !tensor_class ? "no such tensor class; there are " + names : "norms are always f32");
    }
    std::vector<int> layers;
    for (const auto& [slot, unused] : slots_) {
      if (slot.tensor_class == *tensor_class) layers.push_back(slot.layer);
    }
    if (layers.empty()) {
      const bool is_tied = *tensor_class == TensorClass::embed && config_.tie_word_embeddings;
      return problem(key, is_tied ? "this model's embedding is its head: name head" : "this model has no such tensors");
    }
    if (!value.is_object()) {
      R1_TRY(const FormatChoice choice, read_format(key, *tensor_class, value));
      for (const int layer : layers) mix_.formats[{*tensor_class, layer}] = choice;
      return {};
    }
    if (layers.front() < 0) return problem(key, "is in no layer: give it one format");
    return read_layers(key, *tensor_class, layers, value);
  }

  Result<void> read_layers(const std::string& key, TensorClass tensor_class, const std::vector<int>& layers,
                           const Json& ranges) {
    const int n_layers = static_cast<int>(config_.num_hidden_layers + config_.num_nextn_predict_layers);
    std::map<int, std::string> named_by;
    for (const auto& [text, value] : ranges.items()) {
      const std::string range_key = key + ": " + text;
      const std::optional<LayerRange> range = text.empty() ? std::nullopt : parse_range(text);
      if (!range) return problem(range_key, "must be a layer or a range of them, like 3 or 3-8");
      if (range->last >= n_layers)
        return problem(range_key, fmt::format("this model's layers are 0 to {}", n_layers - 1));
      R1_TRY(const FormatChoice choice, read_format(range_key, tensor_class, value));
      bool has_any = false;
      for (const int layer : layers) {
        if (layer < range->first || layer > range->last) continue;
        has_any = true;
        const auto [other, is_new] = named_by.emplace(layer, text);
        if (!is_new) return problem(range_key, fmt::format("layer {} is in {} too", layer, other->second));
        mix_.formats[{tensor_class, layer}] = choice;
      }
      if (!has_any) return problem(range_key, "this model has no such tensors there");
    }
    return {};
  }

  const rt::ModelConfig& config_;
  std::string where_;
  std::map<Slot, FormatChoice> slots_;  // what must have a format
  Mix mix_;
};

}  // namespace

Result<Mix> parse_recipe(std::string_view text, const rt::ModelConfig& config, const std::string& where) {
  R1_TRY(const Json document, rt::parse_json(text, where));
  return Reader(config, where).read(document);
}

Result<Mix> load_recipe(const std::string& path, const rt::ModelConfig& config) {
  R1_TRY(const std::string text, rt::read_text_file(path, max_recipe_bytes));
  return parse_recipe(text, config, path);
}

std::string recipe_text(const Mix& mix) {
  nlohmann::ordered_json formats = nlohmann::ordered_json::object();
  for (auto at = mix.formats.begin(); at != mix.formats.end();) {
    const TensorClass tensor_class = at->first.tensor_class;
    nlohmann::ordered_json ranges = nlohmann::ordered_json::object();
    while (at != mix.formats.end() && at->first.tensor_class == tensor_class) {
      const int first = at->first.layer;
      const FormatChoice choice = at->second;
      int last = first;
      for (; at != mix.formats.end() && at->first.tensor_class == tensor_class && at->second == choice; ++at)
        last = at->first.layer;
      ranges[first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last)] = choice_name(choice);
    }
    if (ranges.size() == 1) ranges = nlohmann::ordered_json(ranges.begin().value());
    formats[quant::class_name(tensor_class)] = ranges;
  }
  const nlohmann::ordered_json json = {
      {"r1_recipe", recipe_version}, {"name", mix.name}, {"summary", mix.summary}, {"formats", formats}};
  return json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace r1::convert
