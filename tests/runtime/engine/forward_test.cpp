// What a forward pass can do that no public call shows yet: several sequences in one batch, an expert that cannot be
// read.
#include <doctest/doctest.h>
#include <r1/session.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "model_dirs.h"
#include "runtime/model/forward.h"
#include "runtime/model/model_impl.h"

using namespace r1;

namespace {

constexpr std::uint32_t max_tokens = 40, context_tokens = 600;

// A team with its scratch, and any number of caches.
struct Runner {
  explicit Runner(std::shared_ptr<const Model> opened, int n_threads)
      : model(std::move(opened)),
        m(model->impl()),
        team({.n_threads = n_threads, .pin = false}),
        scratch(m.file->config(), max_tokens, max_tokens, context_tokens, team.size()) {}

  rt::KvCache cache() const { return {rt::kv_shape(m.file->config(), simd::KvType::f16, false), context_tokens}; }

  Result<void> run(const std::vector<rt::TokenSlot>& slots, rt::ExpertStore* store = nullptr) {
    rt::Pass pass{m.file->config(), m.rope, *m.kernels, m.weights, store != nullptr ? *store : *m.experts, scratch};
    for (const rt::TokenSlot& slot : slots) {
      REQUIRE(slot.kv->grow(slot.row + 1).ok());
      scratch.grow_run_parts(slot.row + 1);
    }
    pass.slots = slots;
    pass.n_logit_tokens = pass.n_tokens();
    return rt::run_forward(team, pass);
  }
  std::vector<float> logits(std::uint32_t row) const {
    const std::size_t vocab = m.file->config().vocab_size;
    return {scratch.logits.at(row * vocab), scratch.logits.at(row * vocab) + vocab};
  }

  std::shared_ptr<const Model> model;
  const Model::Impl& m;
  numa::ThreadTeam team;
  rt::Scratch scratch;
};

Token token_at(std::uint32_t sequence, std::uint32_t i) {
  return static_cast<Token>((sequence * 97 + i * 31 + i * i) % 400);
}

rt::TokenSlot slot_at(std::uint32_t sequence, std::uint32_t i, rt::KvCache& kv) {
  return {token_at(sequence, i), i, i, &kv};
}

class BrokenStore final : public rt::ExpertStore {
 public:
  BrokenStore(rt::ExpertStore& whole, std::uint32_t layer) : whole_(whole), layer_(layer) {}
  void request(std::uint32_t layer, std::span<const std::uint32_t> experts) override { whole_.request(layer, experts); }
  std::uint32_t max_held() const override { return whole_.max_held(); }
  const rt::Mlp* wait(std::uint32_t layer, std::uint32_t expert) override {
    return layer == layer_ && expert % 2 == 1 ? nullptr : whole_.wait(layer, expert);
  }
  void release(std::uint32_t layer) override { whole_.release(layer); }
  Error error() const override { return {ErrorCode::io, "the disk is gone", "experts-002.safetensors"}; }

 private:
  rt::ExpertStore& whole_;
  std::uint32_t layer_;
};

// As a store that streams would: copies of at most three experts, which turn to NaN when they are released.
class TightStore final : public rt::ExpertStore {
 public:
  explicit TightStore(rt::ExpertStore& whole) : whole_(whole) {}
  void request(std::uint32_t, std::span<const std::uint32_t>) override {}
  std::uint32_t max_held() const override { return 3; }
  const rt::Mlp* wait(std::uint32_t layer, std::uint32_t expert) override {
    const std::lock_guard guard(mutex_);
    const auto [place, is_new] = held_.try_emplace(expert);
    if (is_new) {
      place->second.mlp = *whole_.wait(layer, expert);
      for (rt::Matrix* w : {&place->second.mlp.gate_proj, &place->second.mlp.up_proj, &place->second.mlp.down_proj}) {
        auto& copy = place->second.blobs.emplace_back(w->layout.bytes);
        std::memcpy(copy.data(), w->blob, w->layout.bytes);
        w->blob = copy.data();
      }
      most_held = std::max(most_held, held_.size());
    }
    return &place->second.mlp;
  }
  void release(std::uint32_t) override {
    for (auto& [expert, held] : held_) {
      for (auto& blob : held.blobs) {
        std::memset(blob.data(), 0xff, blob.size());
        graveyard_.push_back(std::move(blob));  // readable still: a late reader finds NaN
      }
    }
    held_.clear();
    ++n_releases;
  }
  Error error() const override { return {}; }

  std::size_t most_held = 0, n_releases = 0;

