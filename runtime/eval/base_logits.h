// A base's predictions in a file, so that many models can be compared with one run of it. Little-endian:
//
//   header    FileHeader, 64 bytes
//   lengths   u32 [n_windows] tokens of each window
//   tokens    i32 [n_tokens] of all windows, one behind the other
//   rows      of each window's tokens n/2 + 1 … n − 1 (n: its length): RowHeader, 32 bytes, and the row's codes
//
// A row holds one code of 16 bits per token of the vocabulary: log-probability below the likeliest token's, in steps of
// RowHeader::step. The step is the row's range, or max_range where that is less, divided by 65535. Codes lie in two
// planes: all high bytes, as a zstd frame where that is shorter, then all low bytes, which are noise to a compressor.
// The base's exact log-probability of the token that came stands beside them: its perplexity is not rounded.
//
// What rounding costs: with step s, errors of the log-probabilities are uniform within ± s/2, which makes KL(base ‖
// base from the file) s²/24 on average: 1.5e-8 at a range of 40 nats. (llama.cpp cuts its rows at 16 nats, where the
// tail of a large vocabulary may hold 1e-2 of the probability.)
#pragma once

#include <r1/result.h>
#include <r1/session.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "numa/thread_team.h"
#include "runtime/eval/rows.h"
#include "runtime/eval/windows.h"
#include "runtime/io/descriptor.h"
#include "runtime/io/file.h"

namespace r1::eval {

inline constexpr float max_range =
    40;  // nats; what lies lower has less than e^-40 of the likeliest token's probability

struct FileHeader {
  char magic[8] = {'r', '1', 'l', 'o', 'g', 'i', 't', '1'};  // the last character is the version
  std::uint64_t model_fingerprint = 0;
  std::uint64_t n_tokens = 0;
  std::uint64_t tokens_xxh3 = 0;  // of lengths and tokens
  std::uint32_t vocab_size = 0;
  std::uint32_t n_windows = 0;
  std::uint32_t kv_type = 0;  // KvCacheType
  std::uint32_t reserved = 0;
  std::uint64_t reserved_too = 0;
  std::uint64_t header_xxh3 = 0;  // of the 56 bytes before
};
static_assert(sizeof(FileHeader) == 64);

struct RowHeader {
  double target_logprob = 0;
  float step = 0;
  Token top = 0;
  std::uint32_t n_high_bytes = 0;  // of the high bytes' zstd frame; 0: they lie as they are
  std::uint32_t n_code_bytes = 0;  // of both planes as stored
  std::uint64_t xxh3 = 0;          // of the sums of the 24 bytes before and of the codes
};
static_assert(sizeof(RowHeader) == 32);

// Writes PATH.partial, which becomes PATH when it is whole. What an earlier run left there is kept, if it belongs to
// the same model, text and cut: begin with window n_windows_done().
class BaseLogitsWriter {
 public:
  static Result<std::unique_ptr<BaseLogitsWriter>> create(const std::string& path, const Model& model,
                                                          const Windows& windows, const RunOptions& options);
  [[nodiscard]] std::uint32_t n_windows_done() const { return n_windows_done_; }
  Result<void> append(const Rows& rows);
  Result<void> end_window();  // behind its last row: what is written up to here survives a crash
  Result<void> finish();      // behind the last window

 private:
  BaseLogitsWriter(std::string path, rt::Descriptor file, const RunOptions& options)
      : path_(std::move(path)), file_(std::move(file)), team_({.n_threads = options.n_threads, .pin = true}) {}
  Result<void> write(std::span<const std::byte> bytes);
  std::string path_;
  rt::Descriptor file_;  // PATH.partial
  numa::ThreadTeam team_;
  std::uint64_t n_bytes_ = 0;
  std::uint32_t n_windows_done_ = 0;
  std::vector<std::vector<std::byte>> encoded_;  // [max_rows]
};

// A whole file, as a source of rows. Opening it checks header and length; reading a row checks its sum.
class BaseLogits final : public RowSource {
 public:
  static Result<std::unique_ptr<BaseLogits>> open(const std::string& path, const RunOptions& options);
  // Whether a file is meant to be one, by its first bytes.
  [[nodiscard]] static bool is_one(const std::string& path);

  [[nodiscard]] std::uint32_t vocab_size() const { return header_.vocab_size; }
  [[nodiscard]] std::uint64_t model_fingerprint() const { return header_.model_fingerprint; }
  [[nodiscard]] const Windows& windows() const { return windows_; }
  Result<Rows> rows(std::uint32_t window, std::uint32_t first, std::uint32_t n) override;

 private:
  BaseLogits(std::shared_ptr<const rt::MappedFile> file, const RunOptions& options)
      : file_(std::move(file)), team_({.n_threads = options.n_threads, .pin = true}) {}
  std::shared_ptr<const rt::MappedFile> file_;
  numa::ThreadTeam team_;
  FileHeader header_;
  Windows windows_;
  std::vector<std::uint64_t> row_offsets_;  // [n rows + 1] bytes
  std::vector<float> logits_;               // [max_rows, vocab_size]
  std::vector<RowFacts> facts_;
};

}  // namespace r1::eval
