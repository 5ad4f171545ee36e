#include "runtime/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>

#include "runtime/base/try.h"
#include "runtime/tokenizer/byte_level.h"

namespace r1::rt {
namespace {

// Up to here, looking through all pairs at each step is faster than a queue.
constexpr std::size_t max_short_bytes = 64;

std::uint64_t pair_of(Token left, Token right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

// A possible merge of the symbol at `left` with its neighbour; the lowest rank first, then the leftmost.
struct Candidate {
  std::uint32_t rank;
  std::uint32_t left;
  Token left_id, right_id, merged;

  bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
};

struct Symbol {
  Token id;
  std::int32_t previous, next;  // −1: none; id −1: merged away
};

}  // namespace

Result<Bpe> Bpe::make(TokenizerFile& file, const std::string& where) {
  Bpe bpe;
  const Json* model = JsonObject(file.document, where).find("model");
  if (model == nullptr || !model->is_object()) return Error{ErrorCode::corrupt, "model: must be an object", where};
  const JsonObject json(*model, where + ": model");
  R1_TRY(const std::string type, json.string("type", "BPE"));
  if (type != "BPE") {
    return Error{ErrorCode::unsupported, fmt::format("type {} is not supported, only BPE", type), json.where()};
  }
  R1_TRY(const bool byte_fallback, json.boolean("byte_fallback", false));
  if (byte_fallback) return json.error("byte_fallback", "is not supported, only byte-level vocabularies are");
  R1_TRY(bpe.ignore_merges_, json.boolean("ignore_merges", false));
  R1_TRY(const double dropout, json.number("dropout", 0, 1, 0));
  if (dropout > 0) return json.error("dropout", "is not supported: the same text would get different ids");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    R1_TRY(const std::string affix, json.string(key, ""));
    if (!affix.empty()) return json.error(key, "is not supported");
  }
  if (!file.has_vocab) return json.error("vocab", "must be an object");
  if (!file.has_merges) return json.error("merges", "must be a list");

