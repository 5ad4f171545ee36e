#include "runtime/bench/model_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <new>
#include <random>

#include "runtime/base/try.h"
#include "runtime/bench/work_per_token.h"
#include "runtime/engine/session_impl.h"

namespace r1::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Measured work and reads take turns this long: short against what other programs on the machine do, long against what
// a burst of reads leaves in the caches for the tokens behind it.
constexpr double turn_seconds = 0.25, burst_seconds = 0.1;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Different tokens in every step, as text has them: a repeated one would find its experts in the caches.
class RandomTokens {
 public:
  explicit RandomTokens(const Model& model) : any_(0, static_cast<Token>(model.info().vocab_size) - 1) {}
  std::vector<Token> next(std::uint32_t n) {
    std::vector<Token> tokens(n);
    for (Token& token : tokens) token = any_(random_);
    return tokens;
  }

 private:
  std::mt19937 random_{1};
  std::uniform_int_distribution<Token> any_;
};

// Makes the session one that holds n_tokens, with random rows in its cache: what attention costs does not depend on
// what it reads, and to compute the rows would take longer than all measurements behind them.
Result<void> fill_cache(Session& session, std::uint32_t n_tokens, RandomTokens& tokens) {
  Session::Impl& s = session.impl();
  R1_CHECK(s.kv.grow(n_tokens));
  const rt::KvShape& shape = s.kv.shape();
  constexpr std::size_t n_rows = 61;  // some different ones, and no power of two apart
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> rows(n_rows * std::max(shape.k_width, shape.v_width));
  for (float& x : rows) x = normal(random);
  const simd::Kernels& kernels = *s.model->impl().kernels;
  for (std::uint32_t token = 0; token < n_tokens; ++token) {
    for (std::uint32_t layer = 0; layer < shape.n_layers; ++layer) {
      for (std::uint32_t head = 0; head < shape.n_kv_heads; ++head) {
        const std::size_t row = (token + 7 * layer + 3 * head) % n_rows;
        s.kv.store_k(kernels, token, layer, head, rows.data() + row * shape.k_width);
        if (shape.v_width > 0) s.kv.store_v(kernels, token, layer, head, rows.data() + row * shape.v_width);
      }
    }
  }
  s.tokens = tokens.next(n_tokens);
  s.n_logit_rows = 0;
  return {};
}

// One measurement beside the reads that took turns with it.
struct Round {
  double tokens = 0, seconds = 0;
  double read_bytes = 0, read_seconds = 0;
  double peak_multiply_adds = 0, peak_seconds = 0;

  void read(ReadBandwidth& reads, numa::ThreadTeam& team) {
    const ReadBandwidth::Burst burst = reads.burst(team, burst_seconds);
    read_bytes += burst.bytes;
    read_seconds += burst.seconds;
  }
  // The integer dot products that registers alone allow, on all threads.
  void peak(const simd::Kernels& kernels, numa::ThreadTeam& team) {
    std::vector<std::uint64_t> done(static_cast<std::size_t>(team.size()));
    const auto peak_fn = kernels.peak_tiles != nullptr ? kernels.peak_tiles : kernels.peak_int8;
    const auto start = Clock::now();
    while (peak_seconds < burst_seconds) {
      team.run([&](const numa::Member& member) {
        constexpr std::uint64_t n_rounds = 100'000;
        done[static_cast<std::size_t>(member.index())] = peak_fn(n_rounds);
      });
      for (const std::uint64_t n : done) peak_multiply_adds += static_cast<double>(n);
      peak_seconds = seconds_since(start);
    }
  }
  [[nodiscard]] double tokens_per_s() const { return tokens / seconds; }
  [[nodiscard]] double read_bytes_per_s() const { return read_bytes / read_seconds; }
};

