// Choosing the next token. A Sampler is a value: copy it to branch a conversation, and the copy goes on alike.
#pragma once

#include <r1/result.h>
#include <r1/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace r1 {

struct SamplingOptions {
  float temperature = 0.6f;         // 0: greedy
  float top_p = 0.95f;              // 1: off
  std::int32_t top_k = 0;           // 0: off
  float min_p = 0.0f;               // 0: off
  float repetition_penalty = 1.0f;  // 1: off; divides positive and multiplies negative logits of tokens seen
  float presence_penalty = 0.0f;    // subtracted once from tokens generated before
  float frequency_penalty = 0.0f;   // subtracted per occurrence
  std::vector<std::pair<Token, float>> logit_bias;  // added; -100 … 100; several for one token add up
  std::uint64_t seed = 0;
};

class Sampler {
 public:
  // Checks ranges; the error names the option.
  static Result<Sampler> create(const SamplingOptions& options);

  // One token from logits [vocab_size]. NaN or +infinity anywhere, or no finite logit, is an error. Same seed, same
  // history, same logits: same token, on every machine.
  [[nodiscard]] Result<Token> sample(std::span<const float> logits);
  // Tells the sampler what came before: the repetition penalty looks at it. Tokens that sample() returned are counted
  // by itself.
  void see_prompt(std::span<const Token> tokens);
  // Forgets prompt and generated tokens, for the next turn of a chat; the random numbers go on.
  void forget();

  [[nodiscard]] const SamplingOptions& options() const { return options_; }

 private:
  explicit Sampler(const SamplingOptions& options);
  Result<void> adjust(std::span<const float> logits);
  [[nodiscard]] Token draw(float best);
  void find_top_k(std::size_t k);
  void find_nucleus(double wanted, double rest);

  SamplingOptions options_;
  std::uint64_t rng_state_[4] = {};
  std::unordered_map<Token, std::uint32_t> generated_;  // token → occurrences
  std::unordered_set<Token> prompt_;
  std::vector<float> logits_;  // [vocab_size] after penalties and bias
  std::vector<std::pair<float, Token>> candidates_;
  std::vector<double> weights_;                 // [vocab_size] probabilities relative to the likeliest
  std::vector<std::pair<double, Token>> kept_;  // weight, token
};

}  // namespace r1
