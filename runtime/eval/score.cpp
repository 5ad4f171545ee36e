#include "runtime/eval/score.h"

#include <algorithm>
#include <optional>

#include "runtime/base/try.h"

namespace r1::eval {

Result<std::vector<TokenScore>> score_window(RowSource& model, RowSource* base, const Windows& windows,
                                             std::uint32_t window, numa::ThreadTeam& team) {
  const std::uint32_t n_scored = windows.n_scored(window);
  std::vector<TokenScore> scores(n_scored);
  for (std::uint32_t first = 0; first < n_scored; first += max_rows) {
    const std::uint32_t n = std::min(max_rows, n_scored - first);
    R1_TRY(const Rows rows, model.rows(window, first, n));
    Rows base_rows;
    if (base != nullptr) {
      R1_TRY(base_rows, base->rows(window, first, n));
      if (base_rows.logits.size() != rows.logits.size()) {
        return Error{ErrorCode::invalid_argument, "the base has another vocabulary than the model", ""};
      }
    }
    team.run([&](const numa::Member& member) {
      const auto [from, to] = member.share(n);
      for (std::uint32_t i = from; i < to; ++i) {
        TokenScore& score = scores[first + i];
        score.logprob = rows.facts[i].target_logprob;
        if (base == nullptr) continue;
        score.base_logprob = base_rows.facts[i].target_logprob;
        score.kld =
            kl_divergence(base_rows.row(i), base_rows.facts[i].log_sum_exp, rows.row(i), rows.facts[i].log_sum_exp);
        score.same_top = rows.facts[i].top == base_rows.facts[i].top;
      }
    });
  }
  return scores;
}

Result<std::vector<TokenScore>> score_windows(RowSource& model, RowSource* base, const Windows& windows,
                                              const ScoreOptions& options) {
  std::vector<TokenScore> scores;
  std::optional<Journal> journal;
  if (!options.state_path.empty()) {
    R1_TRY(journal, Journal::open(options.state_path, options.key, windows));
    scores = journal->scores();
  }
  numa::ThreadTeam team({.n_threads = options.run.n_threads, .pin = true});
  std::uint32_t n_done = 0;
  while (n_done < windows.n_windows() && windows.rows[n_done + 1] <= scores.size()) ++n_done;
  if (n_done > 0 && options.on_resume) options.on_resume(n_done);
  for (std::uint32_t window = n_done; window < windows.n_windows(); ++window) {
    R1_TRY(const std::vector<TokenScore> more, score_window(model, base, windows, window, team));
    if (journal) R1_CHECK(journal->append(more));
    scores.insert(scores.end(), more.begin(), more.end());
    if (options.on_window && !options.on_window(window + 1, scores)) {
      return Error{ErrorCode::cancelled, "cancelled", ""};
    }
  }
  return scores;
}

}  // namespace r1::eval
