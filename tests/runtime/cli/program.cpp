#include "program.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds program_limit{120}, terminal_limit{60};

[[noreturn]] void execute(const std::vector<std::string>& arguments,
                          const std::map<std::string, std::string>& environment) {
  for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> argv{const_cast<char*>("r1")};
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  ::execv(R1_PROGRAM, argv.data());
  ::_exit(127);
}

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return left < 0 ? 0 : static_cast<int>(left);
}

int exit_code(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

ProgramResult run_r1(const std::vector<std::string>& arguments, const ProgramInput& input) {
  int in[2], out[2], err[2];
  if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0) std::abort();
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(in[0], STDIN_FILENO);
    ::dup2(err[1], STDERR_FILENO);
    if (input.standard_output == "closed") {
      ::close(STDOUT_FILENO);
    } else if (!input.standard_output.empty()) {
      ::dup2(::open(input.standard_output.c_str(), O_WRONLY | O_CLOEXEC), STDOUT_FILENO);
    } else {
      ::dup2(out[1], STDOUT_FILENO);
    }
    execute(arguments, input.environment);
  }
  ::close(in[0]);
  ::close(out[1]);
  ::close(err[1]);
  ::signal(SIGPIPE, SIG_IGN);

  ProgramResult result;
  std::size_t written = 0;
  const auto deadline = Clock::now() + program_limit;
  pollfd fds[] = {{in[1], POLLOUT, 0}, {out[0], POLLIN, 0}, {err[0], POLLIN, 0}};
  while (fds[1].fd >= 0 || fds[2].fd >= 0) {
    if (fds[0].fd >= 0 && written == input.standard_input.size()) {
      ::close(fds[0].fd);
      fds[0].fd = -1;
    }
    if (::poll(fds, 3, milliseconds_until(deadline)) == 0) ::kill(pid, SIGKILL);
    if (fds[0].fd >= 0 && fds[0].revents != 0) {
      const ssize_t n = ::write(fds[0].fd, input.standard_input.data() + written,
                                std::min<std::size_t>(4096, input.standard_input.size() - written));
      written = n < 0 ? input.standard_input.size() : written + static_cast<std::size_t>(n);
    }
    for (int i = 1; i < 3; ++i) {
      if (fds[i].fd < 0 || fds[i].revents == 0) continue;
      char buffer[65536];
      const ssize_t n = ::read(fds[i].fd, buffer, sizeof buffer);
      if (n > 0) {
        (i == 1 ? result.out : result.err).append(buffer, static_cast<std::size_t>(n));
      } else {
        ::close(fds[i].fd);
        fds[i].fd = -1;
      }
    }
  }
  if (fds[0].fd >= 0) ::close(fds[0].fd);
  int status = 0;
  ::waitpid(pid, &status, 0);
  result.exit_code = exit_code(status);
  return result;
}

TerminalProgram::TerminalProgram(const std::vector<std::string>& arguments,
                                 const std::map<std::string, std::string>& environment) {
  winsize size = {};
  size.ws_row = 40;
  size.ws_col = 120;
  pid_ = ::forkpty(&fd_, nullptr, nullptr, &size);
  if (pid_ == 0) execute(arguments, environment);
}

TerminalProgram::~TerminalProgram() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(fd_);
}

void TerminalProgram::type(const std::string& keys) {
  for (std::size_t i = 0; i < keys.size();) {
    const ssize_t n = ::write(fd_, keys.data() + i, keys.size() - i);
    if (n <= 0) return;
    i += static_cast<std::size_t>(n);
  }
}

bool TerminalProgram::read_some(Clock::time_point deadline) {
  pollfd fd = {fd_, POLLIN, 0};
  if (::poll(&fd, 1, milliseconds_until(deadline)) <= 0) return false;
  char buffer[65536];
  const ssize_t n = ::read(fd_, buffer, sizeof buffer);
  if (n <= 0) return false;
  screen_.append(buffer, static_cast<std::size_t>(n));
  return true;
}

bool TerminalProgram::shows(const std::string& text) {
  const auto deadline = Clock::now() + terminal_limit;
  for (;;) {
    if (const std::size_t at = screen_.find(text, seen_); at != std::string::npos) {
      seen_ = at + text.size();
      return true;
    }
    if (!read_some(deadline)) return false;
  }
}

int TerminalProgram::wait() {
  const auto deadline = Clock::now() + terminal_limit;
  while (read_some(deadline)) {
  }
  if (Clock::now() >= deadline) ::kill(pid_, SIGKILL);
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  return exit_code(status);
}
