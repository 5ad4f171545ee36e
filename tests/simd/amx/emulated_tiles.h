// AMX's tile registers in plain code: in the place of simd/amx/tiles.h for machines without AMX, and for sanitizers,
// which see every byte that a tile load reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace r1::simd {
namespace {

class Tiles {
 public:
  Tiles(std::uint32_t rows, std::uint32_t k) { state = {.rows = rows, .k = k}; }
  ~Tiles() { state = {}; }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int T>
  static void zero() {
    std::memset(state.bytes[T], 0, sizeof state.bytes[T]);
  }
  template <int T>
  static void load(const void* p, std::size_t row_stride_bytes) {
    for (std::uint32_t row = 0; row < rows_of(T); ++row)
      std::memcpy(state.bytes[T][row], static_cast<const char*>(p) + row * row_stride_bytes, row_bytes_of(T));
  }
  template <int T>
  static void stream(const void* p, std::size_t row_stride_bytes) {
    load<T>(p, row_stride_bytes);
  }
  template <int T>
  static void store(void* p, std::size_t row_stride_bytes) {
    for (std::uint32_t row = 0; row < rows_of(T); ++row)
      std::memcpy(static_cast<char*>(p) + row * row_stride_bytes, state.bytes[T][row], row_bytes_of(T));
  }
  template <int Sums, int Activations, int Weights>
  static void multiply() {
    add_products<std::int8_t, std::int8_t>(Sums, Activations, Weights);
  }
  template <int Sums, int Rows, int Columns>
  static void multiply_signed_unsigned() {
    add_products<std::int8_t, std::uint8_t>(Sums, Rows, Columns);
  }
  template <int Sums, int Rows, int Columns>
  static void multiply_unsigned_signed() {
    add_products<std::uint8_t, std::int8_t>(Sums, Rows, Columns);
  }
  template <int Sums, int Rows, int Columns>
  static void multiply_unsigned() {
    add_products<std::uint8_t, std::uint8_t>(Sums, Rows, Columns);
  }

  template <int Sums, int Activations, int Weights>
  static void multiply_bf16() {
    const auto value = [](int tile, std::uint32_t row, std::uint32_t i) {
      std::uint32_t bits = 0;
      std::memcpy(reinterpret_cast<char*>(&bits) + 2, state.bytes[tile][row] + 2 * i, 2);
      float x = 0;
      std::memcpy(&x, &bits, 4);
      return x;
    };
    for (std::uint32_t row = 0; row < state.rows; ++row) {
      for (std::uint32_t column = 0; column < 16; ++column) {
        float halves[2] = {};
        for (std::uint32_t k = 0; k < state.k / 2; ++k)
          halves[k % 2] += value(Activations, row, k) * value(Weights, k / 2, 2 * column + k % 2);
        float sum = 0;
        std::memcpy(&sum, state.bytes[Sums][row] + 4 * column, 4);
        sum += halves[0] + halves[1];
        std::memcpy(state.bytes[Sums][row] + 4 * column, &sum, 4);
      }
    }
  }

 private:
  struct State {
    std::uint32_t rows = 0, k = 0;
    std::int8_t bytes[8][16][64] = {};
  };
  template <class RowByte, class ColumnByte>
  static void add_products(int sums, int rows, int columns) {
    for (std::uint32_t row = 0; row < state.rows; ++row) {
      for (std::uint32_t column = 0; column < 16; ++column) {
        std::int32_t sum = 0;
        std::memcpy(&sum, state.bytes[sums][row] + 4 * column, 4);
        for (std::uint32_t k = 0; k < state.k; ++k) {
          sum += static_cast<RowByte>(state.bytes[rows][row][k]) *
                 static_cast<ColumnByte>(state.bytes[columns][k / 4][4 * column + k % 4]);
        }
        std::memcpy(state.bytes[sums][row] + 4 * column, &sum, 4);
      }
    }
  }
  static std::uint32_t rows_of(int tile) { return tile >= 6 ? state.k / 4 : state.rows; }
  static std::size_t row_bytes_of(int tile) { return tile == 4 || tile == 5 ? state.k : 64; }

  static thread_local State state;
};
thread_local Tiles::State Tiles::state;

}  // namespace
}  // namespace r1::simd
