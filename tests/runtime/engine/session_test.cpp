// What a session promises besides numbers: no allocation in decode, clear ends, bit-identical continuations.
#include <doctest/doctest.h>
#include <r1/session.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "allocations.h"
#include "model_dirs.h"
#include "runtime/model/scratch.h"
#include "runtime/model_file/model_file.h"

using namespace r1;

namespace {

Session open_session(const std::string& name, const SessionOptions& options) {
  auto session = Session::create(test::open_model(name), options);
  REQUIRE_MESSAGE(session.ok(), (session.ok() ? "" : session.error().text()));
  return std::move(*session);
}

void append(Session& session, const std::vector<Token>& tokens) {
  const auto result = session.append(tokens);
  REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : result.error().text()));
}

std::vector<Token> numbered(std::size_t n, std::size_t seed = 0) {
  std::vector<Token> tokens;
  for (std::size_t i = 0; i < n; ++i) tokens.push_back(static_cast<Token>((i * 37 + seed * 101 + i * i) % 400));
  return tokens;
}

std::vector<float> logits(const Session& session) {
  return {session.logits().begin(), session.logits().end()};
}

std::vector<float> logits_after(Session& session, const std::vector<Token>& tokens) {
  append(session, tokens);
  return logits(session);
}

std::vector<char> read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const std::string& path, const std::vector<char>& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// A copy of an exact model whose blob holds NaN from `offset` on (0: everywhere).
std::string damaged_copy(const std::string& model, const std::string& blob_name) {
  const std::string directory = test::temporary_directory() + "/damaged";
  std::filesystem::remove_all(directory);
  std::filesystem::copy(test::directory_of(model), directory);
  auto file = rt::ModelFile::open(directory);
  REQUIRE(file.ok());
  const rt::BlobInfo* blob = (*file)->find(blob_name);
  REQUIRE_MESSAGE(blob != nullptr, blob_name);
  const quant::Format format = blob->parts[0].format;
  REQUIRE((format == quant::Format::f32 || format == quant::Format::bf16));
  std::fstream out(blob->file, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(static_cast<std::streamoff>(blob->offset_bytes));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::uint16_t nan_bf16 = 0x7fc0;
  for (std::size_t i = 0; i < std::size_t{blob->parts[0].rows()} * blob->parts[0].k(); ++i) {
    if (format == quant::Format::f32) {
      out.write(reinterpret_cast<const char*>(&nan), sizeof(nan));
    } else {
      out.write(reinterpret_cast<const char*>(&nan_bf16), sizeof(nan_bf16));
    }
  }
  return directory;
}

}  // namespace

TEST_CASE("decode allocates nothing") {
  for (const std::string name : {"deepseek-v3-fp8", "qwen3"}) {
    for (const std::size_t depth : {20u, 300u}) {  // one split of the cache, and several
      Session session = open_session(name, {.context_tokens = 1024, .batch_tokens = 16, .n_threads = 2});
      append(session, numbered(depth));
      std::vector<Token> token = {7};
      append(session, token);
      const std::uint64_t before = test::n_allocations();
      bool all_good = true;
      for (int i = 0; i < 100; ++i) all_good = session.append(token).ok() && all_good;
      CHECK(test::n_allocations() == before);
      CHECK(all_good);
    }
  }
}

TEST_CASE("a full context, no tokens, unknown tokens, wrong options") {
  Session session = open_session("llama", {.context_tokens = 40, .batch_tokens = 16});
  CHECK(session.context_tokens() == 40);
  CHECK(session.logits().empty());
  append(session, {});
  CHECK(session.logits().empty());
  append(session, numbered(30));
  const std::vector<float> before = logits(session);
  CHECK(before.size() == 500);

  const auto full = session.append(numbered(11));
  REQUIRE(!full.ok());
  CHECK(full.error().code == ErrorCode::context_full);
  CHECK(full.error().message.find("40") != std::string::npos);
  CHECK(session.tokens().size() == 30);
  append(session, {});
  CHECK(logits(session) == before);

  for (const Token bad : {-1, 500, std::numeric_limits<Token>::max(), std::numeric_limits<Token>::min()}) {
    const auto unknown = session.append(std::vector<Token>{3, bad});
    REQUIRE(!unknown.ok());
    CHECK(unknown.error().code == ErrorCode::invalid_argument);
    CHECK(unknown.error().message.find(std::to_string(bad)) != std::string::npos);
  }
  append(session, numbered(10));
  CHECK(session.append(numbered(1)).error().code == ErrorCode::context_full);

  const auto model = session.model();
  const auto refused = [&](const SessionOptions& options) {
    const auto result = Session::create(model, options);
    return !result.ok() && result.error().code == ErrorCode::invalid_argument;
  };
  CHECK(refused({.batch_tokens = 0}));
  CHECK(refused({.batch_tokens = 4097}));
  CHECK(refused({.n_threads = -1}));
  CHECK(refused({.n_threads = 100000}));
  CHECK(refused({.context_tokens = 1u << 30}));
  CHECK(!Session::create(nullptr, {}).ok());
}

