// What the program answers: runs, conversations, JSON, ids. The model is r1-nano at r4.5.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "program.h"

namespace {

using nlohmann::json;

const std::string model = R1_NANO_MODEL;
const std::string question = "What is 4817 + 2956?";

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

json run_json(std::vector<std::string> arguments) {
  std::vector<std::string> all = {"run", model, "--json"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  const auto result = run_r1(all);
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(std::count(result.out.begin(), result.out.end(), '\n') == 1);
  return json::parse(result.out);  // throws, and so fails, on invalid JSON or UTF-8
}

ProgramResult chat(const std::string& lines, std::vector<std::string> arguments = {}) {
  std::vector<std::string> all = {"chat", model, "--greedy"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return run_r1(all, {.standard_input = lines, .environment = {}, .standard_output = {}});
}

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// A path in a folder of this process, which goes with it.
std::string scratch_file(const std::string& name) {
  struct Folder {
    std::filesystem::path path = std::filesystem::path(R1_WORK_DIR) / ("files-" + std::to_string(::getpid()));
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() { std::filesystem::remove_all(path); }
  };
  static const Folder folder;
  return (folder.path / name).string();
}

}  // namespace

TEST_CASE("run: thoughts and answer, streamed and as JSON, are the same") {
  const json object = run_json({"-p", question, "--greedy"});
  const std::string thinking = object["thinking"], answer = object["answer"];
  CHECK(!thinking.empty());
  CHECK(!answer.empty());
  CHECK(object["stop_reason"] == "end_token");
  CHECK(object["n_generated_tokens"] == object["tokens"].size());
  CHECK(object["n_prompt_tokens"].get<int>() > 3);
  CHECK(object["timings"]["generated_tokens_per_second"].get<double>() > 0);

  const auto plain = run_r1({"run", model, "-p", question, "--greedy"});
  CHECK(plain.exit_code == 0);
  CHECK(plain.out == "<think>\n" + thinking + "\n</think>\n\n" + answer + "\n");
  CHECK(contains(plain.err, "tok/s"));
  CHECK(std::count(plain.err.begin(), plain.err.end(), '\n') == 1);

  const auto hidden = run_r1({"run", model, "-f", "-", "--greedy", "--hide-thinking", "--quiet"},
                             {.standard_input = question + "\n", .environment = {}, .standard_output = {}});
  CHECK(hidden.out == answer + "\n");
  CHECK(hidden.err.empty());

  const json at_once = run_json({"-p", question, "--greedy", "--no-think"});
  CHECK(at_once["thinking"] == "");
  CHECK(at_once["n_prompt_tokens"].get<int>() > object["n_prompt_tokens"].get<int>());
}

TEST_CASE("run: the same seed gives the same text with any number of threads") {
  const json first = run_json({"-p", question, "--seed", "7", "--temperature", "1.5", "--threads", "1", "-n", "60"});
  CHECK(first["seed"] == 7);
  for (const char* threads : {"2", "3"}) {
    const json again =
        run_json({"-p", question, "--seed", "7", "--temperature", "1.5", "--threads", threads, "-n", "60"});
    CHECK(again["tokens"] == first["tokens"]);
  }
  const json other = run_json({"-p", question, "--seed", "8", "--temperature", "1.5", "-n", "60"});
  CHECK(other["tokens"] != first["tokens"]);
  // Without --seed, the one that was drawn is told, and gives the same text again.
  const json drawn = run_json({"-p", question, "--temperature", "1.5", "-n", "40"});
  const json repeated = run_json({"-p", question, "--temperature", "1.5", "-n", "40", "--seed",
                                  std::to_string(drawn["seed"].get<std::uint64_t>())});
  CHECK(drawn["tokens"] == repeated["tokens"]);
  CHECK(run_json({"-p", question, "--greedy", "--seed", "1"})["tokens"] ==
        run_json({"-p", question, "--temperature", "0", "--seed", "2", "--batch", "5"})["tokens"]);
}

TEST_CASE("run: what ends an answer") {
  const json whole = run_json({"-p", question, "--greedy"});
  const std::string thinking = whole["thinking"];
  const json some = run_json({"-p", question, "--greedy", "-n", "5"});
  CHECK(some["stop_reason"] == "max_tokens");
  CHECK(some["n_generated_tokens"] == 5);
  CHECK(std::equal(some["tokens"].begin(), some["tokens"].end(), whole["tokens"].begin()));

  // A stop string taken from the middle of the thoughts, which no token boundary respects.
  const std::string stop = thinking.substr(thinking.size() / 2, 5);
  const json stopped = run_json({"-p", question, "--greedy", "--stop", stop, "--stop", "never to be seen"});
  CHECK(stopped["stop_reason"] == "stop_string");
  CHECK(stopped["thinking"].get<std::string>() + stop == thinking.substr(0, thinking.find(stop) + stop.size()));

  const json full = run_json({"-p", question, "--greedy", "--ignore-eos", "--ctx", "300"});
  CHECK(full["stop_reason"] == "context_full");
  CHECK(full["n_prompt_tokens"].get<int>() + full["n_generated_tokens"].get<int>() ==
        301);  // the last has no room left
}

TEST_CASE("run: bias, penalties and raw text reach the sampler") {
  const json whole = run_json({"-p", question, "--greedy"});
  const int first = whole["tokens"][0];
  const json biased =
      run_json({"-p", question, "--greedy", "-n", "1", "--logit-bias", std::to_string(first) + "=-100"});
  CHECK(biased["tokens"][0] != first);
  const json forced =
      run_json({"-p", question, "--greedy", "-n", "4", "--logit-bias", "300=100", "--logit-bias", "301=-1"});
  CHECK(forced["tokens"] == json({300, 300, 300, 300}));
  const json penalised = run_json({"-p", question, "--greedy", "-n", "2", "--logit-bias", "300=30", "--logit-bias",
                                   "301=29.5", "--presence-penalty", "2", "--frequency-penalty", "2"});
  CHECK(penalised["tokens"][0] != penalised["tokens"][1]);

  // Raw text gets no template, and its special tokens are recognised: the rendered prompt given raw is the prompt.
  const auto rendered = run_r1({"render", model, "-p", question});
  REQUIRE(rendered.exit_code == 0);
  const std::string prompt = rendered.out.substr(0, rendered.out.size() - 1);
  const json raw = run_json({"--raw", "-p", prompt, "--greedy"});
  CHECK(raw["n_prompt_tokens"] == whole["n_prompt_tokens"]);
  CHECK(raw["tokens"] == whole["tokens"]);
  CHECK(raw["thinking"] == "");  // all of it is continuation
  CHECK(contains(raw["answer"].get<std::string>(), "</think>"));
  CHECK(run_r1({"tokenize", model, "-p", prompt}).out.starts_with("0 "));
  // What a user writes is never parsed: the same text as a question is longer than the question.
  CHECK(run_json({"-p", "<｜User｜>", "-n", "1"})["n_prompt_tokens"].get<int>() >
        run_json({"-p", "U", "-n", "1"})["n_prompt_tokens"].get<int>());
}

TEST_CASE("chat: piped questions, commands and conversations that go on") {
  // Short steps and long ones round differently in other caches, and a greedy choice between near equals may follow
  // either; with f32 a token's bits do not depend on the step it came in, but for AMX, whose wide batches round
  // differently, too.
  const std::vector<std::string> exact_cache = {"--kv-type", "f32", "--isa", "avx2"};
  const auto with_exact_cache = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), exact_cache.begin(), exact_cache.end());
    return arguments;
  };
  const std::string saved = scratch_file("conversation.json");
  const auto talk = chat(
      question + "\n/stats\nWhat is 12 + 30?\n/save " + saved + "\n/think\nWhat is 1 + 1?\n/help\n/exit\nnot asked\n",
      exact_cache);
  CHECK(talk.exit_code == 0);
  CHECK(talk.err.empty());
  CHECK(contains(talk.out, "context: "));
  CHECK(contains(talk.out, "/save FILE"));
  CHECK(contains(talk.out, "(saved to " + saved + ")"));
  const std::string folded = talk.out.substr(talk.out.find("(thoughts are folded)"));
  CHECK(!contains(folded, "<think>"));

  json conversation = json::parse(read_file(saved));
  const json messages = conversation["messages"];
  REQUIRE(messages.size() == 4);
  CHECK(messages[0] == json({{"role", "user"}, {"content", question}}));
  CHECK(messages[1]["thinking"] == run_json(with_exact_cache({"-p", question, "--greedy"}))["thinking"]);
  CHECK(contains(talk.out, messages[3]["content"].get<std::string>()));

  // The second answer came from a cache that was rewound and refilled: a fresh start from the first turn gives the
  // same.
  conversation["messages"].erase(conversation["messages"].begin() + 2, conversation["messages"].end());
  const std::string first_turn = scratch_file("first_turn.json"), second = scratch_file("second.json");
  std::ofstream(first_turn) << conversation;
  const auto resumed = chat("What is 12 + 30?\n/save " + second + "\n", with_exact_cache({"--resume", first_turn}));
  CHECK(resumed.exit_code == 0);
  CHECK(json::parse(read_file(second))["messages"] == messages);

  // /reset forgets: the same question has the same answer as at the start.
  const auto reset = chat("What is 12 + 30?\n/reset\n" + question + "\n/save " + second + "\n", exact_cache);
  CHECK(reset.exit_code == 0);
  const json after_reset = json::parse(read_file(second))["messages"];
  REQUIRE(after_reset.size() == 2);
  CHECK(after_reset[1] == messages[1]);
}

