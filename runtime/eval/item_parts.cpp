#include "runtime/eval/item_parts.h"

#include <utility>

namespace r1::eval {
namespace {

const rt::MatrixSpec& matrix_of(const rt::BlobSpec& spec, std::size_t part) {
  return spec.matrices[spec.rule == rt::PartRule::experts ? part : 0];
}

}  // namespace

ItemParts ItemParts::of(const rt::ModelFile& file, const rt::SensitivityItem& item) {
  ItemParts parts;
  for (rt::BlobSpec& spec : rt::expected_blobs(file.config())) {
    if (spec.layer < item.first_layer || spec.layer > item.last_layer) continue;
    bool is_new = true;
    for (std::size_t p = 0; p < spec.n_parts; ++p) {
      if (rt::recipe_class(file.config(), matrix_of(spec, p)) != item.tensor_class) continue;
      if (std::exchange(is_new, false)) parts.blobs.push_back(*file.find(spec.name));
      parts.places.push_back({parts.blobs.size() - 1, p});
    }
    if (!is_new) parts.specs.push_back(std::move(spec));
  }
  return parts;
}

const rt::MatrixSpec& ItemParts::spec(const Place& place) const {
  return matrix_of(specs[place.blob], place.part);
}

std::uint64_t ItemParts::bytes() const {
  std::uint64_t bytes = 0;
  for (const Place& place : places) bytes += matrix(place).layout.bytes;
  return bytes;
}

}  // namespace r1::eval
