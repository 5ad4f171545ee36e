#include "quant/block_search.h"

#include "quant/nearest_search.h"

namespace r1::quant {

BlockSearch::BlockSearch() = default;
BlockSearch::~BlockSearch() = default;

bool machine_has(SearchIsa isa) {
  if (isa != SearchIsa::avx512) return true;  // the program's baseline
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
         __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0;
}

namespace {

// Zen 4 takes two cycles for 512 bits: it gains where one block fills the lanes, and loses a fifth where two or four
// share them (t2, eight scales: .103 us per weight against .084 with AVX2).
SearchIsa fastest_isa(int n_scales) {
  if (!machine_has(SearchIsa::avx512)) return SearchIsa::avx2;
  return __builtin_cpu_is("amdfam19h") != 0 && n_scales < 16 ? SearchIsa::avx2 : SearchIsa::avx512;
}

}  // namespace

std::unique_ptr<BlockSearch> make_block_search(Format format, int n_scales, SearchIsa isa) {
  if (format == Format::nl6) return std::make_unique<NearestSearch>(n_scales);
  if (format == Format::w8) return std::make_unique<RoundedSearch>(n_scales);
  switch (isa == SearchIsa::automatic ? fastest_isa(n_scales) : isa) {
    case SearchIsa::scalar:
      return std::unique_ptr<BlockSearch>(new_trellis_search_scalar(format, n_scales));
    case SearchIsa::avx512:
      return std::unique_ptr<BlockSearch>(new_trellis_search_avx512(format, n_scales));
    default:
      return std::unique_ptr<BlockSearch>(new_trellis_search_avx2(format, n_scales));
  }
}

}  // namespace r1::quant
