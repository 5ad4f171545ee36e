#include "runtime/eval/imatrix_collector.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <new>
#include <vector>

#include "numa/thread_team.h"
#include "numa/topology.h"
#include "runtime/base/try.h"
#include "runtime/engine/session_impl.h"
#include "runtime/eval/moment_sums.h"
#include "runtime/eval/rows.h"
#include "runtime/io/file.h"
#include "runtime/model/forward.h"
#include "runtime/model/model_impl.h"

namespace r1::eval {
namespace {

using rt::Imatrix;
using rt::ImatrixInput;
using rt::InputRole;
using rt::ModelConfig;

// Large batches read a model's experts fewer times; second moments are summed over fewer rows, which caches hold.
constexpr std::uint32_t batch_tokens = max_batch_tokens, moment_rows = 128;

std::uint32_t widest_moments(const Imatrix& imatrix) {
  std::uint32_t k = 0;
  for (const ImatrixInput& input : imatrix.inputs) k = std::max(k, input.moments.empty() ? 0 : input.k);
  return k;
}

// Adds up what it is shown. A member adds up columns of its own, over tokens in order: the sums are the same for any
// number of members.
class SquareSums final : public rt::InputObserver {
 public:
  SquareSums(const ModelConfig& config, Imatrix& imatrix, int n_members)
      : imatrix_(imatrix), moments_(n_members, widest_moments(imatrix), moment_rows) {
    const std::vector<rt::MatrixInput> inputs = rt::matrix_inputs(config);
    for (std::size_t i = 0; i < inputs.size(); ++i) index_[{inputs[i].role, inputs[i].layer}] = i;
    if (config.is_mla()) latents_.resize(std::size_t{batch_tokens} * config.num_attention_heads * config.kv_lora_rank);
  }

  void see(const numa::Member& member, const rt::InputPlace& place, const float* x, std::size_t ldx,
           std::uint32_t n_rows) override {
    ImatrixInput& input = imatrix_.inputs[index_.at({place.role, place.layer})];
    const auto [begin, end] = member.share(input.k);
    double* sum = input.squares.data() + std::size_t{place.index} * input.k;
    for (std::uint32_t row = 0; row < n_rows; ++row) {
      const float* values = x + row * ldx;
      for (std::uint32_t c = begin; c < end; ++c) sum[c] += static_cast<double>(values[c]) * values[c];
    }
    for (std::uint32_t row = 0; row < n_rows && !input.moments.empty(); row += moment_rows)
      moments_.add(member, x + row * ldx, ldx, std::min(moment_rows, n_rows - row), input.k, input.moments.sums());
    if (member.index() == 0) input.tokens[place.index] += n_rows;
  }

  float* weighted_latents() override { return latents_.data(); }

 private:
  Imatrix& imatrix_;
  std::map<std::pair<InputRole, int>, std::size_t> index_;
  std::vector<float> latents_;
  MomentSums moments_;
};

class Collector {
 public:
  Collector(const Model& model, std::uint32_t window_tokens, int n_threads, Imatrix& imatrix)
      : model_(model.impl()),
        team_({.n_threads = n_threads, .pin = true}),
        sums_(config(), imatrix, team_.size()),
        kv_(rt::kv_shape(config(), simd::KvType::f32, true), window_tokens),
        scratch_(config(), std::min(batch_tokens, window_tokens), 1, window_tokens, team_.size()) {}

  Result<void> run(std::span<const Token> window) {
    const auto n_tokens = static_cast<std::uint32_t>(window.size());
    kv_.shrink(0);
    R1_CHECK(kv_.grow(n_tokens));
    scratch_.grow_run_parts(n_tokens);
    for (std::uint32_t first = 0; first < n_tokens; first += batch_tokens) {
      const std::uint32_t n = std::min(batch_tokens, n_tokens - first);
      rt::Pass pass = make_pass(window, first, n, 0);
      R1_CHECK(rt::run_forward(team_, pass));
      final_norm(n);
      if (model_.weights.mtp_layers.empty()) continue;
      const std::uint32_t n_drafted = std::min(n, n_tokens - 1 - first);  // the last token has no successor
      if (n_drafted == 0) continue;
      rt::Pass draft = make_pass(window, first, n_drafted, 1);
      R1_CHECK(rt::run_mtp(team_, draft, model_.weights.mtp_layers[0], states_.data()));
    }
    return {};
  }

 private:
  [[nodiscard]] const ModelConfig& config() const { return model_.file->config(); }

  // shift 1: slot t holds token t + 1, as the MTP head wants it.
  rt::Pass make_pass(std::span<const Token> window, std::uint32_t first, std::uint32_t n, std::uint32_t shift) {
    slots_.clear();
    for (std::uint32_t i = first; i < first + n; ++i) slots_.push_back({window[i + shift], i, i, &kv_});
    return {.config = config(),
            .rope = model_.rope,
            .kernels = *model_.kernels,
            .weights = model_.weights,
            .experts = *model_.experts,
            .scratch = scratch_,
            .slots = slots_,
            .observer = &sums_};
  }

  // What the head reads, without the product nobody wants: states_ [n, hidden].
  void final_norm(std::uint32_t n) {
    const std::size_t hidden = config().hidden_size;
    states_.resize(n * hidden);
    for (std::uint32_t t = 0; t < n; ++t) {
      model_.kernels->rms_norm(scratch_.residual.at(t * hidden), model_.weights.norm, hidden, config().rms_norm_eps,
                               states_.data() + t * hidden);
    }
    team_.run([&](const numa::Member& member) {
      sums_.see(member, {InputRole::head, -1, 0}, states_.data(), hidden, n);
    });
  }

