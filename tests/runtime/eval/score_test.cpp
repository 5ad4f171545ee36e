// Windows of a text, scores of a model's and a base's rows, base logits in files, journals.
#include <doctest/doctest.h>
#include <r1/trace.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "runtime/eval/base_logits.h"
#include "runtime/eval/journal.h"
#include "runtime/eval/score.h"
#include "tests/runtime/engine/model_dirs.h"

using namespace r1;

namespace {

template <class T>
T expect(Result<T> result) {
  REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : result.error().text()));
  return std::move(result).value();
}

std::vector<Token> some_tokens(std::uint32_t n) {
  std::vector<Token> tokens;
  for (std::uint32_t i = 0; i < n; ++i) tokens.push_back(static_cast<Token>((i * 31 + i * i) % 400));
  return tokens;
}

eval::Windows some_windows(std::uint32_t n_tokens, std::uint32_t window_tokens) {
  return expect(eval::make_windows(some_tokens(n_tokens), true, {.window_tokens = window_tokens}, "text"));
}

eval::ScoreOptions with_threads(int n_threads) {
  eval::ScoreOptions options;
  options.run.n_threads = n_threads;
  return options;
}

std::vector<eval::TokenScore> scores_of(const std::shared_ptr<const Model>& model, eval::RowSource* base,
                                        const eval::Windows& windows, const eval::ScoreOptions& options) {
  const auto rows = expect(eval::ModelRows::create(model, windows, options.run));
  return expect(eval::score_windows(*rows, base, windows, options));
}

bool same_bits(const std::vector<eval::TokenScore>& a, const std::vector<eval::TokenScore>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.logprob == y.logprob && x.base_logprob == y.base_logprob && x.kld == y.kld && x.same_top == y.same_top;
  });
}

std::string path_of(const std::string& name) {
  return test::temporary_directory() + "/" + name;
}

void write_logits(const std::string& path, const std::shared_ptr<const Model>& model, const eval::Windows& windows,
                  std::uint32_t n_windows, int n_threads = 2) {
  const eval::RunOptions run{.n_threads = n_threads};
  const auto rows = expect(eval::ModelRows::create(model, windows, run));
  const auto writer = expect(eval::BaseLogitsWriter::create(path, *model, windows, run));
  for (std::uint32_t w = writer->n_windows_done(); w < n_windows; ++w) {
    for (std::uint32_t first = 0; first < windows.n_scored(w); first += eval::max_rows) {
      const auto n = std::min(eval::max_rows, windows.n_scored(w) - first);
      REQUIRE(writer->append(expect(rows->rows(w, first, n))).ok());
    }
    REQUIRE(writer->end_window().ok());
  }
  if (n_windows == windows.n_windows()) REQUIRE(writer->finish().ok());
}

std::string content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("a text is cut as llama.cpp cuts it") {
  const auto tokens = some_tokens(1100);
  const auto windows = expect(eval::make_windows(tokens, true, {.window_tokens = 512}, "text"));
  CHECK(windows.n_windows() == 2);
  CHECK(windows.n_left_over == 76);
  CHECK(!windows.is_short);
  CHECK(windows.first_scored(1) == 257);
  CHECK(windows.n_scored(1) == 255);
  CHECK(windows.n_scored_tokens() == 510);
  CHECK(windows.window(1)[0] == tokens[0]);  // BOS
  CHECK(windows.window(1)[1] == tokens[513]);
  CHECK(windows.targets(1)[0] == tokens[512 + 257]);
  const auto plain = expect(eval::make_windows(tokens, false, {.window_tokens = 512}, "text"));
  CHECK(plain.window(1)[0] == tokens[512]);
  CHECK(plain.fingerprint() != windows.fingerprint());
  CHECK(expect(eval::make_windows(tokens, true, {.window_tokens = 512, .max_windows = 1}, "text")).n_windows() == 1);

  const auto small = expect(eval::make_windows(some_tokens(100), true, {.window_tokens = 512}, "text"));
  CHECK(small.is_short);
  CHECK(small.longest() == 100);
  CHECK(small.n_windows() == 1);
  CHECK(eval::make_windows(some_tokens(7), true, {}, "text").error().text() ==
        "text: 7 tokens of text are too few: give at least 8");
  CHECK(!eval::make_windows(tokens, true, {.window_tokens = 4}, "text").ok());
}

TEST_CASE("documents are windows of their own") {
  std::vector<Token> tokens;
  for (const std::size_t n : {20u, 5u, 600u, 9u}) {  // the second is too short, the third too long
    tokens.push_back(0);
    for (std::size_t i = 1; i < n; ++i) tokens.push_back(static_cast<Token>(i % 400 + 1));
  }
  eval::WindowOptions options;
  options.documents = true;
  const auto windows = expect(eval::make_windows(tokens, true, options, "text"));
  REQUIRE(windows.n_windows() == 3);
  CHECK(windows.window(0).size() == 20);
  CHECK(windows.window(1).size() == 512);
  CHECK(windows.window(1)[0] == 0);
  CHECK(windows.window(2).size() == 9);
  CHECK(windows.first_scored(2) == 5);
  CHECK(windows.n_scored(2) == 4);
  CHECK(windows.n_scored_tokens() == 9 + 255 + 4);
  CHECK(windows.n_left_over == 5 + 88);
  CHECK(windows.longest() == 512);
  CHECK(eval::make_windows(tokens, false, options, "text").error().text().find("knows none") != std::string::npos);
  tokens.assign(20, 0);
  CHECK(eval::make_windows(tokens, true, options, "text").error().text().find("no document has") != std::string::npos);
}

