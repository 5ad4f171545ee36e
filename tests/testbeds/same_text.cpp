// same_text MODEL_DIR…: every model says the same with AMX as without, to 16 tokens by the greatest logit, behind a
// prompt that is long enough for wide batches. Of a quantized model of random weights, whose greatest logits lie closer
// together than roundings to eight bits, the logits behind the prompt are compared instead; and a trained one is asked
// what it was trained for, since it is as undecided everywhere else (r1-nano at r2.7: 436 of its 450 problems have the
// same text, and as many right answers). Exit status 1 and a line on what differs otherwise.
// same_text --has-amx: whether processor and kernel let this machine use it.
#include <fmt/format.h>
#include <r1/model.h>
#include <r1/session.h>
#include <r1/tokenizer.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "simd/kernels.h"

using namespace r1;

namespace {

// An emulator takes longest for the floats of exact models: 72 tokens are two tiles of keys, and 16 and more an expert.
constexpr std::size_t exact_prompt_tokens = 72, prompt_tokens = 200, new_tokens = 16;
// Root mean square of logits' differences, in standard deviations: what quantized golden models may lose where
// roundings to eight bits fall otherwise (tests/runtime/engine/golden_test.cpp).
constexpr double tolerance = 0.15;

int failures = 0;

template <class T>
T expect(Result<T> result) {
  if (result.ok()) return std::move(result).value();
  fmt::print("FAIL: {}\n", result.error().text());
  std::exit(1);
}

void check(bool good, const std::string& what) {
  if (good) return;
  fmt::print("FAIL: {}\n", what);
  ++failures;
}

std::vector<Token> prompt_of(const Model& model) {
  std::vector<Token> tokens;
  const auto tokenizer = model.tokenizer();
  if (tokenizer.ok()) {
    const std::string question = "Sort these numbers: 21, 50, 14, 72, 38, 99.";
    return expect((*tokenizer)
                      ->encode("<｜begin▁of▁sentence｜><｜User｜>" + question + "<｜Assistant｜><think>\n",
                               SpecialTokens::parsed));
  }
  const std::size_t n_tokens = model.info().recipe == "exact" ? exact_prompt_tokens : prompt_tokens;
  for (std::size_t i = 0; i < n_tokens; ++i)
    tokens.push_back(static_cast<Token>((i * 37 + i * i % 11) % (model.info().vocab_size - 8)));
  return tokens;
}

struct Said {
  std::vector<float> logits;  // behind the prompt
  std::vector<Token> tokens;
};

Said say(const std::shared_ptr<const Model>& model, const std::vector<Token>& prompt, std::uint32_t batch,
         int n_threads, std::size_t n_tokens, KvCacheType kv_type = KvCacheType::f16) {
  SessionOptions options;
  options.kv_type = kv_type;
  options.context_tokens = static_cast<std::uint32_t>(prompt.size() + new_tokens);
  options.batch_tokens = batch;
  options.n_threads = n_threads;
  Session session = expect(Session::create(model, options));
  Said said;
  std::vector<Token> next = prompt;
  do {
    const auto appended = session.append(next);
    if (!appended.ok()) {
      fmt::print("FAIL: {}\n", appended.error().text());
      std::exit(1);
    }
    const auto logits = session.logits();
    if (said.logits.empty()) said.logits.assign(logits.begin(), logits.end());
    next = {static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin())};
    said.tokens.push_back(next[0]);
  } while (said.tokens.size() < n_tokens);
  return said;
}

double rms_distance(std::span<const float> got, std::span<const float> expected) {
  double sum = 0, squares = 0, differences = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    sum += expected[i];
    squares += static_cast<double>(expected[i]) * expected[i];
    differences += std::pow(static_cast<double>(got[i]) - expected[i], 2);
  }
  const double n = static_cast<double>(expected.size());
  return std::sqrt(differences / n) / std::sqrt(squares / n - sum / n * (sum / n));
}

std::shared_ptr<const Model> open(const std::string& path, const std::string& isa) {
  ModelOptions options;
  options.path = path;
  options.isa = isa;
  options.load = LoadMode::map;
  return expect(Model::open(options));
}

void compare(const std::string& path) {
  const auto with = open(path, "amx"), without = open(path, "avx512_vnni");
  check(std::string(open(path, "")->isa()) == "amx", "AMX is not the default");
  const std::vector<Token> prompt = prompt_of(*with);
  const Said expected = say(without, prompt, 256, 1, new_tokens), got = say(with, prompt, 256, 1, new_tokens);
  const double off = rms_distance(got.logits, expected.logits);
  fmt::print("{}: logits off by {:.4f} σ (RMS), tokens {}\n", path, off, fmt::join(got.tokens, " "));
  const bool exact = with->info().recipe == "exact", trained = with->tokenizer().ok();
  const double allowed = exact ? 0 : tolerance;  // attention by tiles has the sums of every instruction set
  check(off <= allowed, path + ": logits");
  check(exact || off > 0, path + ": no wide batch ran");  // folded scales round otherwise
  check(!(exact || trained) || got.tokens == expected.tokens,
        fmt::format("{}: without AMX {}", path, fmt::join(expected.tokens, " ")));

  check(say(with, prompt, 256, 2, 1).logits == got.logits, path + ": two threads give other bits");
  // Over a cache of codes prefill makes its inputs without quantizing them.
  const double off_q8 = rms_distance(say(with, prompt, 256, 1, 1, KvCacheType::q8).logits,
                                     say(without, prompt, 256, 1, 1, KvCacheType::q8).logits);
  fmt::print("{}, q8 cache: logits off by {:.4f} σ (RMS)\n", path, off_q8);
  check(off_q8 <= allowed, path + ": logits over a q8 cache");
  // Single tokens round nothing otherwise, and attention over codes is exact.
  const std::vector<Token> few(prompt.begin(), prompt.begin() + 20);
  check(say(with, few, 1, 1, 1, KvCacheType::q8).logits == say(without, few, 1, 1, 1, KvCacheType::q8).logits,
        path + ": single tokens over a q8 cache");
  if (with->info().architecture == "deepseek_v3") return;
  // Without experts both halves are wide.
  check(say(with, prompt, static_cast<std::uint32_t>(prompt.size() / 2), 1, 1).logits == got.logits,
        path + ": two batches give other bits");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--has-amx") {
    return simd::kernels_for(simd::Isa::amx) != nullptr ? 0 : 1;
  }
  for (int i = 1; i < argc; ++i) compare(argv[i]);
  if (failures == 0) fmt::print("the same with AMX as without: {} models\n", argc - 1);
  return failures == 0 && argc > 1 ? 0 : 1;
}
