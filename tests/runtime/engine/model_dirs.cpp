#include "model_dirs.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>

#include "convert/pipeline.h"
#include "quant/recipe.h"

namespace r1::test {
namespace {

// ctest runs test cases as processes side by side: one converts, the others wait and find its work finished.
class Lock {
 public:
  explicit Lock(const std::string& path) : descriptor_(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    REQUIRE(descriptor_ >= 0);
    REQUIRE(flock(descriptor_, LOCK_EX) == 0);
  }
  ~Lock() { close(descriptor_); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  int descriptor_;
};

template <class T>
T expect(Result<T> result) {
  REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : result.error().text()));
  return std::move(result).value();
}

}  // namespace

std::string directory_of(const std::string& name, const std::string& recipe) {
  const std::string out = std::string(R1_WORK_DIR) + "/models/" + name + "-" + recipe;
  std::filesystem::create_directories(out);
  const Lock lock(out + ".lock");
  const auto checkpoint = expect(convert::Checkpoint::open(std::string(R1_FIXTURES) + "/models/" + name));
  const auto plan = expect(convert::plan_conversion(checkpoint, *quant::find_recipe(recipe)));
  convert::ConvertOptions options;
  options.n_threads = 1;
  (void)expect(convert::convert(checkpoint, plan, out, options));
  return out;
}

std::shared_ptr<const Model> open_model(const std::string& name, const std::string& recipe) {
  ModelOptions options;
  options.path = directory_of(name, recipe);
  return expect(Model::open(options));
}

std::string temporary_directory() {
  struct Folder {
    std::string path = std::string(R1_WORK_DIR) + "/" + std::to_string(getpid());
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
