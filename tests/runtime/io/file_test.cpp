#include "runtime/io/file.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "runtime/base/bytes.h"

using namespace r1::rt;

TEST_CASE("files that are missing or no files") {
  CHECK(MappedFile::open("/nonexistent/x").error().text().find("/nonexistent/x") != std::string::npos);
  CHECK(MappedFile::open("/tmp").error().text().find("regular file") != std::string::npos);
  const std::string fifo = "/tmp/r1-fifo-" + std::to_string(::getpid());
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  CHECK_FALSE(MappedFile::open(fifo).ok());  // and does not wait for a writer
  std::filesystem::remove(fifo);
  std::ofstream("/tmp/r1-big") << "12345";
  CHECK(read_text_file("/tmp/r1-big", 4).error().text().find("5 bytes") != std::string::npos);
  CHECK(*read_text_file("/tmp/r1-big", 5) == "12345");
  std::filesystem::remove("/tmp/r1-big");
}

TEST_CASE("zstd gives back what it got and refuses what is broken") {
  std::vector<std::byte> data(100000);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i / 50);
  auto packed = zstd_compress(data, 3);
  CHECK(packed.size() < data.size() / 2);
  CHECK(*zstd_decompress(packed, data.size(), "x") == data);
  CHECK_FALSE(zstd_decompress(packed, data.size() - 1, "x").ok());
  CHECK_FALSE(zstd_decompress(std::span(packed).first(packed.size() / 2), data.size(), "x").ok());
  CHECK_FALSE(zstd_decompress({}, 10, "x").ok());
  packed[0] ^= std::byte{1};
  CHECK_FALSE(zstd_decompress(packed, data.size(), "x").ok());
}

TEST_CASE("sizes as people write them") {
  CHECK(parse_bytes("8GiB") == std::uint64_t{8} << 30);
  CHECK(parse_bytes("512 MiB") == std::uint64_t{512} << 20);
  CHECK(parse_bytes("1.5GB") == 1'500'000'000u);
  CHECK(parse_bytes("1e9") == 1'000'000'000u);
  CHECK(parse_bytes("64k") == 64'000u);
  for (const char* bad : {"", "GiB", "-1", "0", "1XB", "1GiBs", "nan", "1e30", "inf"})
    CHECK_FALSE(parse_bytes(bad).has_value());
}
