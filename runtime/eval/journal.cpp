#include "runtime/eval/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "runtime/base/try.h"
#include "runtime/io/file.h"

namespace r1::eval {
namespace {

struct JournalHeader {
  char magic[8] = {'r', '1', 's', 'c', 'o', 'r', 'e', '1'};  // the last character is the version
  std::uint64_t key = 0;
  std::uint64_t reserved = 0;
  std::uint64_t key_xxh3 = 0;  // of the 24 bytes before
};
static_assert(sizeof(JournalHeader) == 32);

struct RecordScore {
  double logprob = 0, base_logprob = 0, kld = 0, same_top = 0;
};

std::uint64_t header_checksum(const JournalHeader& header) {
  return rt::xxh3_64({reinterpret_cast<const std::byte*>(&header), offsetof(JournalHeader, key_xxh3)});
}

}  // namespace

std::uint64_t key_of(std::initializer_list<std::uint64_t> parts) {
  return rt::xxh3_64(std::as_bytes(std::span(parts.begin(), parts.size())));
}

std::uint64_t key_of_text(std::string_view text) {
  return rt::xxh3_64(std::as_bytes(std::span(text)));
}

Result<Journal> Journal::open(const std::string& path, std::uint64_t key, const Windows& windows) {
  R1_TRY(rt::Descriptor file, rt::Descriptor::open(path, O_RDWR | O_CREAT, 0644));
  R1_TRY(const auto old, rt::MappedFile::open(path));
  Journal journal(path, std::move(file));
  JournalHeader header;
  header.key = key;
  header.key_xxh3 = header_checksum(header);
  if (old->size() < sizeof header) {
    // Nothing, or the beginning of a header that was being written; anything else is somebody's file.
    if (old->size() > 0 && std::memcmp(old->bytes().data(), &header, old->size()) != 0) {
      return Error{ErrorCode::invalid_argument, "is no state file: give another --state", path};
    }
    R1_CHECK(rt::write_all(journal.file_.get(), path, std::as_bytes(std::span(&header, 1)), 0));
    journal.n_bytes_ = sizeof header;
    return journal;
  }
  JournalHeader found;
  std::memcpy(&found, old->bytes().data(), sizeof found);
  if (std::memcmp(found.magic, header.magic, sizeof header.magic) != 0 || found.key_xxh3 != header_checksum(found)) {
    return Error{ErrorCode::invalid_argument, "is no state file: give another --state", path};
  }
  if (found.key != key) {
    return Error{ErrorCode::invalid_argument,
                 "holds the state of another run (model, base, text or settings differ): delete it, or give another "
                 "--state",
                 path};
  }
  std::size_t at = sizeof header;
  std::vector<RecordScore> record;
  for (std::uint32_t window = 0; window < windows.n_windows(); ++window) {
    record.resize(windows.n_scored(window));
    const std::size_t record_bytes = record.size() * sizeof(RecordScore);
    std::uint64_t checksum = 0;
    if (old->size() - at < record_bytes + sizeof checksum) break;
    std::memcpy(record.data(), old->bytes().data() + at, record_bytes);
    std::memcpy(&checksum, old->bytes().data() + at + record_bytes, sizeof checksum);
    if (checksum != rt::xxh3_64(std::as_bytes(std::span(record)))) break;  // this window is done again
    for (const RecordScore& r : record) journal.scores_.push_back({r.logprob, r.base_logprob, r.kld, r.same_top != 0});
    at += record_bytes + sizeof checksum;
  }
  journal.n_bytes_ = at;
  if (::ftruncate(journal.file_.get(), static_cast<off_t>(at)) != 0) return rt::os_error(path, "shorten");
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
