// Scoring a text: each window's tokens by a model, and beside it by a base.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runtime/eval/journal.h"
#include "runtime/eval/report.h"
#include "runtime/eval/rows.h"
#include "runtime/eval/windows.h"

namespace r1::eval {

// Scores of one window's tokens, [n_scored(window)]; base may be null. Both sources must be of one vocabulary and of
// `windows`.
[[nodiscard]] Result<std::vector<TokenScore>> score_window(RowSource& model, RowSource* base, const Windows& windows,
                                                           std::uint32_t window, numa::ThreadTeam& team);

struct ScoreOptions {
  RunOptions run;
  std::string state_path;  // a Journal; empty: none
  JournalKey key;
  // Before the first window, if a state was found that holds some.
  std::function<void(std::uint32_t n_windows_done)> on_resume;
  // After every window, with all scores so far; false ends the work with `cancelled`.
  std::function<bool(std::uint32_t n_windows_done, std::span<const TokenScore> scores)> on_window;
};

// Of all windows in order, [n_scored_tokens()]. The same bits for any number of threads and interruptions.
[[nodiscard]] Result<std::vector<TokenScore>> score_windows(RowSource& model, RowSource* base, const Windows& windows,
                                                            const ScoreOptions& options);

}  // namespace r1::eval
