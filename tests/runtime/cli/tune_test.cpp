// r1 tune, and what the other commands make of the file it writes.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "program.h"

namespace {

const std::string model = R1_NANO_MODEL;

}  // namespace

TEST_CASE("tune stores what it found, run uses it, a bad file is a warning") {
  const std::string folder = std::string(R1_WORK_DIR) + "/tune-" + std::to_string(::getpid());
  const std::string file = folder + "/r1rt/tune.json";
  std::filesystem::remove_all(folder);
  ProgramInput input;
  input.environment = {{"XDG_CONFIG_HOME", folder}};
  const std::vector<std::string> ask = {"run", model, "-p", "What is 2 + 3?", "-n", "4", "-q", "--greedy"};
  const auto before = run_r1(ask, input);
  CHECK(before.exit_code == 0);
  CHECK_FALSE(std::filesystem::exists(file));

  CHECK(run_r1({"tune", model, "--dry-run"}, input).exit_code == 0);
  CHECK_FALSE(std::filesystem::exists(file));
  const auto tuned = run_r1({"tune", model, "--json"}, input);
  CHECK(tuned.exit_code == 0);
  CHECK(tuned.err.empty());
  const auto json = nlohmann::json::parse(tuned.out);
  CHECK(json["file"] == file);
  CHECK(json["measurements"].size() >= 4);
  const auto after = run_r1(ask, input);
  CHECK(after.err.empty());
  CHECK(after.out == before.out);

  // A number that cannot be.
  std::ifstream in(file);
  auto stored = nlohmann::json::parse(in);
  CHECK(stored["tunings"].size() == 1);
  stored["tunings"][0]["decode_threads"] = 4096;
  std::ofstream(file) << stored;
  const auto bad = run_r1(ask, input);
  CHECK(bad.exit_code == 0);
  CHECK(bad.out == before.out);
  CHECK(std::count(bad.err.begin(), bad.err.end(), '\n') == 1);
  CHECK(bad.err.find("tune.json: tunings[0]: decode_threads") != std::string::npos);
  CHECK(bad.err.find("going on without it") != std::string::npos);
  const auto refused = run_r1({"tune", model}, input);
  CHECK(refused.exit_code == 1);
  CHECK(refused.err.find("tune.json") != std::string::npos);

  CHECK(run_r1({"tune"}, input).exit_code == 2);
  CHECK(run_r1({"tune", "/nonexistent", "--dry-run"}, input).exit_code == 1);
  std::filesystem::remove_all(folder);
}

TEST_CASE("how the weights are loaded changes no word") {
  const std::vector<std::string> ask = {"run", model, "-p", "What is 2 + 3?", "-n", "16", "-q", "--greedy", "--load"};
  std::vector<std::string> answers;
  for (const char* mode : {"map", "read", "auto"}) {
    auto arguments = ask;
    arguments.emplace_back(mode);
    const auto result = run_r1(arguments);
    CHECK(result.exit_code == 0);
    answers.push_back(result.out);
  }
  CHECK(answers[0] == answers[1]);
  CHECK(answers[0] == answers[2]);
}
