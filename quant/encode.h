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
#include "quant/feedback.h"
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
  const Feedback* feedback = nullptr;  // null: blocks of a row are searched each for itself
};

// With feedback, rows of one call that the encoder takes together: as many as make a factor's block worth its way from
// memory.
inline constexpr std::uint32_t feedback_rows = 64;

// Whether error feedback is worth its time: formats of fewer bits than w8.
[[nodiscard]] bool takes_feedback(Format format);

// Chooses the S4 grid by trial on `sample_rows`, deterministically (S8, w8, bf16, f32: nothing to choose).
//   sample_rows  [n_sample_rows, k]: rows spread evenly over the tensor (sample_row_index says which)
//   importance   [k] mean squared activations, or empty for uniform; need not be normalised
//   feedback     of k columns, or null; it has its own importance. It must outlive the encoding, and is left aside
//   where
//                the format does not take it
[[nodiscard]] TensorEncoding prepare_encoding(Format format, const BlobLayout& layout,
                                              std::span<const float> sample_rows, std::uint32_t n_sample_rows,
                                              std::span<const float> importance, const EncodeOptions& options = {},
                                              const Feedback* feedback = nullptr);

// The rows that prepare_encoding wants to see: at most max_sample_rows, evenly spread, ascending.
inline constexpr std::uint32_t max_sample_rows = 16;
[[nodiscard]] std::uint32_t n_sample_rows(std::uint32_t rows);
[[nodiscard]] std::uint32_t sample_row_index(std::uint32_t rows, std::uint32_t sample);

// Squared error of what was written, for reports: Σ importance (x − decoded)² and Σ importance x². With feedback, x is
// what the search was aimed at.
struct EncodeError {
  double error = 0, signal = 0;
};

// sqrt(error / signal) on Gaussian weights; heavier tails cost up to half as much again.
[[nodiscard]] float expected_error(Format format);

// Encodes panels panel_begin … panel_end − 1 of the tensor: one or more; with feedback, several at once are faster.
//   x           [n_rows, k] f32, n_rows = min(16 · panel_end, rows) − 16 · panel_begin
//   panels_out  layout.panel_bytes a panel (packed formats), or n_rows · k · element size (bf16, f32)
//   row_scales  [16] a panel, packed formats only: go to row_scale_offset_bytes + 64 · panel_begin of the blob
// Not finite input is encoded as 0; reporting it is the caller's business.
EncodeError encode_panels(const TensorEncoding& encoding, std::uint32_t panel_begin, std::uint32_t panel_end,
                          const float* x, std::span<const float> importance, std::byte* panels_out, float* row_scales);
inline EncodeError encode_panel(const TensorEncoding& encoding, std::uint32_t panel, const float* x,
                                std::span<const float> importance, std::byte* panel_out, float* row_scale) {
  return encode_panels(encoding, panel, panel + 1, x, importance, panel_out, row_scale);
}

// The same for a whole tensor in memory; blob_out holds layout.bytes. Single-threaded.
EncodeError encode_tensor(Format format, const BlobLayout& layout, std::span<const float> x,
                          std::span<const float> importance, std::span<std::byte> blob_out,
                          const EncodeOptions& options = {}, const Feedback* feedback = nullptr);

}  // namespace r1::quant
