// The second moments of an input, Σ x xᵀ over tokens: what error feedback needs (quant/feedback.h). FORMAT.md,
// "Importance matrices", describes how a file holds them.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "runtime/io/file.h"

namespace r1::rt {

// The lower triangle, row by row: row i holds columns 0 … i. In memory, or mapped from a file; copies share it.
class Moments {
 public:
  Moments() = default;  // none
  [[nodiscard]] static Moments zeros(std::uint32_t k);
  // Values of `file` from a byte on that is a multiple of four, inside the file.
  [[nodiscard]] static Moments of_file(std::shared_ptr<const MappedFile> file, std::uint64_t offset_bytes,
                                       std::uint32_t k);

  [[nodiscard]] bool empty() const { return values_ == nullptr; }
  [[nodiscard]] std::span<const float> values() const { return {values_.get(), size_}; }
  [[nodiscard]] float* sums() { return sums_.get(); }  // of zeros(): what values() shows
  void add(const Moments& other);                      // of the same k
  // False if a value is not finite or one on the diagonal is negative.
  [[nodiscard]] bool are_sound() const;
  // Drops a file's pages from this process.
  void release() const;

 private:
  std::shared_ptr<const MappedFile> file_;
  std::uint64_t offset_bytes_ = 0;
  std::shared_ptr<float[]> sums_;
  std::shared_ptr<const float[]> values_;
  std::size_t size_ = 0;
  std::uint32_t k_ = 0;
};

}  // namespace r1::rt
