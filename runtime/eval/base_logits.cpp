#include "runtime/eval/base_logits.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "runtime/base/try.h"

namespace r1::eval {
namespace {

constexpr int zstd_level = 3;  // entropy coding of the high bytes is all there is to gain
constexpr float n_steps = 65535;

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

std::vector<std::uint32_t> lengths_of(const Windows& windows) {
  std::vector<std::uint32_t> lengths;
  for (std::uint32_t i = 0; i < windows.n_windows(); ++i) {
    lengths.push_back(static_cast<std::uint32_t>(windows.window(i).size()));
  }
  return lengths;
}

std::uint64_t checksum_of(std::span<const std::uint32_t> lengths, std::span<const Token> tokens) {
  const std::uint64_t parts[] = {rt::xxh3_64(std::as_bytes(lengths)), rt::xxh3_64(std::as_bytes(tokens))};
  return rt::xxh3_64(std::as_bytes(std::span(parts)));
}

FileHeader header_of(const Model& model, const Windows& windows, const RunOptions& options) {
  FileHeader header;
  header.model_fingerprint = model.info().fingerprint;
  header.vocab_size = model.info().vocab_size;
  header.n_windows = windows.n_windows();
  header.n_tokens = windows.tokens.size();
  header.kv_type = static_cast<std::uint32_t>(options.kv_type);
  header.tokens_xxh3 = checksum_of(lengths_of(windows), windows.tokens);
  header.header_xxh3 = rt::xxh3_64(bytes_of(header).first(offsetof(FileHeader, header_xxh3)));
  return header;
}

std::uint64_t row_checksum(std::span<const std::byte> row) {
  // The header without its sum, then the codes: one buffer with the sum left out would cost a copy.
  const std::uint64_t parts[] = {rt::xxh3_64(row.first(offsetof(RowHeader, xxh3))),
                                 rt::xxh3_64(row.subspan(sizeof(RowHeader)))};
  return rt::xxh3_64(std::as_bytes(std::span(parts)));
}

std::vector<std::byte> encode_row(std::span<const float> logits, const RowFacts& facts) {
  const std::size_t n = logits.size();
  const float best = logits[static_cast<std::size_t>(facts.top)];
  const float range = std::min(best - *std::min_element(logits.begin(), logits.end()), max_range);
  RowHeader header;
  header.target_logprob = facts.target_logprob;
  header.step = range / n_steps;
  header.top = facts.top;
  const float per_nat = range > 0 ? n_steps / range : 0;
  std::vector<std::byte> high(n), low(n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto code = static_cast<std::uint32_t>(std::min((best - logits[i]) * per_nat + 0.5f, n_steps));
    high[i] = static_cast<std::byte>(code >> 8);
    low[i] = static_cast<std::byte>(code);
  }
  const std::vector<std::byte> frame = rt::zstd_compress(high, zstd_level);
  const bool is_shorter = !frame.empty() && frame.size() < n;
  const std::vector<std::byte>& stored = is_shorter ? frame : high;
  header.n_high_bytes = is_shorter ? static_cast<std::uint32_t>(frame.size()) : 0;
  header.n_code_bytes = static_cast<std::uint32_t>(stored.size() + n);

  std::vector<std::byte> row(sizeof header + header.n_code_bytes);
  std::memcpy(row.data() + sizeof header, stored.data(), stored.size());
  std::memcpy(row.data() + sizeof header + stored.size(), low.data(), n);
  std::memcpy(row.data(), &header, sizeof header);
  header.xxh3 = row_checksum(row);
  std::memcpy(row.data(), &header, sizeof header);
  return row;
}

// logits [vocab_size]: relative to the likeliest token's.
Result<RowFacts> decode_row(std::span<const std::byte> row, std::span<float> logits, const std::string& where) {
  RowHeader header;
  std::memcpy(&header, row.data(), sizeof header);
  const std::size_t n = logits.size();
  if (header.xxh3 != row_checksum(row)) return Error{ErrorCode::corrupt, "the row is damaged (checksum)", where};
  const auto codes = row.subspan(sizeof header);
  const std::size_t n_high = header.n_high_bytes == 0 ? n : header.n_high_bytes;
  if (n_high > codes.size() || codes.size() - n_high != n || !std::isfinite(header.step) || header.step < 0 ||
      !std::isfinite(header.target_logprob) || header.top < 0 || static_cast<std::size_t>(header.top) >= n) {
    return Error{ErrorCode::corrupt, "the row contradicts itself", where};
  }
  std::span<const std::byte> high = codes.first(n_high);
  const std::span<const std::byte> low = codes.subspan(n_high);
  std::vector<std::byte> unpacked;
  if (header.n_high_bytes != 0) {
    R1_TRY(unpacked, rt::zstd_decompress(high, n, where));
    high = unpacked;
    if (high.size() != n) return Error{ErrorCode::corrupt, "the row contradicts itself", where};
  }
  for (std::size_t i = 0; i < n; ++i) {
    const auto code = static_cast<std::int32_t>(high[i]) << 8 | static_cast<std::int32_t>(low[i]);
    logits[i] = -header.step * static_cast<float>(code);
  }
  RowFacts facts = row_facts(logits, 0);
  facts.target_logprob = header.target_logprob;
  facts.top = header.top;
  return facts;
}

// What a file holds, as far as headers tell. The row headers are walked: a row's length is in it.
struct Contents {
  FileHeader header;
  Windows windows;
  std::vector<std::uint64_t> row_offsets;  // [whole rows + 1] bytes
};

Result<Contents> read_contents(const rt::MappedFile& file) {
  const std::string& path = file.path();
  const auto bytes = file.bytes();
  Contents contents;
  FileHeader& h = contents.header;
  const FileHeader expected;
  if (bytes.size() < sizeof h) return Error{ErrorCode::corrupt, "too short for a file of base logits", path};
  std::memcpy(&h, bytes.data(), sizeof h);
  if (std::memcmp(h.magic, expected.magic, sizeof h.magic) != 0) {
    return Error{ErrorCode::corrupt, "not a file of base logits of this version", path};
  }
  if (h.header_xxh3 != rt::xxh3_64(bytes_of(h).first(offsetof(FileHeader, header_xxh3)))) {
    return Error{ErrorCode::corrupt, "the header is damaged (checksum)", path};
  }
  // Checked by division: a product of hostile numbers could wrap.
  if (h.vocab_size == 0 || h.n_windows == 0 || h.n_tokens < h.n_windows) {
    return Error{ErrorCode::corrupt, "the header contradicts itself", path};
  }
  const std::uint64_t n_words = (bytes.size() - sizeof h) / sizeof(Token);
  if (h.n_windows > n_words || h.n_tokens > n_words - h.n_windows) {
    return Error{ErrorCode::corrupt, "ends within its tokens: is it truncated?", path};
  }
  std::vector<std::uint32_t> lengths(h.n_windows);
  std::vector<Token> tokens(h.n_tokens);
  std::uint64_t at = sizeof h;
  std::memcpy(lengths.data(), bytes.data() + at, std::span(lengths).size_bytes());
  at += std::span(lengths).size_bytes();
  std::memcpy(tokens.data(), bytes.data() + at, std::span(tokens).size_bytes());
  at += std::span(tokens).size_bytes();
  if (checksum_of(lengths, tokens) != h.tokens_xxh3) {
    return Error{ErrorCode::corrupt, "the tokens are damaged (checksum)", path};
  }
  std::uint64_t n_seen = 0;
  for (const std::uint32_t length : lengths) {
    if (length < min_window_tokens || length > h.n_tokens - n_seen) break;
    contents.windows.add(std::span(tokens).subspan(n_seen, length));
    n_seen += length;
  }
  if (contents.windows.n_windows() != h.n_windows || n_seen != h.n_tokens) {
    return Error{ErrorCode::corrupt, "the header contradicts itself", path};
  }

  const std::uint64_t n_rows = contents.windows.n_scored_tokens();
  contents.row_offsets.push_back(at);
  while (contents.row_offsets.size() <= n_rows && bytes.size() - at >= sizeof(RowHeader)) {
    RowHeader row;
    std::memcpy(&row, bytes.data() + at, sizeof row);
    if (bytes.size() - at - sizeof row < row.n_code_bytes) break;
    at += sizeof row + row.n_code_bytes;
    contents.row_offsets.push_back(at);
  }
  return contents;
}

// Windows of an unfinished file whose rows are whole and undamaged.
std::uint32_t count_good_windows(const rt::MappedFile& file, const Contents& contents) {
  std::size_t n_good = 0;
  for (; n_good + 1 < contents.row_offsets.size(); ++n_good) {
    const std::uint64_t begin = contents.row_offsets[n_good], end = contents.row_offsets[n_good + 1];
    RowHeader header;
    const auto row = file.bytes().subspan(begin, end - begin);
    std::memcpy(&header, row.data(), sizeof header);
    if (header.xxh3 != row_checksum(row)) break;
    file.release(begin, end - begin);
  }
  std::uint32_t n_windows = 0;
  while (n_windows < contents.windows.n_windows() && contents.windows.rows[n_windows + 1] <= n_good) ++n_windows;
  return n_windows;
}

}  // namespace

Result<std::unique_ptr<BaseLogitsWriter>> BaseLogitsWriter::create(const std::string& path, const Model& model,
                                                                   const Windows& windows, const RunOptions& options) {
  const std::string partial = path + ".partial";
  const FileHeader header = header_of(model, windows, options);
  std::uint64_t n_bytes = 0;
  std::uint32_t n_windows_done = 0;
  if (std::filesystem::exists(partial)) {
    R1_TRY(const auto old, rt::MappedFile::open(partial));
    const Result<Contents> contents = read_contents(*old);  // what cannot be read is begun anew
    if (contents.ok()) {
      if (contents->header.header_xxh3 != header.header_xxh3) {
        return Error{ErrorCode::invalid_argument,
                     "the unfinished run that it holds is of another model, text or setting: delete it, or give "
                     "another --out",
                     partial};
      }
      n_windows_done = count_good_windows(*old, *contents);
      n_bytes = contents->row_offsets[windows.rows[n_windows_done]];
    }
  }
  R1_TRY(rt::Descriptor file, rt::Descriptor::open(partial, O_RDWR | O_CREAT, 0644));
  if (::ftruncate(file.get(), static_cast<off_t>(n_bytes)) != 0) return rt::os_error(partial, "shorten");
  std::unique_ptr<BaseLogitsWriter> writer(new BaseLogitsWriter(path, std::move(file), options));
  writer->n_windows_done_ = n_windows_done;
  writer->n_bytes_ = n_bytes;
  if (n_bytes == 0) {
    R1_CHECK(writer->write(bytes_of(header)));
    const std::vector<std::uint32_t> lengths = lengths_of(windows);
    R1_CHECK(writer->write(std::as_bytes(std::span(lengths))));
    R1_CHECK(writer->write(std::as_bytes(std::span(windows.tokens))));
  }
  return writer;
}

Result<void> BaseLogitsWriter::write(std::span<const std::byte> bytes) {
  R1_CHECK(rt::write_all(file_.get(), path_ + ".partial", bytes, n_bytes_));
  n_bytes_ += bytes.size();
  return {};
}

Result<void> BaseLogitsWriter::append(const Rows& rows) {
  const auto n = static_cast<std::uint32_t>(rows.facts.size());
  encoded_.resize(n);
  team_.run([&](const numa::Member& member) {
    const auto [from, to] = member.share(n);
    for (std::uint32_t i = from; i < to; ++i) encoded_[i] = encode_row(rows.row(i), rows.facts[i]);
  });
  for (const auto& row : encoded_) R1_CHECK(write(row));
  return {};
}

Result<void> BaseLogitsWriter::end_window() {
  ++n_windows_done_;
  if (::fdatasync(file_.get()) != 0) return rt::os_error(path_ + ".partial", "sync");
  return {};
}

Result<void> BaseLogitsWriter::finish() {
  const std::string partial = path_ + ".partial";
  if (::rename(partial.c_str(), path_.c_str()) != 0) return rt::os_error(partial, "rename to its final name");
  return rt::sync_parent_directory(path_);
}

bool BaseLogits::is_one(const std::string& path) {
  const auto file = rt::MappedFile::open(path);
  const FileHeader expected;
  return file.ok() && (*file)->size() >= sizeof expected.magic &&
         std::memcmp((*file)->bytes().data(), expected.magic, sizeof expected.magic) == 0;
}

Result<std::unique_ptr<BaseLogits>> BaseLogits::open(const std::string& path, const RunOptions& options) {
  R1_TRY(auto file, rt::MappedFile::open(path));
  R1_TRY(Contents contents, read_contents(*file));
  const std::uint64_t n_rows = contents.windows.n_scored_tokens();
  const std::size_t n_whole = contents.row_offsets.size() - 1;
  if (n_whole < n_rows) {
    return Error{ErrorCode::corrupt, fmt::format("holds {} of its {} rows: is it truncated?", n_whole, n_rows), path};
  }
  if (contents.row_offsets.back() != file->size()) {
    return Error{ErrorCode::corrupt,
                 fmt::format("goes on behind its last row, at byte {}", contents.row_offsets.back()), path};
  }
  // Each row has a byte for every token of the vocabulary at least: a larger one is no reason to ask for memory.
  if (contents.header.vocab_size > file->size()) {
    return Error{ErrorCode::corrupt, "the header contradicts itself", path};
  }
  std::unique_ptr<BaseLogits> base(new BaseLogits(std::move(file), options));
  base->header_ = contents.header;
  base->windows_ = std::move(contents.windows);
  base->row_offsets_ = std::move(contents.row_offsets);
  base->logits_.resize(std::size_t{max_rows} * base->header_.vocab_size);
  return base;
}

Result<Rows> BaseLogits::rows(std::uint32_t window, std::uint32_t first, std::uint32_t n) {
  const std::size_t vocab_size = header_.vocab_size;
  const std::size_t first_row = windows_.rows[window] + first;
  facts_.resize(n);
  std::vector<Result<void>> results(n);
  team_.run([&](const numa::Member& member) {
    const auto [from, to] = member.share(n);
    for (std::uint32_t i = from; i < to; ++i) {
      const std::uint64_t begin = row_offsets_[first_row + i], end = row_offsets_[first_row + i + 1];
      auto facts =
          decode_row(file_->bytes().subspan(begin, end - begin), std::span(logits_).subspan(i * vocab_size, vocab_size),
                     fmt::format("{}: row {} (byte {})", file_->path(), first_row + i, begin));
      if (facts) {
        facts_[i] = *facts;
      } else {
        results[i] = std::move(facts).error();
      }
      file_->release(begin, end - begin);
    }
  });
  for (const auto& result : results) R1_CHECK(result);
  return Rows{std::span(logits_).first(n * vocab_size), facts_};
}

}  // namespace r1::eval