TEST_CASE("chat: lines that go on, slashes, and mistakes") {
  const std::string saved = scratch_file("lines.json");
  const auto talk = chat("What is \\\n2 + 2?\n//think\n/save " + saved + "\n");
  CHECK(talk.exit_code == 0);
  const json messages = json::parse(read_file(saved))["messages"];
  CHECK(messages[0]["content"] == "What is \n2 + 2?");
  CHECK(messages[2]["content"] == "/think");

  const auto mistakes = chat("/frobnicate\nbad \xff byte\n/save\n/save /nonexistent/file\n" + question);
  CHECK(mistakes.exit_code == 1);
  CHECK(std::count(mistakes.err.begin(), mistakes.err.end(), '\n') == 4);
  for (const char* part : {"/frobnicate", "UTF-8", "/save needs a file", "/nonexistent/file"})
    CHECK(contains(mistakes.err, part));
  CHECK(contains(mistakes.out, run_json({"-p", question, "--greedy"})["answer"].get<std::string>()));

  const auto full = chat(question + "\n" + question + "\n", {"--ctx", "64"});
  CHECK(contains(full.out + full.err, "/reset"));

  CHECK(chat("").exit_code == 0);
  const std::string broken = scratch_file("broken.json");
  for (const char* text : {"", "[]", "{\"messages\": 1}", "{\"messages\": [{}]}",
                           "{\"messages\": [{\"role\": \"x\", \"content\": \"\"}]}"}) {
    std::ofstream(broken) << text;
    const auto result = chat("", {"--resume", broken});
    CHECK(result.exit_code == 1);
    CHECK(contains(result.err, "broken.json"));
  }
  const auto warned = chat(question + "\n" + question + "\n", {"--system", "Be brief."});
  CHECK(warned.exit_code == 0);
  CHECK(std::count(warned.err.begin(), warned.err.end(), '\n') == 1);
  CHECK(contains(warned.err, "warning"));
}