TEST_CASE("rewind, fork, save and load go on bit for bit") {
  const std::string path = test::temporary_directory() + "/saved.r1session";
  for (const std::string name : {"deepseek-v3-fp8", "deepseek-v3-bf16", "qwen2"}) {
    for (const auto type : {KvCacheType::f16, KvCacheType::f32}) {
      CAPTURE(name);
      // Batches below oneDNN's: the bits do not depend on where a batch begins.
      const SessionOptions options{.context_tokens = 700, .batch_tokens = 24, .kv_type = type};
      Session session = open_session(name, options);
      append(session, numbered(280));
      const std::vector<float> at_280 = logits(session);
      const std::vector<float> after = logits_after(session, numbered(20, 1));

      REQUIRE(session.rewind(280).ok());
      CHECK(session.logits().empty());
      CHECK(session.tokens().size() == 280);
      CHECK(logits_after(session, numbered(20, 1)) == after);
      CHECK(!session.rewind(301).ok());
      REQUIRE(session.rewind(100).ok());
      const std::vector<Token> first = numbered(280);
      append(session, {first.begin() + 100, first.end()});
      CHECK(logits_after(session, numbered(20, 1)) == after);

      REQUIRE(session.rewind(279).ok());
      append(session, {first[279]});
      auto twin = session.fork();
      REQUIRE(twin.ok());
      CHECK(logits(*twin) == logits(session));
      append(session, numbered(50, 9));  // does not touch the twin
      CHECK(logits_after(*twin, numbered(20, 1)) == after);

      REQUIRE(twin->rewind(280).ok());
      append(*twin, {5});
      const std::vector<float> saved_logits = logits(*twin);
      REQUIRE(twin->save(path).ok());
      Session loaded = open_session(name, options);
      append(loaded, numbered(3));
      REQUIRE(loaded.load(path).ok());
      CHECK(logits(loaded) == saved_logits);
      CHECK(std::vector<Token>(loaded.tokens().begin(), loaded.tokens().end()) ==
            std::vector<Token>(twin->tokens().begin(), twin->tokens().end()));
      CHECK(logits_after(loaded, numbered(20, 4)) == logits_after(*twin, numbered(20, 4)));
    }
  }
}

TEST_CASE("logits of every token of a step are those of that step's rows") {
  SessionOptions options;
  options.context_tokens = 64;
  options.batch_tokens = 16;
  options.n_threads = 2;
  const auto tokens = numbered(20);
  Session one = open_session("deepseek-v3-fp8", options), all = open_session("deepseek-v3-fp8", options);
  const std::size_t vocab_size = one.model()->info().vocab_size;
  append(all, {tokens.begin(), tokens.begin() + 4});
  const auto rows = all.append_for_logits(std::span(tokens).subspan(4));
  REQUIRE(rows.ok());
  REQUIRE(rows->size() == 16 * vocab_size);
  append(one, {tokens.begin(), tokens.begin() + 4});
  append(one, {tokens.begin() + 4, tokens.end()});
  CHECK(logits(one) == logits(all));
  CHECK(std::equal(all.logits().begin(), all.logits().end(), rows->end() - static_cast<std::ptrdiff_t>(vocab_size)));

  // The last row is what a copy and a file keep.
  const std::string path = test::temporary_directory() + "/rows.session";
  REQUIRE(all.save(path).ok());
  auto fork = all.fork();
  REQUIRE(fork.ok());
  CHECK(logits(*fork) == logits(one));
  Session loaded = open_session("deepseek-v3-fp8", options);
  REQUIRE(loaded.load(path).ok());
  CHECK(logits(loaded) == logits(one));
  CHECK(logits_after(all, {7}) == logits_after(one, {7}));  // one row again

  CHECK(all.append_for_logits(numbered(17)).error().text() ==
        "session: 17 tokens in one step: give 1 … 16 (batch_tokens)");
  CHECK(!all.append_for_logits({}).ok());
  REQUIRE(all.append_for_logits(numbered(16)).ok());
  REQUIRE(all.append_for_logits(numbered(16)).ok());
  CHECK(all.append_for_logits(numbered(16)).error().code == ErrorCode::context_full);
}

