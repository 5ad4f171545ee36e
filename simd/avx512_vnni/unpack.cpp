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
  table[static_cast<int>(Format::t2)] = unpack<Format::t2>;
  table[static_cast<int>(Format::t2_5)] = unpack<Format::t2_5>;
  table[static_cast<int>(Format::t3)] = unpack<Format::t3>;
  table[static_cast<int>(Format::t3_5)] = unpack<Format::t3_5>;
  table[static_cast<int>(Format::t4)] = unpack<Format::t4>;
  table[static_cast<int>(Format::t4h)] = unpack<Format::t4h>;
  table[static_cast<int>(Format::t5)] = unpack<Format::t5>;
  table[static_cast<int>(Format::nl6)] = unpack<Format::nl6>;
  table[static_cast<int>(Format::w8)] = unpack<Format::w8>;
}

}  // namespace r1::simd
