// The scalar decoder against the reference decoder's vectors, bit for bit.
#include "quant/decode.h"

#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

using namespace r1::quant;

namespace {

std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

}  // namespace

TEST_CASE("decoded rows equal the golden vectors bit for bit") {
  const std::string folder = R1_FIXTURES "/formats/";
  const auto list = nlohmann::json::parse(std::ifstream(folder + "formats.json"));
  int n_formats_seen = 0;
  for (const auto& vector : list["vectors"]) {
    const std::string name = vector["format"];
    CAPTURE(name);
    const auto format = format_from_name(name);
    REQUIRE(format.has_value());
    const std::uint32_t rows = vector["rows"], k = vector["k"];
    const auto layout = blob_layout(*format, rows, k);
    REQUIRE(layout.has_value());
    CHECK(info(*format).superchunk_bytes == vector["superchunk_bytes"].get<int>());
    const auto blob = read_file(folder + vector["blob"].get<std::string>());
    REQUIRE(blob.size() == layout->bytes);
    const auto expected = read_file(folder + vector["decoded"].get<std::string>());
    std::vector<float> decoded(std::size_t{rows} * k);
    REQUIRE(expected.size() == decoded.size() * sizeof(float));
    decode_rows(*format, *layout, blob, 0, rows, decoded.data());
    CHECK(std::memcmp(decoded.data(), expected.data(), expected.size()) == 0);
    // A range in the middle gives the same rows.
    std::vector<float> middle(std::size_t{3} * k);
    decode_rows(*format, *layout, blob, 15, 18, middle.data());
    CHECK(std::memcmp(middle.data(), decoded.data() + std::size_t{15} * k, middle.size() * sizeof(float)) == 0);
    ++n_formats_seen;
  }
  CHECK(n_formats_seen == 18);
}
