// ppl, kld and logits: against a PyTorch implementation, and against arithmetic on the models' own logits.
#include <doctest/doctest.h>
#include <r1/trace.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/runtime/cli/program.h"

using namespace r1;

namespace {

const std::string exact = R1_NANO_EXACT, packed = R1_NANO_MODEL;
const std::string folder = R1_SOURCE_DIR "/tests/runtime/eval_cli";
const std::string text_file = folder + "/text.txt";

nlohmann::json json_of(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--json", "-q"});
  const auto result = run_r1(arguments);
  REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  CHECK(result.err.empty());
  return nlohmann::json::parse(result.out);
}

std::string content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

struct Folder {
  std::string path = std::string(R1_WORK_DIR) + "/" + std::to_string(::getpid());
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
};

// Log-probabilities of every token of a window, [n_tokens, vocab_size], in plain long double arithmetic.
std::vector<std::vector<long double>> logprobs(const std::string& model_path, const std::vector<Token>& window) {
  ModelOptions options;
  options.path = model_path;
  const auto model = Model::open(options);
  REQUIRE(model.ok());
  TraceOptions trace_options;
  trace_options.kv_type = KvCacheType::f16;
  trace_options.batches = {255, 1};  // as r1-eval does: the last token predicts nothing
  const auto trace = r1::trace(*model, window, trace_options);
  REQUIRE(trace.ok());
  std::vector<std::vector<long double>> rows;
  for (std::size_t t = 0; t < window.size(); ++t) {
    const float* x = trace->logits.data() + t * trace->vocab_size;
    std::vector<long double> row(x, x + trace->vocab_size);
    long double sum = 0;
    for (const long double v : row) sum += std::exp(v);
    for (long double& v : row) v -= std::log(sum);
    rows.push_back(std::move(row));
  }
  return rows;
}

// As the README says that it is cut.
std::vector<Token> second_window() {
  const auto tokenizer = Tokenizer::load(exact);
  REQUIRE(tokenizer.ok());
  auto ids = (*tokenizer)->encode(content(text_file), SpecialTokens::parsed);
  REQUIRE(ids.ok());
  std::vector<Token> window(ids->begin() + 256, ids->begin() + 512);
  window[0] = *(*tokenizer)->bos();
  return window;
}

}  // namespace

TEST_CASE("perplexity is that of the PyTorch reference") {
  const auto reference = nlohmann::json::parse(content(folder + "/reference.json"));
  const auto got = json_of({"ppl", exact, "--text", text_file, "--special", "--context", "256", "--kv-type", "f32"});
  CHECK(got["n_tokens"] == reference["n_tokens"]);
  const double expected = reference["perplexity"], error = reference["standard_error"];
  CHECK(got["perplexity"]["value"].get<double>() == doctest::Approx(expected).epsilon(1e-5));
  CHECK(got["perplexity"]["standard_error"].get<double>() == doctest::Approx(error).epsilon(1e-5));
}

TEST_CASE("KL divergence and agreement are those of the two models' logits") {
  const std::vector<Token> window = second_window();
  const auto p = logprobs(exact, window), q = logprobs(packed, window);
  long double kld = 0, nll = 0, base_nll = 0;
  int n = 0, n_same = 0;
  for (std::size_t t = 128; t + 1 < window.size(); ++t, ++n) {
    for (std::size_t i = 0; i < p[t].size(); ++i) kld += std::exp(p[t][i]) * (p[t][i] - q[t][i]);
    nll -= q[t][static_cast<std::size_t>(window[t + 1])];
    base_nll -= p[t][static_cast<std::size_t>(window[t + 1])];
    n_same += std::max_element(p[t].begin(), p[t].end()) - p[t].begin() ==
              std::max_element(q[t].begin(), q[t].end()) - q[t].begin();
  }
  const Folder work;
  // The second window's figures are what two windows have beyond one.
  const auto measure = [&](const char* n_windows) {
    return json_of(
        {"kld", packed, "--base", exact, "--text", text_file, "--special", "--context", "256", "--windows", n_windows});
  };
  const auto one = measure("1"), two = measure("2");
  const auto of_second = [&](const char* name, auto&& get) { return 2 * get(two[name]) - get(one[name]); };
  const auto mean = [](const nlohmann::json& j) { return j["mean"]["value"].get<double>(); };
  const auto value = [](const nlohmann::json& j) { return j["value"].get<double>(); };
  const auto log_value = [](const nlohmann::json& j) { return std::log(j["value"].get<double>()); };
  CHECK(n == 127);
  CHECK(of_second("kld", mean) == doctest::Approx(static_cast<double>(kld / n)).epsilon(1e-6));
  CHECK(of_second("same_top", value) == doctest::Approx(static_cast<double>(n_same) / n));
  CHECK(of_second("perplexity", log_value) == doctest::Approx(static_cast<double>(nll / n)).epsilon(1e-9));
  // Of f32 and bf16 matrices, which oneDNN multiplies: with AVX2 the order of its sums depends on the batch.
  CHECK(of_second("base_perplexity", log_value) == doctest::Approx(static_cast<double>(base_nll / n)).epsilon(1e-6));
}