TEST_CASE("scores are those of a trace's logits") {
  const auto model = test::open_model("deepseek-v3-fp8");
  const auto windows = some_windows(2200, 1100);  // more than a batch of tokens and two of rows
  const auto scores = scores_of(model, nullptr, windows, with_threads(2));
  REQUIRE(scores.size() == 2 * 549);
  TraceOptions trace_options;
  trace_options.kv_type = KvCacheType::f16;
  trace_options.batches = {512, 294, 256, 37, 1};
  const auto trace = expect(r1::trace(model, windows.window(1), trace_options));
  double largest_error = 0;
  for (std::uint32_t i = 0; i < windows.n_scored(1); ++i) {
    const std::size_t at = windows.first_scored(1) - 1 + i;
    const std::span row(trace.logits.data() + at * trace.vocab_size, trace.vocab_size);
    const auto facts = eval::row_facts(row, windows.targets(1)[i]);
    largest_error = std::max(largest_error, std::abs(facts.target_logprob - scores[549 + i].logprob));
  }
  CHECK(largest_error < 1e-5);
}

TEST_CASE("scores have the same bits for any number of threads, and after an interruption") {
  const auto model = test::open_model("deepseek-v3-fp8");
  const auto base_model = test::open_model("deepseek-v3-fp8", "r3.5");
  const auto windows = some_windows(400, 100);
  const auto run = [&](const eval::ScoreOptions& options) {
    const auto rows = expect(eval::ModelRows::create(model, windows, options.run));
    const auto base = expect(eval::ModelRows::create(base_model, windows, options.run));
    return eval::score_windows(*rows, base.get(), windows, options);
  };
  const auto expected = expect(run(with_threads(1)));
  CHECK(same_bits(expect(run(with_threads(3))), expected));

  eval::ScoreOptions options = with_threads(2);
  options.state_path = path_of("interrupted.state");
  options.key = {77, 5};
  options.on_window = [](std::uint32_t n_done, auto) { return n_done < 2; };
  CHECK(run(options).error().code == ErrorCode::cancelled);
  // As a crash in the middle of a write leaves it.
  std::ofstream(options.state_path, std::ios::app | std::ios::binary) << std::string(1000, 'x');
  std::vector<std::uint32_t> progress;
  options.on_resume = [&](std::uint32_t n_done) { progress.push_back(n_done); };
  options.on_window = [&](std::uint32_t n_done, auto) {
    progress.push_back(n_done);
    return true;
  };
  CHECK(same_bits(expect(run(options)), expected));
  CHECK(progress == std::vector<std::uint32_t>{2, 3, 4});
  CHECK(same_bits(expect(run(options)), expected));  // and from a finished state
  options.key = {78, 5};
  CHECK(run(options).error().text().find("state of another run") != std::string::npos);
  std::ofstream(options.state_path) << "somebody's letter";
  CHECK(run(options).error().text().find("is no state file") != std::string::npos);
  CHECK(content(options.state_path) == "somebody's letter");
}

TEST_CASE("a base's file gives what the base gives, but for a floor of 2e-8 nats") {
  const auto base_model = test::open_model("deepseek-v3-fp8");
  const auto model = test::open_model("deepseek-v3-fp8", "r3.5");
  const auto windows = some_windows(400, 160);
  const std::string path = path_of("base.logits");
  write_logits(path, base_model, windows, windows.n_windows());
  CHECK(eval::BaseLogits::is_one(path));
  CHECK(!std::filesystem::exists(path + ".partial"));
  const eval::RunOptions run{.n_threads = 2};
  const auto file = expect(eval::BaseLogits::open(path, run));
  CHECK(file->vocab_size() == base_model->info().vocab_size);
  CHECK(file->model_fingerprint() != model->info().fingerprint);
  CHECK(file->model_fingerprint() == base_model->info().fingerprint);
  CHECK(file->windows().fingerprint() == windows.fingerprint());

  const auto itself = scores_of(base_model, file.get(), windows, with_threads(2));
  for (const eval::TokenScore& s : itself) {
    CHECK(s.kld >= 0);
    CHECK(s.kld < 2e-8);
    CHECK(s.base_logprob == s.logprob);
    CHECK(s.same_top);
  }
  const auto base_rows = expect(eval::ModelRows::create(base_model, windows, run));
  const auto direct = scores_of(model, base_rows.get(), windows, with_threads(2));
  const auto stored = scores_of(model, file.get(), windows, with_threads(1));
  for (std::size_t i = 0; i < direct.size(); ++i) {
    CHECK(std::abs(direct[i].kld - stored[i].kld) < 1e-4 * std::sqrt(direct[i].kld) + 2e-8);
    CHECK(direct[i].base_logprob == stored[i].base_logprob);
    CHECK(direct[i].same_top == stored[i].same_top);
  }
  const double mean = eval::kld_report(direct).mean.value;
  CHECK(mean > 1e-4);
  CHECK(eval::kld_report(stored).mean.value == doctest::Approx(mean).epsilon(1e-3));
}

