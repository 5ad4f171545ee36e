#include "runtime/model_file/shard_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "runtime/base/try.h"
#include "runtime/io/json.h"
#include "runtime/io/safetensors.h"

namespace r1::rt {
namespace {

std::string shard_header(const std::vector<PlannedBlob>& blobs, const std::vector<std::uint64_t>& checksums,
                         const std::string& fingerprint) {
  // Keys in alphabetical order (nlohmann's own), so that equal content is equal bytes.
  Json header = Json::object();
  Json metadata = {
      {"format", "r1"}, {key_format_version, std::to_string(format_version)}, {key_fingerprint, fingerprint}};
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i < blobs.size(); ++i) {
    const PlannedBlob& blob = blobs[i];
    const std::uint64_t length = blob.stored.length_bytes;
    header[blob.spec.name] = {{"dtype", "U8"}, {"shape", {length}}, {"data_offsets", {offset, offset + length}}};
    metadata[blob.spec.name] = blob_metadata(blob.spec, blob.stored, checksums[i]);
    offset += length;
  }
  header["__metadata__"] = std::move(metadata);
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  // Data starts on a page: 8 bytes of length, then the header padded with spaces, as safetensors allows.
  text.resize((text.size() + 8 + page_bytes - 1) / page_bytes * page_bytes - 8, ' ');
  return text;
}

}  // namespace

ShardWriter::ShardWriter(std::string path, Descriptor file, std::vector<PlannedBlob> blobs, std::string fingerprint)
    : path_(std::move(path)),
      file_(std::move(file)),
      blobs_(std::move(blobs)),
      fingerprint_(std::move(fingerprint)),
      checksums_(blobs_.size()),
      written_(blobs_.size()) {
  header_bytes_ = header().size();
  file_bytes_ = 8 + header_bytes_;
  for (const PlannedBlob& blob : blobs_) {
    offsets_bytes_.push_back(file_bytes_);
    file_bytes_ += blob.stored.length_bytes;
  }
}

std::string ShardWriter::header() const {
  return shard_header(blobs_, checksums_, fingerprint_);
}

Result<std::unique_ptr<ShardWriter>> ShardWriter::create(const std::string& path, std::vector<PlannedBlob> blobs,
                                                         const std::string& fingerprint) {
  const std::string partial = path + ".partial";
  R1_TRY(Descriptor file, Descriptor::open(partial, O_RDWR | O_CREAT | O_TRUNC, 0644));
  auto writer = std::unique_ptr<ShardWriter>(new ShardWriter(path, std::move(file), std::move(blobs), fingerprint));
  int error = 0;
  do {
    error = ::posix_fallocate(writer->file_.get(), 0, static_cast<off_t>(writer->file_bytes_));
  } while (error == EINTR);
  if (error != 0) {
    errno = error;
    Error failure = os_error(partial, fmt::format("reserve {} bytes", writer->file_bytes_).c_str());
    ::unlink(partial.c_str());
    return failure;
  }
  return writer;
}

Result<void> ShardWriter::write_piece(std::size_t index, std::uint64_t offset_bytes, std::span<const std::byte> bytes) {
  const std::uint64_t length = blobs_[index].stored.length_bytes;
  if (offset_bytes > length || bytes.size() > length - offset_bytes) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{} bytes at byte {} do not fit its {} bytes", bytes.size(), offset_bytes, length),
                 fmt::format("{}.partial: tensor {}", path_, blobs_[index].spec.name)};
  }
  auto written = write_all(file_.get(), path_ + ".partial", bytes, offsets_bytes_[index] + offset_bytes);
  if (written) return {};
  Error error = std::move(written).error();
  error.context += ": tensor " + blobs_[index].spec.name;
  return error;
}

Result<void> ShardWriter::write_blob(std::size_t index, std::span<const std::byte> bytes) {
  if (bytes.size() != blobs_[index].stored.length_bytes) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{} bytes given, {} planned", bytes.size(), blobs_[index].stored.length_bytes),
                 fmt::format("{}.partial: tensor {}", path_, blobs_[index].spec.name)};
  }
  R1_CHECK(write_piece(index, 0, bytes));
  checksums_[index] = XXH3_64bits(bytes.data(), bytes.size());
  written_[index] = 1;
  return {};
}

Result<void> ShardWriter::finish_pieces(std::size_t index) {
  std::vector<std::byte> buffer(std::size_t{4} << 20);
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  XXH3_64bits_reset(state.get());
  const std::uint64_t length = blobs_[index].stored.length_bytes;
  for (std::uint64_t done = 0; done < length;) {
    const std::size_t want = std::min<std::uint64_t>(buffer.size(), length - done);
    const ssize_t n = ::pread(file_.get(), buffer.data(), want, static_cast<off_t>(offsets_bytes_[index] + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      if (n == 0) errno = EIO;
      return os_error(path_ + ".partial: tensor " + blobs_[index].spec.name, "read back");
    }
    XXH3_64bits_update(state.get(), buffer.data(), static_cast<std::size_t>(n));
    done += static_cast<std::uint64_t>(n);
  }
  checksums_[index] = XXH3_64bits_digest(state.get());
  written_[index] = 1;
  return {};
}

Result<void> ShardWriter::finish() {
  const std::string partial = path_ + ".partial";
  for (std::size_t i = 0; i < blobs_.size(); ++i) {
    if (!written_[i]) return Error{ErrorCode::io, "was not written", partial + ": tensor " + blobs_[i].spec.name};
  }
  const std::string text = header();
  std::array<std::byte, 8> length{};
  std::memcpy(length.data(), &header_bytes_, 8);
  R1_CHECK(write_all(file_.get(), partial, length, 0));
  R1_CHECK(write_all(file_.get(), partial, std::as_bytes(std::span(text)), 8));
  if (::fsync(file_.get()) != 0) return os_error(partial, "sync");
  if (::rename(partial.c_str(), path_.c_str()) != 0) return os_error(partial, "rename to its final name");
  return sync_parent_directory(path_);
}

bool is_finished_shard(const std::string& path, const std::vector<PlannedBlob>& blobs, const std::string& fingerprint) {
  const auto file = SafetensorsFile::open(path);
  if (!file) return false;
  const auto& metadata = file->metadata();
  const auto found = metadata.find(key_fingerprint);
  if (found == metadata.end() || found->second != fingerprint || file->entries().size() != blobs.size()) return false;
  for (const PlannedBlob& blob : blobs) {
    const SafetensorsEntry* entry = file->find(blob.spec.name);
    const auto text = metadata.find(blob.spec.name);
    if (entry == nullptr || text == metadata.end() || entry->length_bytes != blob.stored.length_bytes) return false;
    const auto parsed = parse_blob_metadata(blob.spec, text->second, path);
    if (!parsed || text->second != blob_metadata(blob.spec, blob.stored, parsed->xxh3)) return false;
  }
  return true;
}

std::uint64_t shard_file_bytes(const std::vector<PlannedBlob>& blobs, const std::string& fingerprint) {
  std::uint64_t bytes = 8 + shard_header(blobs, std::vector<std::uint64_t>(blobs.size()), fingerprint).size();
  for (const PlannedBlob& blob : blobs) bytes += blob.stored.length_bytes;
  return bytes;
}

}  // namespace r1::rt
