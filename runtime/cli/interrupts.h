// Ctrl-C stops what runs, not the program: SIGINT is blocked in all threads and waited for in one, which cancels the
// session. Made before any other thread exists, since threads inherit the block.
#pragma once

#include <r1/session.h>

#include <atomic>
#include <mutex>
#include <thread>

namespace r1::cli {

class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // While one lives, an interrupt cancels its session and sets happened(); a second one ends the program.
  class Guard {
   public:
    Guard(Interrupts& interrupts, Session& session);
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    Interrupts& interrupts_;
  };
  [[nodiscard]] bool happened() const { return happened_; }

  // While lines are read from a terminal, an interrupt makes this descriptor readable instead; drain() empties it.
  // Without either, an interrupt ends the program, as everywhere.
  void set_line_editing(bool on);
  [[nodiscard]] int line_editing_fd() const { return event_fd_; }
  void drain() const;

 private:
  void wait_for_signals();
  std::mutex mutex_;
  Session* session_ = nullptr;  // guarded by mutex_
  bool line_editing_ = false;   // guarded by mutex_
  std::atomic<bool> happened_{false};
  int event_fd_ = -1, signal_fd_ = -1, end_fd_ = -1;
  std::thread thread_;
};

}  // namespace r1::cli
