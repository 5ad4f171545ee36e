#include <cstdint>
#include <cstdlib>

#include "runtime/model_file/layout.h"

// What is accepted must give a list of tensors whose layouts do not overflow, or say so.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto config = r1::rt::parse_config({reinterpret_cast<const char*>(data), size}, "input");
  if (!config) {
    if (config.error().message.empty()) std::abort();
    return 0;
  }
  for (const auto& blob : r1::rt::expected_blobs(*config)) {
    const std::vector<r1::quant::Format> formats(blob.matrices.size(), r1::quant::Format::t5);
    if (blob.n_parts > 4096) continue;
    const auto stored = r1::rt::stored_blob(blob, formats);
    if (stored && stored->length_bytes % r1::rt::page_bytes != 0) std::abort();
  }
  return 0;
}