TEST_CASE("a session file that is damaged, foreign or too large is refused and changes nothing") {
  const std::string path = test::temporary_directory() + "/good.r1session",
                    bad = test::temporary_directory() + "/bad.r1session";
  const SessionOptions options{.context_tokens = 100, .batch_tokens = 64};
  Session session = open_session("deepseek-v3-bf16", options);
  append(session, numbered(60));
  REQUIRE(session.save(path).ok());
  const std::vector<char> good = read_bytes(path);
  const std::vector<float> before = logits(session);

  const auto refused = [&](Session& into, const std::string& file) {
    const auto result = into.load(file);
    if (result.ok()) return std::string("accepted");
    CHECK(result.error().context.find(file) != std::string::npos);
    return std::to_string(static_cast<int>(result.error().code));
  };
  const auto code = [](ErrorCode c) { return std::to_string(static_cast<int>(c)); };

  for (std::size_t at = 0; at < good.size(); at += std::max<std::size_t>(1, good.size() / 300)) {
    std::vector<char> flipped = good;
    flipped[at] = static_cast<char>(flipped[at] ^ (1 << (at % 8)));
    write_bytes(bad, flipped);
    CAPTURE(at);
    CHECK(refused(session, bad) == code(ErrorCode::corrupt));
  }
  for (const std::size_t length :
       {std::size_t{0}, std::size_t{10}, std::size_t{47}, std::size_t{48}, good.size() / 2, good.size() - 1}) {
    write_bytes(bad, {good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length)});
    CHECK(refused(session, bad) == code(ErrorCode::corrupt));
  }
  CHECK(refused(session, test::temporary_directory() + "/absent") == code(ErrorCode::not_found));
  CHECK(logits(session) == before);
  CHECK(session.tokens().size() == 60);

  Session other = open_session("qwen2", options);
  CHECK(refused(other, path) == code(ErrorCode::invalid_argument));
  Session small = open_session("deepseek-v3-bf16", {.context_tokens = 59});
  CHECK(refused(small, path) == code(ErrorCode::context_full));
  Session wide = open_session("deepseek-v3-bf16", {.context_tokens = 100, .kv_type = KvCacheType::f32});
  CHECK(refused(wide, path) == code(ErrorCode::invalid_argument));
  CHECK(!session.save(test::temporary_directory() + "/no/such/folder/x").ok());
}

TEST_CASE("cancel ends the running append, the session goes on") {
  Session session = open_session("deepseek-v3-fp8", {.context_tokens = 4096, .batch_tokens = 8, .n_threads = 2});
  session.cancel();
  CHECK(session.append(numbered(8)).error().code == ErrorCode::cancelled);
  CHECK(session.tokens().empty());
  CHECK(session.append(numbered(8)).ok());  // the wish was for one append

  std::atomic<bool> done = false;
  std::thread other([&] {
    while (!done) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      session.cancel();
    }
  });
  Result<void> result;
  while (result.ok() && session.tokens().size() < 4000) result = session.append(numbered(1000));
  done = true;
  other.join();
  REQUIRE(!result.ok());
  CHECK(result.error().code == ErrorCode::cancelled);
  CHECK(session.tokens().size() % 8 == 0);  // the batches that were done

  REQUIRE(session.rewind(8).ok());
  const auto ignored = session.append(numbered(1, 5));  // takes a late wish, if there was one
  REQUIRE(session.rewind(8).ok());
  Session fresh = open_session("deepseek-v3-fp8", {.context_tokens = 64, .batch_tokens = 8, .n_threads = 2});
  append(fresh, numbered(8));
  CHECK(logits_after(session, numbered(16, 3)) == logits_after(fresh, numbered(16, 3)));
}

