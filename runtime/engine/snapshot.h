// Saved sessions. Little-endian:
//   header   SnapshotHeader, 48 bytes
//   payload  one zstd frame of: tokens i32 [n_tokens] · logits f32 [n_logits] · cache rows (KvCache::write_rows)
#pragma once

#include <string>

#include "runtime/engine/session_impl.h"

namespace r1::rt {

struct SnapshotHeader {
  char magic[8] = {'r', '1', 'r', 't', 's', 'e', 's', '1'};  // the last character is the version
  std::uint64_t model_fingerprint = 0;
  std::uint32_t kv_type = 0;
  std::uint32_t n_tokens = 0;
  std::uint32_t n_logits = 0;  // vocab_size or 0
  std::uint32_t reserved = 0;
  std::uint64_t payload_xxh3 = 0;  // of the uncompressed payload
  std::uint64_t header_xxh3 = 0;   // of the 40 bytes before
};
static_assert(sizeof(SnapshotHeader) == 48);

[[nodiscard]] Result<void> save_snapshot(const Session::Impl& session, const std::string& path);
// The session is unchanged if this fails.
[[nodiscard]] Result<void> load_snapshot(Session::Impl& session, const std::string& path);

}  // namespace r1::rt