TEST_CASE("chat: a person at a terminal") {
  const std::string state = scratch_file("state");
  TerminalProgram program({"chat", model, "--greedy", "--ignore-eos", "--ctx", "100000"},
                          {{"XDG_STATE_HOME", state}, {"TERM", "xterm"}, {"NO_COLOR", ""}});
  REQUIRE_MESSAGE(program.shows("Ctrl-D leaves"), program.screen());
  REQUIRE_MESSAGE(program.shows("> "), program.screen());
  program.type(question + "\r");
  REQUIRE_MESSAGE(program.shows("\033[2m"), program.screen());  // the thought, dimmed
  REQUIRE_MESSAGE(program.shows("4817"), program.screen());
  program.type("\x03");
  REQUIRE_MESSAGE(program.shows("(stopped)"), program.screen());
  REQUIRE_MESSAGE(program.shows("> "), program.screen());
  program.type("half a line\x03");  // drops the line, not the program
  REQUIRE_MESSAGE(program.shows("> "), program.screen());
  program.type("/stats\r");
  REQUIRE_MESSAGE(program.shows("context: "), program.screen());
  REQUIRE_MESSAGE(program.shows("> "), program.screen());
  program.type("2 加 2 等\x7f\x7f\x7f\x7f 2?\r");  // backspace removes whole characters
  REQUIRE_MESSAGE(program.shows("\033[2m"), program.screen());
  program.type("\x03");
  REQUIRE_MESSAGE(program.shows("(stopped)"), program.screen());
  REQUIRE_MESSAGE(program.shows("> "), program.screen());
  program.type("\x1b[A");  // the line before, from the history
  REQUIRE_MESSAGE(program.shows("2 加 2?"), program.screen());
  program.type("\x01\x0b");  // to its start, and kill it
  program.type("\x04");
  const int code = program.wait();
  CAPTURE(program.screen());
  CHECK(code == 0);
  CHECK(contains(read_file(state + "/r1rt/history"), "/stats"));
}

