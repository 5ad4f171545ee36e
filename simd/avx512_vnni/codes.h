// Internal to simd/: the weights of a trellis format from its codes, with AVX-512 VBMI. Internal linkage, as in
// trellis_shape.h.
//
// One zmm of codes is eight rows (all even or all odd rows of the panel) of one 8-byte string, or of a 5- to 7-byte
// string spread to 8. Windows of a string are cut by a rotate (t2, t4) or by vpmultishiftqb; vpermb reads only the low
// six bits of an index, so it is the codebook lookup as it stands.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/trellis_shape.h"

namespace r1::simd {
namespace {

struct alignas(64) Bytes64 {
  std::uint8_t at[64];
};

// Bit offsets of windows 8m … 8m + 7 of a group, for each of the eight strings of a zmm.
constexpr Bytes64 multishift_control(TrellisShape shape, int m) {
  Bytes64 control{};
  for (int i = 0; i < 8; ++i) {
    for (int row = 0; row < 8; ++row) control.at[8 * row + i] = static_cast<std::uint8_t>(shape.bit_offset(8 * m + i));
  }
  return control;
}

// Spreads eight strings of group_bytes, the last bytes of 64, to qwords; a string's first bytes follow its last, since
// strings are circular.
constexpr Bytes64 spread_control(TrellisShape shape) {
  Bytes64 control{};
  const int first = 64 - 8 * shape.group_bytes;
  for (int row = 0; row < 8; ++row) {
    for (int i = 0; i < 8; ++i) {
      control.at[8 * row + i] = static_cast<std::uint8_t>(first + row * shape.group_bytes + i % shape.group_bytes);
    }
  }
  return control;
}

inline __m512i load(const Bytes64& bytes) {
  return _mm512_load_si512(bytes.at);
}

template <quant::Format F>
struct Codes {
  static constexpr TrellisShape shape = trellis_shape(F);
  static constexpr int n_groups = shape.groups(), n_cuts = shape.cuts();
  static constexpr int half_bytes = 8 * shape.group_bytes;  // eight rows of a group
  static_assert(64 - half_bytes <= shape.scale_bytes());
  static constexpr Bytes64 spread_bytes = spread_control(shape);
  static constexpr Bytes64 control_bytes[4] = {multishift_control(shape, 0), multishift_control(shape, 1),
                                               multishift_control(shape, 2), multishift_control(shape, 3)};

  __m512i codebook, spread, control[n_cuts];  // codebook + 64

  Codes()
      : codebook(_mm512_add_epi8(_mm512_loadu_si512(quant::info(F).codebook), _mm512_set1_epi8(64))),
        spread(load(spread_bytes)) {
    for (int m = 0; m < n_cuts; ++m) control[m] = load(control_bytes[m]);
  }

  // The strings of a group of eight rows, with what lies before them: at least a superchunk's scales do. A masked load
  // of them alone costs Zen 5 three quarters of the speed at which it reads memory (t3 19 of 81 GB/s instead of 71).
  [[gnu::always_inline]] __m512i strings(const std::uint8_t* p) const {
    const __m512i z = _mm512_loadu_si512(p - (64 - half_bytes));
    return half_bytes < 64 ? _mm512_permutexvar_epi8(spread, z) : z;
  }
  // Their weights 8m … 8m + 7, in the order of the format's activations.
  [[gnu::always_inline]] __m512i weights(__m512i z, int m) const {
    if constexpr (shape.rotates()) {
      if (m > 0) z = _mm512_rorv_epi64(z, _mm512_set1_epi64(m * shape.step_even));
    } else {
      z = _mm512_multishift_epi64_epi8(control[m], z);
    }
    return _mm512_permutexvar_epi8(z, codebook);
  }
};

}  // namespace
}  // namespace r1::simd