 private:
  struct Held {
    rt::Mlp mlp;
    std::vector<rt::Buffer<std::byte>> blobs;
  };
  rt::ExpertStore& whole_;
  std::mutex mutex_;
  std::map<std::uint32_t, Held> held_;
  std::vector<rt::Buffer<std::byte>> graveyard_;
};

}  // namespace

TEST_CASE("experts that come in turns and go at once give the same bits") {
  const auto model = test::open_model("deepseek-v3-fp8");
  for (int n_threads = 1; n_threads <= 3; ++n_threads) {
    Runner runner(model, n_threads);
    TightStore store(*runner.m.experts);
    for (const std::uint32_t n : {1u, 20u}) {
      std::vector<float> logits[2];
      for (const bool tight : {false, true}) {
        rt::KvCache kv = runner.cache();
        std::vector<rt::TokenSlot> slots;
        for (std::uint32_t i = 0; i < n; ++i) slots.push_back(slot_at(0, i, kv));
        const auto result = runner.run(slots, tight ? &store : nullptr);
        REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : result.error().text()));
        logits[tight ? 1 : 0] = runner.logits(n - 1);
      }
      CHECK(logits[0] == logits[1]);
    }
    CHECK(store.most_held == 3);
    CHECK(store.n_releases > 2 * 3);  // three MoE layers, two batches, in turns
  }
}

TEST_CASE("sequences that share a batch get what they get alone") {
  for (const std::string name : {"deepseek-v3-fp8", "qwen3"}) {
    CAPTURE(name);
    Runner alone(test::open_model(name), 1), shared(test::open_model(name), 3);
    const std::uint32_t lengths[] = {3, 300, 17};  // the second is longer than a split of the cache
    std::vector<std::vector<float>> expected;
    for (std::uint32_t s = 0; s < 3; ++s) {
      rt::KvCache kv = alone.cache();
      for (std::uint32_t i = 0; i <= lengths[s]; ++i) REQUIRE(alone.run({slot_at(s, i, kv)}).ok());
      expected.push_back(alone.logits(0));
    }
    std::vector<rt::KvCache> caches;
    for (std::uint32_t s = 0; s < 3; ++s) caches.push_back(shared.cache());
    for (std::uint32_t s = 0; s < 3; ++s) {
      for (std::uint32_t i = 0; i < lengths[s]; ++i) REQUIRE(shared.run({slot_at(s, i, caches[s])}).ok());
    }
    std::vector<rt::TokenSlot> slots;
    for (std::uint32_t s = 0; s < 3; ++s) slots.push_back(slot_at(s, lengths[s], caches[s]));
    REQUIRE(shared.run(slots).ok());
    for (std::uint32_t s = 0; s < 3; ++s) CHECK(shared.logits(s) == expected[s]);
  }
}

TEST_CASE("an expert that cannot be read ends the pass with its error, on every member") {
  const auto model = test::open_model("deepseek-v3-fp8");
  for (int n_threads = 1; n_threads <= 4; ++n_threads) {
    Runner runner(model, n_threads);
    BrokenStore store(*runner.m.experts, 2);
    for (const std::uint32_t n : {1u, 9u, 40u}) {
      rt::KvCache kv = runner.cache();
      std::vector<rt::TokenSlot> slots;
      for (std::uint32_t i = 0; i < n; ++i) slots.push_back(slot_at(0, i, kv));
      const auto result = runner.run(slots, &store);
      if (n == 1 && result.ok()) continue;  // its four experts may all be even
      REQUIRE(!result.ok());
      CHECK(result.error().text() == "experts-002.safetensors: the disk is gone");
    }
    rt::KvCache kv = runner.cache();
    CHECK(runner.run({slot_at(0, 0, kv)}).ok());  // the store was at fault, nothing else
  }
}

TEST_CASE("sessions of one model run side by side") {
  const auto model = test::open_model("deepseek-v3-bf16");
  const auto generate = [&](std::vector<float>* logits) {
    auto session = Session::create(model, {.context_tokens = 128, .batch_tokens = 16, .n_threads = 2});
    if (!session.ok()) return;
    for (std::uint32_t i = 0; i < 60; i += 12) {
      std::vector<Token> tokens;
      for (std::uint32_t j = i; j < i + 12; ++j) tokens.push_back(token_at(1, j));
      if (!session->append(tokens).ok()) return;
    }
    logits->assign(session->logits().begin(), session->logits().end());
  };
  std::vector<float> expected, results[3];
  generate(&expected);
  REQUIRE(!expected.empty());
  std::vector<std::thread> threads;
  for (auto& result : results) threads.emplace_back([&] { generate(&result); });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) CHECK(result == expected);
}
