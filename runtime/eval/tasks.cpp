#include "runtime/eval/tasks.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/base/try.h"
#include "runtime/io/json.h"

namespace r1::eval {
namespace {

Result<std::string> text_or_number(const rt::Json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return Error{ErrorCode::corrupt, fmt::format("no \"{}\"", key), where};
  if (found->is_string()) return found->get<std::string>();
  if (found->is_number()) return found->dump();
  return Error{ErrorCode::corrupt, fmt::format("\"{}\" is neither text nor a number", key), where};
}

Result<Task> parse_task(const rt::Json& json, Judge judge, const std::string& where) {
  if (!json.is_object()) return Error{ErrorCode::corrupt, "not a JSON object", where};
  for (const auto& [key, value] : json.items()) {
    if (key == "task" || key == "question" || key == "answer" || key == "judge") continue;
    return Error{ErrorCode::corrupt,
                 fmt::format("unknown key \"{}\": a task has question, answer, task (its category), judge", key),
                 where};
  }
  const rt::JsonObject object(json, where);
  Task task;
  R1_TRY(task.category, object.string("task", ""));
  R1_TRY(task.question, object.string("question"));
  R1_TRY(const std::string name, object.string("judge", judge_name(judge)));
  const auto named = judge_from_name(name);
  if (!named) return object.error("judge", fmt::format("\"{}\" is none of exact, number, choice", name));
  task.judge = *named;
  R1_TRY(const std::string answer, text_or_number(json, "answer", where));
  task.answer = normalize_answer(task.judge, answer);
  if (task.question.empty()) return object.error("question", "is empty");
  if (task.answer.empty()) return object.error("answer", fmt::format("\"{}\" is no {} answer", answer, name));
  return task;
}

TaskScore score_of(std::span<const Task> tasks, std::span<const Attempt* const> attempts, const std::string* category) {
  TaskScore score;
  std::vector<double> passes, agreements;
  double n_tokens = 0;
  for (std::size_t i = 0; i < attempts.size();) {
    const std::uint32_t t = attempts[i]->task;
    std::size_t end = i;
    while (end < attempts.size() && attempts[end]->task == t) ++end;
    if (category == nullptr || tasks[t].category == *category) {
      std::vector<std::pair<std::string, int>> votes;  // in the order of their first
      double n_right = 0;
      for (std::size_t k = i; k < end; ++k) {
        const Attempt& a = *attempts[k];
        n_right += a.is_right ? 1 : 0;
        n_tokens += a.n_tokens;
        score.n_without_answer += a.answer.empty() ? 1 : 0;
        score.n_cut_off += a.stop_reason != "end_token" ? 1 : 0;
        if (a.answer.empty()) continue;
        const auto vote = std::find_if(votes.begin(), votes.end(), [&](const auto& v) { return v.first == a.answer; });
        vote == votes.end() ? (void)votes.emplace_back(a.answer, 1) : (void)++vote->second;
      }
      const auto most = std::max_element(votes.begin(), votes.end(),
                                         [](const auto& a, const auto& b) { return a.second < b.second; });
      passes.push_back(n_right / static_cast<double>(end - i));
      agreements.push_back(most != votes.end() && most->first == tasks[t].answer ? 1 : 0);
      score.n_attempts += static_cast<std::uint32_t>(end - i);
    }
    i = end;
  }
  score.n_tasks = static_cast<std::uint32_t>(passes.size());
  score.pass_at_1 = mean_of(passes);
  score.consensus = mean_of(agreements);
  score.mean_tokens = score.n_attempts == 0 ? 0 : n_tokens / score.n_attempts;
  return score;
}

}  // namespace

Result<std::vector<Task>> parse_tasks(std::string_view jsonl, Judge judge, const std::string& where) {
  std::vector<Task> tasks;
  std::size_t number = 0;
  while (!jsonl.empty()) {
    const std::size_t end = std::min(jsonl.find('\n'), jsonl.size());
    const std::string_view line = jsonl.substr(0, end);
    jsonl.remove_prefix(std::min(end + 1, jsonl.size()));
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string place = fmt::format("{}: line {}", where, number);
    R1_TRY(const rt::Json json, rt::parse_json(line, place));
    R1_TRY(Task task, parse_task(json, judge, place));
    tasks.push_back(std::move(task));
  }
  if (tasks.empty()) return Error{ErrorCode::invalid_argument, "holds no tasks", where};
  return tasks;
}

TaskReport task_report(std::span<const Task> tasks, std::span<const Attempt> attempts) {
  std::vector<const Attempt*> sorted;
  for (const Attempt& attempt : attempts) sorted.push_back(&attempt);
  std::sort(sorted.begin(), sorted.end(), [](const Attempt* a, const Attempt* b) {
    return std::pair(a->task, a->sample) < std::pair(b->task, b->sample);
  });
  TaskReport report;
  report.all = score_of(tasks, sorted, nullptr);
  for (const Task& task : tasks) {
    if (task.category.empty() || report.by_category.count(task.category) != 0) continue;
    report.by_category[task.category] = score_of(tasks, sorted, &task.category);
  }
  return report;
}

std::string attempt_to_json(const Attempt& a, const Task& task) {
  const nlohmann::ordered_json json = {{"task", a.task},
                                       {"sample", a.sample},
                                       {"right", a.is_right},
                                       {"answer", a.answer},
                                       {"expected", task.answer},
                                       {"stop_reason", a.stop_reason},
                                       {"n_prompt_tokens", a.n_prompt_tokens},
                                       {"n_tokens", a.n_tokens},
                                       {"seed", a.seed},
                                       {"text", a.text}};
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

Result<Attempt> attempt_from_json(std::string_view line, const std::string& where) {
  constexpr std::int64_t most = 0xffffffff;
  R1_TRY(const rt::Json json, rt::parse_json(line, where));
  if (!json.is_object()) return Error{ErrorCode::corrupt, "not a JSON object", where};
  const rt::JsonObject object(json, where);
  Attempt a;
  R1_TRY(const std::int64_t task, object.integer("task", 0, most));
  R1_TRY(const std::int64_t sample, object.integer("sample", 0, most));
  R1_TRY(a.is_right, object.boolean("right"));
  R1_TRY(a.answer, object.string("answer"));
  R1_TRY(a.stop_reason, object.string("stop_reason"));
  R1_TRY(const std::int64_t n_prompt_tokens, object.integer("n_prompt_tokens", 0, most));
  R1_TRY(const std::int64_t n_tokens, object.integer("n_tokens", 0, most));
  R1_TRY(const std::int64_t seed, object.integer("seed", 0, most));
  R1_TRY(a.text, object.string("text"));
  a.task = static_cast<std::uint32_t>(task);
  a.sample = static_cast<std::uint32_t>(sample);
  a.n_prompt_tokens = static_cast<std::uint32_t>(n_prompt_tokens);
  a.n_tokens = static_cast<std::uint32_t>(n_tokens);
  a.seed = static_cast<std::uint64_t>(seed);
  return a;
}

}  // namespace r1::eval