void summarize(const std::vector<Round>& rounds, double bytes_per_token, double multiply_adds_per_token,
               ModelBenchResult& result) {
  std::vector<double> rates, reads, fractions, peaks, peak_fractions;
  for (const Round& round : rounds) {
    rates.push_back(round.tokens_per_s());
    reads.push_back(round.read_bytes_per_s());
    fractions.push_back(rates.back() * bytes_per_token / reads.back());
    if (round.peak_seconds == 0) continue;
    peaks.push_back(round.peak_multiply_adds / round.peak_seconds);
    peak_fractions.push_back(rates.back() * multiply_adds_per_token / peaks.back());
  }
  if (!peaks.empty()) {
    result.int8_peak_per_s = Spread::of(std::move(peaks)).median;
    result.peak_fraction = Spread::of(std::move(peak_fractions)).median;
  }
  result.tokens_per_s = Spread::of(std::move(rates));
  result.bytes_per_token = bytes_per_token;
  result.bytes_per_s = result.tokens_per_s.median * bytes_per_token;
  result.read_bytes_per_s = Spread::of(std::move(reads)).median;
  result.fraction = Spread::of(std::move(fractions)).median;
  result.multiply_adds_per_s = result.tokens_per_s.median * multiply_adds_per_token;
}

std::vector<PhaseShare> shares_of(const rt::Profile& profile, double wall_ns) {
  constexpr std::array<const char*, rt::n_phases> names = {
      "embedding", "attention projections", "attention", "router", "experts", "dense MLP", "head"};
  std::vector<PhaseShare> shares;
  double rest = wall_ns;
  const auto add = [&](const char* name, double ns) {
    if (ns > 0) shares.push_back({name, ns / wall_ns});
    rest -= ns;
  };
  for (std::size_t i = 0; i < rt::n_phases; ++i) add(names[i], profile.phase_ns(static_cast<rt::Phase>(i)));
  add("barriers", profile.barriers_ns());
  add("dispatch", rest);  // the region's begin and end, and what the session does around it
  return shares;
}

class Bench {
 public:
  Bench(std::shared_ptr<const Model> model, const ModelBenchOptions& options, ReadBandwidth& reads)
      : model_(std::move(model)), options_(options), reads_(reads), tokens_(*model_) {}

  Result<std::vector<ModelBenchResult>> run() {
    R1_CHECK(check_lengths());
    for (const int n_threads : options_.n_threads) {
      for (const std::uint32_t depth : options_.depth_tokens) R1_CHECK(decode(n_threads, depth));
      for (const std::uint32_t prompt : options_.prompt_tokens) R1_CHECK(prefill(n_threads, prompt));
    }
    return std::move(results_);
  }

