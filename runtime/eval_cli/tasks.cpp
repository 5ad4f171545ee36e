// r1-eval tasks: questions with known answers.
#include <fmt/format.h>

#include <map>
#include <memory>
#include <optional>

#include "runtime/cli/files.h"
#include "runtime/eval/journal.h"
#include "runtime/eval/tasks.h"
#include "runtime/eval_cli/commands.h"
#include "runtime/eval_cli/flags.h"
#include "runtime/eval_cli/progress.h"
#include "runtime/eval_cli/results_file.h"
#include "runtime/eval_cli/svg.h"

namespace r1::eval_cli {
namespace {

using nlohmann::ordered_json;

struct TasksFlags {
  cli::ModelFlags model;
  MachineFlags machine;
  OutputFlags output;
  std::string tasks, out, judge = "exact", instruction;
  std::uint32_t n_samples = 1, max_tokens = 32768, n_together = 8, limit = 0;
  float temperature = 0.6f, top_p = 0.95f;
  std::uint64_t seed = 0;
};

eval::TaskOptions task_options(const TasksFlags& flags) {
  eval::TaskOptions options;
  options.n_samples = flags.n_samples;
  options.sampling.temperature = flags.temperature;
  options.sampling.top_p = flags.top_p;
  options.sampling.seed = flags.seed;
  options.max_tokens = flags.max_tokens;
  options.instruction = flags.instruction;
  options.n_together = flags.n_together;
  options.session.n_threads = flags.machine.n_threads;
  options.session.kv_type = cli::kv_cache_type(flags.machine.kv_type);
  return options;
}

// All that decides an attempt. The tasks stand for themselves by their number and a checksum.
std::string settings_line(const TasksFlags& flags, const Model& model, const std::vector<eval::Task>& tasks) {
  std::uint64_t key = 0;
  for (const eval::Task& task : tasks) {
    key = eval::key_of({key, eval::key_of_text(task.question), eval::key_of_text(task.answer),
                        static_cast<std::uint64_t>(task.judge)});
  }
  const ordered_json json = {{"r1_eval_tasks", 1},
                             {"model", fmt::format("{:016x}", model.info().fingerprint)},
                             {"tasks", fmt::format("{:016x}", key)},
                             {"n_tasks", tasks.size()},
                             {"temperature", flags.temperature},
                             {"top_p", flags.top_p},
                             {"max_tokens", flags.max_tokens},
                             {"seed", flags.seed},
                             {"kv_type", flags.machine.kv_type},
                             {"template", flags.model.options.template_name},
                             {"instruction", flags.instruction}};
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

ordered_json score_json(const eval::TaskScore& score) {
  return {{"n_tasks", score.n_tasks},
          {"n_attempts", score.n_attempts},
          {"pass_at_1", to_json(score.pass_at_1)},
          {"consensus", to_json(score.consensus)},
          {"n_without_answer", score.n_without_answer},
          {"n_cut_off", score.n_cut_off},
          {"mean_tokens", score.mean_tokens}};
}

std::string report_text(const eval::TaskReport& report, std::uint32_t n_samples) {
  std::size_t name_width = 8;
  for (const auto& [name, score] : report.by_category) name_width = std::max(name_width, name.size());
  const std::string cons = fmt::format("cons@{}", n_samples);
  std::string text =
      fmt::format("{:<{}}  {:>6}  {:>15}  {:>15}  {:>9}  {:>7}  {:>10}\n", "category", name_width, "tasks", "pass@1, %",
                  n_samples > 1 ? cons + ", %" : "", "no answer", "cut off", "tokens");
  const auto percent = [](const eval::Estimate& e) {
    return fmt::format("{:.1f} ± {:.1f}", 100 * e.value, 100 * e.standard_error);
  };
  const auto row = [&](const std::string& name, const eval::TaskScore& score) {
    text += fmt::format("{:<{}}  {:>6}  {:>15}  {:>15}  {:>9}  {:>7}  {:>10.1f}\n", name, name_width, score.n_tasks,
                        percent(score.pass_at_1), n_samples > 1 ? percent(score.consensus) : "", score.n_without_answer,
                        score.n_cut_off, score.mean_tokens);
  };
  for (const auto& [name, score] : report.by_category) row(name, score);
  row("all", report.all);
  return text;
}

Result<void> draw(const TasksFlags& flags, const eval::TaskReport& report) {
  std::vector<Bar> bars;
  const auto add = [&](const std::string& name, const eval::TaskScore& score) {
    bars.push_back({name, score.pass_at_1.value, score.pass_at_1.standard_error});
  };
  for (const auto& [name, score] : report.by_category) add(name, score);
  add("all", report.all);
  const std::string subtitle = fmt::format("{} · {} · {} tasks, {} samples each", flags.model.options.path, flags.tasks,
                                           report.all.n_tasks, flags.n_samples);
  return cli::write_file(flags.output.svg_path, draw_bars("pass@1", subtitle, bars));
}

int run(const TasksFlags& flags, cli::Terminal& terminal) {
  const auto text = cli::read_input(flags.tasks);
  if (!text) return cli::report(text.error());
  auto tasks = eval::parse_tasks(*text, *eval::judge_from_name(flags.judge), flags.tasks);
  if (!tasks) return cli::report(tasks.error());
  if (flags.limit != 0 && flags.limit < tasks->size()) tasks->resize(flags.limit);
  const auto model = flags.model.open();
  if (!model) return cli::report(model.error());
  std::optional<ResultsFile> results;
  if (!flags.out.empty()) {
    auto opened = ResultsFile::open(flags.out, settings_line(flags, **model, *tasks));
    if (!opened) return cli::report(opened.error());
    results.emplace(*std::move(opened));
  }
  std::vector<eval::Attempt> attempts;
  if (results) {
    for (const eval::Attempt& a : results->attempts()) {
      if (a.task < tasks->size() && a.sample < flags.n_samples) attempts.push_back(a);
    }
  }
  {
    Progress progress("attempts", std::uint64_t{flags.n_samples} * tasks->size(), flags.output.quiet);
    progress.start_from(attempts.size());
    std::size_t n_right = 0;
    for (const eval::Attempt& a : attempts) n_right += a.is_right ? 1 : 0;
    const std::vector<eval::Attempt> done = attempts;
    const auto ended = eval::run_tasks(*model, *tasks, task_options(flags), done, [&](eval::Attempt a) -> Result<void> {
      if (results) {
        if (const auto written = results->append(a, (*tasks)[a.task]); !written) return written.error();
      }
      n_right += a.is_right ? 1 : 0;
      attempts.push_back(std::move(a));
      progress.show(attempts.size(), fmt::format("{:.1f} % right", 100.0 * static_cast<double>(n_right) /
                                                                       static_cast<double>(attempts.size())));
      return {};
    });
    if (!ended) return cli::report(ended.error());
  }
  const eval::TaskReport report = eval::task_report(*tasks, attempts);
  if (!flags.output.svg_path.empty()) {
    if (const auto drawn = draw(flags, report); !drawn) return cli::report(drawn.error());
  }
  if (flags.output.json) {
    ordered_json categories = ordered_json::object();
    for (const auto& [name, score] : report.by_category) categories[name] = score_json(score);
    ordered_json json = {{"model", flags.model.options.path},
                         {"tasks", flags.tasks},
                         {"n_samples", flags.n_samples},
                         {"temperature", flags.temperature},
                         {"top_p", flags.top_p},
                         {"max_tokens", flags.max_tokens},
                         {"seed", flags.seed}};
    json["all"] = score_json(report.all);
    json["categories"] = std::move(categories);
    terminal.write(cli::to_line(json));
  } else {
    terminal.write_foreign(report_text(report, flags.n_samples));
  }
  return cli::exit_done;
}

}  // namespace

Command add_tasks(CLI::App& app) {
  const auto flags = std::make_shared<TasksFlags>();
  flags->model.add_to(app, true);
  app.add_option("--tasks", flags->tasks,
                 "JSON lines: question, answer; optionally task (a category) and judge; - for standard input")
      ->required()
      ->type_name("FILE")
      ->group("Tasks");
  app.add_option("--judge", flags->judge,
                 "How answers are read, where a task does not say: exact (all behind the thoughts), number (the last), "
                 "choice (the last single capital); what is in \\boxed{} comes first [exact]")
      ->type_name("NAME")
      ->check(CLI::IsMember({"exact", "number", "choice"}).description(""))
      ->group("Tasks");
  app.add_option("--instruction", flags->instruction,
                 "Put this behind every question, e.g. \"Please reason step by step, and put your final answer within "
                 "\\boxed{}.\"")
      ->type_name("TEXT")
      ->group("Tasks");
  app.add_option("--limit", flags->limit, "Only the first N tasks [all]")
      ->type_name("N")
      ->check(CLI::Range(1u, 1u << 30).description(""))
      ->group("Tasks");
  const auto count = [&](const char* name, std::uint32_t& value, std::uint32_t most, const std::string& help) {
    app.add_option(name, value, help)
        ->type_name("N")
        ->check(CLI::Range(1u, most).description(""))
        ->group("Sampling (defaults: DeepSeek-R1's model card)");
  };
  count("--samples", flags->n_samples, 100000, "Attempts at each task [1]");
  app.add_option("--temperature", flags->temperature, "0 is greedy [0.6]")
      ->type_name("X")
      ->group("Sampling (defaults: DeepSeek-R1's model card)");
  app.add_option("--top-p", flags->top_p, "1 is off [0.95]")
      ->type_name("X")
      ->group("Sampling (defaults: DeepSeek-R1's model card)");
  count("--max-tokens", flags->max_tokens, 1u << 30, "End an attempt after N tokens [32768]");
  app.add_option("--seed", flags->seed,
                 "Every attempt has a seed of its own, made of this, its question and number [0]")
      ->type_name("N")
      ->group("Sampling (defaults: DeepSeek-R1's model card)");
  app.add_option("--together", flags->n_together,
                 "Attempts that run side by side, in one pass; changes the time, not the answers [8]")
      ->type_name("N")
      ->check(CLI::Range(1u, 64u).description(""))
      ->group("Machine");
  app.add_option("--out", flags->out, "Append every attempt to FILE, and go on from those it holds")->type_name("FILE");
  flags->machine.add_to(app, flags->model);
  flags->output.add_to(app, false);
  return [flags](cli::Terminal& terminal) { return run(*flags, terminal); };
}

}  // namespace r1::eval_cli
