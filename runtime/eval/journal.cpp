#include "runtime/eval/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstring>

#include "runtime/base/try.h"
#include "runtime/io/file.h"

namespace r1::eval {
namespace {

struct JournalHeader {
  char magic[8] = {'r', '1', 's', 'c', 'o', 'r', 'e', '1'};  // the last character is the version
  std::uint64_t run_key = 0, tokens_key = 0;
  std::uint64_t keys_xxh3 = 0;  // of the 24 bytes before
};
static_assert(sizeof(JournalHeader) == 32);

struct RecordScore {
  double logprob = 0, base_logprob = 0, kld = 0, same_top = 0;
};

std::uint64_t header_checksum(const JournalHeader& header) {
  return rt::xxh3_64({reinterpret_cast<const std::byte*>(&header), offsetof(JournalHeader, keys_xxh3)});
}

Error no_state_file(const std::string& path) {
  return {ErrorCode::invalid_argument, "is no state file of r1-eval: give another file", path};
}

Result<JournalHeader> read_header(const rt::MappedFile& file, const std::string& path) {
  JournalHeader header;
  const JournalHeader ours;
  if (file.size() < sizeof header) return no_state_file(path);
  std::memcpy(&header, file.bytes().data(), sizeof header);
  if (std::memcmp(header.magic, ours.magic, sizeof ours.magic) != 0 || header.keys_xxh3 != header_checksum(header)) {
    return no_state_file(path);
  }
  return header;
}

// Scores of the windows that are complete → where they end.
std::size_t read_windows(const rt::MappedFile& file, const Windows& windows, std::vector<TokenScore>& scores) {
  std::size_t at = sizeof(JournalHeader);
  std::vector<RecordScore> record;
  for (std::uint32_t window = 0; window < windows.n_windows(); ++window) {
    record.resize(windows.n_scored(window));
    const std::size_t record_bytes = record.size() * sizeof(RecordScore);
    std::uint64_t checksum = 0;
    if (file.size() - at < record_bytes + sizeof checksum) break;
    std::memcpy(record.data(), file.bytes().data() + at, record_bytes);
    std::memcpy(&checksum, file.bytes().data() + at + record_bytes, sizeof checksum);
    if (checksum != rt::xxh3_64(std::as_bytes(std::span(record)))) break;  // this window is done again
    for (const RecordScore& r : record) scores.push_back({r.logprob, r.base_logprob, r.kld, r.same_top != 0});
    at += record_bytes + sizeof checksum;
  }
  return at;
}

}  // namespace

std::uint64_t key_of(std::initializer_list<std::uint64_t> parts) {
  return rt::xxh3_64(std::as_bytes(std::span(parts.begin(), parts.size())));
}

std::uint64_t key_of_text(std::string_view text) {
  return rt::xxh3_64(std::as_bytes(std::span(text)));
}

Result<std::vector<TokenScore>> read_scores(const std::string& path, std::uint64_t tokens_key, const Windows& windows) {
  R1_TRY(const auto file, rt::MappedFile::open(path));
  R1_TRY(const JournalHeader header, read_header(*file, path));
  if (header.tokens_key != tokens_key) {
    return Error{ErrorCode::invalid_argument,
                 "holds scores of another text or base: only runs over the same windows, against the same base, can be "
                 "compared",
                 path};
  }
  std::vector<TokenScore> scores;
  (void)read_windows(*file, windows, scores);
  if (scores.size() < windows.n_scored_tokens()) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("holds {} of {} scores: let that run come to its end first", scores.size(),
                             windows.n_scored_tokens()),
                 path};
  }
  return scores;
}

Result<Journal> Journal::open(const std::string& path, const JournalKey& key, const Windows& windows) {
  R1_TRY(rt::Descriptor file, rt::Descriptor::open(path, O_RDWR | O_CREAT, 0644));
  R1_TRY(const auto old, rt::MappedFile::open(path));
  Journal journal(path, std::move(file));
  JournalHeader header;
  header.run_key = key.run;
  header.tokens_key = key.tokens;
  header.keys_xxh3 = header_checksum(header);
  if (old->size() < sizeof header) {
    // Nothing, or the beginning of a header that was being written; anything else is somebody's file.
    if (old->size() > 0 && std::memcmp(old->bytes().data(), &header, old->size()) != 0) return no_state_file(path);
    R1_CHECK(rt::write_all(journal.file_.get(), path, std::as_bytes(std::span(&header, 1)), 0));
    journal.n_bytes_ = sizeof header;
    return journal;
  }
  R1_TRY(const JournalHeader found, read_header(*old, path));
  if (found.run_key != key.run || found.tokens_key != key.tokens) {
    return Error{ErrorCode::invalid_argument,
                 "holds the state of another run (model, base, text or settings differ): delete it, or give another "
                 "--state",
                 path};
  }
  journal.n_bytes_ = read_windows(*old, windows, journal.scores_);
  if (::ftruncate(journal.file_.get(), static_cast<off_t>(journal.n_bytes_)) != 0) {
    return rt::os_error(path, "shorten");
  }
  return journal;
}

Result<void> Journal::append(std::span<const TokenScore> scores) {
  std::vector<RecordScore> record;
  for (const TokenScore& s : scores) record.push_back({s.logprob, s.base_logprob, s.kld, s.same_top ? 1.0 : 0.0});
  const std::uint64_t checksum = rt::xxh3_64(std::as_bytes(std::span(record)));
  std::vector<std::byte> bytes(record.size() * sizeof(RecordScore) + sizeof checksum);
  std::memcpy(bytes.data(), record.data(), bytes.size() - sizeof checksum);
  std::memcpy(bytes.data() + bytes.size() - sizeof checksum, &checksum, sizeof checksum);
  R1_CHECK(rt::write_all(file_.get(), path_, bytes, n_bytes_));
  if (::fdatasync(file_.get()) != 0) return rt::os_error(path_, "sync");
  n_bytes_ += bytes.size();
  return {};
}

}  // namespace r1::eval
