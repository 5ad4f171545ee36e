// Model directories that tests run on, converted once from the golden checkpoints.
#pragma once

#include <r1/model.h>

#include <memory>
#include <string>

namespace r1::test {

// tests/golden/models/<name> at a recipe.
std::string directory_of(const std::string& name, const std::string& recipe = "exact");
std::shared_ptr<const Model> open_model(const std::string& name, const std::string& recipe = "exact");

// A folder of this process for what a test writes; removed at exit.
std::string temporary_directory();

}  // namespace r1::test
