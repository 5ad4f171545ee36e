// What a user can get wrong: one clear line on standard error, and the right exit code.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "program.h"

namespace {

const std::string model = R1_NANO_MODEL;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// One line, from the program, that names what is wrong.
void check_error(const ProgramResult& result, int exit_code, const std::string& part) {
  CAPTURE(result.out);
  CAPTURE(result.err);
  CHECK(result.exit_code == exit_code);
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  CHECK(result.err.starts_with("r1: "));
  CHECK(contains(result.err, part));
}

std::vector<std::string> ask(std::vector<std::string> extra) {
  std::vector<std::string> arguments = {"run", model, "-p", "What is 2 + 3?", "-n", "4", "-q"};
  arguments.insert(arguments.end(), extra.begin(), extra.end());
  return arguments;
}

}  // namespace

TEST_CASE("help and version") {
  const auto version = run_r1({"--version"});
  CHECK(version.exit_code == 0);
  CHECK(version.out.starts_with("r1 "));
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{{"--help"},
                                                                                         {"run", "--help"},
                                                                                         {"chat", "-h"},
                                                                                         {"tokenize", "--help"},
                                                                                         {"render", "--help"},
                                                                                         {"trace", "--help"},
                                                                                         {"info", "--help"},
                                                                                         {"doctor", "--help"}}) {
    const auto help = run_r1(arguments);
    CHECK(help.exit_code == 0);
    CHECK(help.err.empty());
    CHECK(contains(help.out, "Usage: "));
    // Fits a terminal, and speaks of no C++ type.
    CHECK(!contains(help.out, "INT:"));
    CHECK(!contains(help.out, "UINT"));
  }
  CHECK(contains(run_r1({"--help"}).out, "chat"));
  CHECK(contains(run_r1({"run", "--help"}).out, "--repetition-penalty"));
}

TEST_CASE("wrong usage exits 2 and names the option") {
  check_error(run_r1({}), 2, "subcommand");
  check_error(run_r1({"frobnicate"}), 2, "frobnicate");
  check_error(run_r1({"run"}), 2, "MODEL");
  check_error(run_r1({"run", model, "--frobnicate"}), 2, "--frobnicate");
  check_error(run_r1({"run", model}), 2, "--prompt");
  check_error(run_r1({"run", model, "-p", "x", "-f", "y"}), 2, "--prompt");
  for (const char* bad : {"0", "-1", "9999", "two", "99999999999999999999"})
    check_error(run_r1(ask({"--threads", bad})), 2, "--threads");
  for (const char* bad : {"0", "-1", "x"}) check_error(run_r1(ask({"--ctx", bad})), 2, "--ctx");
  for (const char* bad : {"0", "5000"}) check_error(run_r1(ask({"--batch", bad})), 2, "--batch");
  for (const char* bad : {"0", "-3", "1e3"}) check_error(run_r1(ask({"--max-tokens", bad})), 2, "--max-tokens");
  check_error(run_r1(ask({"--kv-type", "f8"})), 2, "--kv-type");
  check_error(run_r1(ask({"--load", "mmap"})), 2, "--load");
  check_error(run_r1(ask({"--seed", "-1"})), 2, "--seed");
  check_error(run_r1({"trace", model, "--out", "x"}), 2, "--ids");
  for (const char* bad : {"", "5,x", "5,,7", "5,", ",5", "5 7", "99999999999"}) {
    check_error(run_r1({"trace", model, "--ids", bad, "--out", "x"}), 2, "--ids");
  }
  check_error(run_r1({"trace", model, "--ids", "5", "--batches", "0x1", "--out", "x"}), 2, "--batches");
  check_error(run_r1({"trace", model, "--ids", "5,7", "--start", "-1", "--out", "x"}), 2, "--start");
  check_error(run_r1({"trace", model, "--ids", "5,7", "--start", "4294967295", "--out", "x"}), 2, "--start");
  check_error(run_r1({"render", model}), 2, "--jsonl");
}

