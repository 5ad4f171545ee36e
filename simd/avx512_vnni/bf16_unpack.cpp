// Packed weights as oneDNN wants bf16: what turning them takes, for measurements (UnpackFn in kernels.h).
#include "simd/avx512_vnni/gemv.h"
#include "simd/avx512_vnni/panel_quads.h"

namespace r1::simd {
namespace {

using quant::Format;

template <Format F>
void unpack(const PackedMatrix& w, std::uint32_t panel, std::byte* out) {
  const __m512i interleaved = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                               6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  for (std::uint32_t p = 0; p < unpack_panels; ++p) {
    std::byte* column = out + std::size_t{64} * p;
    const __m512 row_scale = _mm512_loadu_ps(w.row_scale() + std::size_t{panel + p} * quant::panel_rows);
    __m512 scale = row_scale;
    for_each_quad<F>(
        w, panel + p, [&](std::uint32_t, __m512 block_scale) { scale = _mm512_mul_ps(block_scale, row_scale); },
        [&](std::uint32_t quad, __m512i bytes) {
          const auto k = [&](int i) {
            const __m512i x = _mm512_srai_epi32(_mm512_slli_epi32(bytes, static_cast<unsigned>(24 - 8 * i)), 24);
            return _mm512_mul_ps(_mm512_cvtepi32_ps(x), scale);
          };
          const auto pair = [&](int i) {
            const auto halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(k(i + 1), k(i)));
            return _mm512_permutexvar_epi16(interleaved, halves);
          };
          std::byte* to = column + std::size_t{quad} * 2 * 64 * unpack_panels;
          _mm512_storeu_si512(to, pair(0));
          _mm512_storeu_si512(to + 64 * unpack_panels, pair(2));
        });
  }
}

}  // namespace

void use_avx512_bf16_unpack(UnpackFn* table) {
  fill_unpack_table(table, [](auto format) { return unpack<format()>; });
}

}  // namespace r1::simd
