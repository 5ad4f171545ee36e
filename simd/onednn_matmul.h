// One product by oneDNN in a type that packed weights would have to be turned into: what r1-bench holds our tiles
// against. The model does not use it (docs/performance.md, "oneDNN").
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace r1::simd {

enum class OnednnType : std::uint8_t { u8s8, s8s8, bf16 };  // of activations and weights
[[nodiscard]] const char* onednn_type_name(OnednnType type);

// y[token, row] = Σ_k x[token, k] · w[row, k], for int8 times a scale of each row. Made once for a shape and type, then
// used by the thread that calls; oneDNN starts no threads inside a team.
class OnednnMatmul {
 public:
  // Null where oneDNN has nothing better than plain code for this type. n_rows and k: multiples of 64.
  static std::unique_ptr<OnednnMatmul> create(OnednnType type, std::uint32_t n_tokens, std::uint32_t n_rows,
                                              std::uint32_t k);
  ~OnednnMatmul();

  // Its code's name, as "brg:avx512_core_vnni".
  [[nodiscard]] const std::string& implementation() const;
  // Where weights go: [n_rows / 64, k / group, 64 rows, group], group = 4 bytes of k. What is there is taken over by
  // take_weights, which reorders where this code wants another order.
  [[nodiscard]] std::byte* weights();
  void take_weights();
  // x [n_tokens, k], y [n_tokens, n_rows]
  void multiply(const void* x, float* y);

 private:
  struct State;
  explicit OnednnMatmul(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace r1::simd
