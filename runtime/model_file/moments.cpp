#include "runtime/model_file/moments.h"

#include <algorithm>

#include "quant/feedback.h"

namespace r1::rt {

Moments Moments::zeros(std::uint32_t k) {
  Moments moments;
  moments.k_ = k;
  moments.size_ = quant::triangle_values(k);
  moments.sums_ = std::shared_ptr<float[]>(new float[moments.size_]());
  moments.values_ = moments.sums_;
  return moments;
}

Moments Moments::of_file(std::shared_ptr<const MappedFile> file, std::uint64_t offset_bytes, std::uint32_t k) {
  Moments moments;
  moments.k_ = k;
  moments.size_ = quant::triangle_values(k);
  moments.offset_bytes_ = offset_bytes;
  moments.values_ = std::shared_ptr<const float[]>(
      file, reinterpret_cast<const float*>(file->bytes().data() + offset_bytes));  // the map's, alive as long as it is
  moments.file_ = std::move(file);
  return moments;
}

void Moments::add(const Moments& other) {
  if (sums_ == nullptr) {
    const Moments mine = *this;
    *this = zeros(mine.k_);
    std::copy(mine.values().begin(), mine.values().end(), sums_.get());
  }
  const std::span<const float> more = other.values();
  for (std::size_t i = 0; i < size_; ++i) sums_[i] += more[i];
}

bool Moments::are_sound() const {
  float zero = 0;  // of x · 0: NaN for what is not finite; it vectorizes
  for (std::size_t i = 0; i < size_; ++i) zero += values_[i] * 0.0f;
  if (zero != 0.0f) return false;
  for (std::size_t i = 0; i < k_; ++i) {
    if (values_[quant::triangle_values(i) + i] < 0) return false;
  }
  return true;
}

void Moments::release() const {
  if (file_ != nullptr) file_->release(offset_bytes_, size_ * sizeof(float));
}

}  // namespace r1::rt
