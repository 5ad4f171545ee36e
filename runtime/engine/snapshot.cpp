#include "runtime/engine/snapshot.h"

#include <fmt/format.h>

#include <cstddef>
#include <cstring>

#include "runtime/base/try.h"
#include "runtime/io/file.h"

namespace r1::rt {
namespace {

constexpr int zstd_level = 1;  // KV rows are noise to a compressor: more effort saves next to nothing

std::uint64_t header_checksum(const SnapshotHeader& header) {
  return xxh3_64({reinterpret_cast<const std::byte*>(&header), offsetof(SnapshotHeader, header_xxh3)});
}

}  // namespace

Result<void> save_snapshot(const Session::Impl& session, const std::string& path) {
  SnapshotHeader header;
  header.model_fingerprint = session.model->info().fingerprint;
  header.kv_type = static_cast<std::uint32_t>(session.kv.shape().type);
  header.n_tokens = static_cast<std::uint32_t>(session.tokens.size());
  const std::span<const float> logits = session.last_logits();
  header.n_logits = static_cast<std::uint32_t>(logits.size());

  const std::size_t token_bytes = session.tokens.size() * sizeof(Token), logit_bytes = header.n_logits * sizeof(float);
  std::vector<std::byte> payload(token_bytes + logit_bytes + header.n_tokens * session.kv.shape().bytes_per_token());
  if (token_bytes > 0) std::memcpy(payload.data(), session.tokens.data(), token_bytes);
  if (logit_bytes > 0) std::memcpy(payload.data() + token_bytes, logits.data(), logit_bytes);
  session.kv.write_rows(header.n_tokens, std::span(payload).subspan(token_bytes + logit_bytes));
  header.payload_xxh3 = xxh3_64(payload);
  header.header_xxh3 = header_checksum(header);

  const std::vector<std::byte> compressed = zstd_compress(payload, zstd_level);
  std::vector<std::byte> file(sizeof(header) + compressed.size());
  std::memcpy(file.data(), &header, sizeof(header));
  std::memcpy(file.data() + sizeof(header), compressed.data(), compressed.size());
  return write_file_atomically(path, file);
}

Result<void> load_snapshot(Session::Impl& session, const std::string& path) {
  R1_TRY(const auto file, MappedFile::open(path));
  SnapshotHeader header;
  const SnapshotHeader expected;
  if (file->size() < sizeof(header)) return Error{ErrorCode::corrupt, "too short for a saved session", path};
  std::memcpy(&header, file->bytes().data(), sizeof(header));
  if (std::memcmp(header.magic, expected.magic, sizeof(header.magic)) != 0) {
    return Error{ErrorCode::corrupt, "not a saved session of this version", path};
  }
  if (header.header_xxh3 != header_checksum(header)) return Error{ErrorCode::corrupt, "the header is damaged", path};
  if (header.model_fingerprint != session.model->info().fingerprint) {
    return Error{ErrorCode::invalid_argument, "saved with another model, or another quantization of this one", path};
  }
  const KvShape& shape = session.kv.shape();
  if (header.kv_type != static_cast<std::uint32_t>(shape.type)) {
    return Error{ErrorCode::invalid_argument, "saved with another KV cache type: open the session with that one", path};
  }
  if (header.n_tokens > session.context_tokens) {
    return Error{ErrorCode::context_full,
                 fmt::format("the saved session holds {} tokens, this one has a context of {}", header.n_tokens,
                             session.context_tokens),
                 path};
  }
  const std::uint32_t vocab_size = session.model->info().vocab_size;
  if (header.n_logits != 0 && header.n_logits != vocab_size) {
    return Error{ErrorCode::corrupt, fmt::format("{} logits, but a vocabulary of {}", header.n_logits, vocab_size),
                 path};
  }
  const std::size_t token_bytes = header.n_tokens * sizeof(Token), logit_bytes = header.n_logits * sizeof(float);
  const std::size_t payload_bytes = token_bytes + logit_bytes + header.n_tokens * shape.bytes_per_token();
  R1_TRY(const std::vector<std::byte> payload,
         zstd_decompress(file->bytes().subspan(sizeof(header)), payload_bytes, path));
  if (payload.size() != payload_bytes || xxh3_64(payload) != header.payload_xxh3) {
    return Error{ErrorCode::corrupt, "the saved session is damaged (checksum)", path};
  }

  std::vector<Token> tokens(header.n_tokens);
  if (token_bytes > 0) std::memcpy(tokens.data(), payload.data(), token_bytes);
  R1_CHECK(check_tokens(tokens, vocab_size));
  KvCache kv(shape, session.context_tokens);
  R1_CHECK(kv.read_rows(header.n_tokens, std::span(payload).subspan(token_bytes + logit_bytes)));
  session.kv = std::move(kv);
  session.tokens.assign(tokens.begin(), tokens.end());
  if (logit_bytes > 0) std::memcpy(session.scratch.logits.data(), payload.data() + token_bytes, logit_bytes);
  session.n_logit_rows = header.n_logits == 0 ? 0 : 1;
  return {};
}

}  // namespace r1::rt
