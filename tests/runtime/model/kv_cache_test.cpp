#include <doctest/doctest.h>

#include <cstring>
#include <set>
#include <vector>

#include "runtime/kv_cache/kv_cache.h"

using namespace r1;
using namespace r1::rt;

namespace {

const KvShape mla{simd::KvType::f16, 3, 1, 40, 0};
const KvShape gqa{simd::KvType::f32, 2, 3, 16, 24};

void fill(KvCache& kv, std::uint32_t n_tokens) {
  REQUIRE(kv.grow(n_tokens).ok());
  const KvShape& s = kv.shape();
  const std::size_t k_bytes = s.k_width * simd::kv_element_bytes(s.type),
                    v_bytes = s.v_width * simd::kv_element_bytes(s.type);
  for (std::uint32_t token = 0; token < n_tokens; ++token) {
    for (std::uint32_t layer = 0; layer < s.n_layers; ++layer) {
      for (std::uint32_t head = 0; head < s.n_kv_heads; ++head) {
        const int mark = static_cast<int>(token * 31 + layer * 7 + head * 3);
        std::memset(kv.k_row(token, layer, head), mark & 255, k_bytes);
        if (v_bytes > 0) std::memset(kv.v_row(token, layer, head), (mark + 1) & 255, v_bytes);
      }
    }
  }
}

std::vector<std::byte> rows(const KvCache& kv, std::uint32_t n_tokens) {
  std::vector<std::byte> bytes(n_tokens * kv.shape().bytes_per_token());
  kv.write_rows(n_tokens, bytes);
  return bytes;
}

}  // namespace

TEST_CASE("kv cache: every row is its own and lies where its page says") {
  for (const KvShape& shape : {mla, gqa}) {
    KvCache kv(shape, 1000);
    CHECK(kv.n_pages() == 0);
    fill(kv, 600);
    CHECK(kv.n_pages() == 3);
    std::set<std::byte*> starts;
    std::size_t n_rows = 0;
    for (std::uint32_t token = 0; token < 600; ++token) {
      for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
        for (std::uint32_t head = 0; head < shape.n_kv_heads; ++head) {
          std::byte* k = kv.k_row(token, layer, head);
          CHECK(static_cast<int>(*k) == static_cast<int>((token * 31 + layer * 7 + head * 3) & 255));
          starts.insert(k);
          ++n_rows;
          const std::size_t row_bytes = shape.k_width * simd::kv_element_bytes(shape.type);
          CHECK(kv.k_page(token / kv_page_tokens, layer, head) + token % kv_page_tokens * row_bytes == k);
          if (shape.v_width == 0) continue;
          starts.insert(kv.v_row(token, layer, head));
          ++n_rows;
        }
      }
    }
    CHECK(starts.size() == n_rows);
  }
}

TEST_CASE("kv cache: copy, shrink, snapshot") {
  for (const KvShape& shape : {mla, gqa}) {
    KvCache kv(shape, 1000);
    fill(kv, 520);
    auto twin = kv.copy(300);
    REQUIRE(twin.ok());
    CHECK(twin->n_pages() == 2);
    CHECK(rows(*twin, 300) == rows(kv, 300));
    fill(*twin, 10);
    *twin->k_row(0, 0, 0) = std::byte{99};
    CHECK(*kv.k_row(0, 0, 0) == std::byte{0});

    kv.shrink(257);
    CHECK(kv.n_pages() == 2);
    kv.shrink(256);
    CHECK(kv.n_pages() == 1);
    kv.shrink(0);
    CHECK(kv.n_pages() == 0);

    fill(kv, 300);
    KvCache loaded(shape, 1000);
    REQUIRE(loaded.read_rows(300, rows(kv, 300)).ok());
    CHECK(rows(loaded, 300) == rows(kv, 300));
    std::vector<std::byte> cut = rows(kv, 300);
    cut.pop_back();
    CHECK(loaded.read_rows(300, cut).error().code == ErrorCode::corrupt);
  }
}

TEST_CASE("kv cache: full, and too large for the memory") {
  KvCache kv(mla, 300);
  CHECK(kv.grow(300).ok());
  CHECK(kv.grow(301).error().code == ErrorCode::context_full);

  const std::uint64_t gib = 1 << 30;
  const KvShape r1{simd::KvType::f16, 61, 1, 576, 0};
  CHECK(r1.bytes_per_token() == 70272);
  CHECK(*plan_context(r1, 0, 163840, 64 * gib) == 163840);
  CHECK(*plan_context(r1, 4096, 163840, 64 * gib) == 4096);
  const auto smaller = plan_context(r1, 0, 163840, 4 * gib);  // the model's maximum gives way to the memory
  REQUIRE(smaller.ok());
  CHECK(*smaller < 163840);
  CHECK(*smaller % kv_page_tokens == 0);
  const auto refused = plan_context(r1, 163840, 163840, 4 * gib);  // a wish does not
  REQUIRE(!refused.ok());
  CHECK(refused.error().code == ErrorCode::out_of_memory);
  CHECK(refused.error().message.find("10.72 GiB") != std::string::npos);
  CHECK(refused.error().message.find("4.00 GiB") != std::string::npos);
  CHECK(plan_context(r1, 0, 163840, 0).error().code == ErrorCode::out_of_memory);
  CHECK(plan_context(r1, 200000, 163840, 64 * gib).error().code == ErrorCode::invalid_argument);
}
