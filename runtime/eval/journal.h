// Scores of the windows that are done, in a file: a run that was interrupted goes on behind the last of them.
// Little-endian: JournalHeader, then per window: scores (RecordScore) [its n_scored], u64 XXH3 of them.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/eval/report.h"
#include "runtime/eval/windows.h"
#include "runtime/io/descriptor.h"

namespace r1::eval {

// One number for all that decides a result.
[[nodiscard]] std::uint64_t key_of(std::initializer_list<std::uint64_t> parts);

[[nodiscard]] std::uint64_t key_of_text(std::string_view text);

struct JournalKey {
  std::uint64_t run = 0;     // stands for all that decides a score
  std::uint64_t tokens = 0;  // for the part of it that models may share: the text, its windows and the base
};

// The scores of another run in its file, of all windows. An error where they are of other tokens or another base, or
// not complete.
[[nodiscard]] Result<std::vector<TokenScore>> read_scores(const std::string& path, std::uint64_t tokens_key,
                                                          const Windows& windows);

class Journal {
 public:
  // Makes the file or takes up the one there; a file of another run is an error.
  static Result<Journal> open(const std::string& path, const JournalKey& key, const Windows& windows);

  // Of the windows found, in order.
  [[nodiscard]] const std::vector<TokenScore>& scores() const { return scores_; }
  // Of the next window. Survives a crash.
  Result<void> append(std::span<const TokenScore> scores);

 private:
  Journal(std::string path, rt::Descriptor file) : path_(std::move(path)), file_(std::move(file)) {}
  std::string path_;
  rt::Descriptor file_;
  std::uint64_t n_bytes_ = 0;
  std::vector<TokenScore> scores_;
};

}  // namespace r1::eval