TEST_CASE("tokenize and render: one line in, one line out, as the vectors have it") {
  // DeepSeek-R1's own tokenizer and template; the tokenizer's tests have the rest.
  const std::string folder = R1_FIXTURES "/tokenizers/DeepSeek-R1";
  std::ifstream texts(R1_FIXTURES "/tokenizer/texts.jsonl"), ids(R1_FIXTURES "/tokenizer/deepseek-r1.jsonl");
  std::string parsed_input;
  std::vector<json> lines, expected;
  for (std::string line; std::getline(texts, line);) {
    lines.push_back(json::parse(line));
    parsed_input += lines.back().dump() + "\n";
  }
  for (std::string line; std::getline(ids, line);) expected.push_back(json::parse(line));
  REQUIRE(lines.size() == expected.size());
  for (const bool literal : {false, true}) {
    std::vector<std::string> arguments = {"tokenize", folder, "--jsonl"};
    if (literal) arguments.push_back("--literal");
    const auto result = run_r1(arguments, {.standard_input = parsed_input, .environment = {}, .standard_output = {}});
    REQUIRE(result.exit_code == 0);
    std::istringstream out(result.out);
    std::string line;
    for (const json& e : expected) {
      REQUIRE(std::getline(out, line));
      const json got = json::parse(line);
      CHECK(got["id"] == e["id"]);
      CHECK(got["ids"] == (literal && e.contains("literal") ? e["literal"] : e["parsed"]));
    }
    CHECK(!std::getline(out, line));
  }

  std::ifstream prompts(R1_FIXTURES "/templates/deepseek-r1.jsonl");
  std::string conversations;
  std::vector<json> rendered;
  for (std::string line; std::getline(prompts, line);) {
    rendered.push_back(json::parse(line));
    conversations += line + "\n\n";  // empty lines are passed over
  }
  const auto result = run_r1({"render", folder, "--jsonl"},
                             {.standard_input = conversations, .environment = {}, .standard_output = {}});
  REQUIRE(result.exit_code == 0);
  std::istringstream out(result.out);
  std::string line;
  for (const json& e : rendered) {
    REQUIRE(std::getline(out, line));
    const json got = json::parse(line);
    CHECK(got["id"] == e["id"]);
    CHECK(got.contains("error") == e.contains("error"));
    if (e.contains("error")) continue;
    CHECK(got["text"] == e["text"]);
    CHECK(got["ids"] == e["ids"]);
  }

  for (const std::string bad :
       {"not json", "{\"text\": \"a\"", "[1]", "{\"id\": 1}", "{\"text\": 5}", "{\"text\": \"\xff\"}"}) {
    const auto error = run_r1(
        {"tokenize", folder, "--jsonl"},
        {.standard_input = "{\"id\": 1, \"text\": \"a\"}\n" + bad + "\n", .environment = {}, .standard_output = {}});
    CHECK(error.exit_code == 1);
    CHECK(contains(error.err, "line 2"));
  }
  const auto invalid =
      run_r1({"tokenize", folder}, {.standard_input = "a\xff", .environment = {}, .standard_output = {}});
  CHECK(invalid.exit_code == 2);
  CHECK(contains(invalid.err, "UTF-8"));
}

