// Model directories that are wrong somewhere.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "convert/pipeline.h"
#include "runtime/model_file/model_file.h"

using namespace r1;
namespace fs = std::filesystem;

namespace {

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// A fresh copy of a converted golden model.
struct Directory {
  std::string path = fs::temp_directory_path() / ("r1-model-dir-" + std::to_string(::getpid()));

  Directory() {
    static const std::string master = [&] {
      const std::string made = path + "-master";
      auto checkpoint = convert::Checkpoint::open(R1_FIXTURES "/models/deepseek-v3-bf16");
      REQUIRE(checkpoint.ok());
      auto plan = convert::plan_conversion(*checkpoint, *quant::find_recipe("r2.5"));
      REQUIRE(plan.ok());
      REQUIRE(convert::convert(*checkpoint, *plan, made, {}).ok());
      return made;
    }();
    fs::remove_all(path);
    fs::copy(master, path);
  }
  ~Directory() { fs::remove_all(path); }

  [[nodiscard]] std::string error() const {
    const auto model = rt::ModelFile::open(path);
    return model ? "" : model.error().text();
  }
  void edit_json(const std::string& name, const std::function<void(nlohmann::json&)>& edit) const {
    auto json = nlohmann::json::parse(read(path + "/" + name));
    edit(json);
    write(path + "/" + name, json.dump());
  }
  // Changes a shard's header; its length is kept by the padding.
  void edit_header(const std::string& shard, const std::function<void(nlohmann::json&)>& edit) const {
    std::string bytes = read(path + "/" + shard);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    auto header = nlohmann::json::parse(bytes.substr(8, length));
    edit(header);
    std::string text = header.dump();
    REQUIRE(text.size() <= length);
    text.resize(length, ' ');
    write(path + "/" + shard, bytes.substr(0, 8) + text + bytes.substr(8 + length));
  }
};

void check_says(const std::string& error, std::initializer_list<const char*> parts) {
  CAPTURE(error);
  CHECK_FALSE(error.empty());
  CHECK(error.find('\n') == std::string::npos);
  for (const char* part : parts) CHECK(error.find(part) != std::string::npos);
}

const std::string tensor = "model.layers.1.self_attn.o_proj.weight";

}  // namespace

TEST_CASE("a good directory opens and verifies and its blobs lie on pages") {
  const Directory d;
  const auto model = rt::ModelFile::open(d.path);
  REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().text()));
  for (const auto& blob : (*model)->blobs()) {
    CHECK((*model)->verify(blob).ok());
    CHECK(blob.offset_bytes % 4096 == 0);
    CHECK(blob.length_bytes % 4096 == 0);
    for (const auto& part : blob.parts) CHECK(reinterpret_cast<std::uintptr_t>(part.blob) % 64 == 0);
  }
  CHECK((*model)->find(tensor) != nullptr);
  CHECK((*model)->find("nothing") == nullptr);
}

TEST_CASE("one flipped bit is found and named") {
  const Directory d;
  const auto offset = [&] {
    const auto model = rt::ModelFile::open(d.path);
    return (*model)->find(tensor)->offset_bytes + 1000;
  }();
  std::string bytes = read(d.path + "/common.safetensors");
  bytes[offset] = static_cast<char>(bytes[offset] ^ 1);
  write(d.path + "/common.safetensors", bytes);
  const auto model = rt::ModelFile::open(d.path);
  REQUIRE(model.ok());
  int n_bad = 0;
  for (const auto& blob : (*model)->blobs()) {
    const auto verified = (*model)->verify(blob);
    if (verified) continue;
    ++n_bad;
    check_says(verified.error().text(), {"common.safetensors", tensor.c_str(), "checksum", "bytes"});
  }
  CHECK(n_bad == 1);
}

TEST_CASE("missing and truncated and foreign shards") {
  {
    const Directory d;
    fs::remove(d.path + "/experts-001.safetensors");
    check_says(d.error(), {"experts-001.safetensors", "No such file"});
  }
  {
    const Directory d;
    fs::resize_file(d.path + "/experts-001.safetensors", fs::file_size(d.path + "/experts-001.safetensors") - 4096);
    check_says(d.error(), {"experts-001.safetensors", "tensor", "truncated"});
  }
  {
    const Directory d;
    d.edit_header("experts-001.safetensors", [](nlohmann::json& h) { h["__metadata__"]["r1.fingerprint"] = "0"; });
    check_says(d.error(), {"safetensors"});
  }
  {
    const Directory d;
    fs::remove(d.path + "/model.safetensors.index.json");
    check_says(d.error(), {"model.safetensors.index.json"});
  }
  {
    const Directory d;  // on another drive
    const std::string elsewhere = d.path + "-elsewhere";
    fs::rename(d.path + "/experts-001.safetensors", elsewhere);
    fs::create_symlink(elsewhere, d.path + "/experts-001.safetensors");
    CHECK(d.error().empty());
    fs::remove(elsewhere);
  }
}

TEST_CASE("newer versions and checkpoints say what to do") {
  {
    const Directory d;
    d.edit_json("config.json", [](nlohmann::json& c) { c["quantization_config"]["format_version"] = 2; });
    check_says(d.error(), {"newer", "update r1rt"});
  }
  {
    const Directory d;
    d.edit_header("common.safetensors", [](nlohmann::json& h) { h["__metadata__"]["r1.format_version"] = "9"; });
    check_says(d.error(), {"common.safetensors", "update r1rt"});
  }
  const auto checkpoint = rt::ModelFile::open(R1_FIXTURES "/models/qwen2");
  REQUIRE_FALSE(checkpoint.ok());
  check_says(checkpoint.error().text(), {"is a checkpoint", "r1-quantize"});
}

TEST_CASE("the index and headers that contradict the config") {
  {
    const Directory d;
    d.edit_json("model.safetensors.index.json", [](nlohmann::json& i) { i["weight_map"].erase(tensor); });
    check_says(d.error(), {"index.json", tensor.c_str()});
  }
  {
    const Directory d;
    d.edit_json("model.safetensors.index.json",
                [](nlohmann::json& i) { i["weight_map"]["model.extra"] = "common.safetensors"; });
    check_says(d.error(), {"index.json", "model.extra"});
  }
  {
    const Directory d;
    d.edit_json("model.safetensors.index.json",
                [](nlohmann::json& i) { i["weight_map"][tensor] = "../../etc/passwd"; });
    check_says(d.error(), {"index.json", "plain file name"});
  }
  {
    const Directory d;
    d.edit_json("config.json", [](nlohmann::json& c) { c["hidden_size"] = 130; });
    check_says(d.error(), {"tensor", "130"});
  }
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"\"t", "\"z"}, {"\"xxh3\":\"", "\"xxh3\":\"g"}, {"\"parts\":1", "\"parts\":2"}, {"matrices", "matrizes"}}) {
    CAPTURE(to);
    const Directory d;
    d.edit_header("common.safetensors", [&, &f = from, &t = to](nlohmann::json& h) {
      std::string text = h["__metadata__"][tensor];
      const auto at = text.find(f);
      REQUIRE(at != std::string::npos);
      text.replace(at, f.size(), t);
      h["__metadata__"][tensor] = text;
    });
    check_says(d.error(), {"common.safetensors", tensor.c_str()});
  }
}
