#include "checkpoint_maker.h"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

namespace fs = std::filesystem;

ScratchDirectory::ScratchDirectory() {
  std::string pattern = fs::temp_directory_path() / "r1-convert-XXXXXX";
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ec;
  fs::remove_all(path_, ec);
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::map<std::string, std::string> read_directory(const std::string& path) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(path)) files[entry.path().filename()] = read_file(entry.path());
  return files;
}

RawTensors read_raw(const std::string& path) {
  const std::string bytes = read_file(path);
  REQUIRE(bytes.size() > 8);
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  RawTensors tensors;
  const auto header = nlohmann::json::parse(bytes.substr(8, header_bytes));
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const std::size_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
    tensors[name] = {entry["dtype"], entry["shape"], bytes.substr(8 + header_bytes + begin, end - begin)};
  }
  return tensors;
}

void write_raw(const std::string& path, const RawTensors& tensors) {
  nlohmann::json header;
  std::string data;
  // Scales first: f32 stays aligned behind a header of a multiple of eight.
  for (const bool f32 : {true, false}) {
    for (const auto& [name, tensor] : tensors) {
      if ((tensor.dtype == "F32") != f32) continue;
      header[name] = {{"dtype", tensor.dtype},
                      {"shape", tensor.shape},
                      {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
      data += tensor.bytes;
    }
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t header_bytes = text.size();
  write_file(path, std::string(reinterpret_cast<const char*>(&header_bytes), 8) + text + data);
}

void copy_golden(const std::string& name, const std::string& to) {
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(R1_FIXTURES "/models/" + name)) {
    const std::string file = entry.path().filename();
    if (file.rfind("golden", 0) != 0)
      fs::copy_file(entry.path(), to + "/" + file, fs::copy_options::overwrite_existing);
  }
}

Run run_quantize(const std::vector<std::string>& arguments, const std::function<void(int)>& after_start) {
  const ScratchDirectory scratch;
  std::fflush(nullptr);  // or the child would print it again
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::vector<char*> argv = {const_cast<char*>(R1_QUANTIZE)};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    if (std::freopen((scratch / "out").c_str(), "w", stdout) == nullptr ||
        std::freopen((scratch / "err").c_str(), "w", stderr) == nullptr)
      ::_exit(126);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  if (after_start) after_start(child);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(scratch / "out"),
          read_file(scratch / "err")};
}
