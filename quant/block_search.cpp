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

SearchIsa best_search_isa() {
  return machine_has(SearchIsa::avx512) ? SearchIsa::avx512 : SearchIsa::avx2;
}

std::unique_ptr<BlockSearch> make_block_search(Format format, int n_scales, SearchIsa isa) {
  if (format == Format::nl6) return std::make_unique<NearestSearch>(n_scales);
  if (format == Format::w8) return std::make_unique<RoundedSearch>(n_scales);
  switch (isa) {
    case SearchIsa::scalar:
      return std::unique_ptr<BlockSearch>(new_trellis_search_scalar(format, n_scales));
    case SearchIsa::avx512:
      return std::unique_ptr<BlockSearch>(new_trellis_search_avx512(format, n_scales));
    default:
      return std::unique_ptr<BlockSearch>(new_trellis_search_avx2(format, n_scales));
  }
}

}  // namespace r1::quant
