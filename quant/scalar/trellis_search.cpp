// Four lanes in plain code: the oracle of the others.
#include "quant/trellis_search.h"

namespace r1::quant {
namespace {

struct ScalarVector {
  static constexpr int n = 4;
  float at[n];

  static ScalarVector broadcast(float x) { return {{x, x, x, x}}; }
  static ScalarVector load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
  void store(float* p) const {
    for (int l = 0; l < n; ++l) p[l] = at[l];
  }
  template <int NBlocks>
  static ScalarVector spread(const float* p) {
    static_assert(NBlocks == 1);
    return broadcast(*p);
  }

  struct Bytes {
    std::int32_t at[n];
  };
  static Bytes lookup(const std::int32_t* table, ScalarVector index) {
    Bytes bytes;
    for (int l = 0; l < n; ++l) {
      const float inside = index.at[l] > 0 ? (index.at[l] < 255 ? index.at[l] : 255) : 0;
      bytes.at[l] = table[static_cast<int>(inside)];
    }
    return bytes;
  }
  template <int I>
  static ScalarVector byte(const Bytes& bytes) {
    ScalarVector r;
    for (int l = 0; l < n; ++l) r.at[l] = static_cast<float>(static_cast<std::int8_t>(bytes.at[l] >> (8 * I) & 255));
    return r;
  }
};
ScalarVector fma(ScalarVector a, ScalarVector b, ScalarVector c) {
  ScalarVector r;
  for (int l = 0; l < ScalarVector::n; ++l) r.at[l] = __builtin_fmaf(a.at[l], b.at[l], c.at[l]);
  return r;
}
ScalarVector mul(ScalarVector a, ScalarVector b) {
  ScalarVector r;
  for (int l = 0; l < ScalarVector::n; ++l) r.at[l] = a.at[l] * b.at[l];
  return r;
}
ScalarVector add(ScalarVector a, ScalarVector b) {
  ScalarVector r;
  for (int l = 0; l < ScalarVector::n; ++l) r.at[l] = a.at[l] + b.at[l];
  return r;
}
ScalarVector min(ScalarVector a, ScalarVector b) {
  ScalarVector r;
  for (int l = 0; l < ScalarVector::n; ++l) r.at[l] = a.at[l] < b.at[l] ? a.at[l] : b.at[l];
  return r;
}
// a < b ? x : y
ScalarVector if_less(ScalarVector a, ScalarVector b, ScalarVector x, ScalarVector y) {
  ScalarVector r;
  for (int l = 0; l < ScalarVector::n; ++l) r.at[l] = a.at[l] < b.at[l] ? x.at[l] : y.at[l];
  return r;
}

}  // namespace

BlockSearch* new_trellis_search_scalar(Format format, int n_scales) {
  return new_trellis_search<ScalarVector>(format, n_scales);
}

}  // namespace r1::quant
