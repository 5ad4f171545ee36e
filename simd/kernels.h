// The kernel table: one contract per operation, several instruction sets, one chosen once at start.
//
// Contract of every matrix kernel. Integer dot products are exact: within a 32-k block Σ code·q is an int32 that all
// ISAs compute alike; then, in this order, acc = fma(float(dot), block_scale, acc) over the four blocks of a
// superchunk, total = fma(acc, activation_scale, total) over the superchunks, y = total · row_scale. All ISAs that
// follow the order give the same bits. A row's result does not depend on which panels, tokens or threads share the
// call. (Wide batches of some formats round otherwise: WideGemm.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/format.h"
#include "simd/prefill_attention.h"
#include "simd/q8_cache.h"

namespace r1::simd {

enum class Isa : std::uint8_t { scalar, avx2, avx2_vnni, avx512, avx512_vnni, amx };  // later ones are better
inline constexpr int n_isas = 6;
[[nodiscard]] const char* isa_name(Isa isa);

// A tensor blob in place (mapped file or arena), not owned.
struct PackedMatrix {
  quant::Format format = quant::Format::f32;
  quant::BlobLayout layout;
  const std::byte* blob = nullptr;  // layout.bytes, aligned to 64

  [[nodiscard]] std::uint32_t rows() const { return layout.rows; }
  [[nodiscard]] std::uint32_t k() const { return layout.k; }
  [[nodiscard]] const float* s4_table() const { return reinterpret_cast<const float*>(blob); }  // [16]
  [[nodiscard]] const float* row_scale() const {                                                // [rows_padded]
    return reinterpret_cast<const float*>(blob + layout.row_scale_offset_bytes);
  }
  [[nodiscard]] const std::byte* panel(std::uint32_t p) const {
    return blob + layout.panels_offset_bytes + p * layout.panel_bytes;
  }
};

// A batch of input vectors, quantized once and read by every matrix that shares it. Not owned.
// All rows are padded with zeros to k_padded (a multiple of 128); the pointers are aligned to 64.
struct Activations {
  std::uint32_t n_tokens = 0, k = 0, k_padded = 0;
  const float* x = nullptr;                 // [n_tokens, k_padded]; read by bf16 and f32 kernels
  std::uint32_t q_stride = 0;               // bytes from token to token of what is quantized
  const std::int8_t* q = nullptr;           // [n_tokens, q_stride] in order of k
  const std::int8_t* q_step2 = nullptr;     // the same; per 32 k position 8s + i holds k = 4i + s (t2)
  const std::int8_t* q_step4 = nullptr;     // the same; per 16 k position 8s + i holds k = 2i + s (t4, t4h)
  const float* scale = nullptr;             // [n_tokens, k_padded / 128] = max|x| / 127
  const std::int32_t* block_sum = nullptr;  // [n_tokens, k_padded / 32] = Σ q
  const std::uint16_t* bf16 = nullptr;      // x to the nearest bf16, [k_padded / 32, n_tokens, 32]; where reads_bf16()

  static constexpr std::uint32_t bf16_step_k = 32;  // of bf16: what a product of matrix units takes
};

// Owned storage for the above, planned once.
class ActivationBuffer {
 public:
  ActivationBuffer() = default;
  ActivationBuffer(std::uint32_t max_tokens, std::uint32_t max_k);
  ~ActivationBuffer();
  ActivationBuffer(ActivationBuffer&&) noexcept;
  ActivationBuffer& operator=(ActivationBuffer&&) noexcept;

  // A view for a batch of n_tokens vectors of k values (n_tokens ≤ max_tokens, k ≤ max_k).
  [[nodiscard]] Activations view(std::uint32_t n_tokens, std::uint32_t k) const;
  // Where a producer writes row `token` of the view: [k_padded]; quantize_row zeroes the padding.
  [[nodiscard]] static float* x_row(const Activations& view, std::uint32_t token) {
    return const_cast<float*>(view.x) + std::size_t{token} * view.k_padded;
  }
  // What a batch commits: Activations::bf16 only where kernels read it.
  [[nodiscard]] static std::size_t bytes(std::uint32_t max_tokens, std::uint32_t max_k, bool reads_bf16);

