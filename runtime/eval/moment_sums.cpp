#include "runtime/eval/moment_sums.h"

#include <algorithm>
#include <cmath>

#include "quant/feedback.h"
#include "quant/tile_product.h"

namespace r1::eval {
namespace {

using quant::tile_columns;
using quant::tile_rows;

// Rows of the triangle that a strip of columns is multiplied with while it is in the cache.
constexpr std::uint32_t rows_at_once = 32;

// Where a member's rows begin, so that all have about the same area of the triangle.
std::uint32_t first_row(int member, int n_members, std::uint32_t k) {
  const double share = std::sqrt(static_cast<double>(member) / n_members);
  const auto units = static_cast<std::uint32_t>(std::lround(share * k / rows_at_once));
  return member == n_members ? k : std::min(units * rows_at_once, k);
}

}  // namespace

MomentSums::MomentSums(int n_members, std::uint32_t max_k, std::uint32_t max_rows)
    : columns_(static_cast<std::size_t>(n_members)) {
  for (std::vector<float>& columns : columns_) columns.resize(std::size_t{padded(max_k)} * max_rows);
}

std::uint32_t MomentSums::padded(std::uint32_t k) {
  return (k + rows_at_once - 1) / rows_at_once * rows_at_once;
}

std::uint64_t MomentSums::bytes(int n_members, std::uint32_t max_k, std::uint32_t max_rows) {
  return std::uint64_t{padded(max_k)} * max_rows * sizeof(float) * static_cast<std::uint64_t>(n_members);
}

void MomentSums::add(const numa::Member& member, const float* x, std::size_t ldx, std::uint32_t n_rows, std::uint32_t k,
                     float* sums) {
  const std::uint32_t begin = first_row(member.index(), member.count(), k);
  const std::uint32_t end = first_row(member.index() + 1, member.count(), k);
  if (begin == end) return;
  float* const columns = columns_[static_cast<std::size_t>(member.index())].data();
  const std::size_t strip_values = n_rows * tile_columns;
  for (std::uint32_t c = 0; c < padded(end); c += tile_columns) {
    float* strip = columns + c / tile_columns * strip_values;
    for (std::uint32_t t = 0; t < n_rows; ++t) {
      for (std::uint32_t j = 0; j < tile_columns; ++j)
        strip[t * tile_columns + j] = c + j < k ? x[t * ldx + c + j] : 0.0f;
    }
  }
  float tile[tile_rows][tile_columns];
  for (std::uint32_t rows = begin; rows < end; rows += rows_at_once) {
    const std::uint32_t rows_end = std::min(rows + rows_at_once, end);
    for (std::uint32_t c = 0; c < rows_end; c += tile_columns) {
      for (std::uint32_t i = rows; i < rows_end; i += tile_rows) {
        if (c >= i + tile_rows) continue;  // above the diagonal
        quant::tile_product<quant::TileOutput::set>(
            n_rows, columns + i / tile_columns * strip_values + i % tile_columns, tile_columns,
            columns + c / tile_columns * strip_values, tile_columns, &tile[0][0], tile_columns);
        for (std::uint32_t r = i; r < std::min<std::uint32_t>(i + tile_rows, rows_end); ++r) {
          float* sum = sums + quant::triangle_values(r) + c;
          const std::uint32_t n = std::min<std::uint32_t>(tile_columns, r + 1 > c ? r + 1 - c : 0);
          for (std::uint32_t j = 0; j < n; ++j) sum[j] += tile[r - i][j];
        }
      }
    }
  }
}

}  // namespace r1::eval
