#include "runtime/cli/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace r1::cli {
namespace {

constexpr std::size_t max_input_bytes = std::size_t{1} << 30;

Error system_error(const std::string& where) {
  const ErrorCode code = errno == ENOENT ? ErrorCode::not_found : ErrorCode::io;
  return Error{code, std::strerror(errno), where};
}

}  // namespace

Result<std::string> read_input(const std::string& path) {
  const bool is_stdin = path == "-";
  const int fd = is_stdin ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const std::string where = is_stdin ? "standard input" : path;
  if (fd < 0) return system_error(where);
  std::string text;
  char buffer[65536];
  ssize_t n = 0;
  while ((n = ::read(fd, buffer, sizeof buffer)) > 0 || (n < 0 && errno == EINTR)) {
    if (n > 0) text.append(buffer, static_cast<std::size_t>(n));
    if (text.size() > max_input_bytes) break;
  }
  const Error error = system_error(where);
  if (!is_stdin) ::close(fd);
  if (n < 0) return error;
  if (text.size() > max_input_bytes) return Error{ErrorCode::invalid_argument, "more than 1 GiB of text", where};
  return text;
}

Result<void> write_file(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return system_error(path);
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = ::write(fd, text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const Error error = system_error(path);
      ::close(fd);
      return error;
    }
    written += static_cast<std::size_t>(n);
  }
  if (::close(fd) != 0) return system_error(path);
  return {};
}

}  // namespace r1::cli
