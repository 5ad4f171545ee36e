#include "model_dirs.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace r1::test {

std::string exact_directory(const std::string& name) {
  return "/tmp/modelstub/exact-" + name;
}

std::shared_ptr<const Model> exact_model(const std::string& name) {
  ModelOptions options;
  options.path = exact_directory(name);
  auto model = Model::open(options);
  REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().text()));
  return *model;
}

std::string temporary_directory() {
  struct Folder {
    std::string path = (std::filesystem::temp_directory_path() / ("r1-engine-" + std::to_string(getpid()))).string();
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static const Folder folder;
  return folder.path;
}

}  // namespace r1::test
