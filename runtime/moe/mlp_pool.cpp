#include "runtime/moe/mlp_pool.h"

#include <algorithm>
#include <cstring>

#include "runtime/model/work_share.h"

namespace r1::rt {
namespace {

// gate_proj x or up_proj x → rows of one of the intermediate's buffers.
Product product(const MlpJob& job, const Matrix& w, Buffer<float>& out) {
  return {&w, &job.x, job.x_row, job.n_rows, out.at(std::size_t{job.intermediate_row} * w.rows()), w.rows()};
}

// silu(gate x) · up x → intermediate.gate, whose rows the member that computed them owns.
void gate_and_up(const numa::Member& member, Pass& pass, std::span<const MlpJob> jobs) {
  std::byte* tile = pass.own(member).tile.data();
  const auto gate = [&](std::size_t i) { return product(jobs[i], jobs[i].w->gate_proj, jobs[i].intermediate->gate); };
  const auto up = [&](std::size_t i) { return product(jobs[i], jobs[i].w->up_proj, jobs[i].intermediate->up); };
  for_each_share(
      member, jobs.size(), [&](std::size_t i) { return n_units(gate(i)); },
      [&](std::size_t i) { return panels_per_unit(gate(i)) * panel_cost(pass.kernels, gate(i)); },
      [&](std::size_t i, std::uint32_t unit_begin, std::uint32_t unit_end) {
        const Product g = gate(i), u = up(i);
        multiply_units(pass.kernels, g, unit_begin, unit_end, tile);
        multiply_units(pass.kernels, u, unit_begin, unit_end, tile);
        const std::uint32_t width = g.w->rows(), unit_rows = panels_per_unit(g) * quant::panel_rows;
        const std::uint32_t begin = std::min(unit_begin * unit_rows, width);
        const std::uint32_t end = std::min(unit_end * unit_rows, width);
        for (std::uint32_t row = 0; row < g.n_rows; ++row) {
          const std::size_t at = row * g.ldy + begin;
          pass.kernels.silu_mul(g.y + at, u.y + at, end - begin, g.y + at);
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
      mid.input->prepare(member, pass.kernels, n_rows, width, &finite, [&](std::uint32_t row, float* out) {
        std::memcpy(out, mid.gate.at(std::size_t{row} * width), width * sizeof(float));
      });
  if (!finite) pass.report_not_finite(layer);
  return result;
}

// What dense MLPs and shared experts read was shown with the layer's hidden state.
void show_expert_inputs(const numa::Member& member, const Pass& pass, std::uint32_t layer,
                        std::span<const MlpJob> jobs) {
  for (const MlpJob& job : jobs) {
    if (job.expert < 0) continue;
    show_input(member, pass, InputRole::expert_mlp, layer, job.x, job.x_row, job.n_rows,
               static_cast<std::uint32_t>(job.expert));
  }
}

}  // namespace

void run_mlps(const numa::Member& member, Pass& pass, const Layer& layer, std::span<const MlpJob> jobs) {
  if (pass.observer != nullptr) show_expert_inputs(member, pass, layer.index, jobs);
  gate_and_up(member, pass, jobs);
  member.barrier();
  Scratch& s = pass.scratch;
  const simd::Activations routed = quantized(member, pass, layer.index, jobs, s.routed);
  const simd::Activations dense = quantized(member, pass, layer.index, jobs, s.dense);

  for (const MlpJob& job : jobs) {
    const bool is_routed = job.expert >= 0;
    show_input(member, pass, is_routed ? InputRole::expert_down : InputRole::down, layer.index,
               job.intermediate == &s.routed ? routed : dense, job.intermediate_row, job.n_rows,
               is_routed ? static_cast<std::uint32_t>(job.expert) : 0);
  }

  const std::uint32_t hidden = pass.config.hidden_size;
  const auto down = [&](const MlpJob& job) {
    const simd::Activations& x = job.intermediate == &s.routed ? routed : dense;
    return Product{&job.w->down_proj, &x, job.intermediate_row, job.n_rows, s.projected.data(), hidden};
  };
  // A member owns rows of the output, the same ones for all jobs.
  std::uint32_t unit_panels = 1;
  for (const MlpJob& job : jobs) unit_panels = std::max(unit_panels, panels_per_unit(down(job)));
  const std::uint32_t unit_rows = unit_panels * quant::panel_rows;
  const auto [unit_begin, unit_end] = member.share((hidden + unit_rows - 1) / unit_rows);
  const std::uint32_t begin = std::min(unit_begin * unit_rows, hidden), end = std::min(unit_end * unit_rows, hidden);
  if (begin == end) return;
  for (const MlpJob& job : jobs) {
    const Product down_product = down(job);
    const std::uint32_t job_unit_rows = panels_per_unit(down_product) * quant::panel_rows;
    multiply_units(pass.kernels, down_product, begin / job_unit_rows, (end + job_unit_rows - 1) / job_unit_rows,
                   pass.own(member).tile.data());
    for (std::uint32_t row = 0; row < job.n_rows; ++row) {
      add_to_residual(pass, layer.index, job.row_token != nullptr ? job.row_token[row] : row,
                      job.row_weight != nullptr ? job.row_weight[row] : 1.0f, s.projected.at(std::size_t{row} * hidden),
                      begin, end);
    }
  }
}

}  // namespace r1::rt
