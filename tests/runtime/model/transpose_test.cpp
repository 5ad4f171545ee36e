// W^UK turned upright for a prefill: beside the decoder of every format.
#include "runtime/attention/transpose.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

#include "../../simd/matrices.h"

using r1::quant::Format;

namespace {

struct Transposed {
  std::vector<float> rows_f32;
  std::byte* blob;
  r1::simd::PackedMatrix view;
  std::vector<float> decoded;  // [k, rows]

  explicit Transposed(const Matrix& w)
      : rows_f32(w.decoded.size()),
        blob(static_cast<std::byte*>(
            ::operator new (r1::rt::transposed_bytes(w.view.rows(), w.view.k()), std::align_val_t{64}))) {
    view = r1::rt::transpose(w.view, rows_f32.data(), blob);
    decoded.resize(w.decoded.size());
    r1::quant::decode_rows(view.format, view.layout, {blob, view.layout.bytes}, 0, view.rows(), decoded.data());
  }
  Transposed(const Transposed&) = delete;
  Transposed& operator=(const Transposed&) = delete;
  ~Transposed() { ::operator delete (blob, std::align_val_t{64}); }
};

}  // namespace

TEST_CASE("transpose: every format and shape comes out upright, within half a step of int8") {
  for (const Format format : {Format::t2, Format::t4h, Format::t5, Format::nl6, Format::w8}) {
    for (const auto& [rows, k] : {std::pair{512u, 128u}, {32u, 16u}, {50u, 37u}, {1u, 1u}, {130u, 260u}}) {
      CAPTURE(r1::quant::info(format).name);
      CAPTURE(rows);
      CAPTURE(k);
      const Matrix w(format, rows, k, rows + k);
      const Transposed t(w);
      REQUIRE(t.view.format == Format::w8);
      REQUIRE(t.view.rows() == k);
      REQUIRE(t.view.k() == rows);
      CHECK(t.rows_f32 == w.decoded);
      double worst = 0;  // in steps
      for (std::uint32_t column = 0; column < k; ++column) {
        float most = 0;
        for (std::uint32_t row = 0; row < rows; ++row)
          most = std::max(most, std::fabs(w.decoded[std::size_t{row} * k + column]));
        for (std::uint32_t first = 0; first < rows; first += 32) {
          const std::uint32_t end = std::min(rows, first + 32);
          float largest = 0;
          for (std::uint32_t row = first; row < end; ++row)
            largest = std::max(largest, std::fabs(w.decoded[std::size_t{row} * k + column]));
          // Scales have four bits behind the first: a step is at most a sixteenth more than the largest asks for. The
          // finest is 2^-8 of the row's.
          const double step = std::max({largest * (1 + 1.0 / 16), most / 256.0, 1e-30}) / 127;
          for (std::uint32_t row = first; row < end; ++row) {
            const double difference =
                t.decoded[std::size_t{column} * rows + row] - w.decoded[std::size_t{row} * k + column];
            worst = std::max(worst, std::fabs(difference) / step);
          }
        }
      }
      CHECK(worst < 0.501);
    }
  }
}

TEST_CASE("transpose: floats are only moved") {
  for (const Format format : {Format::f32, Format::bf16}) {
    const Matrix w(format, 40, 24, 3);
    const Transposed t(w);
    REQUIRE(t.view.format == Format::f32);
    for (std::uint32_t row = 0; row < 40; ++row) {
      for (std::uint32_t column = 0; column < 24; ++column)
        CHECK(t.decoded[std::size_t{column} * 40 + row] == w.decoded[std::size_t{row} * 24 + column]);
    }
  }
}

TEST_CASE("transpose: a matrix of zeros has no steps") {
  Matrix w(Format::w8, 64, 32, 1);
  std::fill_n(reinterpret_cast<float*>(w.memory.data()) + 16, 64, 0.0f);  // its rows' scales
  std::fill(w.decoded.begin(), w.decoded.end(), 0.0f);
  const Transposed t(w);
  CHECK(std::all_of(t.decoded.begin(), t.decoded.end(), [](float x) { return x == 0; }));
}
