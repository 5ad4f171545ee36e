#include "quant/format.h"

#include <bit>
#include <limits>

namespace r1::quant {
namespace {

// FORMAT.md, "Codebooks": 64 signed bytes each, index = code.
constexpr std::int8_t codebook_t2[64] = {3,   18,  -21, -7, -13, 35,  10,  3,   12,  -18, -45, -3,  30,  5,   -17, -2,
                                         -8,  -28, 24,  6,  0,   14,  -27, -9,  -1,  16,  60,  -30, 8,   34,  -7,  10,
                                         -20, -4,  7,   41, -41, -10, 24,  7,   -22, 2,   14,  -10, -7,  4,   15,  -19,
                                         12,  -63, -6,  22, 20,  3,   -5,  -26, -12, 0,   27,  14,  -36, -16, 3,   38};
constexpr std::int8_t codebook_t2_5[64] = {
    0,   10,  -29, -10, -17, 27,  12,  1,  16, -11, -39, -1,  30, 9,  -17, -2, -7,  -19, 20,  5, 0,  17,
    -27, -11, 0,   18,  59,  -24, 7,   35, -7, 9,   -19, -3,  4,  45, -43, -9, 27,  14,  -35, 4, 10, -11,
    -5,  1,   20,  -15, 8,   -63, -10, 25, 15, 2,   -5,  -24, -8, -2, 23,  12, -30, -16, 5,   37};
constexpr std::int8_t codebook_t3[64] = {11,  -20, 0,   28,  18, -4,  -11, 5,   -9, 1,   -33, 13,  28,  5,  -5,  -17,
                                         -45, 38,  16,  -23, -6, -14, 8,   0,   33, -14, 49,  0,   3,   8,  15,  -6,
                                         3,   -3,  -15, 19,  10, -8,  -63, -37, 20, 11,  8,   -6,  -12, -1, 2,   -23,
                                         -18, -27, -6,  5,   -1, 14,  25,  -10, -4, 6,   3,   -11, -20, 23, -29, 14};
constexpr std::int8_t codebook_t3_5[64] = {9,   -21, 2,   26,  14, -4,  -11, 6,   -8,  -2,  -31, 10,  20,  4,  -4,  -15,
                                           -39, 35,  15,  -23, -6, -14, 7,   1,   30,  -11, 43,  0,   4,   9,  18,  -4,
                                           4,   -1,  -16, 17,  10, -8,  -63, -31, -11, 13,  9,   -3,  23,  1,  3,   -19,
                                           -15, -28, -6,  4,   0,  16,  26,  -8,  -3,  6,   0,   -11, -19, 21, -25, 12};
constexpr std::int8_t codebook_t4[64] = {1,  42,  17,  3,   -13, 6,   -5, 12,  -18, 14,  -26, 8,   -38, -1,  26,  -9,
                                         48, 32,  -22, -42, -6,  24,  4,  -3,  6,   17,  10,  -14, 13,  1,   -9,  21,
                                         29, -16, 7,   16,  -24, 10,  2,  -30, -1,  -4,  20,  36,  4,   -8,  -12, -20,
                                         -9, -20, -16, 5,   9,   -12, 13, -6,  -4,  -27, -34, 1,   19,  -63, -2,  24};
constexpr std::int8_t codebook_t4h[64] = {1,   53,  23,  4,   -16, 7,   -7, 15,  -23, 18,  -32, 10,  -45, -2,  35,  -12,
                                          17,  41,  -12, -52, -8,  31,  6,  -3,  8,   23,  13,  -17, 60,  2,   -24, 27,
                                          37,  -20, 9,   20,  5,   13,  1,  -37, -1,  -5,  27,  46,  -29, -10, -14, -25,
                                          -11, -27, -19, 6,   12,  -14, 17, -7,  -5,  -33, -63, 1,   25,  -42, -3,  32};
constexpr std::int8_t codebook_t5[64] = {-61, 3,   -35, 38,  5,  -14, 20,  0,   31,  45,  -21, 17,  -8,  -4,  -18, -6,
                                         -31, -50, -12, 23,  14, -28, -2,  -10, 26,  -16, 2,   7,   -41, 12,  10,  -25,
                                         -15, -8,  22,  -22, -3, 19,  -25, -19, 56,  10,  35,  28,  17,  32,  -6,  50,
                                         3,   5,   -28, 25,  1,  -1,  -10, -12, -45, 41,  7,   -32, 12,  -38, 9,   15};
constexpr std::int8_t codebook_nl6[64] = {
    -63, -59, -56, -53, -50, -47, -44, -41, -39, -37, -35, -32, -30, -28, -26, -24, -23, -21, -19, -18, -16, -15,
    -13, -12, -10, -9,  -7,  -6,  -5,  -3,  -2,  -1,  1,   2,   3,   5,   6,   7,   9,   10,  12,  13,  15,  16,
    18,  19,  21,  23,  24,  26,  28,  30,  32,  35,  37,  39,  41,  44,  47,  50,  53,  56,  59,  63};

constexpr FormatInfo table[n_formats] = {
    {Format::t2, "t2", ScaleKind::s4, {2, 2}, 32, 8, 128, 544, 0.052342f, codebook_t2},
    {Format::t2_5, "t2_5", ScaleKind::s4, {2, 3}, 16, 5, 160, 672, 0.056020f, codebook_t2_5},
    {Format::t3, "t3", ScaleKind::s4, {3, 3}, 16, 6, 192, 800, 0.063496f, codebook_t3},
    {Format::t3_5, "t3_5", ScaleKind::s4, {3, 4}, 16, 7, 224, 928, 0.069529f, codebook_t3_5},
    {Format::t4, "t4", ScaleKind::s4, {4, 4}, 16, 8, 256, 1056, 0.065413f, codebook_t4},
    {Format::t4h, "t4h", ScaleKind::s8, {4, 4}, 16, 8, 256, 1088, 0.052121f, codebook_t4h},
    {Format::t5, "t5", ScaleKind::s8, {5, 5}, 8, 5, 320, 1344, 0.056641f, codebook_t5},
    {Format::nl6, "nl6", ScaleKind::s8, {6, 6}, 8, 6, 384, 1600, 0.051332f, codebook_nl6},
    {Format::w8, "w8", ScaleKind::s8, {8, 8}, 4, 4, 512, 2112, 1.0f, nullptr},
    {Format::bf16, "bf16", ScaleKind::none, {16, 16}, 1, 2, 0, 0, 1.0f, nullptr},
    {Format::f32, "f32", ScaleKind::none, {32, 32}, 1, 4, 0, 0, 1.0f, nullptr},
};

constexpr std::uint64_t round_up(std::uint64_t n, std::uint64_t to) {
  return (n + to - 1) / to * to;
}

}  // namespace

const FormatInfo& info(Format format) {
  return table[static_cast<int>(format) - 1];
}

std::optional<Format> format_from_id(int id) {
  if (id < 1 || id > n_formats) return std::nullopt;
  return static_cast<Format>(id);
}

std::optional<Format> format_from_name(std::string_view name) {
  for (const FormatInfo& format : table) {
    if (name == format.name) return format.id;
  }
  return std::nullopt;
}

std::optional<BlobLayout> blob_layout(Format format, std::uint64_t rows, std::uint64_t k) {
  constexpr std::uint64_t max_dimension = std::numeric_limits<std::int32_t>::max();
  if (rows < 1 || rows > max_dimension || k < 1 || k > max_dimension) return std::nullopt;
  const FormatInfo& f = info(format);
  BlobLayout layout;
  layout.rows = static_cast<std::uint32_t>(rows);
  layout.k = static_cast<std::uint32_t>(k);
  const std::uint64_t n_panels = (rows + panel_rows - 1) / panel_rows;
  layout.n_panels = static_cast<std::uint32_t>(n_panels);
  // Below 2^31 · 2^31 · 4 bytes, so 64 bits hold every product of either branch.
  if (!f.is_packed()) {
    layout.rows_padded = layout.rows;
    layout.k_padded = layout.k;
    layout.panel_bytes = panel_rows * k * f.group_bytes;
    if (rows > std::numeric_limits<std::int64_t>::max() / (k * f.group_bytes)) return std::nullopt;
    layout.bytes = rows * k * f.group_bytes;
    return layout;
  }
  layout.rows_padded = static_cast<std::uint32_t>(n_panels * panel_rows);
  layout.k_padded = static_cast<std::uint32_t>(round_up(k, superchunk_k));
  layout.row_scale_offset_bytes = 16 * sizeof(float);
  layout.panels_offset_bytes =
      layout.row_scale_offset_bytes + round_up(layout.rows_padded * sizeof(float), blob_alignment_bytes);
  layout.panel_bytes = std::size_t{layout.k_padded / superchunk_k} * f.superchunk_bytes;
  layout.bytes = layout.panels_offset_bytes + n_panels * layout.panel_bytes;
  return layout;
}

float s8_scale(std::uint8_t byte) {
  return std::bit_cast<float>((std::uint32_t{byte} << 19) + (119u << 23));
}

}  // namespace r1::quant
