#include <fmt/format.h>
#include <r1/tune.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <set>

#include "numa/topology.h"
#include "runtime/base/try.h"

namespace r1 {
namespace {

using Clock = std::chrono::steady_clock;

// Other programs come and go: all candidates are measured in each round, side by side, and medians are compared.
constexpr int n_rounds = 5;
constexpr std::uint32_t prefill_tokens = 64;  // one batch of the default size
// A round decodes this many tokens per candidate, or as many as half a second holds.
constexpr std::uint32_t max_decode_tokens = 48, min_decode_tokens = 4;
constexpr double decode_seconds = 0.5;
// Less than this is not worth leaving the default.
constexpr double clearly_faster = 1.03;

struct Candidate {
  TuneMeasurement result;
  std::vector<double> rates;  // tokens per second, one of each round
};

// Different tokens in every step, as text has them: a repeated one would find its experts in the caches.
class Tokens {
 public:
  explicit Tokens(std::uint32_t vocab_size) : vocab_size_(vocab_size) {}
  Token next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<Token>((state_ >> 33) % vocab_size_);
  }

 private:
  std::uint32_t vocab_size_;
  std::uint64_t state_ = 1;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Tokens per second of one candidate in one round.
Result<double> measure(const std::shared_ptr<const Model>& model, const TuneMeasurement& what) {
  const bool prefill = what.phase == "prefill";
  Tokens tokens(model->info().vocab_size);
  SessionOptions options;
  options.n_threads = what.n_threads;
  options.batch_tokens = prefill_tokens;
  options.context_tokens = std::min(model->info().max_context_tokens, 2 * prefill_tokens + max_decode_tokens);
  R1_TRY(Session session, Session::create(model, options));
  const std::uint32_t batch = std::min(prefill_tokens, options.context_tokens / 2);
  const auto append = [&](std::uint32_t n) {
    std::vector<Token> ids(n);
    for (Token& id : ids) id = tokens.next();
    return session.append(ids);
  };
  R1_CHECK(append(1));  // threads are made, buffers touched
  if (prefill) {
    const auto start = Clock::now();
    R1_CHECK(append(batch));
    return batch / seconds_since(start);
  }
  const auto start = Clock::now();
  std::uint32_t n = 0;
  while (n < max_decode_tokens && (n < min_decode_tokens || seconds_since(start) < decode_seconds)) {
    if (session.tokens().size() == options.context_tokens) R1_CHECK(session.rewind(1));
    R1_CHECK(append(1));
    ++n;
  }
  return n / seconds_since(start);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void summarize(Candidate& candidate) {
  const auto [lowest, highest] = std::minmax_element(candidate.rates.begin(), candidate.rates.end());
  candidate.result.tokens_per_s = median(candidate.rates);
  candidate.result.lowest = *lowest;
  candidate.result.highest = *highest;
}

// How many times as fast as `usual`; 0 unless it was faster in all rounds but one. Round by round: what else the
// machine does slows both.
double clear_gain(const Candidate& candidate, const Candidate& usual) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < usual.rates.size(); ++i) ratios.push_back(candidate.rates[i] / usual.rates[i]);
  const auto n_won = std::count_if(ratios.begin(), ratios.end(), [](double ratio) { return ratio > 1; });
  return n_won + 1 < std::ssize(ratios) ? 0 : median(ratios);
}

// The fastest, if it is clearly faster than `usual`; else `usual`.
Candidate& best_of(const std::vector<Candidate*>& candidates, Candidate& usual) {
  Candidate* best = &usual;
  double best_gain = clearly_faster;
  for (Candidate* candidate : candidates) {
    const double gain = clear_gain(*candidate, usual);
    if (gain <= best_gain) continue;
    best = candidate;
    best_gain = gain;
  }
  best->result.is_best = true;
  usual.result.is_default = true;
  return *best;
}

// One per core, fewer (memory may be saturated before), and one per hardware thread.
std::set<int> thread_counts(const numa::Topology& t) {
  std::set<int> counts = {t.n_team_threads, t.n_cores, t.n_threads};
  for (const int percent : {25, 50, 75}) counts.insert(std::max(1, t.n_cores * percent / 100));
  return counts;
}

Result<std::shared_ptr<const Model>> open_model(const TuneOptions& options, LoadMode load) {
  ModelOptions model_options;
  model_options.path = options.model_path;
  model_options.isa = options.isa;
  model_options.load = load;
  return Model::open(model_options);
}

class Tuner {
 public:
  explicit Tuner(const TuneOptions& options) : options_(options) {}