TEST_CASE("more threads than processors: a warning, and the same answer") {
  const auto usual = run_r1(ask({"--greedy", "--threads", "1"}));
  const auto many = run_r1(ask({"--greedy", "--threads", std::to_string(std::thread::hardware_concurrency() + 1)}));
  CHECK(usual.exit_code == 0);
  CHECK(usual.err.empty());
  CHECK(many.exit_code == 0);
  CHECK(many.out == usual.out);
  CHECK(std::count(many.err.begin(), many.err.end(), '\n') == 1);
  CHECK(contains(many.err, "more threads than processors"));
}

TEST_CASE("sampling options out of range are named") {
  const char* const cases[][2] = {{"--temperature", "-1"},
                                  {"--temperature", "nan"},
                                  {"--top-p", "0"},
                                  {"--top-p", "1.5"},
                                  {"--top-k", "-1"},
                                  {"--min-p", "2"},
                                  {"--repetition-penalty", "0"},
                                  {"--presence-penalty", "3"},
                                  {"--frequency-penalty", "-3"},
                                  {"--logit-bias", "5=1000"},
                                  {"--logit-bias", "-5=1"}};
  for (const auto& [option, value] : cases) {
    std::string name = std::string(option).substr(2);
    std::replace(name.begin(), name.end(), '-', '_');
    check_error(run_r1(ask({option, value})), 2, name);
  }
  for (const char* bad : {"5", "=1", "5=", "5=x", "x=1", "5=1x", ""}) {
    check_error(run_r1(ask({"--logit-bias", bad})), 2, "--logit-bias");
  }
  check_error(run_r1(ask({"--logit-bias", "2000000000=1"})), 2, "logit_bias");
  check_error(run_r1(ask({"--stop", ""})), 2, "stop");
}

TEST_CASE("models that are none") {
  check_error(run_r1({"run", "/nonexistent/model", "-p", "x"}), 1, "/nonexistent/model");
  check_error(run_r1({"info", "/dev/null"}), 1, "/dev/null");
  // A checkpoint that was not converted.
  for (const std::string command : {"info", "chat"}) {
    check_error(run_r1({command, R1_FIXTURES "/models/qwen2"}), 1, "r1-quantize");
  }
  check_error(run_r1({"run", R1_SOURCE_DIR "/examples/r1-nano", "-p", "x"}), 1, "r1-quantize");
  check_error(run_r1({"tokenize", "/nonexistent"}), 1, "/nonexistent");
  check_error(run_r1(ask({"--template", "frobnicate"})), 2, "frobnicate");
  check_error(run_r1({"render", model, "--template", "frobnicate", "-p", "x"}), 2, "frobnicate");
}

TEST_CASE("a KV cache that no memory holds is refused before anything starts with the numbers") {
  const std::filesystem::path roomy = std::filesystem::path(R1_WORK_DIR) / ("roomy-" + std::to_string(::getpid()));
  std::filesystem::copy(model, roomy, std::filesystem::copy_options::recursive);
  std::ifstream in(roomy / "config.json");
  nlohmann::json config = nlohmann::json::parse(in);
  in.close();
  config["max_position_embeddings"] = 1 << 28;  // 5,760 bytes each in f32
  std::ofstream(roomy / "config.json") << config;
  const std::vector<std::string> arguments = {"run", roomy,   "-p",        "What is 2 + 3?", "-n", "4",
                                              "-q",  "--ctx", "268435456", "--kv-type",      "f32"};
  const auto refused = run_r1(arguments);
  check_error(refused, 1, "a KV cache of 268435456 tokens needs 1440.00 GiB (5760 bytes a token)");
  CHECK(refused.out.empty());

  // What it offers instead fits.
  const std::string offer = "at most ";
  const auto at = refused.err.find(offer);
  REQUIRE(at != std::string::npos);
  CHECK(std::stoull(refused.err.substr(at + offer.size())) > 0);
  CHECK(run_r1({"run", roomy, "-p", "What is 2 + 3?", "-n", "4", "-q"}).exit_code == 0);
  std::filesystem::remove_all(roomy);
}

