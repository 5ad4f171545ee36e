// r1-nano on its held-out tasks (examples/r1-nano/eval.jsonl), against accuracy.json: what the FP8 weights reach in float32
// arithmetic of the reference implementation, by the same rule (examples/r1-nano/README.md).
#include <doctest/doctest.h>
#include <r1/generate.h>
#include <r1/model.h>
#include <r1/session.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

namespace {

const std::string nano = R1_SOURCE_DIR "/examples/r1-nano";
constexpr std::uint32_t max_new_tokens = 220;

struct Problem {
  std::string task, question, answer;
};

struct Score {
  double mean = 0;
  std::map<std::string, double> by_task;
  std::uint64_t n_generated_tokens = 0;
};

std::vector<Problem> read_problems() {
  std::ifstream in(nano + "/eval.jsonl");
  std::vector<Problem> problems;
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line);
    problems.push_back({json["task"], json["question"], json["answer"]});
  }
  REQUIRE(problems.size() == 450);
  return problems;
}

// Test cases run side by side: each that takes the same recipe has a directory of its own.
std::string quantize(const std::string& recipe, const std::string& suffix = {}) {
  const std::string out = std::string(R1_WORK_DIR) + "/r1-nano-" + recipe + suffix;
  std::filesystem::remove_all(out);
  const std::string command = std::string(R1_QUANTIZE) + " " + nano + " " + out + " --recipe " + recipe + " 2>&1 >/dev/null";
  REQUIRE_MESSAGE(std::system(command.c_str()) == 0, command);
  return out;
}

std::string strip(const std::string& text) {
  const auto begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

// The text behind </think>, as the model wrote it; empty if it never stopped thinking.
std::string answer_of(r1::Session& session, const std::shared_ptr<const r1::Tokenizer>& tokenizer,
                      const std::string& question) {
  auto user = tokenizer->encode(question, r1::SpecialTokens::literal);
  auto before = tokenizer->encode("<｜begin▁of▁sentence｜><｜User｜>", r1::SpecialTokens::parsed);
  auto after = tokenizer->encode("<｜Assistant｜><think>\n", r1::SpecialTokens::parsed);
  REQUIRE((user.ok() && before.ok() && after.ok()));
  std::vector<r1::Token> prompt = *before;
  prompt.insert(prompt.end(), user->begin(), user->end());
  prompt.insert(prompt.end(), after->begin(), after->end());

  r1::SamplingOptions greedy;
  greedy.temperature = 0;
  auto sampler = r1::Sampler::create(greedy);
  REQUIRE(sampler.ok());
  REQUIRE(session.rewind(0).ok());
  r1::GenerateOptions options;
  options.max_tokens = max_new_tokens;
  std::string text;
  auto stats = r1::generate(session, *sampler, prompt, options, [&](std::string_view piece, r1::Token) {
    text += piece;
    return true;
  });
  REQUIRE_MESSAGE(stats.ok(), (stats.ok() ? "" : stats.error().text()));
  const std::string end_of_thought = "</think>";
  const auto end = text.find(end_of_thought);
  return end == std::string::npos ? std::string() : strip(text.substr(end + end_of_thought.size()));
}

// Problems are independent: each hardware thread takes its share with a session of one thread.
Score measure(const std::string& model_dir, r1::KvCacheType kv_type = r1::KvCacheType::f16) {
  auto model = r1::Model::open({.path = model_dir, .isa = {}, .template_name = {}, .verify = true});
  REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().text()));
  auto tokenizer = (*model)->tokenizer();
  REQUIRE(tokenizer.ok());
  const auto problems = read_problems();
  std::vector<char> right(problems.size());
  std::atomic<std::size_t> next = 0;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back([&] {
      r1::SessionOptions options;
      options.n_threads = 1;
      options.context_tokens = 1024;
      options.kv_type = kv_type;
      auto session = r1::Session::create(*model, options);
      REQUIRE(session.ok());
      for (std::size_t p = next++; p < problems.size(); p = next++) {
        right[p] = answer_of(*session, *tokenizer, problems[p].question) == problems[p].answer;
      }
    });
  }
  for (auto& thread : threads) thread.join();

  Score score;
  std::map<std::string, int> n_by_task;
  for (std::size_t p = 0; p < problems.size(); ++p) {
    score.mean += right[p];
    score.by_task[problems[p].task] += right[p];
    ++n_by_task[problems[p].task];
  }
  score.mean /= static_cast<double>(problems.size());
  for (auto& [task, value] : score.by_task) value /= n_by_task[task];
  return score;
}

nlohmann::json reference() { return nlohmann::json::parse(std::ifstream(nano + "/accuracy.json")); }

}  // namespace

TEST_CASE("r1-nano at exact is as accurate as its FP8 weights in the reference") {
  const Score score = measure(quantize("exact"));
  INFO("mean ", score.mean);
  CHECK(std::abs(score.mean - reference()["mean"].get<double>()) <= 0.005);
}

TEST_CASE("r1-nano at r4.5 is within two points of its FP8 weights") {
  const Score score = measure(quantize("r4.5"));
  INFO("mean ", score.mean);
  CHECK(std::abs(score.mean - reference()["mean"].get<double>()) <= 0.02);
}

TEST_CASE("r1-nano at r4.5 with a q8 cache is within two points of its FP8 weights") {
  const Score score = measure(quantize("r4.5", "-q8"), r1::KvCacheType::q8);
  MESSAGE("mean ", score.mean);
  CHECK(std::abs(score.mean - reference()["mean"].get<double>()) <= 0.02);
}

// For the table in README.md: tests_nano --no-skip --test-case="*table*"
TEST_CASE("table of accuracy by recipe" * doctest::skip()) {
  const auto expected = reference();
  std::printf("| recipe | mean |");
  for (const auto& [task, value] : expected["accuracy"].items()) std::printf(" %s |", task.c_str());
  std::printf("\n| FP8, reference | %.1f |", 100 * expected["mean"].get<double>());
  for (const auto& [task, value] : expected["accuracy"].items()) std::printf(" %.0f |", 100 * value.get<double>());
  std::printf("\n");
  for (const char* recipe : {"exact", "w8", "r4.5", "r3.5", "r2.7", "r2.5", "r2.2", "r2.2s"}) {
    const Score score = measure(quantize(recipe));
    std::printf("| %s | %.1f |", recipe, 100 * score.mean);
    for (const auto& [task, value] : expected["accuracy"].items()) std::printf(" %.0f |", 100 * score.by_task.at(task));
    std::printf("\n");
    std::fflush(stdout);
    CHECK(score.mean > 0.2);
  }
}
