// Scratch of a batch's product.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "simd/kernels.h"

struct GemmTile {
  std::unique_ptr<std::byte, void (*)(void*)> memory{
      static_cast<std::byte*>(std::aligned_alloc(64, r1::simd::gemm_tile_bytes)), &std::free};
  // Whatever an earlier product left there must not matter: every byte NaN's.
  std::byte* get() const {
    std::memset(memory.get(), 0xff, r1::simd::gemm_tile_bytes);
    return memory.get();
  }
};