TEST_CASE("instruction sets") {
  check_error(run_r1(ask({"--isa", "frobnicate"})), 2, "frobnicate");
  check_error(run_r1(ask({}), {.standard_input = {}, .environment = {{"R1_ISA", "frobnicate"}}, .standard_output = {}}),
              2, "R1_ISA");
  check_error(run_r1({"doctor", "--quick"},
                     {.standard_input = {}, .environment = {{"R1_ISA", "frobnicate"}}, .standard_output = {}}),
              2, "frobnicate");
  const auto doctor = run_r1({"doctor", "--quick", "--json"});
  REQUIRE(doctor.exit_code == 0);
  const auto kernels = nlohmann::json::parse(doctor.out)["kernels"];
  int n_used = 0;
  for (const auto& kernel : kernels) {
    const std::string isa = kernel["isa"], reason = kernel["reason"];
    CAPTURE(isa);
    n_used += kernel["used"].get<bool>() ? 1 : 0;
    const auto result = run_r1(ask({"--isa", isa}));
    if (reason == "used" || reason == "supported") {
      CHECK(result.exit_code == 0);
    } else {
      check_error(result, 2, isa);
      check_error(run_r1(ask({}), {.standard_input = {}, .environment = {{"R1_ISA", isa}}, .standard_output = {}}), 2,
                  isa);
    }
  }
  CHECK(n_used == 1);
}

TEST_CASE("prompts that cannot be") {
  check_error(run_r1({"run", model, "-p", ""}), 2, "empty");
  check_error(run_r1({"run", model, "-f", "-"}), 2, "empty");
  check_error(run_r1({"run", model, "-f", "/nonexistent/prompt"}), 1, "/nonexistent/prompt");
  check_error(run_r1({"run", model, "-p", "bad \xff byte"}), 2, "UTF-8");
  check_error(run_r1({"run", model, "--raw", "-p", "bad \xc3"}), 2, "UTF-8");
  check_error(run_r1({"run", model, "-p", "x", "--system", "bad \xff byte"}), 2, "UTF-8");
  const auto full = run_r1({"run", model, "-p", "What is 2 + 3?", "--ctx", "4"});
  check_error(full, 1, "the context holds 4");

  // 200,000 characters do not fit a context of 4,096 tokens, and say so.
  std::string long_text;
  while (long_text.size() < 200000) long_text += "abc defgh ";
  check_error(run_r1({"run", model, "-f", "-", "--ctx", "4096"},
                     {.standard_input = long_text, .environment = {}, .standard_output = {}}),
              1, "the context holds 4096");
  // NUL is a character like any other.
  CHECK(run_r1({"run", model, "-f", "-", "-n", "2", "-q"},
               {.standard_input = std::string("a\0b", 3), .environment = {}, .standard_output = {}})
            .exit_code == 0);
}

TEST_CASE("output that cannot be written is an error") {
  for (const char* target : {"/dev/full", "closed"}) {
    const ProgramInput input = {.standard_input = {}, .environment = {}, .standard_output = target};
    CAPTURE(std::string(target));
    check_error(run_r1(ask({}), input), 1, "standard output");
    check_error(run_r1(ask({"--json"}), input), 1, "standard output");
    check_error(run_r1({"info", model}, input), 1, "standard output");
    check_error(run_r1({"doctor", "--quick"}, input), 1, "standard output");
    check_error(run_r1({"tokenize", model, "-p", "x"}, input), 1, "standard output");
    check_error(run_r1({"--help"}, input), 1, "standard output");
  }
  check_error(run_r1({"trace", model, "--ids", "5,7", "--out", "/nonexistent/trace.safetensors"}), 1,
              "/nonexistent/trace.safetensors");
}
