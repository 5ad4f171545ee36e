// Scratch directories, and checkpoints to break.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

// A directory of its own, removed with everything in it at the end.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& bytes);
// Name → bytes of every file in a directory.
std::map<std::string, std::string> read_directory(const std::string& path);

struct RawTensor {
  std::string dtype;
  std::vector<std::size_t> shape;
  std::string bytes;
};
using RawTensors = std::map<std::string, RawTensor>;

// One safetensors file as it is, and written again; nothing is checked.
RawTensors read_raw(const std::string& path);
void write_raw(const std::string& path, const RawTensors& tensors);

// A copy of the golden checkpoint `name` (tests/golden/models) at `to`.
void copy_golden(const std::string& name, const std::string& to);

struct Run {
  int exit_code;  // 128 + signal if it was killed
  std::string out, err;
};
// Runs r1-quantize; `after_start` is called with its process id once it runs.
Run run_quantize(const std::vector<std::string>& arguments, const std::function<void(int)>& after_start = {});
