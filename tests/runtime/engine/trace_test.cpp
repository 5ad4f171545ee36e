// The file that `r1 trace` writes, and requests that make no sense.
#include <doctest/doctest.h>
#include <r1/trace.h>

#include <cstring>
#include <string>
#include <vector>

#include "model_dirs.h"
#include "runtime/io/safetensors.h"

using namespace r1;

TEST_CASE("a written trace has the golden models' names and shapes") {
  const auto model = test::open_model("deepseek-v3-bf16");
  const std::vector<Token> ids = {5, 7, 9, 0, 399};
  const auto t = trace(model, ids, {});
  REQUIRE(t.ok());
  const std::string path = test::temporary_directory() + "/trace.safetensors";
  REQUIRE(write_trace(*t, path).ok());
  const auto file = rt::SafetensorsFile::open(path);
  REQUIRE(file.ok());
  const struct {
    const char* name;
    std::vector<std::uint64_t> shape;
    const void* values;
  } tensors[] = {
      {"logits", {5, 400}, t->logits.data()},          {"hidden", {4, 5, 128}, t->hidden.data()},
      {"attn_out", {3, 5, 128}, t->attn_out.data()},   {"final_norm", {5, 128}, t->final_norm.data()},
      {"router_ids", {2, 5, 2}, t->router_ids.data()}, {"router_weights", {2, 5, 2}, t->router_weights.data()},
      {"mtp_logits", {4, 400}, t->mtp_logits.data()},  {"mtp_logits_prenorm", {4, 400}, t->mtp_logits_prenorm.data()},
  };
  CHECK(file->entries().size() == std::size(tensors));
  for (const auto& expected : tensors) {
    CAPTURE(expected.name);
    const rt::SafetensorsEntry* entry = file->find(expected.name);
    REQUIRE(entry != nullptr);
    CHECK(entry->shape == expected.shape);
    const auto bytes = file->data(*entry);
    CHECK(std::memcmp(bytes.data(), expected.values, bytes.size()) == 0);
  }
  CHECK(!write_trace(*t, test::temporary_directory() + "/no/such/folder/t").ok());
}

TEST_CASE("a trace of one token has no MTP rows, one of a dense model no experts") {
  const auto one = trace(test::open_model("deepseek-v3-bf16"), std::vector<Token>{3}, {});
  REQUIRE(one.ok());
  CHECK(one->mtp_logits.empty());
  CHECK(one->router_ids.size() == 4);
  const auto dense = trace(test::open_model("llama"), std::vector<Token>{3, 4}, {});
  REQUIRE(dense.ok());
  CHECK(dense->router_ids.empty());
  CHECK(dense->mtp_logits.empty());
  const std::string path = test::temporary_directory() + "/dense.safetensors";
  REQUIRE(write_trace(*dense, path).ok());
  const auto file = rt::SafetensorsFile::open(path);
  REQUIRE(file.ok());
  CHECK(file->entries().size() == 4);
}

TEST_CASE("traces that make no sense are refused") {
  const auto model = test::open_model("llama");
  const std::vector<Token> ids = {1, 2, 3};
  const auto refused = [&](const std::vector<Token>& tokens, const TraceOptions& options) {
    const auto result = trace(model, tokens, options);
    return !result.ok() && result.error().code == ErrorCode::invalid_argument;
  };
  TraceOptions options;
  CHECK(refused({}, options));
  CHECK(refused({1, 500}, options));
  CHECK(refused({-1}, options));
  options.positions = {0, 1};
  CHECK(refused(ids, options));
  options.positions = {0, 5, 4};
  CHECK(refused(ids, options));
  options.positions.clear();
  options.batches = {1, 1};
  CHECK(refused(ids, options));
  options.batches = {3, 0};
  CHECK(refused(ids, options));
  options.batches = {2, 4294967295u, 2};
  CHECK(refused(ids, options));
  options.batches.clear();
  options.n_threads = -2;
  CHECK(refused(ids, options));
  CHECK(!trace(nullptr, ids, {}).ok());
}
