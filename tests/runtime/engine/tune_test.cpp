// What r1 tune measures and remembers.
#include <doctest/doctest.h>
#include <r1/session.h>
#include <r1/tune.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "model_dirs.h"

using namespace r1;

namespace {

std::string write(const std::string& name, const std::string& text) {
  const std::string path = test::temporary_directory() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

}  // namespace

TEST_CASE("a tuning is found by machine and model, and replaced") {
  const std::string model = test::directory_of("llama", "r2.7"), other = test::directory_of("qwen2", "r2.7");
  const std::string file = test::temporary_directory() + "/new/folder/tune.json";
  const auto find = [&](const std::string& path) {
    const auto found = find_tuning(file, path);
    REQUIRE_MESSAGE(found.ok(), (found.ok() ? "" : found.error().text()));
    return *found;
  };
  CHECK_FALSE(find(model).has_value());
  REQUIRE(store_tuning(file, model, {3, 7, LoadMode::map}).ok());
  CHECK_FALSE(find(other).has_value());
  REQUIRE(store_tuning(file, other, {1, 0, LoadMode::read_if_fits}).ok());
  REQUIRE(store_tuning(file, model, {4, 8, LoadMode::read_if_fits}).ok());
  const auto found = find(model), second = find(other);
  REQUIRE(found.has_value());
  REQUIRE(second.has_value());
  CHECK(found->decode_threads == 4);
  CHECK(found->prefill_threads == 8);
  CHECK(found->load == LoadMode::read_if_fits);
  CHECK(second->decode_threads == 1);
  // A model converted anew is another one.
  const std::string moved = test::temporary_directory() + "/other-recipe";
  std::filesystem::create_directories(moved);
  std::ofstream(moved + "/config.json") << "{}";
  CHECK_FALSE(find(moved).has_value());
  std::filesystem::copy_file(model + "/config.json", moved + "/config.json",
                             std::filesystem::copy_options::overwrite_existing);
  CHECK(find(moved)->decode_threads == 4);
}

TEST_CASE("a bad tuning file is an error that names it, and is not overwritten") {
  const std::string model = test::directory_of("llama", "r2.7");
  const std::string entry = R"({"machine": "m", "model": "x", "decode_threads": 1, "prefill_threads": 0, "load": )";
  for (
      const std::string& text : std::vector<std::string>{
          "", "{", "[]", "null", "{}", R"({"version": 2, "tunings": []})", R"({"version": 1})",
          R"({"version": 1, "tunings": {}})", R"({"version": 1, "tunings": [7]})", R"({"version": 1, "tunings": [{}]})",
          R"({"version": 1, "tunings": [)" + entry + R"("fast"}]})",
          R"({"version": 1, "tunings": [)" + entry + R"("map", "prefill_threads": -1}]})",
          R"({"version": 1, "tunings": [{"machine": "m", "model": "x", "decode_threads": 99999, "prefill_threads": 0, "load": "map"}]})",
          "\xff\xfe"}) {
    CAPTURE(text);
    const std::string file = write("bad.json", text);
    for (const bool store : {false, true}) {
      std::string message;
      if (store) {
        const auto result = store_tuning(file, model, {1, 1, LoadMode::map});
        if (!result.ok()) message = result.error().text();
      } else {
        const auto result = find_tuning(file, model);
        if (!result.ok()) message = result.error().text();
      }
      CHECK(message.find("bad.json") != std::string::npos);
    }
    std::ifstream in(file, std::ios::binary);
    CHECK(std::string(std::istreambuf_iterator<char>(in), {}) == text);
  }
  CHECK_FALSE(store_tuning("/proc/r1rt/tune.json", model, {}).ok());
  CHECK_FALSE(store_tuning(test::temporary_directory() + "/tune.json", "/nonexistent", {}).ok());
}

TEST_CASE("settings lie where the XDG specification puts them") {
  const auto with = [](const char* xdg, const char* home) {
    xdg == nullptr ? ::unsetenv("XDG_CONFIG_HOME") : ::setenv("XDG_CONFIG_HOME", xdg, 1);
    home == nullptr ? ::unsetenv("HOME") : ::setenv("HOME", home, 1);
    const auto file = tuning_file();
    return file.ok() ? *file : std::string();
  };
  CHECK(with("/x", "/home/me") == "/x/r1rt/tune.json");
  CHECK(with("relative", "/home/me") == "/home/me/.config/r1rt/tune.json");
  CHECK(with(nullptr, "/home/me") == "/home/me/.config/r1rt/tune.json");
  CHECK(with("", nullptr).empty());
}

TEST_CASE("tune measures every candidate in every round") {
  TuneOptions options;
  options.model_path = test::directory_of("deepseek-v3-fp8", "r2.7");
  int last = 0, total = 0;
  options.on_round = [&](int round, int n_rounds) {
    CHECK(round == last + 1);
    last = round;
    total = n_rounds;
  };
  const auto report = tune(options);
  REQUIRE_MESSAGE(report.ok(), (report.ok() ? "" : report.error().text()));
  CHECK(last == total);
  for (const char* phase : {"load", "decode", "prefill"}) {
    CAPTURE(phase);
    int n = 0, n_best = 0, n_default = 0;
    for (const TuneMeasurement& m : report->measurements) {
      if (m.phase != phase) continue;
      ++n;
      n_best += m.is_best;
      n_default += m.is_default;
      CHECK(m.tokens_per_s > 0);
      CHECK(m.lowest <= m.tokens_per_s);
      CHECK(m.highest >= m.tokens_per_s);
    }
    CHECK(n >= 1);
    CHECK(n_best == 1);
    CHECK(n_default == 1);
  }
  options.model_path = "/nonexistent";
  options.on_round = nullptr;
  CHECK_FALSE(tune(options).ok());
}

TEST_CASE("threads of a prefill are their own, and change no bit") {
  const auto model = test::open_model("deepseek-v3-fp8", "r2.7");
  const std::vector<Token> prompt = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
  std::vector<float> expected;
  for (const int prefill_threads : {0, 1, 2, 3}) {
    for (const int n_threads : {1, 2}) {
      SessionOptions options;
      options.n_threads = n_threads;
      options.prefill_threads = prefill_threads;
      auto session = Session::create(model, options);
      REQUIRE(session.ok());
      REQUIRE(session->append(prompt).ok());
      REQUIRE(session->append(std::span(prompt).first(1)).ok());
      REQUIRE(session->append(prompt).ok());
      if (expected.empty()) expected.assign(session->logits().begin(), session->logits().end());
      CHECK(std::memcmp(session->logits().data(), expected.data(), expected.size() * sizeof(float)) == 0);
    }
  }
  SessionOptions bad;
  bad.prefill_threads = -1;
  CHECK_FALSE(Session::create(model, bad).ok());
}
