#include "runtime/cli/interrupts.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>

namespace r1::cli {
namespace {

// The signal's own end, so that a shell sees "interrupted"; the reset leaves no dim text behind.
[[noreturn]] void die_by_interrupt() {
  constexpr char reset[] = "\033[0m\n";
  if (::isatty(STDOUT_FILENO) == 1) {
    [[maybe_unused]] const auto n = ::write(STDOUT_FILENO, reset, sizeof reset - 1);
  }
  std::signal(SIGINT, SIG_DFL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  ::kill(::getpid(), SIGINT);
  std::_Exit(1);
}

}  // namespace

Interrupts::Interrupts() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  event_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  end_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  signal_fd_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  thread_ = std::thread([this] { wait_for_signals(); });
}

Interrupts::~Interrupts() {
  ::eventfd_write(end_fd_, 1);
  thread_.join();
  for (const int fd : {event_fd_, end_fd_, signal_fd_}) ::close(fd);
}

void Interrupts::wait_for_signals() {
  for (;;) {
    pollfd fds[] = {{signal_fd_, POLLIN, 0}, {end_fd_, POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0) continue;
    if (fds[1].revents != 0) return;
    signalfd_siginfo info;
    if (::read(signal_fd_, &info, sizeof info) != static_cast<ssize_t>(sizeof info)) continue;
    const std::lock_guard lock(mutex_);
    if (session_ != nullptr && !happened_.exchange(true)) {
      session_->cancel();
    } else if (session_ == nullptr && line_editing_) {
      ::eventfd_write(event_fd_, 1);
    } else {
      die_by_interrupt();
    }
  }
}

Interrupts::Guard::Guard(Interrupts& interrupts, Session& session) : interrupts_(interrupts) {
  const std::lock_guard lock(interrupts_.mutex_);
  interrupts_.happened_ = false;
  interrupts_.session_ = &session;
}

Interrupts::Guard::~Guard() {
  const std::lock_guard lock(interrupts_.mutex_);
  interrupts_.session_ = nullptr;
}

void Interrupts::set_line_editing(bool on) {
  const std::lock_guard lock(mutex_);
  line_editing_ = on;
}

void Interrupts::drain() const {
  eventfd_t count = 0;
  [[maybe_unused]] const int r = ::eventfd_read(event_fd_, &count);
}

}  // namespace r1::cli
