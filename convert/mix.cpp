#include "convert/mix.h"

#include <fmt/format.h>

#include <span>

#include "runtime/io/file.h"

namespace r1::convert {

using quant::TensorClass;

Slot slot_of(const rt::ModelConfig& config, const rt::BlobSpec& blob, const rt::MatrixSpec& matrix) {
  return {rt::recipe_class(config, matrix), blob.layer};
}

const char* choice_name(FormatChoice choice) {
  return choice ? quant::info(*choice).name : "exact";
}

quant::Format Mix::format(const rt::ModelConfig& config, const rt::BlobSpec& blob, const rt::MatrixSpec& matrix,
                          bool source_is_bf16) const {
  if (matrix.tensor_class == TensorClass::norm) return quant::Format::f32;
  const FormatChoice choice = formats.at(slot_of(config, blob, matrix));
  return choice.value_or(source_is_bf16 ? quant::Format::bf16 : quant::Format::f32);
}

std::string Mix::fingerprint() const {
  if (quant::find_recipe(name) != nullptr) return name;
  std::string text;
  for (const auto& [slot, choice] : formats)
    text += fmt::format("{} {} {}\n", quant::class_name(slot.tensor_class), slot.layer, choice_name(choice));
  return fmt::format("mix{:016x}", rt::xxh3_64(std::as_bytes(std::span(text))));
}

Mix hand_made_mix(const rt::ModelConfig& config, const quant::Recipe& recipe) {
  Mix mix{recipe.name, recipe.summary, {}};
  for (const rt::BlobSpec& blob : rt::expected_blobs(config)) {
    for (const rt::MatrixSpec& matrix : blob.matrices) {
      if (matrix.tensor_class == TensorClass::norm) continue;
      const quant::Format of_bf16 = rt::matrix_format(config, recipe, blob, matrix, true);
      const bool is_exact = of_bf16 != rt::matrix_format(config, recipe, blob, matrix, false);
      mix.formats[slot_of(config, blob, matrix)] = is_exact ? std::nullopt : FormatChoice(of_bf16);
    }
  }
  return mix;
}

}  // namespace r1::convert
