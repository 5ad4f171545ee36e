// The weight formats: numbers, names, layouts and codebooks (runtime/model_file/FORMAT.md).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace r1::quant {

// The id is what files store; it never changes once released.
enum class Format : std::uint8_t {
  t2 = 1,
  t2_5 = 2,
  t3 = 3,
  t3_5 = 4,
  t4 = 5,
  t4h = 6,
  t5 = 7,
  nl6 = 8,
  w8 = 9,
  bf16 = 10,
  f32 = 11,
};
inline constexpr int n_formats = 11;  // ids 1 … 11
inline constexpr std::array<Format, n_formats> all_formats = {Format::t2, Format::t2_5, Format::t3, Format::t3_5,
                                                              Format::t4, Format::t4h,  Format::t5, Format::nl6,
                                                              Format::w8, Format::bf16, Format::f32};

inline constexpr std::uint32_t panel_rows = 16;          // rows of a panel
inline constexpr std::uint32_t superchunk_k = 128;       // k of a superchunk
inline constexpr std::uint32_t block_k = 32;             // k of a scale block
inline constexpr std::size_t blob_alignment_bytes = 64;  // a tensor blob inside an expert blob

enum class ScaleKind : std::uint8_t {
  none,  // bf16, f32: row-major matrix without scales
  s4,    // 4-bit index into the tensor's table of 16
  s8,    // 8-bit logarithmic scale
};

struct FormatInfo {
  Format id;
  const char* name;
  ScaleKind scale;
  std::uint8_t steps[2];       // bits of weights at even and odd positions of a group; T formats and nl6
  std::uint8_t group_weights;  // weights of one circular bit string
  std::uint8_t group_bytes;    // its bytes
  std::uint16_t block_bytes;   // codes of 16 rows × 32 k
  std::uint16_t superchunk_bytes;
  float unit;                   // the encoder folds it into row_scale
  const std::int8_t* codebook;  // [64]; null for w8, bf16, f32

  [[nodiscard]] constexpr bool is_packed() const { return scale != ScaleKind::none; }
  [[nodiscard]] constexpr bool is_trellis() const { return codebook != nullptr; }  // T formats and nl6
};

[[nodiscard]] const FormatInfo& info(Format format);
[[nodiscard]] std::optional<Format> format_from_id(int id);
[[nodiscard]] std::optional<Format> format_from_name(std::string_view name);

// Where the pieces of one tensor blob lie. Sizes are in bytes from the blob's start.
struct BlobLayout {
  std::uint32_t rows = 0, k = 0;                // logical
  std::uint32_t rows_padded = 0, k_padded = 0;  // multiples of 16 and 128; = rows, k for bf16, f32
  std::uint32_t n_panels = 0;                   // ceil(rows / 16), also for bf16 and f32 (the last may be short)
  std::size_t row_scale_offset_bytes = 0;       // f32 [rows_padded]; packed formats only
  std::size_t panels_offset_bytes = 0;
  std::size_t panel_bytes = 0;  // 16 rows × k_padded; for bf16, f32: 16 rows × k
  std::size_t bytes = 0;        // whole blob, without any padding behind it
};
// rows and k of 1 … 2^31 − 1; nullopt if either is out of range or a size overflows.
[[nodiscard]] std::optional<BlobLayout> blob_layout(Format format, std::uint64_t rows, std::uint64_t k);

// S8 byte → scale: 2^(byte/16 − 8) with 4 mantissa bits.
[[nodiscard]] float s8_scale(std::uint8_t byte);

}  // namespace r1::quant
