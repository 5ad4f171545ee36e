#include "simd/amx/detect.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace r1::simd {
namespace {

constexpr std::uint64_t tile_states = std::uint64_t{3} << 17;  // of XCR0: TILECFG, TILEDATA

// Linux: Documentation/arch/x86/xstate.rst.
constexpr long arch_req_xcomp_perm = 0x1023;
constexpr long tile_data = 18;  // the number of the state

std::uint64_t read_xcr0() {
  std::uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

}  // namespace

AmxSupport request_amx() {
  AmxSupport support;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) {
    support.amx_tile = (d >> 24 & 1) != 0;
    support.amx_int8 = (d >> 25 & 1) != 0;
    support.amx_bf16 = (d >> 22 & 1) != 0;
  }
  constexpr unsigned osxsave = 1u << 27;
  if (__get_cpuid(1, &a, &b, &c, &d) != 0 && (c & osxsave) != 0) support.xcr0 = read_xcr0();
  if (!lacking(support).empty()) return support;
  if (::syscall(SYS_arch_prctl, arch_req_xcomp_perm, tile_data) != 0) support.permission_errno = errno;
  return support;
}

std::string lacking(const AmxSupport& support) {
  if (!support.amx_tile) return "CPU lacks amx_tile";
  if (!support.amx_int8) return "CPU lacks amx_int8";
  if ((support.xcr0 & tile_states) != tile_states) return "the system does not save AMX tiles (XCR0)";
  if (support.permission_errno != 0) {
    return "the kernel refuses AMX tile data (arch_prctl: " +
           std::generic_category().message(support.permission_errno) + ")";
  }
  return {};
}

}  // namespace r1::simd
