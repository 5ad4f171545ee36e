#include "runtime/eval/nudged_model.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "numa/arena.h"
#include "runtime/model/model_impl.h"

namespace r1::eval {
namespace {

// Of row i, in no pattern that rows of a head or a block share.
float factor(std::uint32_t row) {
  return (row * 2654435761u & 1u << 16) != 0 ? 1 + 0x1p-10f : 1 - 0x1p-10f;
}

void nudge_copy(const simd::PackedMatrix& source, std::byte* blob) {
  const quant::BlobLayout& layout = source.layout;
  std::memcpy(blob, source.blob, layout.bytes);
  if (quant::info(source.format).is_packed()) {
    auto* const row_scale = reinterpret_cast<float*>(blob + layout.row_scale_offset_bytes);
    for (std::uint32_t row = 0; row < layout.rows; ++row) row_scale[row] *= factor(row);
  } else if (source.format == quant::Format::f32) {
    auto* const x = reinterpret_cast<float*>(blob + layout.panels_offset_bytes);  // [rows, k]
    for (std::uint32_t row = 0; row < layout.rows; ++row)
      for (std::uint32_t i = 0; i < layout.k; ++i) x[std::size_t{row} * layout.k + i] *= factor(row);
  } else {
    // The last bit of the mantissa; never an infinity's or a NaN's.
    auto* const x = reinterpret_cast<std::uint16_t*>(blob + layout.panels_offset_bytes);  // [rows, k]
    std::for_each(x, x + std::size_t{layout.rows} * layout.k, [](std::uint16_t& bits) {
      if ((bits & 0x7F80) != 0x7F80) bits ^= 1;
    });
  }
}

}  // namespace

Result<std::shared_ptr<const Model>> nudge(const Model& model, ItemParts parts) {
  const auto rounded_up = [](std::uint64_t bytes) {
    return (bytes + quant::blob_alignment_bytes - 1) / quant::blob_alignment_bytes * quant::blob_alignment_bytes;
  };
  std::uint64_t bytes = 0;
  for (const ItemParts::Place& place : parts.places) bytes += rounded_up(parts.matrix(place).layout.bytes);
  std::shared_ptr<numa::Arena> arena = numa::Arena::allocate(std::max<std::uint64_t>(bytes, 1));
  if (arena == nullptr) return Error{ErrorCode::out_of_memory, "no memory for a copy of these matrices", ""};
  std::byte* to = arena->data();
  for (const ItemParts::Place& place : parts.places) {
    simd::PackedMatrix& matrix = parts.blobs[place.blob].parts[place.part];
    nudge_copy(matrix, to);
    matrix.blob = std::exchange(to, to + rounded_up(matrix.layout.bytes));
  }
  return rt::with_file(model, rt::ModelFile::with_blobs(model.impl().file, parts.blobs, std::move(arena)));
}

}  // namespace r1::eval