  Result<TuneReport> run() {
    R1_TRY(mapped_, open_model(options_, LoadMode::map));
    const numa::Topology topology = numa::read_topology();
    // Mode and threads hardly depend on each other: the modes are compared on one thread per core, the threads on the
    // mode that is then the best.
    Candidate mapped = candidate("load", LoadMode::map, topology.n_team_threads);
    Candidate read = candidate("load", LoadMode::read, topology.n_team_threads);
    // Where page cache and copy do not both fit, reading the one drives out the other: then one after the other.
    const bool both_fit = topology.memory_available_bytes / 2 > mapped_->info().bytes + mapped_->info().bytes / 10;
    n_rounds_ = (both_fit ? 2 : 3) * n_rounds;
    if (!both_fit) {
      R1_CHECK(measure_rounds({&mapped}));
      mapped_.reset();
    }
    if (auto opened = open_model(options_, LoadMode::read)) {
      read_ = *opened;
      R1_CHECK(both_fit ? measure_rounds({&mapped, &read}) : measure_rounds({&read}));
    } else {
      report_.load_note = "read: " + opened.error().text();
      if (both_fit) R1_CHECK(measure_rounds({&mapped}));
    }
    // Mapping starts sooner and shares its memory: reading has to earn its time.
    std::vector<Candidate*> loads = {&mapped};
    if (read_ != nullptr) loads.push_back(&read);
    const bool maps = &best_of(loads, mapped) == &mapped;
    report_.best.load = maps ? LoadMode::map : LoadMode::read_if_fits;
    for (const Candidate* c : loads) report_.measurements.push_back(c->result);
    (maps ? read_ : mapped_).reset();  // memory for the buffers of a prefill
    if (maps && mapped_ == nullptr) {
      R1_TRY(mapped_, open_model(options_, LoadMode::map));
    }

    const LoadMode mode = maps ? LoadMode::map : LoadMode::read;
    std::vector<Candidate> decode, prefill;
    for (const int n : thread_counts(topology)) {
      decode.push_back(candidate("decode", mode, n));
      prefill.push_back(candidate("prefill", mode, n));
    }
    std::vector<Candidate*> all;
    for (Candidate& c : decode) all.push_back(&c);
    for (Candidate& c : prefill) all.push_back(&c);
    R1_CHECK(measure_rounds(all));
    report_.best.decode_threads = choose(decode, topology.n_team_threads);
    report_.best.prefill_threads = choose(prefill, topology.n_team_threads);
    return std::move(report_);
  }

 private:
  static Candidate candidate(const char* phase, LoadMode load, int n_threads) {
    Candidate c;
    c.result.phase = phase;
    c.result.load = load;
    c.result.n_threads = n_threads;
    return c;
  }

  Result<void> measure_rounds(const std::vector<Candidate*>& candidates) {
    for (int round = 0; round < n_rounds; ++round) {
      ++round_;
      if (options_.on_round) options_.on_round(round_, n_rounds_);
      for (Candidate* c : candidates) {
        R1_TRY(const double rate, measure(c->result.load == LoadMode::read ? read_ : mapped_, c->result));
        c->rates.push_back(rate);
      }
    }
    for (Candidate* c : candidates) summarize(*c);
    return {};
  }

  // Adds the candidates to the report; the best one's threads, 0 if they are the default.
  int choose(std::vector<Candidate>& candidates, int n_usual) {
    const auto usual = std::find_if(candidates.begin(), candidates.end(),
                                    [&](const Candidate& c) { return c.result.n_threads == n_usual; });
    std::vector<Candidate*> all;
    for (Candidate& c : candidates) all.push_back(&c);
    Candidate& best = best_of(all, *usual);
    for (const Candidate& c : candidates) report_.measurements.push_back(c.result);
    return best.result.is_default ? 0 : best.result.n_threads;
  }

  const TuneOptions& options_;
  std::shared_ptr<const Model> mapped_, read_;
  TuneReport report_;
  int round_ = 0, n_rounds_ = 0;
};

}  // namespace

Result<TuneReport> tune(const TuneOptions& options) {
  try {
    return Tuner(options).run();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory to measure", options.model_path};
  } catch (const std::exception& e) {
    return Error{ErrorCode::io, e.what(), options.model_path};
  }
}

}  // namespace r1
