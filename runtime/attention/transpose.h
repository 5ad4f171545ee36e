// A weight matrix the other way round: W^UK lies transposed in the model, as absorbed attention multiplies it, and
// decompressing keys takes it upright.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/kernels.h"

namespace r1::rt {

// What the blob of a [rows, k] matrix's transpose takes: w8 of packed ones, f32 of others.
[[nodiscard]] std::size_t transposed_bytes(std::uint32_t rows, std::uint32_t k);

// The [k, rows] transpose. Every scale block of w8 is as fine as its largest weight allows (quant/encode.h searches for
// better ones, but is no work for a forward pass).
//   rows_f32 [w.rows(), w.k()] scratch; blob [transposed_bytes], aligned to 64
[[nodiscard]] simd::PackedMatrix transpose(const simd::PackedMatrix& w, float* rows_f32, std::byte* blob);

}  // namespace r1::rt