TEST_CASE("NaN in the weights is an error that names the layer") {
  const struct {
    const char* model;
    const char* blob;
    const char* where;
  } cases[] = {
      {"deepseek-v3-fp8", "model.layers.2.input_layernorm.weight", "layer 2:"},
      {"deepseek-v3-fp8", "model.layers.1.self_attn.kv_a_layernorm.weight", "layer 1:"},
      {"deepseek-v3-fp8", "model.layers.0.mlp.down_proj.weight", "layer 0:"},
      {"deepseek-v3-fp8", "model.layers.3.mlp.shared_experts.up_proj.weight", "layer 3:"},
      {"qwen2", "model.layers.1.self_attn.v_proj.bias", "layer 1:"},
      {"llama", "model.norm.weight", "the final norm or the head"},
      {"llama", "lm_head.weight", "the final norm or the head"},
      {"qwen3", "model.embed_tokens.weight", "layer 0:"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.blob);
    ModelOptions options;
    options.path = damaged_copy(c.model, c.blob);
    const auto model = Model::open(options);
    REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().text()));
    auto session = Session::create(*model, {.context_tokens = 64, .batch_tokens = 16, .n_threads = 2});
    REQUIRE(session.ok());
    for (const std::size_t n : {1u, 20u}) {
      const auto result = session->append(numbered(n));
      REQUIRE(!result.ok());
      CHECK(result.error().code == ErrorCode::numeric);
      CHECK_MESSAGE(result.error().message.find(c.where) != std::string::npos, result.error().message);
      CHECK(session->logits().empty());
    }
  }
}

TEST_CASE("what a model says of itself") {
  const auto model = test::open_model("deepseek-v3-fp8");
  const ModelInfo& info = model->info();
  CHECK(info.architecture == "deepseek_v3");
  CHECK(info.recipe == "exact");
  CHECK(info.n_layers == 4);
  CHECK(info.n_mtp_layers == 1);
  CHECK(info.kv_bytes_per_token == 4 * (128 + 32) * 2);
  CHECK(info.max_context_tokens == 163840);
  CHECK(model->end_tokens() == std::vector<Token>{1});
  CHECK(model->sampling_defaults().temperature == doctest::Approx(0.6f));
  CHECK(model->sampling_defaults().top_p == doctest::Approx(0.95f));
  CHECK(!model->tokenizer().ok());

  // By hand, from config.json: embedding and head, attention, dense layer, MoE layers, norms and biases.
  const std::uint64_t h = 320, v = 515, heads = 4;
  const std::uint64_t attention = h * 192 + 192 * heads * 80 + h * 160 + heads * 128 * (48 + 40) + heads * 40 * h;
  const std::uint64_t norms = 4 * (2 * h + 192 + 128) + h + 3 * 16;
  const std::uint64_t expert = 3 * h * 160;
  CHECK(info.parameters == 2 * v * h + 4 * attention + 3 * h * 448 + 3 * (17 * expert + 16 * h) + norms);
  CHECK(info.active_parameters == v * h + h + 4 * attention + 3 * h * 448 + 3 * (5 * expert + 16 * h) + norms);
  std::uint64_t bytes_per_token = 0;
  for (const TensorClassInfo& c : info.classes) bytes_per_token += c.bytes_per_token;
  CHECK(info.bytes_per_token == bytes_per_token);
  CHECK(info.bytes_per_token < info.bytes);
}

