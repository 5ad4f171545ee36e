// File descriptors that close themselves, and writes that are whole or an error.
#pragma once

#include <r1/result.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace r1::rt {

// From errno: "PATH: cannot ACTION: reason".
[[nodiscard]] Error os_error(const std::string& path, const char* action);

class Descriptor {
 public:
  // flags and mode as for open(2); O_CLOEXEC is added.
  static Result<Descriptor> open(const std::string& path, int flags, unsigned mode = 0);
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  [[nodiscard]] int get() const { return fd_; }

 private:
  explicit Descriptor(int fd) : fd_(fd) {}
  int fd_ = -1;
};

[[nodiscard]] Result<void> write_all(int fd, const std::string& path, std::span<const std::byte> bytes,
                                     std::uint64_t offset_bytes);
[[nodiscard]] Result<void> sync_parent_directory(const std::string& path);

}  // namespace r1::rt
