#include "runtime/moe/mlp_pool.h"

#include <algorithm>
#include <cstring>

#include "runtime/model/work_share.h"

namespace r1::rt {
namespace {

std::uint32_t n_tiles(const MlpJob& job) {
  return (job.n_rows + simd::max_gemv_tokens - 1) / simd::max_gemv_tokens;
}

// silu(gate x) · up x → intermediate.gate, whose rows the member that computed them owns.
void gate_and_up(const numa::Member& member, const Pass& pass, std::span<const MlpJob> jobs) {
  for_each_share(
      member, jobs.size(), [&](std::size_t i) { return n_units(jobs[i].w->gate_proj, jobs[i].n_rows); },
      [&](std::size_t i) { return panels_per_unit(jobs[i].w->gate_proj, jobs[i].n_rows) * n_tiles(jobs[i]); },
      [&](std::size_t i, std::uint32_t unit_begin, std::uint32_t unit_end) {
        const MlpJob& job = jobs[i];
        Intermediate& mid = *job.intermediate;
        const std::uint32_t width = job.w->gate_proj.rows();
        float* gate = mid.gate.at(std::size_t{job.intermediate_row} * width);
        float* up = mid.up.at(std::size_t{job.intermediate_row} * width);
        multiply_units(pass.kernels, {&job.w->gate_proj, &job.x, job.x_row, job.n_rows, gate, width}, unit_begin,
                       unit_end);
        multiply_units(pass.kernels, {&job.w->up_proj, &job.x, job.x_row, job.n_rows, up, width}, unit_begin, unit_end);
        const std::uint32_t unit_rows = panels_per_unit(job.w->gate_proj, job.n_rows) * quant::panel_rows;
        const std::uint32_t begin = std::min(unit_begin * unit_rows, width),
                            end = std::min(unit_end * unit_rows, width);
        for (std::uint32_t row = 0; row < job.n_rows; ++row) {
          const std::size_t at = std::size_t{row} * width + begin;
          pass.kernels.silu_mul(gate + at, up + at, end - begin, gate + at);
        }
      });
}

// Quantizes the rows that jobs of this intermediate wrote.
simd::Activations quantized(const numa::Member& member, Pass& pass, std::uint32_t layer, std::span<const MlpJob> jobs,
                            Intermediate& mid) {
  std::uint32_t n_rows = 0, width = 0;
  for (const MlpJob& job : jobs) {
    if (job.intermediate != &mid) continue;
    n_rows = std::max(n_rows, job.intermediate_row + job.n_rows);
    width = job.w->gate_proj.rows();
  }
  if (n_rows == 0) return {};
  bool finite = true;
  const simd::Activations result =
      mid.input.prepare(member, pass.kernels, n_rows, width, &finite, [&](std::uint32_t row, float* out) {
        std::memcpy(out, mid.gate.at(std::size_t{row} * width), width * sizeof(float));
      });
  if (!finite) pass.report_not_finite(layer);
  return result;
}

}  // namespace

void run_mlps(const numa::Member& member, Pass& pass, const Layer& layer, std::span<const MlpJob> jobs) {
  gate_and_up(member, pass, jobs);
  member.barrier();
  Scratch& s = pass.scratch;
  const simd::Activations routed = quantized(member, pass, layer.index, jobs, s.routed);
  const simd::Activations dense = quantized(member, pass, layer.index, jobs, s.dense);

  // A member owns rows of the output, the same ones for all jobs.
  std::uint32_t unit_panels = 1;
  for (const MlpJob& job : jobs) unit_panels = std::max(unit_panels, panels_per_unit(job.w->down_proj, job.n_rows));
  const std::uint32_t hidden = pass.config.hidden_size;
  const std::uint32_t unit_rows = unit_panels * quant::panel_rows;
  const auto [unit_begin, unit_end] = member.share((hidden + unit_rows - 1) / unit_rows);
  const std::uint32_t begin = std::min(unit_begin * unit_rows, hidden), end = std::min(unit_end * unit_rows, hidden);
  if (begin == end) return;
  for (const MlpJob& job : jobs) {
    const Matrix& w = job.w->down_proj;
    const simd::Activations& x = job.intermediate == &s.routed ? routed : dense;
    const std::uint32_t unit = panels_per_unit(w, job.n_rows) * quant::panel_rows;
    multiply_units(pass.kernels, {&w, &x, job.intermediate_row, job.n_rows, s.projected.data(), hidden}, begin / unit,
                   (end + unit - 1) / unit);
    for (std::uint32_t row = 0; row < job.n_rows; ++row) {
      add_to_residual(pass, layer.index, job.row_token != nullptr ? job.row_token[row] : row,
                      job.row_weight != nullptr ? job.row_weight[row] : 1.0f, s.projected.at(std::size_t{row} * hidden),
                      begin, end);
    }
  }
}

}  // namespace r1::rt