TEST_CASE("sessions that append together get what they get alone") {
  SessionOptions options;
  options.context_tokens = 400;
  options.batch_tokens = 16;
  options.n_threads = 2;
  const auto model = test::open_model("deepseek-v3-fp8");
  const auto make = [&](std::size_t n_tokens, std::size_t seed) {
    auto session = Session::create(model, options);
    REQUIRE(session.ok());
    append(*session, numbered(n_tokens, seed));
    return std::move(*session);
  };
  std::vector<Session> alone, together;
  const std::size_t lengths[] = {5, 300, 40};
  for (std::size_t i = 0; i < 3; ++i) {
    alone.push_back(make(lengths[i], i));
    together.push_back(make(lengths[i], i));
  }
  std::vector<Session*> pointers = {&together[0], &together[1], &together[2]};
  for (Token step = 0; step < 4; ++step) {
    const std::vector<Token> tokens = {static_cast<Token>(10 + step), static_cast<Token>(20 + step), 30};
    REQUIRE(append_together(pointers, tokens).ok());
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(logits(together[i]) == logits_after(alone[i], {tokens[i]}));
      CHECK(together[i].tokens().size() == alone[i].tokens().size());
    }
  }

  const std::vector<Token> tokens = {1, 2, 3};
  CHECK(append_together({}, {}).ok());
  CHECK(append_together(pointers, std::span(tokens).first(2)).error().text() ==
        "append_together: 2 tokens for 3 sessions");
  CHECK(!append_together(std::vector<Session*>{&together[0], &together[0]}, std::span(tokens).first(2)).ok());
  CHECK(!append_together(pointers, std::vector<Token>{1, 2, 600}).ok());
  CHECK(!logits(together[0]).empty());  // nothing was done
  SessionOptions other = options;
  other.kv_type = KvCacheType::f32;
  auto different = Session::create(model, other);
  REQUIRE(different.ok());
  CHECK(!append_together(std::vector<Session*>{&together[0], &*different}, std::span(tokens).first(2)).ok());
}

TEST_CASE("a batch whose buffers do not fit the memory is refused with numbers, one that nobody asked for shrinks") {
  rt::ModelConfig r1;  // DeepSeek-R1
  r1.architecture = rt::Architecture::deepseek_v3;
  r1.hidden_size = 7168;
  r1.intermediate_size = 18432;
  r1.num_attention_heads = r1.num_key_value_heads = 128;
  r1.q_lora_rank = 1536;
  r1.kv_lora_rank = 512;
  r1.qk_nope_head_dim = r1.v_head_dim = 128;
  r1.qk_rope_head_dim = 64;
  r1.n_routed_experts = 256;
  r1.n_shared_experts = 1;
  r1.num_experts_per_tok = 8;
  r1.moe_intermediate_size = 2048;
  constexpr std::uint64_t gib = std::uint64_t{1} << 30;
  CHECK(*rt::plan_batch(r1, 4096, 163840, 2, false, 64 * gib) == 4096);
  CHECK(*rt::plan_batch(r1, {}, 163840, 2, false, 64 * gib) == 4096);
  CHECK(*rt::plan_batch(r1, {}, 163840, 2, false, 7 * gib) == 2048);  // a quarter of the memory
  CHECK(*rt::plan_batch(r1, {}, 163840, 64, false, 64 * gib) == 2048);
  CHECK(*rt::plan_batch(r1, {}, 100, 2, false, 64 * gib) == 100);
  const auto refused = rt::plan_batch(r1, 4096, 163840, 2, false, gib);
  REQUIRE(!refused.ok());
  CHECK(refused.error().code == ErrorCode::out_of_memory);
  CHECK(refused.error().message.find("4096 tokens need") != std::string::npos);
  CHECK(refused.error().message.find("1.00 GiB") != std::string::npos);
  CHECK(refused.error().message.find("at most 1024 tokens") != std::string::npos);
  CHECK(rt::plan_batch(r1, 1024, 163840, 2, false, gib).ok());
  const auto shrunk = rt::plan_batch(r1, {}, 163840, 2, false, gib);
  REQUIRE(shrunk.ok());
  CHECK(*shrunk < 1024);
  CHECK(!rt::plan_batch(r1, {}, 163840, 2, false, 0).ok());
  CHECK(rt::batch_bytes(r1, 4096, 2, false) <= 2 * gib);
  // AMX reads inputs as bf16, too.
  CHECK(rt::batch_bytes(r1, 4096, 2, true) > rt::batch_bytes(r1, 4096, 2, false));
  CHECK(rt::batch_bytes(r1, 4096, 2, true) < 3 * gib);
}
