// Weights mapped or read into memory: the same numbers; memory that does not suffice is told before anything is read.
#include "runtime/model/load.h"

#include <doctest/doctest.h>
#include <r1/session.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "model_dirs.h"

using namespace r1;

namespace {

constexpr rt::MemoryFacts plenty{std::uint64_t{1} << 50, true, 0};
constexpr double for_ever = 1e9;

std::shared_ptr<const rt::ModelFile> open_file(const std::string& directory) {
  auto file = rt::ModelFile::open(directory);
  REQUIRE_MESSAGE(file.ok(), (file.ok() ? "" : file.error().text()));
  return *file;
}

std::vector<float> logits_of(const std::string& directory, LoadMode load) {
  ModelOptions options;
  options.path = directory;
  options.load = load;
  options.verify = true;  // of the copy, where there is one
  const auto model = Model::open(options);
  REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().text()));
  CHECK((*model)->load_report().mode == load);
  auto session = Session::create(*model);
  REQUIRE(session.ok());
  const std::vector<Token> tokens = {1, 5, 9, 2, 77, 3};
  REQUIRE(session->append(tokens).ok());
  REQUIRE(session->append(std::span(tokens).first(1)).ok());
  return {session->logits().begin(), session->logits().end()};
}

}  // namespace

TEST_CASE("mapped or read, the logits are the same to the bit") {
  for (const char* name : {"deepseek-v3-fp8", "llama", "qwen2", "qwen3"}) {
    for (const char* recipe : {"r2.7", "exact"}) {
      CAPTURE(name);
      CAPTURE(recipe);
      const std::string directory = test::directory_of(name, recipe);
      const auto mapped = logits_of(directory, LoadMode::map), read = logits_of(directory, LoadMode::read);
      REQUIRE(mapped.size() == read.size());
      CHECK(std::memcmp(mapped.data(), read.data(), mapped.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("read copies every blob, each at its place") {
  const auto file = open_file(test::directory_of("deepseek-v3-fp8", "r2.7"));
  const auto loaded = rt::load(file, LoadMode::read, plenty, 0);
  REQUIRE(loaded.ok());
  CHECK(loaded->report.mode == LoadMode::read);
  REQUIRE(loaded->file->blobs().size() == file->blobs().size());
  for (std::size_t i = 0; i < file->blobs().size(); ++i) {
    const rt::BlobInfo &from = file->blobs()[i], &to = loaded->file->blobs()[i];
    CAPTURE(from.name);
    CHECK(to.name == from.name);
    CHECK(loaded->file->find(from.name) == &to);
    REQUIRE(to.parts.size() == from.parts.size());
    CHECK(to.parts[0].blob != from.parts[0].blob);
    CHECK(reinterpret_cast<std::uintptr_t>(to.parts[0].blob) % 4096 == 0);
    for (std::size_t p = 0; p < to.parts.size(); ++p)
      CHECK(to.parts[p].blob - to.parts[0].blob == from.parts[p].blob - from.parts[0].blob);
    CHECK(std::memcmp(to.parts[0].blob, from.parts[0].blob, from.length_bytes) == 0);
  }
}

TEST_CASE("read says how much memory is missing, automatic maps and says why") {
  const auto file = open_file(test::directory_of("llama", "r2.7"));
  const auto refused = rt::load(file, LoadMode::read, {1000, true, 0}, 0);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::out_of_memory);
  CHECK(refused.error().text().find("0.00 GB of memory available; use --load map") != std::string::npos);

  const auto load = [&](const rt::MemoryFacts& memory, double max_seconds) {
    const auto loaded = rt::load(file, LoadMode::automatic, memory, max_seconds);
    REQUIRE(loaded.ok());
    CHECK((loaded->report.mode == LoadMode::map) == (loaded->file == file));
    return loaded->report;
  };
  CHECK(load(plenty, for_ever).mode == LoadMode::read);
  const auto no_room = load({std::uint64_t{1} << 30, true, 0}, for_ever);
  CHECK(no_room.mode == LoadMode::map);
  CHECK(no_room.reason.find("1.07 GB of memory available") != std::string::npos);
  const auto small_pages = load({plenty.available_bytes, false, 0}, for_ever);
  CHECK(small_pages.mode == LoadMode::map);
  CHECK(small_pages.reason.find("huge pages") != std::string::npos);
  const auto huge_already = load({plenty.available_bytes, true, 1}, for_ever);
  CHECK(huge_already.mode == LoadMode::map);
  CHECK(huge_already.reason.find("page cache") != std::string::npos);
  CHECK(rt::load(file, LoadMode::read_if_fits, {1000, true, 0})->report.mode == LoadMode::map);
  CHECK(rt::load(file, LoadMode::read_if_fits, {plenty.available_bytes, true, 1}, 0)->report.mode == LoadMode::read);
  const auto impatient = load(plenty, 0);
  CHECK(impatient.mode == LoadMode::map);
  CHECK(impatient.reason.find("--load read") != std::string::npos);
}

TEST_CASE("a shard that shrinks or goes while it is read is an error that names it") {
  namespace fs = std::filesystem;
  const std::string copy = test::temporary_directory() + "/shrinking";
  fs::copy(test::directory_of("llama", "r2.7"), copy, fs::copy_options::recursive);
  const auto file = open_file(copy);
  const std::string shard = copy + "/common.safetensors";
  fs::resize_file(shard, fs::file_size(shard) - 4096);
  const auto cut = rt::load(file, LoadMode::read, plenty, 0);
  REQUIRE_FALSE(cut.ok());
  CHECK(cut.error().code == ErrorCode::corrupt);
  CHECK(cut.error().text().find("common.safetensors: ends at byte") != std::string::npos);
  fs::remove(shard);
  const auto gone = rt::load(file, LoadMode::read, plenty, 0);
  REQUIRE_FALSE(gone.ok());
  CHECK(gone.error().code == ErrorCode::not_found);
}
