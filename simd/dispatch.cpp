// Which instruction sets this machine runs, and which table is used.
#include <cpuid.h>

#include <array>
#include <mutex>

#include "simd/amx/detect.h"
#include "simd/amx/gemm.h"
#include "simd/avx2/gemv.h"
#include "simd/avx2_vnni/gemv.h"
#include "simd/avx512/gemv.h"
#include "simd/avx512_vnni/gemv.h"
#include "simd/generic/attention_kernels.h"
#include "simd/generic/float_kernels.h"
#include "simd/kernels.h"
#include "simd/scalar/gemv.h"

namespace r1::simd {
namespace {

struct Feature {
  const char* name;
  bool present;
};

// Not every compiler's __builtin_cpu_supports knows it. It works on AVX registers: what holds for avx2 holds for it.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}

// A part of avx512_vnni's table where it is there. What holds for AVX-512's registers holds for it.
bool has_avx512_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5 & 1) != 0;
}

// What an instruction set needs beyond the baseline, in the kernel's names. GCC's test covers the system's support for
// the registers (XGETBV) too.
std::array<Feature, 6> needed(Isa isa) {
  std::array<Feature, 6> features{};
  __builtin_cpu_init();
  switch (isa) {
    case Isa::avx2:
      features = {{{"avx2", __builtin_cpu_supports("avx2") != 0}, {"fma", __builtin_cpu_supports("fma") != 0}}};
      break;
    case Isa::avx2_vnni:
      features = {{{"avx2", __builtin_cpu_supports("avx2") != 0}, {"avx_vnni", has_avx_vnni()}}};
      break;
    case Isa::avx512:
      features = {{{"avx512f", __builtin_cpu_supports("avx512f") != 0},
                   {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
                   {"avx512vl", __builtin_cpu_supports("avx512vl") != 0},
                   {"avx512dq", __builtin_cpu_supports("avx512dq") != 0}}};
      break;
    case Isa::avx512_vnni:
    case Isa::amx:
      features = {{{"avx512f", __builtin_cpu_supports("avx512f") != 0},
                   {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
                   {"avx512vl", __builtin_cpu_supports("avx512vl") != 0},
                   {"avx512dq", __builtin_cpu_supports("avx512dq") != 0},
                   {"avx512_vbmi", __builtin_cpu_supports("avx512vbmi") != 0},
                   {"avx512_vnni", __builtin_cpu_supports("avx512vnni") != 0}}};
      break;
    default:
      break;
  }
  return features;
}

// "" if the machine runs it.
std::string lacking(Isa isa) {
  for (const Feature& feature : needed(isa)) {
    if (feature.name != nullptr && !feature.present) return std::string("CPU lacks ") + feature.name;
  }
  return isa == Isa::amx ? lacking(request_amx()) : std::string();
}

constexpr std::array best_first = {Isa::amx, Isa::avx512_vnni, Isa::avx512, Isa::avx2_vnni, Isa::avx2, Isa::scalar};

// What AVX-512 VNNI does without VBMI.
void use_vnni_products(Kernels& table) {
  use_avx512_vnni_w8_gemv(table.gemv, __builtin_cpu_is("amd") == 0);
  use_avx512_vnni_q8_attention(table);
  use_avx512_vnni_prefill_attention(table);
}

Kernels make_table(Isa isa) {
  Kernels table;
  table.isa = isa;
  use_float_kernels(table);
  use_attention_kernels(table);
  use_avx2_q8_attention(table);
  use_avx2_prefill_attention(table);
  if (isa == Isa::scalar) {
    use_scalar_gemv(table.gemv);
    use_scalar_gemm(table.gemm);
    table.quantize_row = quantize_row_scalar;
    return table;
  }
  use_avx2_gemv(table.gemv);
  use_avx2_gemm(table.gemm);
  table.quantize_row = quantize_row_avx2;
  if (isa == Isa::avx2_vnni) {
    use_avx2_vnni_gemv(table.gemv);
    use_avx2_vnni_gemm(table.gemm);
    use_avx2_vnni_q8_attention(table);
    use_avx2_vnni_prefill_attention(table);
  }
  if (isa >= Isa::avx512) use_avx512_attention(table);
  if (isa == Isa::avx512) {
    use_avx512_gemv(table.gemv);
    use_avx512_gemm(table.gemm);
    use_avx512_prefill_attention(table);
    if (__builtin_cpu_supports("avx512vnni") != 0) {
      use_avx512_vnni_without_vbmi_gemv(table.gemv);
      use_avx512_vnni_without_vbmi_gemm(table.gemm);
      use_vnni_products(table);
    }
  }
  if (isa >= Isa::avx512_vnni) {
    use_avx512_vnni_gemv(table.gemv, __builtin_cpu_is("amdfam19h") == 0);  // Zen 4, among machines with AVX-512
    use_avx512_vnni_gemm(table.gemm);
    use_vnni_products(table);
    use_avx512_vnni_unpack(table.unpack_s8);
    if (has_avx512_bf16()) {
      use_avx512_bf16_attention(table);
      use_avx512_bf16_unpack(table.unpack_bf16);
    }
  }
  if (isa == Isa::amx) {
    use_amx_gemm(table);
    use_amx_prefill_attention(table);
    use_amx_q8_attention(table);
    if (request_amx().amx_bf16) use_amx_bf16_gemm(table);  // else nl6 and w8 stay with VNNI
  }
  return table;
}

std::string known_names() {
  std::string names;
  for (const Isa isa : best_first) names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  return names;
}

}  // namespace

const Kernels* kernels_for(Isa isa) {
  static std::once_flag once[n_isas];
  static Kernels tables[n_isas];
  if (!lacking(isa).empty()) return nullptr;
  const auto i = static_cast<std::size_t>(isa);
  std::call_once(once[i], [&] { tables[i] = make_table(isa); });
  return &tables[i];
}

const Kernels* choose_kernels(std::string_view override_name, std::string* why) {
  if (override_name.empty()) {
    for (const Isa isa : best_first) {
      if (const Kernels* kernels = kernels_for(isa)) return kernels;
    }
  }
  for (const Isa isa : best_first) {
    if (override_name != isa_name(isa)) continue;
    if (const Kernels* kernels = kernels_for(isa)) return kernels;
    if (why != nullptr) *why = "instruction set " + std::string(override_name) + ": " + lacking(isa);
    return nullptr;
  }
  if (why != nullptr)
    *why = "instruction set " + std::string(override_name) + " is unknown; there are " + known_names();
  return nullptr;
}

std::vector<IsaReport> isa_report(std::string_view override_name) {
  const Kernels* used = choose_kernels(override_name, nullptr);
  std::vector<IsaReport> report;
  bool found = false;
  for (const Isa isa : best_first) {
    IsaReport line{isa, kernels_for(isa) != nullptr, lacking(isa)};
    if (used != nullptr && used->isa == isa) {
      line.reason = "used";
      found = true;
    } else if (line.available) {
      line.reason =
          found || used == nullptr ? "supported" : "supported, but " + std::string(override_name) + " was asked for";
    }
    report.push_back(std::move(line));
  }
  return report;
}

}  // namespace r1::simd