TEST_CASE("trace: what the model saw is what it says next") {
  const auto ids = run_r1({"tokenize", model, "--add-special", "-p", "What is 2 + 3?"});
  REQUIRE(ids.exit_code == 0);
  std::string list = ids.out.substr(0, ids.out.size() - 1);
  std::replace(list.begin(), list.end(), ' ', ',');
  const auto n_tokens = static_cast<std::uint64_t>(std::count(list.begin(), list.end(), ',') + 1);
  const std::string path = scratch_file("trace.safetensors");
  const auto traced = run_r1({"trace", model, "--ids", list, "--out", path});
  CAPTURE(traced.err);
  REQUIRE(traced.exit_code == 0);

  const std::string bytes = read_file(path);
  REQUIRE(bytes.size() > 8);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  const json header = json::parse(bytes.substr(8, header_bytes));
  for (const char* name : {"logits", "hidden", "attn_out", "router_ids", "router_weights", "mtp_logits"})
    CHECK(header.contains(name));
  const json logits = header["logits"];
  REQUIRE(logits["dtype"] == "F32");
  REQUIRE(logits["shape"][0] == n_tokens);
  const std::uint64_t vocab_size = logits["shape"][1];
  std::vector<float> last(vocab_size);
  const std::uint64_t end = 8 + header_bytes + logits["data_offsets"][1].get<std::uint64_t>();
  std::memcpy(last.data(), bytes.data() + end - 4 * vocab_size, 4 * vocab_size);
  const auto best = std::max_element(last.begin(), last.end()) - last.begin();
  CHECK(run_json({"--raw", "-p", "What is 2 + 3?", "--greedy", "-n", "1", "--ignore-eos", "--kv-type",
                  "f32"})["tokens"][0] == best);

  CHECK(run_r1({"trace", model, "--ids", "5,999999", "--out", path}).exit_code == 2);
  CHECK(run_r1({"trace", model, "--ids", "5,-7", "--out", path}).exit_code == 2);
}

TEST_CASE("info and doctor: for people and for programs") {
  const auto info = run_r1({"info", model, "--json", "--verify"});
  REQUIRE(info.exit_code == 0);
  const json object = json::parse(info.out);
  CHECK(object["architecture"] == "deepseek_v3");
  CHECK(object["recipe"] == "r4.5");
  CHECK(object["template"] == "deepseek-r1");
  std::uint64_t bytes = 0, per_token = 0;
  for (const auto& c : object["classes"]) {
    bytes += c["bytes"].get<std::uint64_t>();
    per_token += c["bytes_per_token"].get<std::uint64_t>();
  }
  CHECK(bytes <= object["bytes"].get<std::uint64_t>());  // blobs are padded to whole pages
  CHECK(bytes > object["bytes"].get<std::uint64_t>() * 9 / 10);
  CHECK(per_token == object["bytes_per_token"]);
  CHECK(per_token < bytes);
  CHECK(contains(run_r1({"info", model}).out, "read per token"));

  const auto doctor = run_r1({"doctor", "--json", "--disk", R1_WORK_DIR});
  REQUIRE(doctor.exit_code == 0);
  const json system = json::parse(doctor.out);
  CHECK(system["cores"].get<int>() >= 1);
  CHECK(system["threads"] >= system["cores"]);
  CHECK(system["default_threads"].get<int>() >= 1);
  CHECK(system["default_threads"] <= system["cores"]);
  CHECK((system["cpu_quota"].is_null() || system["cpu_quota"].get<double>() > 0));
  CHECK(system["memory_bytes"].get<std::uint64_t>() > 0);
  CHECK(system["read_bytes_per_second"].get<double>() > 1e8);
  CHECK(!system["disk"]["note"].get<std::string>().empty());
  const json quick = json::parse(run_r1({"doctor", "--json", "--quick"}).out);
  CHECK(quick["read_bytes_per_second"] == 0);
  CHECK(contains(run_r1({"doctor", "--quick"}).out, "kernels, best first"));
}
