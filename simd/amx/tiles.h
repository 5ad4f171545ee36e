// Internal to simd/: AMX's tile registers. Internal linkage, as in trellis_shape.h.
//
// Registers 0 … 3 are sums, [rows, 16] int32; 4 and 5 activations, [rows, k] int8; 6 and 7 weights, [k / 4, 16, 4]
// int8. Instructions are written out: GCC 12's intrinsic for a tile load does not tell the compiler that it reads
// memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace r1::simd {
namespace {

// Configures the thread's tiles, and releases them: no tile state outlives it.
class Tiles {
 public:
  // rows: 1 … 16; k: of one product, a multiple of 4 up to 64
  Tiles(std::uint32_t rows, std::uint32_t k) {
    struct alignas(64) Config {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } config;
    for (int t = 0; t < 8; ++t) {
      const bool activations = t == 4 || t == 5, weights = t >= 6;
      config.row_bytes[t] = static_cast<std::uint16_t>(activations ? k : 64);
      config.rows[t] = static_cast<std::uint8_t>(weights ? k / 4 : rows);
    }
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  template <int T>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
  }
  template <int T>
  static void load(const void* p, std::size_t row_stride_bytes) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(T), "r"(p), "r"(row_stride_bytes) : "memory");
  }
  // The same of what is not read again soon: it does not drive out what lies in the first-level cache.
  template <int T>
  static void stream(const void* p, std::size_t row_stride_bytes) {
    asm volatile("tileloaddt1 (%1,%2,1), %%tmm%c0" : : "i"(T), "r"(p), "r"(row_stride_bytes) : "memory");
  }
  template <int T>
  static void store(void* p, std::size_t row_stride_bytes) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(T), "r"(p), "r"(row_stride_bytes) : "memory");
  }
  // sums += activations · weights, signed bytes
  template <int Sums, int Activations, int Weights>
  static void multiply() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(Activations), "i"(Weights));
  }
  // the same where one of both is unsigned, or both are
  template <int Sums, int Rows, int Columns>
  static void multiply_signed_unsigned() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(Rows), "i"(Columns));
  }
  template <int Sums, int Rows, int Columns>
  static void multiply_unsigned_signed() {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(Rows), "i"(Columns));
  }
  template <int Sums, int Rows, int Columns>
  static void multiply_unsigned() {
    asm volatile("tdpbuud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(Rows), "i"(Columns));
  }
  // the same of bf16, sums in f32
  template <int Sums, int Activations, int Weights>
  static void multiply_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(Activations), "i"(Weights));
  }
};

}  // namespace
}  // namespace r1::simd
