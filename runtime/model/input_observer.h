// Who wants to see what a forward pass multiplies its matrices with: importance matrices are made of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "numa/thread_team.h"
#include "runtime/model_file/matrix_inputs.h"

namespace r1::rt {

struct InputPlace {
  InputRole role = InputRole::attention;
  int layer = -1;
  std::uint32_t index = 0;  // of the expert or the head
};

class InputObserver {
 public:
  virtual ~InputObserver() = default;

  // x: n_rows input vectors of this place, ldx values apart. All members of the team call it alike, one input after the
  // other; x stays as it is until their next barrier. k_b's are shown before the softmax's scale is applied to them.
  virtual void see(const numa::Member& member, const InputPlace& place, const float* x, std::size_t ldx,
                   std::uint32_t n_rows) = 0;

  // Where attention puts the input of v_b, which is otherwise never whole: [n_tokens, num_attention_heads,
  // kv_lora_rank]. They are shown when all are there.
  virtual float* weighted_latents() = 0;
};

}  // namespace r1::rt