 private:
  void* allocated_ = nullptr;
  std::byte* storage_ = nullptr;
  std::uint32_t max_tokens_ = 0, max_k_ = 0;
};

inline constexpr std::uint32_t max_gemv_tokens = 8;

// y[t, row] for rows of panels [panel_begin, panel_end) and tokens token_begin … token_begin + n_tokens − 1
// (1 ≤ n_tokens ≤ max_gemv_tokens). y points at the first of these tokens, [n_tokens, ldy]; row r goes to y[t·ldy + r].
// Only rows < layout.rows are written.
using GemvFn = void (*)(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                        std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy);

// The same for any n_tokens ≥ 1, with the same bits: panels are unpacked once for all tokens. `tile` is the caller's
// scratch, gemm_tile_bytes aligned to 64, for any matrix; it should stay in the core's second-level cache.
using GemmFn = void (*)(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                        std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy, std::byte* tile);
inline constexpr std::size_t gemm_tile_bytes = std::size_t{640} << 10;
// The batch from which `gemm` is faster than steps of `gemv`, measured with AVX-512 VNNI on Zen 4: unpacking costs as
// much as three or four tokens. (w8 on Zen 5: 8 tokens 28 → 33, 16 tokens 33 → 60 % of vpdpbusd.)
inline constexpr std::uint32_t gemm_min_tokens = 5;

// A GemmFn for batches of min_tokens and more, on machines whose matrix unit is worth its set-up only then. Sums must
// leave that unit wherever a scale changes, so it rounds otherwise than the contract above. A row's result is the same
// in every such batch, but it is not that of gemv.
//
// t2 … t5 stay in eight bits: the block scales of a row's 128 k are folded into the weights.
//   greatest = max |block_scale| over the four blocks          factor_b = round_even(block_scale_b · (258 / greatest))
//   w = floor((code · factor_b + 64) / 128)                    (|code| ≤ 63, so |w| ≤ 127)
//   sum = float(Σ w·q over 128 k) · (greatest · (128 / 258)), total = fma(sum, activation_scale, total), y = total ·
//   row_scale
// nl6 and w8, whose point is precision, are multiplied in bf16 with x as bf16, which loses less than eight bits do:
//   w = code · block_scale, cut to bf16 towards zero           y = row_scale · wide_cut_correction · Σ w · x in f32
// The order of that sum is the instruction's (TDPBF16PS: pairs of k in f32, 32 k at a time).
struct WideGemm {
  GemmFn multiply = nullptr;
  std::uint32_t min_tokens = 0;
  bool reads_bf16 = false;  // Activations::bf16
};
inline constexpr float fold_factor_max = 258;
// What is cut: half a unit in the last place on average, so 2^-8 · 2 / 3 of a weight in the least squares over
// mantissas spread as 1 / m.
inline constexpr float wide_cut_correction = 1 + 2.0f / 3 / 256;

// unpack_panels panels from `panel` on in the order that oneDNN's matmul takes, [k_padded / group, 64 rows, group]:
// codes as signed bytes (groups of 4), or weights as bf16 (groups of 2). k has the order that the format's activations
// have. What oneDNN would need in the place of a GemmFn; only r1-bench calls it.
using UnpackFn = void (*)(const PackedMatrix& w, std::uint32_t panel, std::byte* out);
inline constexpr std::uint32_t unpack_panels = 4;

// Element type of a KV cache row.
enum class KvType : std::uint8_t { f32, f16, bf16, q8 };  // q8: pages of q8_cache.h
[[nodiscard]] std::size_t kv_element_bytes(KvType type);  // not q8
// Elements of a cache row → f32, not q8.
void load_kv(KvType type, const void* in, std::size_t n, float* out);

struct Kernels {
  Isa isa = Isa::scalar;
  GemvFn gemv[quant::n_formats + 1] = {};           // by format id
  GemmFn gemm[quant::n_formats + 1] = {};           // by format id
  WideGemm wide_gemm[quant::n_formats + 1] = {};    // by format id; empty where `gemm` does all
  UnpackFn unpack_s8[quant::n_formats + 1] = {};    // by format id; null without AVX-512 VNNI
  UnpackFn unpack_bf16[quant::n_formats + 1] = {};  // by format id; null where bf16_qk is

  [[nodiscard]] bool reads_bf16() const { return bf16_row != nullptr; }

  // The product of a batch of gemm_min_tokens or more.
  [[nodiscard]] GemmFn gemm_for(quant::Format format, std::uint32_t n_tokens) const {
    const auto i = static_cast<std::size_t>(format);
    const WideGemm& wide = wide_gemm[i];
    return wide.multiply != nullptr && n_tokens >= wide.min_tokens ? wide.multiply : gemm[i];
  }

  // Row `token` of x (already written, [k]) → q, q_step2, q_step4, scale, block_sum; pads x with zeros up to k_padded.
  // Round to nearest even; a row of zeros has scale 0. Returns false if x holds NaN or infinity (q is then all zero).
  bool (*quantize_row)(const Activations& view, std::uint32_t token) = nullptr;
  // The part of quantize_row that makes Activations::bf16 of x, in batches that wide_gemm takes; null where nothing
  // reads them.
  void (*bf16_row)(const Activations& view, std::uint32_t token) = nullptr;

  // out[n] = x / sqrt(mean(x²) + eps) · weight. out may be x.
  void (*rms_norm)(const float* x, const float* weight, std::size_t n, float eps, float* out) = nullptr;
  // out[n] = silu(gate) · up
  void (*silu_mul)(const float* gate, const float* up, std::size_t n, float* out) = nullptr;
  // y[n] += a · x
  void (*axpy)(float a, const float* x, std::size_t n, float* y) = nullptr;
  // Σ a·b with a fixed order
  float (*dot)(const float* a, const float* b, std::size_t n) = nullptr;
  // Rotary embedding in place. cos, sin: [d / 2]. interleaved: pairs (x[2i], x[2i+1]); halves: (x[i], x[i + d/2]).
  void (*rope_interleaved)(float* x, const float* cos, const float* sin, std::size_t d) = nullptr;
  void (*rope_halves)(float* x, const float* cos, const float* sin, std::size_t d) = nullptr;

