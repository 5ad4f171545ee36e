// AMX as a right that the kernel grants, and as state that must not leak. What needs AMX runs in tests/testbeds, too.
#include <doctest/doctest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "gemm_tile.h"
#include "matrices.h"
#include "simd/amx/detect.h"
#include "simd/kernels.h"

using namespace r1;
using namespace r1::simd;

namespace {

bool has_amx() {
  if (kernels_for(Isa::amx) != nullptr) return true;
  MESSAGE("no AMX here");
  return false;
}

// The status of a child process that runs `body` and exits with its result.
template <class Body>
int status_of_child(Body body) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) ::_exit(body());
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

// arch_prctl fails with EPERM from here on, in this process.
bool refuse_arch_prctl() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{4, filter};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

}  // namespace

TEST_CASE("what AMX lacks is said in words") {
  AmxSupport support;
  CHECK(lacking(support) == "CPU lacks amx_tile");
  support.amx_tile = true;
  CHECK(lacking(support) == "CPU lacks amx_int8");
  support.amx_int8 = true;
  support.xcr0 = 1u << 17;
  CHECK(lacking(support) == "the system does not save AMX tiles (XCR0)");
  support.xcr0 |= 1u << 18;
  CHECK(lacking(support).empty());
  support.permission_errno = EPERM;
  CHECK(lacking(support) == "the kernel refuses AMX tile data (arch_prctl: Operation not permitted)");
}

// The test bed names the instruction set that its machine has: without this, a guest that lost AMX would pass.
TEST_CASE("the instruction set that the machine is known for is the one chosen") {
  const char* expected = std::getenv("R1_TEST_BEST_ISA");
  if (expected == nullptr) return;
  std::string why;
  const Kernels* kernels = choose_kernels("", &why);
  REQUIRE(kernels != nullptr);
  CHECK(std::string(isa_name(kernels->isa)) == expected);
}

TEST_CASE("the kernel is asked for AMX tile data before they are used") {
  if (!has_amx()) return;
  constexpr long arch_get_xcomp_perm = 0x1022;
  std::uint64_t permitted = 0;
  REQUIRE(::syscall(SYS_arch_prctl, arch_get_xcomp_perm, &permitted) == 0);
  CHECK((permitted >> 18 & 1) == 1);
}

TEST_CASE("without the kernel's permission the next best instruction set is used and the refusal is told") {
  if (!has_amx()) return;
  const int status = status_of_child([] {
    if (!refuse_arch_prctl()) return 2;
    std::string why;
    const std::string refusal = "the kernel refuses AMX tile data (arch_prctl: Operation not permitted)";
    if (kernels_for(Isa::amx) != nullptr || choose_kernels("amx", &why) != nullptr) return 3;
    if (why != "instruction set amx: " + refusal) return 4;
    if (choose_kernels("", &why)->isa != Isa::avx512_vnni) return 5;
    const std::vector<IsaReport> report = isa_report("");
    return report[0].isa == Isa::amx && !report[0].available && report[0].reason == refusal ? 0 : 6;
  });
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("no tile state outlives a product") {
  if (!has_amx()) return;
  const Matrix m(quant::Format::t2, 16, 128, 1);
  const Batch batch(*kernels_for(Isa::scalar), 16, 128, 2);
  const GemmTile tile;
  std::vector<float> y(std::size_t{16} * 16);
  const int status = status_of_child([&] {
    kernels_for(Isa::amx)->wide_gemm[1].multiply(m.view, batch.view, 0, 16, 0, 1, y.data(), 16, tile.get());
    std::signal(SIGILL, SIG_DFL);
    asm volatile("tilezero %tmm0");  // an invalid instruction where no tiles are configured
    return 0;
  });
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGILL);
}
