// Questions with known answers: reading them, asking a model, counting what is right.
#pragma once

#include <r1/model.h>
#include <r1/result.h>
#include <r1/sampler.h>
#include <r1/session.h>

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/eval/answer.h"
#include "runtime/eval/report.h"

namespace r1::eval {

struct Task {
  std::string category;  // "task" in the file; may be empty
  std::string question;
  std::string answer;  // as normalize_answer gives it
  Judge judge = Judge::exact;
};

// One JSON object a line: question, answer (text or number), and optionally task (its category) and judge (exact,
// number, choice; else `judge`). Any other key is an error that names it and the line.
[[nodiscard]] Result<std::vector<Task>> parse_tasks(std::string_view jsonl, Judge judge, const std::string& where);

struct TaskOptions {
  std::uint32_t n_samples = 1;
  SamplingOptions sampling;  // its seed is mixed with the task's text and the sample's number
  std::uint32_t max_tokens = 32768;
  std::string instruction;       // put behind every question, on a line of its own
  std::uint32_t n_together = 8;  // sequences in one pass
  SessionOptions session;        // context_tokens 0: what prompt and max_tokens need
};

struct Attempt {
  std::uint32_t task = 0, sample = 0;
  std::string answer;  // extracted; empty: none
  bool is_right = false;
  std::string stop_reason;  // end_token, max_tokens, context_full
  std::uint32_t n_prompt_tokens = 0, n_tokens = 0;
  std::uint64_t seed = 0;
  std::string text;  // all that the model wrote
};

// Asks every task n_samples times, n_together at once, but for attempts that `done` holds. on_attempt hears of each
// attempt when it ends; an error from it ends the work. The attempts do not depend on n_together.
[[nodiscard]] Result<void> run_tasks(const std::shared_ptr<const Model>& model, std::span<const Task> tasks,
                                     const TaskOptions& options, std::span<const Attempt> done,
                                     const std::function<Result<void>(Attempt)>& on_attempt);

struct TaskScore {
  std::uint32_t n_tasks = 0, n_attempts = 0;
  Estimate pass_at_1;  // share of right attempts, mean over tasks; its error is over tasks
  Estimate consensus;  // share of tasks whose most frequent answer is right (of equals, the one that came first)
  std::uint32_t n_without_answer = 0;
  std::uint32_t n_cut_off = 0;  // ran into max_tokens or the context
  double mean_tokens = 0;       // generated per attempt
};

struct TaskReport {
  TaskScore all;
  std::map<std::string, TaskScore> by_category;
};
[[nodiscard]] TaskReport task_report(std::span<const Task> tasks, std::span<const Attempt> attempts);

// An attempt as a line of a results file, and back.
[[nodiscard]] std::string attempt_to_json(const Attempt& attempt, const Task& task);
[[nodiscard]] Result<Attempt> attempt_from_json(std::string_view line, const std::string& where);

}  // namespace r1::eval