 private:
  // Before the first measurement, which may take minutes.
  Result<void> check_lengths() const {
    const std::uint64_t most = model_->info().max_context_tokens;
    const auto check = [&](const char* what, std::uint64_t n, std::uint64_t needed) -> Result<void> {
      if (needed <= most) return {};
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{} {} needs a context of {} tokens; the model has {}", what, n, needed, most),
                   model_->info().path};
    };
    for (const std::uint32_t n : options_.depth_tokens) {
      R1_CHECK(check("depth", n, std::uint64_t{n} + options_.generate_tokens + 1));
    }
    for (const std::uint32_t n : options_.prompt_tokens) R1_CHECK(check("prompt", n, n));
    return {};
  }

  Result<Session> session(int n_threads, std::uint32_t context_tokens) const {
    SessionOptions session_options;
    session_options.n_threads = n_threads;
    session_options.context_tokens = context_tokens;
    session_options.kv_type = options_.kv_type;
    if (options_.batch_tokens > 0) session_options.batch_tokens = options_.batch_tokens;
    return Session::create(model_, session_options);
  }

  void step(const std::string& what) const {
    if (options_.on_step) options_.on_step(what);
  }

  // From now on, of all that the session runs; null if nobody asked.
  [[nodiscard]] std::unique_ptr<rt::Profile> profile_of(Session& session) const {
    if (!options_.profile) return nullptr;
    numa::ThreadTeam& team = session.impl().team;
    team.measure_waits(true);
    auto profile = std::make_unique<rt::Profile>(team.size());
    session.impl().profile = profile.get();
    return profile;
  }

  Result<void> decode(int n_threads, std::uint32_t depth) {
    step(fmt::format("decode at depth {}", depth));
    R1_TRY(Session s, session(n_threads, depth + options_.generate_tokens + 1));
    numa::ThreadTeam& team = s.impl().team;
    R1_CHECK(fill_cache(s, depth, tokens_));
    R1_CHECK(s.append(tokens_.next(1)));  // threads are made, buffers touched
    (void)reads_.burst(team, burst_seconds);

    const std::unique_ptr<rt::Profile> profile = profile_of(s);
    double wall_ns = 0;
    std::vector<Round> rounds;
    for (std::uint32_t repeat = 0; repeat < options_.n_repeats; ++repeat) {
      R1_CHECK(s.rewind(depth));
      Round round;
      for (std::uint32_t left = options_.generate_tokens; left > 0;) {
        round.read(reads_, team);
        const auto start = Clock::now();
        for (double elapsed = 0; left > 0 && elapsed < turn_seconds; --left, elapsed = seconds_since(start)) {
          R1_CHECK(s.append(tokens_.next(1)));
          ++round.tokens;
        }
        round.seconds += seconds_since(start);
      }
      wall_ns += round.seconds * 1e9;
      rounds.push_back(round);
    }
    const double mean_depth = depth + (options_.generate_tokens - 1) / 2.0;
    ModelBenchResult result;
    result.phase = "decode";
    result.depth_tokens = depth;
    result.n_threads = team.size();
    summarize(rounds, decode_bytes(*model_, options_.kv_type, mean_depth), decode_multiply_adds(*model_, mean_depth),
              result);
    if (profile != nullptr) result.profile = shares_of(*profile, wall_ns);
    results_.push_back(std::move(result));
    return {};
  }

  Result<void> prefill(int n_threads, std::uint32_t prompt) {
    step(fmt::format("prefill of {} tokens", prompt));
    R1_TRY(Session s, session(n_threads, prompt));
    numa::ThreadTeam& team = s.impl().team;
    R1_CHECK(s.append(tokens_.next(std::min(prompt, *s.impl().options.batch_tokens))));

    const std::unique_ptr<rt::Profile> profile = profile_of(s);
    double wall_ns = 0;
    std::vector<Round> rounds;
    for (std::uint32_t repeat = 0; repeat < options_.n_repeats; ++repeat) {
      R1_CHECK(s.rewind(0));
      Round round;
      round.read(reads_, team);
      round.peak(*model_->impl().kernels, team);
      const auto start = Clock::now();
      R1_CHECK(s.append(tokens_.next(prompt)));
      round.seconds = seconds_since(start);
      round.tokens = prompt;
      wall_ns += round.seconds * 1e9;
      rounds.push_back(round);
    }
    ModelBenchResult result;
    result.phase = "prefill";
    result.prompt_tokens = prompt;
    result.n_threads = team.size();
    summarize(rounds, prefill_bytes(*model_, prompt, *s.impl().options.batch_tokens) / prompt,
              prefill_multiply_adds(*model_, prompt) / prompt, result);
    if (profile != nullptr) result.profile = shares_of(*profile, wall_ns);
    results_.push_back(std::move(result));
    return {};
  }

  std::shared_ptr<const Model> model_;
  const ModelBenchOptions& options_;
  ReadBandwidth& reads_;
  RandomTokens tokens_;
  std::vector<ModelBenchResult> results_;
};

}  // namespace

Result<std::vector<ModelBenchResult>> bench_model(const std::shared_ptr<const Model>& model,
                                                  const ModelBenchOptions& options, ReadBandwidth& reads) {
  try {
    return Bench(model, options, reads).run();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory to measure", model->info().path};
  }
}

}  // namespace r1::bench
