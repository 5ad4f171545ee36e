// Encoders. A tensor is encoded panel by panel (16 rows), so that any number of threads may share the work and memory
// stays bounded; the result depends on the weights, the importance and the options alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "quant/block_search.h"
#include "quant/format.h"

namespace r1::quant {

// How many scales a search takes at once: 4, 8, 16. More cost time and save error (docs/quality.md).
enum class Effort : std::uint8_t { fast, normal, best };
[[nodiscard]] const char* effort_name(Effort effort);
[[nodiscard]] std::optional<Effort> effort_from_name(std::string_view name);

struct EncodeOptions {
  Effort effort = Effort::normal;
  // A row of least error is too short: its product with what it stands for is less than that one's square. This makes
  // row_scale larger until they are equal. The error grows, by 4 % at 2 bits, but not the model's (docs/quality.md).
  bool restore_gain = false;
  SearchIsa isa = SearchIsa::automatic;  // never changes the result
};

// What models are encoded with: conversions, and measurements of what one would do.
[[nodiscard]] constexpr EncodeOptions model_encoding(Effort effort = Effort::normal) {
  EncodeOptions options;
  options.effort = effort;
  options.restore_gain = true;
  return options;
}

// What the panels of one tensor share.
struct TensorEncoding {
  Format format = Format::f32;
  BlobLayout layout;
  std::array<float, 16> s4_table{};  // zeros in S8 formats
  EncodeOptions options{};
};

// Chooses the S4 grid by trial on `sample_rows`, deterministically (S8, w8, bf16, f32: nothing to choose).
//   sample_rows  [n_sample_rows, k]: rows spread evenly over the tensor (sample_row_index says which)
//   importance   [k] mean squared activations, or empty for uniform; need not be normalised
[[nodiscard]] TensorEncoding prepare_encoding(Format format, const BlobLayout& layout,
                                              std::span<const float> sample_rows, std::uint32_t n_sample_rows,
                                              std::span<const float> importance, const EncodeOptions& options = {});

// The rows that prepare_encoding wants to see: at most max_sample_rows, evenly spread, ascending.
inline constexpr std::uint32_t max_sample_rows = 16;
[[nodiscard]] std::uint32_t n_sample_rows(std::uint32_t rows);
[[nodiscard]] std::uint32_t sample_row_index(std::uint32_t rows, std::uint32_t sample);

// Squared error of what was written, for reports: Σ importance (x − decoded)² and Σ importance x².
struct EncodeError {
  double error = 0, signal = 0;
};

// sqrt(error / signal) on Gaussian weights; heavier tails cost up to half as much again.
[[nodiscard]] float expected_error(Format format);

// Encodes panel `panel` of the tensor.
//   x           [n_rows, k] f32, n_rows = min(16, rows − 16 · panel)
//   panel_out   layout.panel_bytes (packed formats), or n_rows · k · element size (bf16, f32)
//   row_scale   [16], packed formats only: goes to row_scale_offset_bytes + 64 · panel of the blob
// Not finite input is encoded as 0; reporting it is the caller's business.
EncodeError encode_panel(const TensorEncoding& encoding, std::uint32_t panel, const float* x,
                         std::span<const float> importance, std::byte* panel_out, float* row_scale);

// The same for a whole tensor in memory; blob_out holds layout.bytes. Single-threaded.
EncodeError encode_tensor(Format format, const BlobLayout& layout, std::span<const float> x,
                          std::span<const float> importance, std::span<std::byte> blob_out,
                          const EncodeOptions& options = {});

}  // namespace r1::quant
