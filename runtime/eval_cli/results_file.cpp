#include "runtime/eval_cli/results_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "runtime/cli/files.h"

namespace r1::eval_cli {
namespace {

Error system_error(const std::string& path) {
  return {ErrorCode::io, std::strerror(errno), path};
}

}  // namespace

ResultsFile::~ResultsFile() {
  if (fd_ >= 0) ::close(fd_);
}

ResultsFile::ResultsFile(ResultsFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), attempts_(std::move(other.attempts_)) {}

Result<ResultsFile> ResultsFile::open(const std::string& path, const std::string& settings) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return system_error(path);
  ResultsFile file(path, fd);
  const auto text = cli::read_input(path);
  if (!text) return text.error();
  const std::size_t n_whole = text->rfind('\n') == std::string::npos ? 0 : text->rfind('\n') + 1;
  if (n_whole == 0) {
    // Nothing, or the beginning of the first line; anything else is somebody's file.
    if (!settings.starts_with(*text)) {
      return Error{ErrorCode::invalid_argument, "holds no results: give another --out", path};
    }
    if (::ftruncate(fd, 0) != 0) return system_error(path);
    if (const auto written = file.write_line(settings); !written) return written.error();
    return file;
  }
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < n_whole;) {
    const std::size_t end = text->find('\n', begin);
    const std::string line = text->substr(begin, end - begin);
    begin = end + 1;
    if (number++ == 0) {
      if (line == settings) continue;
      const bool is_ours = line.starts_with("{\"r1_eval_tasks\"");
      return Error{ErrorCode::invalid_argument,
                   is_ours ? "holds results of another run (model, tasks or settings differ): delete it, or give "
                             "another --out"
                           : "holds no results: give another --out",
                   path};
    }
    auto attempt = eval::attempt_from_json(line, fmt::format("{}: line {}", path, number));
    if (!attempt) return attempt.error();
    file.attempts_.push_back(*std::move(attempt));
  }
  if (n_whole < text->size() && ::ftruncate(fd, static_cast<off_t>(n_whole)) != 0) return system_error(path);
  return file;
}

Result<void> ResultsFile::append(const eval::Attempt& attempt, const eval::Task& task) {
  return write_line(eval::attempt_to_json(attempt, task));
}

Result<void> ResultsFile::write_line(std::string line) {
  line += '\n';
  for (std::size_t done = 0; done < line.size();) {
    const ssize_t n = ::write(fd_, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error(path_);
    done += static_cast<std::size_t>(n);
  }
  return {};
}

}  // namespace r1::eval_cli