TEST_CASE("a base's file has the same bytes for any number of threads, and after an interruption") {
  const auto model = test::open_model("deepseek-v3-fp8");
  const auto windows = some_windows(300, 100);
  const std::string whole = path_of("whole.logits"), resumed = path_of("resumed.logits");
  write_logits(whole, model, windows, 3, 1);
  write_logits(resumed, model, windows, 2, 2);
  CHECK(!std::filesystem::exists(resumed));
  const auto good = std::filesystem::file_size(resumed + ".partial");
  std::filesystem::resize_file(resumed + ".partial", good - 10);  // the second window is not whole
  write_logits(resumed, model, windows, 3, 3);
  CHECK(content(resumed) == content(whole));

  write_logits(resumed, model, windows, 1);
  const auto other = some_windows(301, 100);
  const auto longer = some_windows(300, 150);
  const eval::RunOptions run{.n_threads = 1};
  CHECK(eval::BaseLogitsWriter::create(resumed, *model, other, run).ok());  // the rest of a text is not used
  CHECK(eval::BaseLogitsWriter::create(resumed, *model, longer, run).error().text().find("is of another model, text") !=
        std::string::npos);
}

TEST_CASE("windows of several lengths go through files and states") {
  const auto model = test::open_model("deepseek-v3-fp8");
  eval::Windows windows;
  const auto tokens = some_tokens(200);
  for (const std::size_t n : {150u, 8u, 31u}) windows.add(std::span(tokens).first(n));
  const std::string path = path_of("documents.logits");
  write_logits(path, model, windows, 2);
  write_logits(path, model, windows, 3);
  const auto file = expect(eval::BaseLogits::open(path, {}));
  CHECK(file->windows().fingerprint() == windows.fingerprint());
  eval::ScoreOptions options = with_threads(1);
  const auto expected = scores_of(model, file.get(), windows, options);
  CHECK(expected.size() == windows.n_scored_tokens());
  for (const auto& score : expected) CHECK(score.kld < 2e-8);
  options.state_path = path_of("documents.state");
  options.on_window = [](std::uint32_t n_done, auto) { return n_done < 2; };
  const auto rows = expect(eval::ModelRows::create(model, windows, options.run));
  CHECK(!eval::score_windows(*rows, file.get(), windows, options).ok());
  options.on_window = {};
  CHECK(same_bits(scores_of(model, file.get(), windows, options), expected));
}

TEST_CASE("a damaged file of base logits is refused, and says where") {
  const auto model = test::open_model("deepseek-v3-fp8");
  const auto windows = some_windows(64, 32);
  const std::string path = path_of("good.logits"), bad = path_of("bad.logits");
  write_logits(path, model, windows, windows.n_windows());
  const std::string good = content(path);
  const eval::RunOptions run{.n_threads = 1};
  const auto error_of = [&](const std::string& bytes) {
    std::ofstream(bad, std::ios::binary) << bytes;
    const auto file = eval::BaseLogits::open(bad, run);
    if (!file) return file.error().text();
    for (std::uint32_t w = 0; w < windows.n_windows(); ++w) {
      if (const auto rows = (*file)->rows(w, 0, windows.n_scored(w)); !rows) return rows.error().text();
    }
    return std::string();
  };
  CHECK(error_of(good).empty());
  CHECK(error_of({}).find("too short") != std::string::npos);
  CHECK(error_of("r1" + good).find("not a file of base logits") != std::string::npos);
  CHECK(error_of(good.substr(0, 100)).find("ends within its tokens") != std::string::npos);
  CHECK(error_of(good.substr(0, good.size() - 1)).find("holds 29 of its 30 rows") != std::string::npos);
  CHECK(error_of(good + "x").find("goes on behind its last row") != std::string::npos);
  for (const std::size_t at : {9u, 20u, 60u, 70u, 330u, 345u, 400u}) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 4);
    CAPTURE(at);
    CHECK(error_of(bytes) != "");
  }
  // A vocabulary that no memory holds, under a checksum that fits.
  eval::FileHeader header;
  std::memcpy(&header, good.data(), sizeof header);
  header.vocab_size = 0xffffffff;
  header.header_xxh3 = rt::xxh3_64(std::as_bytes(std::span(&header, 1)).first(offsetof(eval::FileHeader, header_xxh3)));
  std::string greedy = good;
  std::memcpy(greedy.data(), &header, sizeof header);
  CHECK(error_of(greedy).find("the header contradicts itself") != std::string::npos);
  // Any single byte: never a crash, never rows that pass.
  for (std::size_t at = 0; at < good.size(); at += 101) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x80);
    CHECK(error_of(bytes) != "");
  }
}
