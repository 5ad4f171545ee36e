#include "runtime/eval/sensitivity_probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <new>
#include <optional>
#include <set>

#include "numa/thread_team.h"
#include "numa/topology.h"
#include "runtime/base/try.h"
#include "runtime/engine/session_impl.h"
#include "runtime/eval/base_logits.h"
#include "runtime/eval/imatrix_collector.h"
#include "runtime/eval/layer_states.h"
#include "runtime/eval/lowered_model.h"
#include "runtime/eval/nudged_model.h"
#include "runtime/eval/score.h"
#include "runtime/io/file.h"
#include "runtime/model/model_impl.h"

namespace r1::eval {
namespace {

using rt::Sensitivity;
using rt::SensitivityItem;

Error stopped() {
  return {ErrorCode::cancelled, "stopped; run the same command again to continue", ""};
}

std::string logits_path(const std::string& state_path) {
  return state_path + ".logits";
}

class Probe {
 public:
  Probe(std::shared_ptr<const Model> model, const Windows& windows, const ProbeOptions& options)
      : model_(std::move(model)),
        windows_(windows),
        options_(options),
        team_({.n_threads = options.n_threads, .pin = true}) {
    run_options_.n_threads = options.n_threads;
  }

  Result<Sensitivity> run() {
    R1_TRY(Sensitivity result, start());
    R1_CHECK(resume(result));
    count(result);
    if (options_.on_progress) options_.on_progress(n_done_, n_all_);
    if (n_done_ == n_all_) return result;
    R1_TRY(const auto base, base_rows(result));
    for (const SensitivityItem& item : result.items) {
      if (item.floor) continue;
      R1_TRY(const double floor, measure_floor(result, item, *base));
      for (SensitivityItem& other : result.items) {
        if (&other == &item || shares_floor(other, item)) other.floor = floor;
      }
      R1_CHECK(end_measurement(result));
    }
    for (SensitivityItem& item : result.items) {
      for (std::size_t f = item.measured.size(); f < options_.formats.size(); ++f) {
        R1_TRY(const rt::Lowered lowered, measure(item, options_.formats[f], *base));
        item.measured.push_back(lowered);
        R1_CHECK(end_measurement(result));
      }
    }
    return result;
  }

 private:
  Result<Sensitivity> start() {
    const rt::ModelConfig& config = model_->impl().file->config();
    Sensitivity result;
    R1_TRY(result.identity, identity_of(*model_));
    result.description = rt::model_description(config);
    std::string formats;
    for (const quant::Format format : options_.formats) formats += fmt::format("-{}", quant::info(format).name);
    std::string imatrix;
    if (options_.imatrix != nullptr) {
      R1_TRY(importance_, rt::Importance::of(*options_.imatrix, config, result.identity, options_.imatrix_path));
      imatrix = fmt::format("-{}", options_.imatrix->fingerprint());
    }
    result.work = fmt::format("{:016x}-{:016x}{}-{}{}", model_->info().fingerprint, windows_.fingerprint(), formats,
                              options_.layers_per_group, imatrix);
    result.n_tokens = windows_.tokens.size();
    result.n_scored_tokens = windows_.n_scored_tokens();
    result.items = rt::sensitivity_items(config, options_.layers_per_group);
    return result;
  }

  Result<void> resume(Sensitivity& result) const {
    if (!std::filesystem::exists(options_.state_path)) return {};
    R1_TRY(Sensitivity state, Sensitivity::load(options_.state_path));
    if (state.work != result.work || state.items.size() != result.items.size()) {
      return Error{ErrorCode::invalid_argument,
                   "is the state of other work (another model, text, formats or groups): remove it, or name another "
                   "output",
                   options_.state_path};
    }
    result.items = std::move(state.items);
    return {};
  }

  // The first layer that changes when the item does.
  [[nodiscard]] std::uint32_t first_changed(const SensitivityItem& item) const {
    if (item.first_layer >= 0) return static_cast<std::uint32_t>(item.first_layer);
    const rt::ModelConfig& config = model_->impl().file->config();
    const bool is_head = item.tensor_class == quant::TensorClass::head && !config.tie_word_embeddings;
    return is_head ? config.num_hidden_layers : 0;
  }

  [[nodiscard]] LayerStates make_states(const Sensitivity& all) const {
    std::set<std::uint32_t> layers;
    for (const SensitivityItem& item : all.items) layers.insert(first_changed(item));
    layers.erase(0);
    // What memory is left is the page cache of the weights.
    return {windows_,
            model_->impl().file->config().hidden_size,
            {layers.begin(), layers.end()},
            numa::read_topology().memory_available_bytes / 16};
  }

