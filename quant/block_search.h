// The search for the codes of one 32-k block: the interface, and which instruction sets have it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "quant/format.h"

namespace r1::quant {

// One block and the scales that it may have; then, the best of them and its codes.
struct BlockQuery {
  const float* x = nullptr;       // [32]
  const float* w = nullptr;       // [32], ≥ 0
  const float* scales = nullptr;  // [n_scales], > 0
  int candidate = 0;              // out: ties to the lower
  float cost = 0;  // out: Σ w (x − s·c)², less Σ w x² for trellis formats: comparable within a block
  std::uint8_t codes[block_k];  // out
};

// Searches blocks of one format at a fixed number of scales. It has working memory of its own: one a thread.
class BlockSearch {
 public:
  virtual ~BlockSearch();
  BlockSearch(const BlockSearch&) = delete;
  BlockSearch& operator=(const BlockSearch&) = delete;

  virtual void run(BlockQuery* queries, int n_queries) = 0;

 protected:
  BlockSearch();
};

// Instruction sets that the trellis search is written for. All give the same bits; `scalar` is the oracle, `automatic`
// the fastest that the machine has.
enum class SearchIsa : std::uint8_t { automatic, scalar, avx2, avx512 };
inline constexpr SearchIsa all_search_isas[] = {SearchIsa::scalar, SearchIsa::avx2, SearchIsa::avx512};

[[nodiscard]] bool machine_has(SearchIsa isa);

// n_scales: 4, 8 or 16. The format is a packed one, and the machine has the instruction set.
[[nodiscard]] std::unique_ptr<BlockSearch> make_block_search(Format format, int n_scales, SearchIsa isa);

// One for each instruction set, in its own file; T formats only.
[[nodiscard]] BlockSearch* new_trellis_search_scalar(Format format, int n_scales);
[[nodiscard]] BlockSearch* new_trellis_search_avx2(Format format, int n_scales);
[[nodiscard]] BlockSearch* new_trellis_search_avx512(Format format, int n_scales);

}  // namespace r1::quant