TEST_CASE("stored logits stand for the base, to 1e-4 of a divergence") {
  const Folder work;
  const std::string base = work / "exact.logits";
  const std::vector<std::string> text = {"--text", text_file, "--special", "--context", "256"};
  const auto with_text = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), text.begin(), text.end());
    return arguments;
  };
  const auto stored = json_of(with_text({"logits", exact, "--out", base}));
  CHECK(stored["n_bytes"].get<std::uint64_t>() == std::filesystem::file_size(base));
  const auto direct = json_of(with_text({"kld", packed, "--base", exact}));
  const auto by_file = json_of(with_text({"kld", packed, "--base", base, "--svg", work / "kld.svg"}));
  const auto without_text = json_of({"kld", packed, "--base", base});
  CHECK(by_file["kld"] == without_text["kld"]);
  CHECK(by_file["base_perplexity"] == direct["base_perplexity"]);
  CHECK(by_file["same_top"] == direct["same_top"]);
  CHECK(by_file["kld"]["mean"]["value"].get<double>() ==
        doctest::Approx(direct["kld"]["mean"]["value"].get<double>()).epsilon(1e-4));
  const std::string svg = content(work / "kld.svg");
  CHECK(svg.starts_with("<svg "));
  CHECK(svg.ends_with("</svg>\n"));

  // The floor: a model against itself.
  const auto itself = json_of(with_text({"kld", exact, "--base", base}));
  CHECK(itself["kld"]["max"].get<double>() < 2e-8);
  CHECK(itself["same_top"]["value"] == 1.0);
  CHECK(itself["perplexity_delta"]["value"] == 0.0);

  // A window for every transcript.
  const std::string documents = work / "documents.logits";
  const auto stored_documents =
      json_of({"logits", exact, "--text", text_file, "--special", "--documents", "--out", documents});
  CHECK(stored_documents["n_windows"].get<int>() > 10);
  const auto of_documents = json_of({"kld", packed, "--base", documents});
  CHECK(of_documents["n_tokens"] == stored_documents["n_tokens"]);
  CHECK(json_of({"kld", packed, "--base", documents, "--text", text_file, "--special", "--documents"})["kld"] ==
        of_documents["kld"]);
  CHECK(of_documents["kld"]["mean"]["value"].get<double>() > 1e-4);

  // What cannot be compared, or is damaged.
  const auto error_of = [&](const std::vector<std::string>& arguments, int exit_code) {
    const auto result = run_r1(arguments);
    CHECK(result.exit_code == exit_code);
    CHECK(result.out.empty());
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CHECK(result.err.starts_with("r1-eval: "));
    return result.err;
  };
  write(work / "other.txt", content(text_file).substr(100));
  CHECK(error_of({"kld", packed, "--base", base, "--special", "--text", work / "other.txt"}, 2).find("another text") !=
        std::string::npos);
  const std::string bytes = content(base);
  write(work / "short.logits", bytes.substr(0, bytes.size() / 2));
  CHECK(error_of({"kld", packed, "--base", work / "short.logits"}, 1).find("is it truncated?") != std::string::npos);
  std::string damaged = bytes;
  damaged[bytes.size() - 1000] = static_cast<char>(damaged[bytes.size() - 1000] ^ 1);
  write(work / "damaged.logits", damaged);
  CHECK(run_r1({"kld", packed, "--base", work / "damaged.logits", "-q"}).err.find("the row is damaged") !=
        std::string::npos);
  CHECK(error_of({"kld", packed, "--base", text_file}, 1).find("not a file of base logits") != std::string::npos);
  CHECK(error_of({"kld", packed, "--base", "/nonexistent", "--text", text_file}, 1).find("/nonexistent") !=
        std::string::npos);
  CHECK(error_of({"kld", packed, "--base", exact}, 2).find("needs --text") != std::string::npos);
}

TEST_CASE("a run goes on from its state and gives the same bytes") {
  const Folder work;
  const std::string state = work / "state";
  std::vector<std::string> command = {"kld",    packed,      "--base",    exact, "--text",    text_file,
                                      "--json", "--special", "--context", "128", "--threads", "1"};
  const auto whole = run_r1(command);
  REQUIRE(whole.exit_code == 0);
  CHECK(whole.err.find("windows") != std::string::npos);  // progress, on standard error
  command.insert(command.end(), {"--state", state});
  command[11] = "2";  // threads
  CHECK(run_r1(command).out == whole.out);
  std::filesystem::resize_file(state, 32 + 2 * (63 * 32 + 8) + 100);  // two windows, and a part of the third
  const auto resumed = run_r1(command);
  CHECK(resumed.out == whole.out);
  CHECK(resumed.err.find("going on behind 2 of") != std::string::npos);
  command[3] = packed;  // another base
  const auto refused = run_r1(command);
  CHECK(refused.exit_code == 2);
  CHECK(refused.err.find("state of another run") != std::string::npos);
}

