// Owned arrays that start on a cache line: made once, when a session is planned.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <span>
#include <utility>

namespace r1::rt {

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t n) : size_(n) {
    if (n == 0) return;
    if (n > static_cast<std::size_t>(-1) / sizeof(T)) throw std::bad_alloc();
    data_ = static_cast<T*>(::operator new(n * sizeof(T), alignment));
    std::memset(static_cast<void*>(data_), 0, n * sizeof(T));
  }
  ~Buffer() { ::operator delete(data_, alignment); }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  [[nodiscard]] T* data() { return data_; }
  [[nodiscard]] const T* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] T* at(std::size_t i) { return data_ + i; }
  [[nodiscard]] const T* at(std::size_t i) const { return data_ + i; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }

 private:
  static constexpr std::align_val_t alignment{64};
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace r1::rt
