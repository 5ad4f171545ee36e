// Owned arrays that start on a cache line: made once, when a session is planned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
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
    if (n > static_cast<std::size_t>(-1) / sizeof(T) - lazy_bytes) throw std::bad_alloc();
    if (n * sizeof(T) >= lazy_bytes) {
      lazy_ = std::calloc(1, n * sizeof(T) + line_bytes);
      if (lazy_ == nullptr) throw std::bad_alloc();
      const std::size_t behind_line = reinterpret_cast<std::uintptr_t>(lazy_) % line_bytes;
      data_ = reinterpret_cast<T*>(static_cast<std::byte*>(lazy_) + (line_bytes - behind_line) % line_bytes);
      return;
    }
    data_ = static_cast<T*>(::operator new(n * sizeof(T), alignment));
    std::memset(static_cast<void*>(data_), 0, n * sizeof(T));
  }
  // n elements of another buffer, which must outlive this one.
  static Buffer part_of(Buffer& lender, std::size_t first, std::size_t n) {
    Buffer part;
    part.data_ = lender.at(first);
    part.size_ = n;
    part.owns_ = false;
    return part;
  }
  ~Buffer() {
    if (lazy_ != nullptr) {
      std::free(lazy_);
    } else if (owns_) {
      ::operator delete(data_, alignment);
    }
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        lazy_(std::exchange(other.lazy_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        owns_(std::exchange(other.owns_, true)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(lazy_, other.lazy_);
    std::swap(size_, other.size_);
    std::swap(owns_, other.owns_);
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
  static constexpr std::size_t line_bytes = 64;
  static constexpr std::align_val_t alignment{line_bytes};
  // From this size on the system gives zeroed pages, and only when they are touched: buffers for large batches cost
  // nothing as long as batches are small.
  static constexpr std::size_t lazy_bytes = std::size_t{4} << 20;
  T* data_ = nullptr;
  void* lazy_ = nullptr;  // what calloc gave
  std::size_t size_ = 0;
  bool owns_ = true;
};

}  // namespace r1::rt
