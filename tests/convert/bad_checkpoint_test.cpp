// Checkpoints that are wrong somewhere: one clear line that names file and tensor.
#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>

#include "checkpoint_maker.h"
#include "convert/pipeline.h"

using namespace r1;

namespace {

const std::string weight = "model.layers.2.self_attn.o_proj.weight";

std::string error_of(const std::string& directory, const std::string& out = "") {
  auto checkpoint = convert::Checkpoint::open(directory);
  if (!checkpoint) return checkpoint.error().text();
  auto plan = convert::plan_conversion(*checkpoint, *quant::find_recipe("r3.5"));
  if (!plan) return plan.error().text();
  if (out.empty()) return "";
  auto report = convert::convert(*checkpoint, *plan, out, {});
  return report ? "" : report.error().text();
}

bool says(const std::string& error, std::initializer_list<const char*> parts) {
  bool all = !error.empty() && error.find('\n') == std::string::npos;
  for (const char* part : parts) all = all && error.find(part) != std::string::npos;
  if (!all) MESSAGE(error);
  return all;
}

// The golden FP8 checkpoint, with the shard that holds `weight` changed.
struct Broken {
  ScratchDirectory scratch;
  std::string directory, path;
  RawTensors tensors;

  Broken() : directory(scratch / "in") {
    copy_golden("deepseek-v3-fp8", directory);
    for (const auto& [name, bytes] : read_directory(directory)) {
      if (!name.ends_with(".safetensors")) continue;
      auto raw = read_raw(directory + "/" + name);
      if (!raw.contains(weight)) continue;
      path = directory + "/" + name;
      tensors = std::move(raw);
    }
    REQUIRE(!path.empty());
  }
  void write() const { write_raw(path, tensors); }
  void edit_index(const std::function<void(nlohmann::json&)>& edit) const {
    const std::string file = directory + "/model.safetensors.index.json";
    auto index = nlohmann::json::parse(read_file(file));
    edit(index);
    write_file(file, index.dump());
  }
};

}  // namespace

TEST_CASE("a good checkpoint is good") {
  const Broken b;
  b.write();
  CHECK(error_of(b.directory, b.scratch / "out").empty());
}

TEST_CASE("missing and truncated shards") {
  {
    const Broken b;
    std::filesystem::remove(b.path);
    CHECK(says(error_of(b.directory), {"model-0000", "is missing", "tensor"}));
  }
  {
    const Broken b;
    std::filesystem::resize_file(b.path, std::filesystem::file_size(b.path) - 1000);
    CHECK(says(error_of(b.directory), {"model-0000", "tensor", "truncated"}));
  }
  {
    const Broken b;  // not even root can read a directory as a file
    std::filesystem::remove(b.path);
    std::filesystem::create_directory(b.path);
    CHECK(says(error_of(b.directory), {"model-0000", "regular file"}));
  }
  {
    const Broken b;
    write_file(b.path, "");
    CHECK(says(error_of(b.directory), {"model-0000", "too short"}));
  }
}

TEST_CASE("missing, unknown, mis-shaped and mistyped tensors") {
  {
    Broken b;
    b.tensors.erase(weight);
    b.write();
    CHECK(says(error_of(b.directory), {"model-0000", weight.c_str(), "is missing"}));
    b.edit_index([](nlohmann::json& index) { index["weight_map"].erase(weight); });
    CHECK(says(error_of(b.directory), {weight.c_str(), "is missing from the checkpoint"}));
  }
  {
    Broken b;
    b.tensors["model.layers.2.mystery.weight"] = b.tensors[weight];
    b.write();
    CHECK(says(error_of(b.directory), {"mystery", "not in the index"}));
    b.edit_index([&](nlohmann::json& index) {
      index["weight_map"]["model.layers.2.mystery.weight"] = index["weight_map"][weight];
    });
    CHECK(says(error_of(b.directory), {"mystery", "unknown"}));
  }
  {
    Broken b;
    std::swap(b.tensors[weight].shape[0], b.tensors[weight].shape[1]);
    b.write();
    CHECK(says(error_of(b.directory), {weight.c_str(), "shape [160, 320]", "[320, 160]"}));
  }
  {
    Broken b;
    b.tensors[weight].dtype = "I8";
    b.write();
    CHECK(says(error_of(b.directory), {weight.c_str(), "I8", "not supported"}));
  }
}

TEST_CASE("scales of FP8 blocks") {
  const std::string scale = weight + "_scale_inv";
  {
    Broken b;
    auto& t = b.tensors[scale];
    t.shape = {1, t.shape[0] * t.shape[1]};
    b.write();
    CHECK(says(error_of(b.directory), {scale.c_str(), "need F32 [3, 2]"}));
  }
  {
    Broken b;
    b.tensors.erase(scale);
    b.write();
    b.edit_index([&](nlohmann::json& index) { index["weight_map"].erase(scale); });
    CHECK(says(error_of(b.directory), {scale.c_str(), "is missing"}));
  }
  {
    const Broken b;
    auto config = nlohmann::json::parse(read_file(b.directory + "/config.json"));
    config.erase("quantization_config");
    write_file(b.directory + "/config.json", config.dump());
    CHECK(says(error_of(b.directory), {"weight_block_size"}));
  }
}

TEST_CASE("not a number") {
  Broken b;
  b.tensors[weight].bytes[5] = '\x7f';  // NaN of e4m3fn
  b.write();
  CHECK(says(error_of(b.directory, b.scratch / "out"), {weight.c_str(), "row 0, column 5", "nan"}));
  CHECK_FALSE(std::filesystem::exists(b.scratch / "out/model.safetensors.index.json"));
}

TEST_CASE("an index that is wrong") {
  const Broken b;
  b.edit_index([](nlohmann::json& index) { index["weight_map"][weight] = "../elsewhere.safetensors"; });
  CHECK(says(error_of(b.directory), {"index.json", weight.c_str(), "plain file name"}));
  b.edit_index([](nlohmann::json& index) { index["weight_map"] = 7; });
  CHECK(says(error_of(b.directory), {"index.json", "weight_map"}));
  write_file(b.directory + "/model.safetensors.index.json", "{");
  CHECK(says(error_of(b.directory), {"index.json", "not JSON"}));
}

TEST_CASE("copies of the MTP layer must be copies, directories must be the right ones") {
  Broken b;
  for (auto& [name, bytes] : read_directory(b.directory)) {
    if (!name.ends_with(".safetensors")) continue;
    auto raw = read_raw(b.directory + "/" + name);
    const auto copy = raw.find("model.layers.4.embed_tokens.weight");
    if (copy == raw.end()) continue;
    copy->second.bytes[3] ^= 1;
    write_raw(b.directory + "/" + name, raw);
  }
  CHECK(says(error_of(b.directory), {"model.layers.4.embed_tokens.weight", "differs from model.embed_tokens.weight"}));

  const Broken good;
  CHECK(says(error_of(good.directory, good.directory), {"is the checkpoint itself"}));
  std::filesystem::create_directories(good.scratch / "out");
  write_file(good.scratch / "out/thesis.txt", "x");
  CHECK(says(error_of(good.directory, good.scratch / "out"), {"thesis.txt"}));
  CHECK(says(error_of("/nonexistent"), {"/nonexistent/config.json"}));
}
