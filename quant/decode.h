// Scalar decoders: the oracle for every kernel. FORMAT.md: w = row_scale · (block_scale · float(codebook[code])).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/format.h"

namespace r1::quant {

// Decodes rows [row_begin, row_end) of a blob of `layout.bytes` into out [row_end − row_begin, layout.k], f32.
// The blob must hold layout.bytes bytes; every bit pattern decodes to something.
void decode_rows(Format format, const BlobLayout& layout, std::span<const std::byte> blob, std::uint32_t row_begin,
                 std::uint32_t row_end, float* out);

}  // namespace r1::quant
