#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "runtime/model_file/model_file.h"

namespace {

// A container may have a /dev/shm that only root can write.
std::string memory_folder() {
  return ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : std::filesystem::temp_directory_path().string();
}

}  // namespace

// The input is the shard of a model directory whose other files are right (tests/fuzz/model).
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string directory = [] {
    // Of static lifetime, older than the handler that needs it.
    static const std::string path = memory_folder() + "/r1-fuzz-" + std::to_string(::getpid());
    std::filesystem::create_directories(path);
    for (const char* name : {"config.json", "model.safetensors.index.json"}) {
      std::filesystem::copy_file(std::string(R1_FUZZ_DIR "/model/") + name, path + "/" + name,
                                 std::filesystem::copy_options::overwrite_existing);
    }
    std::atexit([] { std::filesystem::remove_all(path); });
    return path;
  }();
  std::ofstream(directory + "/common.safetensors", std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  const auto model = r1::rt::ModelFile::open(directory);
  if (!model) {
    if (model.error().message.empty()) std::abort();
    return 0;
  }
  for (const auto& blob : (*model)->blobs()) {
    (void)(*model)->verify(blob);
    for (const auto& part : blob.parts) {
      const auto last = reinterpret_cast<std::uintptr_t>(part.blob) + part.layout.bytes;
      if (last > reinterpret_cast<std::uintptr_t>(blob.parts[0].blob) + blob.length_bytes) std::abort();
    }
  }
  return 0;
}