  const Model::Impl& model_;
  numa::ThreadTeam team_;
  SquareSums sums_;
  rt::KvCache kv_;
  rt::Scratch scratch_;
  std::vector<rt::TokenSlot> slots_;
  std::vector<float> states_;
};

Result<Imatrix> collect(const Model& model, const Windows& windows, const CollectOptions& options) {
  R1_TRY(std::string identity, identity_of(model));
  // The sums are those of the very weights that ran: the work names them too.
  std::string work = fmt::format("{:016x}-{:016x}", model.info().fingerprint, windows.fingerprint());
  if (options.moments.max_k > 0) {
    work +=
        fmt::format("-moments {} {} {}", options.moments.max_k, options.moments.layer_begin, options.moments.layer_end);
  }
  Imatrix imatrix = Imatrix::zeros(model.impl().file->config(), std::move(identity), options.moments);
  if (!options.state_path.empty() && std::filesystem::exists(options.state_path)) {
    R1_TRY(Imatrix state, Imatrix::load(options.state_path));
    if (state.work != work) {
      return Error{
          ErrorCode::invalid_argument,
          "is the state of other work (another model, text, context or moments): remove it, or name another output",
          options.state_path};
    }
    state.work.clear();
    R1_CHECK(imatrix.add(state, options.state_path));
    imatrix.windows_done = state.windows_done;
  }
  imatrix.work = work;

  Collector collector(model, windows.longest(), options.n_threads, imatrix);
  using Clock = std::chrono::steady_clock;
  auto saved = Clock::now();
  std::chrono::duration<double> pause{options.save_seconds};  // many moments take a while: save them less often
  const auto save = [&]() -> Result<void> {
    if (options.state_path.empty()) return {};
    const auto start = Clock::now();
    R1_CHECK(imatrix.save(options.state_path));
    saved = Clock::now();
    pause = std::max<std::chrono::duration<double>>(pause, 20.0 * (saved - start));
    return {};
  };
  while (imatrix.windows_done < windows.n_windows()) {
    if (options.stop != nullptr && *options.stop) {
      R1_CHECK(save());
      return Error{ErrorCode::cancelled, "stopped; run the same command again to continue", ""};
    }
    const auto window = windows.window(static_cast<std::uint32_t>(imatrix.windows_done));
    R1_CHECK(collector.run(window));
    ++imatrix.windows_done;
    imatrix.n_tokens += window.size();
    if (options.on_progress) options.on_progress(imatrix.windows_done, windows.n_windows());
    if (Clock::now() - saved >= pause) R1_CHECK(save());
  }
  imatrix.work.clear();
  imatrix.windows_done = 0;
  return imatrix;
}

}  // namespace

const ModelConfig& config_of(const Model& model) {
  return model.impl().file->config();
}

Result<std::string> identity_of(const Model& model) {
  const rt::ModelFile& file = *model.impl().file;
  return rt::model_identity(file.config(), [&](const rt::BlobSpec& spec) -> Result<std::vector<float>> {
    const simd::PackedMatrix& vector = file.find(spec.name)->parts[0];
    const auto* values = reinterpret_cast<const float*>(vector.blob);
    return std::vector<float>(values, values + vector.k());
  });
}

rt::ExpertCoverage expert_coverage_of(const Model& model, const Imatrix& imatrix) {
  return rt::expert_coverage(model.impl().file->config(), imatrix);
}

Result<Imatrix> collect_imatrix(const std::shared_ptr<const Model>& model, const Windows& windows,
                                const CollectOptions& options) {
  const std::uint32_t longest = model->info().max_context_tokens;
  if (windows.is_short) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the text has {} tokens, fewer than one context: give more text, or a shorter --context",
                             windows.longest()),
                 ""};
  }
  if (windows.longest() > longest) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("a context of {} tokens: the model has {}", windows.longest(), longest), ""};
  }
  R1_CHECK(rt::check_n_threads(options.n_threads));
  const numa::Topology topology = numa::read_topology();
  std::uint64_t moments_bytes = options.moments.bytes(model->impl().file->config());
  if (moments_bytes > 0) {
    const int n_members = options.n_threads > 0 ? options.n_threads : topology.n_team_threads;
    moments_bytes += MomentSums::bytes(n_members, options.moments.max_k, moment_rows);
  }
  const std::uint64_t available_bytes =
      options.memory_bytes > 0 ? options.memory_bytes : topology.memory_available_bytes;
  if (moments_bytes > available_bytes) {
    return Error{ErrorCode::out_of_memory,
                 fmt::format("moments take {:.1f} GB of memory, {:.1f} GB are free: collect them of some layers at a "
                             "time (--moments-layers), or of narrower inputs (--moments-width)",
                             static_cast<double>(moments_bytes) / 1e9, static_cast<double>(available_bytes) / 1e9),
                 model->info().path};
  }
  R1_CHECK(rt::check_tokens(windows.tokens, model->info().vocab_size));
  try {
    return collect(*model, windows, options);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory for an importance matrix of this model", model->info().path};
  } catch (const std::exception& e) {  // the operating system refuses threads
    return Error{ErrorCode::io, e.what(), model->info().path};
  }
}

}  // namespace r1::eval
