#include <cstdint>
#include <cstdlib>

#include "runtime/io/safetensors.h"

// What is accepted must lie inside the input.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto header = r1::rt::parse_safetensors({reinterpret_cast<const std::byte*>(data), size}, "input");
  if (!header) {
    if (header.error().message.empty()) std::abort();
    return 0;
  }
  for (const auto& entry : header->entries) {
    if (entry.offset_bytes > size || entry.length_bytes > size - entry.offset_bytes) std::abort();
  }
  return 0;
}
