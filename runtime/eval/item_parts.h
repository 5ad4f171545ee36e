// Where the matrices of one sensitivity item lie in a model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/model_file/model_file.h"
#include "runtime/model_file/sensitivity.h"
#include "runtime/model_file/tensor_specs.h"

namespace r1::eval {

struct ItemParts {
  struct Place {
    std::size_t blob = 0, part = 0;  // blobs[blob].parts[part]
  };

  std::vector<rt::BlobSpec> specs;  // [blobs.size()]
  std::vector<rt::BlobInfo> blobs;  // those that hold some of the item, as the model has them
  std::vector<Place> places;        // of all its matrices

  static ItemParts of(const rt::ModelFile& file, const rt::SensitivityItem& item);

  [[nodiscard]] const simd::PackedMatrix& matrix(const Place& place) const {
    return blobs[place.blob].parts[place.part];
  }
  [[nodiscard]] const rt::MatrixSpec& spec(const Place& place) const;
  [[nodiscard]] std::uint64_t bytes() const;  // of the matrices, as they are
};

}  // namespace r1::eval