TEST_CASE("a model is compared with another's run") {
  const Folder work;
  const std::string base = work / "exact.logits", state = work / "exact.state", short_state = work / "short.state";
  const std::vector<std::string> text = {"--text", text_file, "--special", "--context", "128"};
  const auto kld = [&](const std::string& model, std::vector<std::string> more) {
    more.insert(more.begin(), {"kld", model, "--base", base});
    return more;
  };
  std::vector<std::string> logits = {"logits", exact, "--out", base};
  logits.insert(logits.end(), text.begin(), text.end());
  (void)json_of(logits);
  const auto of_exact = json_of(kld(exact, {"--kv-type", "q8", "--state", state}));
  const auto of_packed = json_of(kld(packed, {"--against", state}));
  const auto& against = of_packed["against"];
  const double mean = of_packed["kld"]["mean"]["value"], other = of_exact["kld"]["mean"]["value"];
  CHECK(against["state"] == state);
  CHECK(against["kld_difference"]["value"].get<double>() == doctest::Approx(mean - other));
  CHECK(against["relative_kld_difference"]["value"].get<double>() == doctest::Approx(mean / other - 1));
  CHECK(against["n_windows_less"].get<int>() < of_packed["n_windows"].get<int>());
  CHECK(of_exact.find("against") == of_exact.end());
  const auto told = run_r1(kld(packed, {"--against", state, "-q"}));
  CHECK(told.out.find("against " + state + ": KLD ") != std::string::npos);

  const auto error_of = [&](const std::vector<std::string>& arguments) {
    const auto result = run_r1(arguments);
    CHECK(result.exit_code != 0);
    CHECK(result.out.empty());
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    return result.err;
  };
  CHECK(error_of(kld(packed, {"--against", state, "--windows", "2"})).find("another text or base") !=
        std::string::npos);
  CHECK(error_of(kld(packed, {"--against", base})).find("is no state file") != std::string::npos);
  CHECK(error_of(kld(packed, {"--against", work / "none"})).find("none") != std::string::npos);
  const std::string bytes = content(state);
  write(short_state, bytes.substr(0, bytes.size() - 1));
  CHECK(error_of(kld(packed, {"--against", short_state})).find("let that run come to its end") != std::string::npos);
}

TEST_CASE("short, empty and missing texts, wrong usage") {
  const Folder work;
  write(work / "empty.txt", "");
  write(work / "few.txt", "1+1");
  write(work / "short.txt", "Compute 8092 + 2621. The answer is 10713.");
  write(work / "bad.txt", "abc\xff");
  const auto error_of = [&](const std::vector<std::string>& arguments, int exit_code) {
    const auto result = run_r1(arguments);
    CHECK(result.exit_code == exit_code);
    CHECK(result.out.empty());
    CHECK(result.err.starts_with("r1-eval: "));
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    return result.err;
  };
  CHECK(error_of({"ppl", packed, "--text", work / "empty.txt"}, 2).find("empty.txt: the text is empty") !=
        std::string::npos);
  CHECK(error_of({"ppl", packed, "--text", work / "few.txt"}, 2).find("are too few") != std::string::npos);
  CHECK(error_of({"ppl", packed, "--text", work / "none.txt"}, 1).find("none.txt") != std::string::npos);
  (void)error_of({"ppl", packed, "--text", work / "bad.txt"}, 2);
  (void)error_of({"ppl", "/nonexistent", "--text", work / "short.txt"}, 1);
  const auto note = run_r1({"ppl", packed, "--text", work / "short.txt"});
  CHECK(note.exit_code == 0);
  CHECK(note.err.find("one window of that length, not of 512") != std::string::npos);
  CHECK(note.out.starts_with("perplexity  "));
  CHECK(error_of({"ppl", packed}, 2).find("--text is required") != std::string::npos);
  (void)error_of({"ppl", packed, "--text", work / "short.txt", "--context", "4"}, 2);
  CHECK(error_of({"quality"}, 2).find("is no command") != std::string::npos);
  CHECK(run_r1({"--help"}).exit_code == 0);
  for (const char* command : {"ppl", "kld", "logits", "tasks"}) CHECK(run_r1({command, "--help"}).exit_code == 0);
  CHECK(run_r1({"ppl", packed, "--text", text_file, "--svg", "/nonexistent/x.svg", "-q"}).exit_code == 1);
}
