#include "simd/onednn_matmul.h"

#include <dnnl.hpp>
#include <vector>

namespace r1::simd {

const char* onednn_type_name(OnednnType type) {
  return type == OnednnType::u8s8 ? "u8s8" : type == OnednnType::s8s8 ? "s8s8" : "bf16";
}

struct OnednnMatmul::State {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::string implementation;
  dnnl::memory::desc x_shape, y_shape;
  dnnl::memory blocked, taken;  // the same one where no reorder is needed
  struct Reorder {
    dnnl::reorder run;
    dnnl::memory from, to;
  };
  std::vector<Reorder> reorders;  // from blocked to taken
  dnnl::matmul matmul;

  void add_reorder(const dnnl::memory& from, const dnnl::memory& to) {
    reorders.push_back({dnnl::reorder(from, to), from, to});
  }
};

std::unique_ptr<OnednnMatmul> OnednnMatmul::create(OnednnType type, std::uint32_t n_tokens, std::uint32_t n_rows,
                                                   std::uint32_t k) try {
  using dnnl::memory;
  const bool bf16 = type == OnednnType::bf16;
  const auto w_type = bf16 ? memory::data_type::bf16 : memory::data_type::s8;
  const auto x_type = type == OnednnType::u8s8 ? memory::data_type::u8 : w_type;
  auto state = std::make_unique<State>();
  const memory::dims x_dims{n_tokens, k}, w_dims{k, n_rows}, y_dims{n_tokens, n_rows};
  state->x_shape = memory::desc(x_dims, x_type, memory::format_tag::ab);
  state->y_shape = memory::desc(y_dims, memory::data_type::f32, memory::format_tag::ab);
  dnnl::primitive_attr attributes;
  if (!bf16) attributes.set_output_scales(1 << 1, std::vector<float>(n_rows, 1.0f / 1024));
  const dnnl::matmul::primitive_desc wanted(
      dnnl::matmul::desc(state->x_shape, memory::desc(w_dims, w_type, memory::format_tag::any), state->y_shape),
      attributes, state->engine);
  state->implementation = wanted.impl_info_str();
  if (state->implementation.starts_with("ref") || state->implementation.starts_with("gemm:ref")) return nullptr;
  const memory::desc blocked(w_dims, w_type, bf16 ? memory::format_tag::BA16a64b2a : memory::format_tag::BA16a64b4a);
  state->blocked = memory(blocked, state->engine);
  state->taken = wanted.weights_desc() == blocked ? state->blocked : memory(wanted.weights_desc(), state->engine);
  if (wanted.weights_desc() != blocked) {
    try {
      state->add_reorder(state->blocked, state->taken);
    } catch (const dnnl::error&) {  // signed activations: sums of the weights come with them, from plain rows alone
      const memory plain(memory::desc(w_dims, w_type, memory::format_tag::ab), state->engine);
      state->add_reorder(state->blocked, plain);
      state->add_reorder(plain, state->taken);
    }
  }
  state->matmul = dnnl::matmul(wanted);
  return std::unique_ptr<OnednnMatmul>(new OnednnMatmul(std::move(state)));
} catch (const dnnl::error&) {
  return nullptr;
}

OnednnMatmul::OnednnMatmul(std::unique_ptr<State> state) : state_(std::move(state)) {}
OnednnMatmul::~OnednnMatmul() = default;

const std::string& OnednnMatmul::implementation() const {
  return state_->implementation;
}

std::byte* OnednnMatmul::weights() {
  return static_cast<std::byte*>(state_->blocked.get_data_handle());
}

void OnednnMatmul::take_weights() {
  for (State::Reorder& reorder : state_->reorders) reorder.run.execute(state_->stream, reorder.from, reorder.to);
}

void OnednnMatmul::multiply(const void* x, float* y) {
  State& s = *state_;
  s.matmul.execute(s.stream, {{DNNL_ARG_SRC, dnnl::memory(s.x_shape, s.engine, const_cast<void*>(x))},
                              {DNNL_ARG_WEIGHTS, s.taken},
                              {DNNL_ARG_DST, dnnl::memory(s.y_shape, s.engine, y)}});
}

}  // namespace r1::simd