  bpe.id_of_byte_.fill(-1);
  for (Token id = 0; id < file.vocab.end_id(); ++id) {
    const auto text = file.vocab.at(id);
    if (!text) continue;
    // What is not of the byte alphabet (a special token listed here too) stands for itself, and no text becomes it.
    const auto bytes = bytes_of_token_text(*text);
    bpe.bytes_.set(id, bytes ? *bytes : *text);
    if (bytes) bpe.bytes_.make_findable(id);
    if (bytes && bytes->size() == 1) bpe.id_of_byte_[static_cast<std::uint8_t>((*bytes)[0])] = id;
  }
  R1_CHECK(bpe.add_merges(file, json.where()));
  bpe.texts_ = std::move(file.vocab);
  bpe.merges_to_itself_ = std::make_unique<std::atomic<std::uint8_t>[]>(static_cast<std::size_t>(bpe.end_id()));
  return bpe;
}

Result<void> Bpe::add_merges(const TokenizerFile& file, const std::string& where) {
  std::size_t n_slots = 64;
  while (n_slots < 2 * file.merges.size()) n_slots *= 2;
  merges_.resize(n_slots);
  std::uint32_t rank = 0;
  for (const MergeNames& names : file.merges) {
    const std::string_view both =
        std::string_view(file.merge_block).substr(names.offset, std::size_t{names.left_length} + names.right_length);
    Token ids[3] = {};
    const std::string_view texts[3] = {both.substr(0, names.left_length), both.substr(names.left_length), both};
    for (int i = 0; i < 3; ++i) {
      const auto id = file.vocab.find(texts[i]);
      if (!id) {
        return Error{ErrorCode::corrupt,
                     fmt::format("merges: merge {}: {} is not in the vocabulary", rank, texts[i].substr(0, 200)),
                     where};
      }
      ids[i] = *id;
    }
    // Of two merges of one pair the later counts, as in the reference.
    const std::uint64_t pair = pair_of(ids[0], ids[1]);
    merges_[slot_of(pair)] = {pair, rank++, ids[2]};
  }
  return {};
}

std::size_t Bpe::slot_of(std::uint64_t pair) const {
  const std::size_t mask = merges_.size() - 1;
  std::size_t slot = (pair * 0x9e3779b97f4a7c15u >> 32) & mask;  // Fibonacci hashing
  while (merges_[slot].pair != pair && merges_[slot].pair != no_pair) slot = (slot + 1) & mask;
  return slot;
}

const Bpe::Merge& Bpe::find_merge(Token left, Token right) const {
  return merges_[slot_of(pair_of(left, right))];
}

Result<void> Bpe::encode(std::string_view piece, std::vector<Token>& ids) const {
  const auto whole = bytes_.find(piece);
  std::uint8_t merges_to = unknown;
  if (whole) {
    merges_to = merges_to_itself_[static_cast<std::size_t>(*whole)].load(std::memory_order_relaxed);
    if (ignore_merges_ || merges_to == itself) {
      ids.push_back(*whole);
      return {};
    }
  }
  for (const char c : piece) {
    const auto byte = static_cast<std::uint8_t>(c);
    if (id_of_byte_[byte] < 0) {
      return Error{ErrorCode::unsupported, fmt::format("the vocabulary has no token for byte 0x{:02x}", byte), ""};
    }
  }
  const std::size_t first = ids.size();
  if (piece.size() <= max_short_bytes) {
    merge_short(piece, ids);
  } else {
    merge_long(piece, ids);
  }
  if (whole && merges_to == unknown) {
    const bool same = ids.size() == first + 1 && ids[first] == *whole;
    merges_to_itself_[static_cast<std::size_t>(*whole)].store(same ? itself : others, std::memory_order_relaxed);
  }
  return {};
}

void Bpe::merge_short(std::string_view piece, std::vector<Token>& ids) const {
  struct Step {
    std::uint32_t rank;
    Token merged;
  };
  std::array<Token, max_short_bytes> symbols;
  std::array<Step, max_short_bytes> steps;  // steps[i] merges symbols i and i + 1
  const auto look_up = [&](std::size_t i) {
    const Merge& merge = find_merge(symbols[i], symbols[i + 1]);
    steps[i] = {merge.rank, merge.id};
  };
  std::size_t n = piece.size();
  for (std::size_t i = 0; i < n; ++i) symbols[i] = id_of_byte_[static_cast<std::uint8_t>(piece[i])];
  for (std::size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < n; ++i) {
      if (steps[i].rank < steps[best].rank) best = i;
    }
    if (steps[best].rank == no_rank) break;
    symbols[best] = steps[best].merged;
    std::copy(symbols.begin() + best + 2, symbols.begin() + n, symbols.begin() + best + 1);
    --n;
    if (best + 1 < n) {
      std::copy(steps.begin() + best + 2, steps.begin() + n, steps.begin() + best + 1);
      look_up(best);
    }
    if (best > 0) look_up(best - 1);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.begin() + n);
}

void Bpe::merge_long(std::string_view piece, std::vector<Token>& ids) const {
  std::vector<Symbol> symbols(piece.size());
  std::priority_queue<Candidate> queue;
  const auto consider = [&](std::int32_t left) {
    const Symbol& symbol = symbols[static_cast<std::size_t>(left)];
    if (symbol.next < 0) return;
    const Token right_id = symbols[static_cast<std::size_t>(symbol.next)].id;
    const Merge& merge = find_merge(symbol.id, right_id);
    if (merge.rank != no_rank) {
      queue.push({merge.rank, static_cast<std::uint32_t>(left), symbol.id, right_id, merge.id});
    }
  };
  for (std::size_t i = 0; i < piece.size(); ++i) {
    const auto at = static_cast<std::int32_t>(i);
    symbols[i] = {id_of_byte_[static_cast<std::uint8_t>(piece[i])], at - 1, i + 1 < piece.size() ? at + 1 : -1};
  }
  for (std::size_t i = 0; i + 1 < piece.size(); ++i) consider(static_cast<std::int32_t>(i));
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    // Stale if either side has changed since.
    if (left.id != best.left_id || left.next < 0 || symbols[static_cast<std::size_t>(left.next)].id != best.right_id)
      continue;
    Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = static_cast<std::int32_t>(best.left);
    if (left.previous >= 0) consider(left.previous);
    consider(static_cast<std::int32_t>(best.left));
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

}  // namespace r1::rt