  // Attention over rows of a KV cache, flash style; see attention.h in runtime. Heads that share the cached rows go
  // together. scores[h, j] = Σ_i q[h, i] · kv[j, i], i < d.   q [n_heads, ldq], kv [n_kv, ld_kv elements], scores
  // [n_heads, lds]
  void (*qk)(KvType type, const float* q, std::size_t ldq, std::uint32_t n_heads, const void* kv, std::size_t ld_kv,
             std::uint32_t n_kv, std::uint32_t d, float* scores, std::size_t lds) = nullptr;
  // out[h, i] += Σ_j p[h, j] · kv[j, i], i < d.      p [n_heads, ldp], out [n_heads, ldo]; j ascending
  void (*pv)(KvType type, const float* p, std::size_t ldp, std::uint32_t n_heads, const void* kv, std::size_t ld_kv,
             std::uint32_t n_kv, std::uint32_t d, float* out, std::size_t ldo) = nullptr;
  // In place: x[j] = exp(x[j] − max), returns Σ; max = *max_out = the largest of x and at_least. n ≥ 1.
  float (*softmax_part)(float* x, std::size_t n, float at_least, float* max_out) = nullptr;
  // The same over a q8 cache (q8_cache.h)
  Q8QkFn q8_qk = nullptr;
  Q8WeightsFn q8_weights = nullptr;
  Q8PvFn q8_pv = nullptr;

  // The same where both factors are bf16 and the machine multiplies them so; null elsewhere, and qk and pv give the
  // same but for the rounding of sums. q and p hold what round_to_bf16 returns.
  void (*bf16_qk)(const float* q, std::size_t ldq, std::uint32_t n_heads, const std::uint16_t* kv, std::size_t ld_kv,
                  std::uint32_t n_kv, std::uint32_t d, float* scores, std::size_t lds) = nullptr;
  // The first `width` elements of rows → pairs of rows side by side: [width / 16, page_rows / 2, 16, 2], page_rows and
  // width rounded up to whole pairs and 16s; a last row without a neighbour has one of zeros.
  void (*bf16_values)(const std::uint16_t* kv, std::size_t ld_kv, std::uint32_t n_kv, std::uint32_t width,
                      std::uint32_t page_rows, std::uint16_t* values) = nullptr;
  void (*bf16_pv)(const float* p, std::size_t ldp, std::uint32_t n_heads, const std::uint16_t* values,
                  std::uint32_t page_rows, std::uint32_t n_kv, std::uint32_t width, float* out,
                  std::size_t ldo) = nullptr;
  // out[n] = x to the nearest bf16, ties to even; returns their sum. out may be x.
  float (*round_to_bf16)(const float* x, std::size_t n, float* out) = nullptr;
  // Attention of many queries (prefill_attention.h)
  PrefillPageFn prefill_page = nullptr;
  bool prefill_tiles = false;  // whether it multiplies operands for tiles, and sooner than others
  // f32 → cache element type, not q8
  void (*store_kv)(KvType type, const float* x, std::size_t n, void* out) = nullptr;

  // What attention is measured against: n rounds of the widest multiply-add of this table on registers. Return how many
  // multiply-adds were done.
  std::uint64_t (*peak_f32)(std::uint64_t n) = nullptr;
  std::uint64_t (*peak_bf16)(std::uint64_t n) = nullptr;  // null where bf16_qk is
  std::uint64_t (*peak_int8)(std::uint64_t n) = nullptr;
  std::uint64_t (*peak_tiles)(std::uint64_t n) = nullptr;  // of the matrix unit, int8; null where wide_gemm is
};

// Why an ISA is or is not used on this machine, best first.
struct IsaReport {
  Isa isa;
  bool available = false;
  std::string reason;  // "used", "supported", "CPU lacks avx512_vbmi", "refused by R1_ISA=avx2" …
};

// The table for one ISA; null if this machine cannot run it.
[[nodiscard]] const Kernels* kernels_for(Isa isa);
// The best one; an override ("avx2", from --isa or R1_ISA) picks another. Null and *why filled if the name is
// unknown or the machine lacks it.
[[nodiscard]] const Kernels* choose_kernels(std::string_view override_name, std::string* why);
[[nodiscard]] std::vector<IsaReport> isa_report(std::string_view override_name);

// Products of a row-major bf16 or f32 matrix with a batch, by oneDNN (gemm_onednn.cpp): same arguments as GemvFn, any
// n_tokens. Worth calling from gemm_onednn_min_tokens on. Runs on the calling thread only. On processors with AVX2
// alone the order of a row's sum depends on n_tokens (oneDNN 2.6: 32, 127 and 128 tokens against 256).
void gemm_onednn(const PackedMatrix& w, const Activations& x, std::uint32_t token_begin, std::uint32_t n_tokens,
                 std::uint32_t panel_begin, std::uint32_t panel_end, float* y, std::size_t ldy);
inline constexpr std::uint32_t gemm_onednn_min_tokens = 32;

}  // namespace r1::simd
