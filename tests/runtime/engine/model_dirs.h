// Model directories that tests run on, converted once from the golden checkpoints.
#pragma once

#include <r1/model.h>

#include <memory>
#include <string>

namespace r1::test {

// tests/golden/models/<name> at recipe `exact`.
std::string exact_directory(const std::string& name);
std::shared_ptr<const Model> exact_model(const std::string& name);

// A folder of this process for what a test writes; removed at exit.
std::string temporary_directory();

}  // namespace r1::test
