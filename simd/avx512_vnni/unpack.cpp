// Packed weights as oneDNN wants signed bytes: what turning them takes, for measurements (UnpackFn in kernels.h).
#include "simd/avx512_vnni/gemv.h"
#include "simd/avx512_vnni/panel_quads.h"

namespace r1::simd {
namespace {

using quant::Format;

template <Format F>
void unpack(const PackedMatrix& w, std::uint32_t panel, std::byte* out) {
  for (std::uint32_t p = 0; p < unpack_panels; ++p) {
    std::byte* column = out + std::size_t{64} * p;
    for_each_quad<F>(
        w, panel + p, [](std::uint32_t, __m512) {},
        [&](std::uint32_t quad, __m512i bytes) {
          _mm512_storeu_si512(column + std::size_t{quad} * 64 * unpack_panels, bytes);
        });
  }
}

}  // namespace

void use_avx512_vnni_unpack(UnpackFn* table) {
  fill_unpack_table(table, [](auto format) { return unpack<format()>; });
}

}  // namespace r1::simd
