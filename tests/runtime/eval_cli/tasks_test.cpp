// r1-eval tasks on r1-nano's problems, against the generation loop of the library.
#include <doctest/doctest.h>
#include <r1/generate.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/runtime/cli/program.h"

using namespace r1;

namespace {

const std::string model_path = R1_NANO_MODEL;
constexpr std::size_t n_tasks = 18;

struct Work {
  std::string folder = std::string(R1_WORK_DIR) + "/tasks-" + std::to_string(::getpid());
  std::string tasks = folder + "/tasks.jsonl";
  std::vector<nlohmann::json> problems;

  Work() {
    std::filesystem::create_directories(folder);
    std::ifstream in(R1_SOURCE_DIR "/examples/r1-nano/eval.jsonl");
    std::ofstream out(tasks);
    std::string line;
    for (std::size_t i = 0; std::getline(in, line); ++i) {
      if (i % 25 != 7) continue;  // two of each category
      out << line << "\n";
      problems.push_back(nlohmann::json::parse(line));
    }
    REQUIRE(problems.size() == n_tasks);
  }
  ~Work() { std::filesystem::remove_all(folder); }
};

std::vector<nlohmann::json> read_lines(const std::string& path) {
  std::ifstream in(path);
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

ProgramResult run(const Work& work, const std::vector<std::string>& more) {
  std::vector<std::string> arguments = {"tasks", model_path, "--tasks", work.tasks, "--max-tokens", "220"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_r1(arguments);
}

// What the generation loop answers to one question, alone.
std::string text_of(Session& session, const ChatTemplate& chat, const std::string& question) {
  const Message message{"user", question, {}};
  RenderOptions render;
  render.thinking = Thinking::enforced;
  const auto prompt = chat.render({&message, 1}, render);
  REQUIRE(prompt.ok());
  SamplingOptions greedy;
  greedy.temperature = 0;
  auto sampler = Sampler::create(greedy);
  REQUIRE(session.rewind(0).ok());
  GenerateOptions options;
  options.max_tokens = 220;
  std::string text;
  REQUIRE(generate(session, *sampler, prompt->ids, options, [&](std::string_view piece, Token) {
            text += piece;
            return true;
          }).ok());
  return text;
}

}  // namespace

TEST_CASE("greedy answers are those of the generation loop, however many run together") {
  const Work work;
  ModelOptions options;
  options.path = model_path;
  const auto model = Model::open(options);
  REQUIRE(model.ok());
  const auto chat = (*model)->chat_template();
  REQUIRE(chat.ok());
  auto session = Session::create(*model, {.context_tokens = 512});
  REQUIRE(session.ok());
  int n_right = 0;
  std::vector<std::string> texts;
  for (const auto& problem : work.problems) {
    const std::string text = text_of(*session, *chat, problem["question"]);
    const auto end = text.find("</think>\n\n");
    n_right += end != std::string::npos && text.substr(end + 10) == problem["answer"].get<std::string>();
    texts.push_back(text);
  }
  for (const char* together : {"1", "5"}) {
    const std::string out = work.folder + "/greedy" + together;
    const auto result = run(work, {"--temperature", "0", "--together", together, "--out", out, "--json", "-q"});
    REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    const auto json = nlohmann::json::parse(result.out);
    CHECK(json["all"]["pass_at_1"]["value"].get<double>() * n_tasks == doctest::Approx(n_right));
    CHECK(json["categories"].size() == 9);
    auto lines = read_lines(out);
    REQUIRE(lines.size() == 1 + n_tasks);
    for (std::size_t i = 1; i < lines.size(); ++i)
      CHECK(lines[i]["text"] == texts[lines[i]["task"].get<std::size_t>()]);
  }
}

TEST_CASE("samples have seeds of their own, and a run goes on where it ended") {
  const Work work;
  const std::vector<std::string> how = {"--samples", "3", "--limit", "6", "--json"};
  const std::string out = work.folder + "/results.jsonl", again = work.folder + "/again.jsonl";
  auto with = [&](const std::string& path, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = how;
    arguments.insert(arguments.end(), {"--out", path});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(work, arguments);
  };
  const auto whole = with(out, {"--svg", work.folder + "/tasks.svg"});
  REQUIRE_MESSAGE(whole.exit_code == 0, whole.err);
  CHECK(whole.err.find("18 of 18 attempts") != std::string::npos);
  CHECK(std::filesystem::file_size(work.folder + "/tasks.svg") > 500);
  auto lines = read_lines(out);
  REQUIRE(lines.size() == 19);
  std::vector<std::uint64_t> seeds;
  for (std::size_t i = 1; i < lines.size(); ++i) seeds.push_back(lines[i]["seed"]);
  std::sort(seeds.begin(), seeds.end());
  CHECK(std::unique(seeds.begin(), seeds.end()) == seeds.end());

  // Killed in the middle of a line.
  std::ifstream in(out);
  std::string line, kept;
  for (int i = 0; i < 8; ++i) {
    std::getline(in, line);
    kept += line + "\n";
  }
  std::ofstream(again) << kept << "{\"task\": 3, \"sam";
  const auto resumed = with(again, {"--together", "2"});
  CHECK(resumed.err.find("going on behind 7 of 18 attempts") != std::string::npos);
  CHECK(resumed.out == whole.out);
  CHECK(with(again).out == whole.out);  // all is there

  CHECK(with(again, {"--seed", "1"}).err.find("results of another run") != std::string::npos);
  std::ofstream(again) << "a letter\n";
  const auto refused = with(again);
  CHECK(refused.exit_code == 2);
  CHECK(refused.err.find("holds no results") != std::string::npos);
}

TEST_CASE("tasks that cannot be read or asked") {
  const Work work;
  const auto error_of = [&](const std::string& content, int exit_code) {
    const std::string path = work.folder + "/bad.jsonl";
    std::ofstream(path) << content;
    const auto result = run_r1({"tasks", model_path, "--tasks", path});
    CHECK(result.exit_code == exit_code);
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    return result.err;
  };
  CHECK(
      error_of("{\"question\": \"q\", \"answer\": \"a\", \"hint\": \"b\"}", 1).find("bad.jsonl: line 1: unknown key") !=
      std::string::npos);
  CHECK(error_of("", 2).find("holds no tasks") != std::string::npos);
  CHECK(run_r1({"tasks", model_path, "--tasks", "/nonexistent"}).exit_code == 1);
  CHECK(run_r1({"tasks", model_path}).exit_code == 2);
  CHECK(run(work, {"--temperature", "-1"}).exit_code == 2);
  CHECK(run(work, {"--samples", "0"}).exit_code == 2);
}
