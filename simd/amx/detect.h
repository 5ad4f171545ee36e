// Internal to simd/: whether this process may use AMX. Three have to agree: the processor, the system that saves tiles
// on a thread's switch, and the kernel, which asks to be asked (eight kilobytes for each thread that uses tiles).
#pragma once

#include <cstdint>
#include <string>

namespace r1::simd {

struct AmxSupport {
  bool amx_tile = false, amx_int8 = false, amx_bf16 = false;  // CPUID
  std::uint64_t xcr0 = 0;                                     // the register states that the system saves
  int permission_errno = 0;                                   // what the kernel answered; 0: permitted
};

// Asks the kernel if the rest is there; that permits it to the whole process.
[[nodiscard]] AmxSupport request_amx();

// What is missing, in words; "" if nothing is.
[[nodiscard]] std::string lacking(const AmxSupport& support);

}  // namespace r1::simd
