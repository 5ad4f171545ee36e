// The safetensors reader on good files and on everything that can be wrong with one.
#include "runtime/io/safetensors.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>

using namespace r1::rt;

namespace {

std::vector<std::byte> file_of(const std::string& header, std::size_t data_bytes,
                               std::uint64_t declared = ~std::uint64_t{0}) {
  const std::uint64_t length = declared == ~std::uint64_t{0} ? header.size() : declared;
  std::vector<std::byte> bytes(8 + header.size() + data_bytes);
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

std::string error_of(const std::vector<std::byte>& bytes) {
  const auto header = parse_safetensors(bytes, "x.safetensors");
  return header ? "" : header.error().text();
}

std::string error_of(const std::string& header, std::size_t data_bytes) {
  return error_of(file_of(header, data_bytes));
}

void check_says(const std::string& error, std::initializer_list<const char*> parts) {
  CAPTURE(error);
  CHECK(error.rfind("x.safetensors", 0) == 0);
  CHECK(error.find('\n') == std::string::npos);
  for (const char* part : parts) CHECK(error.find(part) != std::string::npos);
}

const std::string good =
    R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"__metadata__":{"k":"v"}})";

}  // namespace

TEST_CASE("a good header is read") {
  const auto bytes = file_of(good, 22);
  const auto header = parse_safetensors(bytes, "x");
  REQUIRE(header.ok());
  REQUIRE(header->entries.size() == 2);
  CHECK(header->entries[0].name == "a");
  CHECK(header->entries[0].offset_bytes == 8 + good.size());
  CHECK(header->entries[1].shape == std::vector<std::uint64_t>{3});
  CHECK(header->metadata.at("k") == "v");
}

TEST_CASE("truncated at every byte it is an error and never a crash") {
  const auto bytes = file_of(good, 22);
  for (std::size_t n = 0; n < bytes.size(); ++n) CHECK_FALSE(parse_safetensors(std::span(bytes).first(n), "x").ok());
  check_says(error_of(std::vector<std::byte>{}), {"0 bytes", "too short"});
}

TEST_CASE("every flipped bit of the header is read or refused") {
  auto bytes = file_of(good, 22);
  int n_refused = 0;
  for (std::size_t i = 0; i < 8 * (8 + good.size()); ++i) {
    bytes[i / 8] ^= static_cast<std::byte>(1 << (i % 8));
    const auto header = parse_safetensors(bytes, "x");
    n_refused += !header.ok();
    if (header) {
      for (const auto& entry : header->entries) CHECK(entry.offset_bytes + entry.length_bytes <= bytes.size());
    }
    bytes[i / 8] ^= static_cast<std::byte>(1 << (i % 8));
  }
  CHECK(n_refused > 500);
}

TEST_CASE("headers that are too long or not JSON") {
  check_says(error_of(file_of(good, 22, 200'000'000)), {"byte 0", "200000000"});
  check_says(error_of(file_of(good, 22, ~std::uint64_t{0} - 1)), {"byte 0"});
  check_says(error_of("{\"a\":", 0), {"not JSON"});
  check_says(error_of("[]", 0), {"not a JSON object"});
  check_says(error_of(std::string(10000, '['), 0), {"deeper"});
  check_says(error_of("{\"\xff\":1}", 0), {"not JSON"});
}

TEST_CASE("offsets out of range or overlapping or overflowing") {
  check_says(error_of(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 15), {"tensor a", "truncated"});
  check_says(error_of(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}})", 16), {"tensor a", "data_offsets"});
  check_says(error_of(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[-16,0]}})", 16), {"tensor a", "data_offsets"});
  check_says(
      error_of(R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[1,18446744073709551615]}})", 16),
      {"tensor a"});
  check_says(error_of(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
             {"tensor a", "overflows"});
  check_says(error_of(R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0), {"tensor a"});
  check_says(
      error_of(
          R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}})",
          12),
      {"tensor b", "overlaps tensor a"});
  check_says(error_of(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,16]}})", 16), {"tensor a", "need 12"});
  check_says(error_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", 8),
             {"tensor a", "belong to no tensor"});
}

TEST_CASE("duplicate tensors and wrong types") {
  check_says(
      error_of(
          R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
          0),
      {"a", "twice"});
  check_says(error_of(R"({"a":7})", 0), {"tensor a"});
  check_says(error_of(R"({"a":{"dtype":7,"shape":[],"data_offsets":[0,1]}})", 1), {"tensor a", "dtype"});
  check_says(error_of(R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}})", 1), {"tensor a", "shape"});
  check_says(error_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1), {"tensor a", "data_offsets"});
  check_says(error_of(R"({"__metadata__":{"k":1}})", 0), {"__metadata__"});
}

TEST_CASE("what is written is read back") {
  const std::string path =
      std::filesystem::temp_directory_path() / ("r1-io-" + std::to_string(::getpid()) + ".safetensors");
  std::vector<NamedTensor> tensors = {{"x", Dtype::i32, {2, 3}, std::vector<std::byte>(24, std::byte{7})},
                                      {"y", Dtype::f32, {1}, std::vector<std::byte>(4)}};
  REQUIRE(write_safetensors(path, tensors, {{"made", "here"}}).ok());
  const auto file = SafetensorsFile::open(path);
  REQUIRE(file.ok());
  REQUIRE(file->find("x") != nullptr);
  CHECK(file->data(*file->find("x")).size() == 24);
  CHECK(file->data(*file->find("x"))[5] == std::byte{7});
  CHECK(file->find("z") == nullptr);
  CHECK(file->metadata().at("made") == "here");
  std::filesystem::remove(path);
}
