#include "quant/recipe.h"

#include <algorithm>
#include <array>

namespace r1::quant {
namespace {

constexpr Recipe table[] = {
    {"r2.2s", "smallest: 2.20 bits, routed experts t2, attention and dense parts t4h"},
    {"r2.2", "2.26 bits: routed experts t2, outer layers' down t3"},
    {"r2.5", "2.55 bits: routed gate and up t2, down t3"},
    {"r2.7", "2.74 bits: routed experts t2_5, outer layers' down t3"},
    {"r3.5", "3.52 bits: routed gate and up t3, down t4"},
    {"r4.5", "4.57 bits: routed gate and up t4, down t5, the rest 6 to 8 bits"},
    {"w8", "8.26 bits: everything 8-bit"},
    {"exact", "32 bits: FP8 × scale in f32, BF16 as it is; for tests"},
};

// In order of the enumeration.
constexpr std::array<const char*, n_tensor_classes> class_names = {"embed",
                                                                   "head",
                                                                   "norm",
                                                                   "router",
                                                                   "routed_gate_up",
                                                                   "routed_down",
                                                                   "shared_expert",
                                                                   "dense_gate_up",
                                                                   "dense_down",
                                                                   "q_a",
                                                                   "q_b",
                                                                   "kv_a",
                                                                   "kv_b",
                                                                   "q",
                                                                   "k",
                                                                   "v",
                                                                   "o",
                                                                   "eh_proj"};
static_assert(static_cast<int>(TensorClass::eh_proj) + 1 == n_tensor_classes);

enum Index { r2_2s, r2_2, r2_5, r2_7, r3_5, r4_5, w8, exact };

// Formats by size, for "a step higher"; t4h is t4 with finer scales, not a step of its own.
constexpr std::array ladder = {Format::t2, Format::t2_5, Format::t3,  Format::t3_5,
                               Format::t4, Format::t5,   Format::nl6, Format::w8};

Format steps_above(Format format, int steps) {
  const auto at = std::find(ladder.begin(), ladder.end(), format) - ladder.begin();
  return ladder[static_cast<std::size_t>(std::min<std::ptrdiff_t>(at + steps, std::ssize(ladder) - 1))];
}

Format at_least(Format format, Format least) {
  return info(format).superchunk_bytes < info(least).superchunk_bytes ? least : format;
}

Format routed_gate_up(Index recipe) {
  switch (recipe) {
    case r2_7:
      return Format::t2_5;
    case r3_5:
      return Format::t3;
    case r4_5:
      return Format::t4;
    default:
      return Format::t2;
  }
}

Format routed_down(Index recipe, const TensorPlace& place) {
  // The first and the last layers' experts are the most sensitive.
  const int from_start = place.layer - place.first_moe_layer, from_end = place.n_layers - 1 - place.layer;
  const int distance = std::min(from_start, from_end);
  switch (recipe) {
    case r2_2:
      return distance < 3 ? Format::t3 : Format::t2;
    case r2_5:
      return Format::t3;
    case r2_7:
      return distance < 6 ? Format::t3 : Format::t2_5;
    case r3_5:
      return Format::t4;
    case r4_5:
      return Format::t5;
    default:
      return Format::t2;
  }
}

Format choose_moe(Index recipe, const TensorPlace& place) {
  switch (place.tensor_class) {
    case TensorClass::routed_gate_up:
      return place.in_mtp_layer ? Format::t4h : routed_gate_up(recipe);
    case TensorClass::routed_down:
      return place.in_mtp_layer ? Format::t4h : routed_down(recipe, place);
    case TensorClass::embed:
      if (recipe == r4_5) return Format::w8;
      return place.small_model ? Format::t5 : Format::t4h;
    case TensorClass::head:
      return recipe == r4_5 ? Format::w8 : Format::nl6;
    case TensorClass::q_b:
      if (recipe == r2_2s) return Format::t4h;
      return recipe == r4_5 ? Format::w8 : Format::t5;
    case TensorClass::o:
    case TensorClass::shared_expert:
    case TensorClass::dense_gate_up:
    case TensorClass::dense_down:
      if (recipe == r2_2s) return Format::t4h;
      return recipe == r4_5 ? Format::nl6 : Format::t5;
    default:
      return Format::w8;  // q_a, kv_a, kv_b, eh_proj
  }
}

Format choose_dense(Index recipe, const TensorPlace& place) {
  const Format base = routed_gate_up(recipe);
  switch (place.tensor_class) {
    case TensorClass::dense_gate_up:
      return base;
    case TensorClass::dense_down:
    case TensorClass::q:
    case TensorClass::k:
    case TensorClass::o:
      return steps_above(base, 1);
    case TensorClass::v:
      return steps_above(base, 2);
    case TensorClass::embed: {
      const Format format = recipe == r4_5 ? Format::w8 : Format::t4h;
      return place.small_model ? at_least(format, Format::t5) : format;
    }
    case TensorClass::head:
      return recipe == r4_5 ? Format::w8 : Format::nl6;
    default:
      return Format::w8;
  }
}

}  // namespace

const char* class_name(TensorClass tensor_class) {
  return class_names[static_cast<std::size_t>(tensor_class)];
}

std::optional<TensorClass> class_from_name(std::string_view name) {
  const auto found = std::find(class_names.begin(), class_names.end(), name);
  if (found == class_names.end()) return std::nullopt;
  return static_cast<TensorClass>(found - class_names.begin());
}

std::span<const Recipe> recipes() {
  return table;
}

const Recipe* find_recipe(std::string_view name) {
  for (const Recipe& recipe : table) {
    if (name == recipe.name) return &recipe;
  }
  return nullptr;
}

Format choose_format(const Recipe& recipe, const TensorPlace& place) {
  const auto index = static_cast<Index>(find_recipe(recipe.name) - table);
  if (place.tensor_class == TensorClass::norm) return Format::f32;
  if (index == exact) return place.source_is_bf16 ? Format::bf16 : Format::f32;
  if (place.tensor_class == TensorClass::router) return Format::bf16;
  if (index == w8) return Format::w8;
  return place.dense_model ? choose_dense(index, place) : choose_moe(index, place);
}

}  // namespace r1::quant
