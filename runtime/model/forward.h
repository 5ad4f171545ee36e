// The forward pass: embedding → layers → norm → head, in one parallel region.
#pragma once

#include <r1/result.h>

#include "runtime/model/pass.h"

namespace r1::rt {

// Runs pass.slots through the model: fills their cache rows and leaves scratch.residual behind the last layer, and
// scratch.logits of the last pass.n_logit_tokens. The caches must have room. An error names the layer; the rows are
// then void.
[[nodiscard]] Result<void> run_forward(numa::ThreadTeam& team, Pass& pass);

// The MTP head: slot t holds token t + 1 and position t; states [n_tokens, hidden] are the main model's after its final
// norm. Leaves the logits of token t + 2. The layer's cache rows are those of kv layer num_hidden_layers.
[[nodiscard]] Result<void> run_mtp(numa::ThreadTeam& team, Pass& pass, const MtpLayer& mtp, const float* states);

// Phases that both share.
void embed(const numa::Member& member, Pass& pass,
           float* out);  // [n_tokens, hidden], and the rotary angles; barrier inside
void head(const numa::Member& member, Pass& pass, const float* norm);
[[nodiscard]] Result<void> outcome(const Pass& pass);

}  // namespace r1::rt
