// The kernel tables this machine can run.
#pragma once

#include <vector>

#include "simd/kernels.h"

inline std::vector<const r1::simd::Kernels*> machine_tables() {
  std::vector<const r1::simd::Kernels*> tables;
  for (const auto& line : r1::simd::isa_report("")) {
    if (line.available) tables.push_back(r1::simd::kernels_for(line.isa));
  }
  return tables;
}