  // The model's own predictions, once for all measurements, and what its layers find.
  Result<std::unique_ptr<BaseLogits>> base_rows(const Sensitivity& all) {
    states_ = make_states(all);
    const std::string path = logits_path(options_.state_path);
    std::unique_ptr<BaseLogitsWriter> writer;
    if (!std::filesystem::exists(path)) {
      R1_TRY(writer, BaseLogitsWriter::create(path, *model_, windows_, run_options_));
    }
    R1_TRY(const auto rows, ModelRows::create(model_, windows_, run_options_));
    rows->keep_states(states_);
    const std::uint32_t n_done = writer != nullptr ? writer->n_windows_done() : windows_.n_windows();
    for (std::uint32_t w = states_.empty() ? n_done : 0; w < windows_.n_windows(); ++w) {
      if (options_.stop != nullptr && *options_.stop) return stopped();
      const bool is_new = w >= n_done;
      for (std::uint32_t first = 0; first < windows_.n_scored(w); first += max_rows) {
        R1_TRY(const Rows some, rows->rows(w, first, std::min(max_rows, windows_.n_scored(w) - first)));
        if (is_new) R1_CHECK(writer->append(some));
      }
      if (is_new) R1_CHECK(writer->end_window());
    }
    if (writer != nullptr) R1_CHECK(writer->finish());
    R1_TRY(auto base, BaseLogits::open(path, run_options_));
    if (base->model_fingerprint() != model_->info().fingerprint ||
        base->windows().fingerprint() != windows_.fingerprint()) {
      return Error{ErrorCode::invalid_argument, "is of another model or text: remove it, or name another output", path};
    }
    return base;
  }

  // What is rounded behind the same layers is the same. Embedding and head have nothing in common.
  static bool shares_floor(const SensitivityItem& a, const SensitivityItem& b) {
    return a.first_layer >= 0 && a.first_layer == b.first_layer && a.last_layer == b.last_layer;
  }

  void count(const Sensitivity& result) {
    for (std::size_t i = 0; i < result.items.size(); ++i) {
      const SensitivityItem& item = result.items[i];
      n_done_ += item.measured.size();
      n_all_ += options_.formats.size();
      const bool is_shared = std::any_of(result.items.begin(), result.items.begin() + static_cast<std::ptrdiff_t>(i),
                                         [&](const SensitivityItem& before) { return shares_floor(before, item); });
      if (is_shared) continue;
      n_done_ += item.floor ? 1 : 0;
      ++n_all_;
    }
  }

  Result<void> end_measurement(const Sensitivity& result) {
    R1_CHECK(result.save(options_.state_path));
    if (options_.on_progress) options_.on_progress(++n_done_, n_all_);
    return {};
  }

  // By the smallest of the items that share it: large ones would have to be copied.
  Result<double> measure_floor(const Sensitivity& all, const SensitivityItem& item, BaseLogits& base) {
    const rt::ModelFile& file = *model_->impl().file;
    ItemParts smallest = ItemParts::of(file, item);
    for (const SensitivityItem& other : all.items) {
      if (!shares_floor(other, item)) continue;
      ItemParts parts = ItemParts::of(file, other);
      if (parts.bytes() < smallest.bytes()) smallest = std::move(parts);
    }
    R1_TRY(const auto nudged, nudge(*model_, std::move(smallest)));
    R1_TRY(const KldReport report, compare(nudged, first_changed(item), base));
    return std::max(report.mean.value, 0.0);  // of nothing, rounded
  }

  Result<rt::Lowered> measure(const SensitivityItem& item, quant::Format format, BaseLogits& base) {
    if (options_.stop != nullptr && *options_.stop) return stopped();  // encoding takes its time
    R1_TRY(const LoweredModel lowered, lower(*model_, item, format, importance_ ? &*importance_ : nullptr, team_));
    R1_TRY(const KldReport report, compare(lowered.model, first_changed(item), base));
    return rt::Lowered{format, lowered.error, report.mean.value, report.mean.standard_error};
  }

  Result<KldReport> compare(const std::shared_ptr<const Model>& changed, std::uint32_t first_changed_layer,
                            BaseLogits& base) {
    if (options_.stop != nullptr && *options_.stop) return stopped();
    R1_TRY(const auto rows, ModelRows::create(changed, windows_, run_options_));
    rows->start_at(first_changed_layer, states_);
    ScoreOptions score;
    score.run = run_options_;
    score.on_window = [&](std::uint32_t, std::span<const TokenScore>) {
      return options_.stop == nullptr || !*options_.stop;
    };
    const auto scores = score_windows(*rows, &base, windows_, score);
    if (!scores && scores.error().code == ErrorCode::cancelled) return stopped();
    if (!scores) return scores.error();
    return kld_report(*scores);
  }

  std::shared_ptr<const Model> model_;
  const Windows& windows_;
  const ProbeOptions& options_;
  RunOptions run_options_;
  std::optional<rt::Importance> importance_;
  numa::ThreadTeam team_;
  LayerStates states_;
  std::size_t n_done_ = 0, n_all_ = 0;  // measurements
};

}  // namespace

Result<Sensitivity> probe_sensitivity(const std::shared_ptr<const Model>& model, const Windows& windows,
                                      const ProbeOptions& options) {
  const ModelInfo& info = model->info();
  if (windows.longest() > info.max_context_tokens) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("a context of {} tokens: the model has {}", windows.longest(), info.max_context_tokens),
                 ""};
  }
  R1_CHECK(rt::check_n_threads(options.n_threads));
  R1_CHECK(rt::check_tokens(windows.tokens, info.vocab_size));
  try {
    return Probe(model, windows, options).run();
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory to lower a part of this model", info.path};
  } catch (const std::exception& e) {  // the operating system refuses threads
    return Error{ErrorCode::io, e.what(), info.path};
  }
}

void remove_probe_state(const std::string& state_path) {
  std::error_code ignored;
  std::filesystem::remove(state_path, ignored);
  std::filesystem::remove(logits_path(state_path), ignored);
}

}  // namespace r1::eval
