// Multi-token prediction, DeepSeek-V3 section 2.2: h' = W^M [RMSNorm(Emb(t + 1)); RMSNorm(h)], one layer, the shared
// head.
#include <array>

#include "runtime/model/forward.h"
#include "runtime/model/layer.h"

namespace r1::rt {

Result<void> run_mtp(numa::ThreadTeam& team, Pass& pass, const MtpLayer& mtp, const float* states) {
  Scratch& s = pass.scratch;
  const std::uint32_t n_tokens = pass.n_tokens(), hidden = pass.config.hidden_size;
  team.run([&](const numa::Member& member) {
    embed(member, pass, s.projected.data());
    bool finite = true;
    const simd::Activations joined =
        s.wide_input.prepare(member, pass.kernels, n_tokens, 2 * hidden, &finite, [&](std::uint32_t token, float* out) {
          const std::size_t row = std::size_t{token} * hidden;
          pass.kernels.rms_norm(s.projected.at(row), mtp.enorm, hidden, pass.config.rms_norm_eps, out);
          pass.kernels.rms_norm(states + row, mtp.hnorm, hidden, pass.config.rms_norm_eps, out + hidden);
        });
    if (!finite) pass.report_not_finite(mtp.layer.index);
    show_input(member, pass, InputRole::eh_proj, mtp.layer.index, joined, 0, n_tokens);
    const std::array<Product, 1> product = {Product{&mtp.eh_proj, &joined, 0, n_tokens, s.residual.data(), hidden}};
    multiply(member, pass.kernels, product, pass.own(member).tile.data());
    member.barrier();
    if (!run_layer(member, pass, mtp.layer, mtp.layer.index)) return;
    head(member, pass, mtp.shared_head_norm);
  });
  return outcome(pass);
}

}  // namespace r1::rt
