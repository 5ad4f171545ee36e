#include "runtime/tokenizer/bpe.h"

#include <fmt/format.h>

#include <queue>

#include "runtime/base/try.h"
#include "runtime/tokenizer/byte_level.h"

namespace r1::rt {
namespace {

constexpr std::int64_t max_token_id = (1 << 24) - 1;

std::uint64_t pair_key(Token left, Token right) {
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

Result<Bpe> Bpe::load(const Json& model, const std::string& where) {
  Bpe bpe;
  const JsonObject json(model, where);
  R1_TRY(const std::string type, json.string("type", "BPE"));
  if (type != "BPE")
    return Error{ErrorCode::unsupported, fmt::format("type {} is not supported, only BPE", type), where};
  R1_TRY(const bool byte_fallback, json.boolean("byte_fallback", false));
  if (byte_fallback) return json.error("byte_fallback", "is not supported, only byte-level vocabularies are");
  R1_TRY(bpe.ignore_merges_, json.boolean("ignore_merges", false));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    R1_TRY(const std::string affix, json.string(key, ""));
    if (!affix.empty()) return json.error(key, "is not supported");
  }

  const Json* vocab = json.find("vocab");
  if (vocab == nullptr || !vocab->is_object()) return json.error("vocab", "must be an object");
  bpe.id_of_text_.reserve(vocab->size());
  bpe.id_of_bytes_.reserve(vocab->size());
  bpe.id_of_byte_.fill(-1);
  for (const auto& [text, value] : vocab->items()) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > static_cast<std::uint64_t>(max_token_id)) {
      return json.error("vocab", fmt::format("the id of {} is not an integer of 0 … {}", text, max_token_id));
    }
    const auto id = value.get<Token>();
    const auto index = static_cast<std::size_t>(id);
    if (index >= bpe.bytes_.size()) {
      bpe.bytes_.resize(index + 1);
      bpe.present_.resize(index + 1);
    }
    if (bpe.present_[index])
      return json.error("vocab", fmt::format("id {} is given twice, the second time to {}", id, text));
    // What is not of the byte alphabet (a special token listed here too) stands for itself.
    std::string bytes = bytes_of_token_text(text).value_or(text);
    if (bytes.size() == 1) bpe.id_of_byte_[static_cast<std::uint8_t>(bytes[0])] = id;
    bpe.id_of_bytes_.emplace(bytes, id);
    bpe.id_of_text_.emplace(text, id);
    bpe.bytes_[index] = std::move(bytes);
    bpe.present_[index] = 1;
  }

  const Json* merges = json.find("merges");
  if (merges == nullptr || !merges->is_array()) return json.error("merges", "must be a list");
  bpe.merges_.reserve(merges->size());
  std::uint32_t rank = 0;
  for (const Json& merge : *merges) {
    const auto broken = [&](std::string_view problem) {
      return json.error("merges", fmt::format("merge {}: {}", rank, problem));
    };
    std::string left, right;
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const auto space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
        return broken("must be two tokens with a space between");
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else {
      return broken("must be two tokens");
    }
    const auto a = bpe.id_of_text_.find(left), b = bpe.id_of_text_.find(right),
               merged = bpe.id_of_text_.find(left + right);
    if (a == bpe.id_of_text_.end()) return broken(fmt::format("{} is not in the vocabulary", left));
    if (b == bpe.id_of_text_.end()) return broken(fmt::format("{} is not in the vocabulary", right));
    if (merged == bpe.id_of_text_.end()) return broken(fmt::format("{} is not in the vocabulary", left + right));
    bpe.merges_.try_emplace(pair_key(a->second, b->second), Merge{rank, merged->second});
    ++rank;
  }
  return bpe;
}

const Bpe::Merge* Bpe::find_merge(Token left, Token right) const {
  const auto it = merges_.find(pair_key(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

Result<void> Bpe::encode(std::string_view piece, std::vector<Token>& ids) const {
  if (ignore_merges_) {
    if (const auto whole = id_of_bytes_.find(std::string(piece)); whole != id_of_bytes_.end()) {
      ids.push_back(whole->second);
      return {};
    }
  }
  std::vector<Symbol> symbols(piece.size());
  std::priority_queue<Candidate> queue;
  const auto consider = [&](std::int32_t left) {
    const Symbol& symbol = symbols[static_cast<std::size_t>(left)];
    if (symbol.next < 0) return;
    const Token right_id = symbols[static_cast<std::size_t>(symbol.next)].id;
    if (const Merge* merge = find_merge(symbol.id, right_id)) {
      queue.push({merge->rank, static_cast<std::uint32_t>(left), symbol.id, right_id, merge->id});
    }
  };
  for (std::size_t i = 0; i < piece.size(); ++i) {
    const auto byte = static_cast<std::uint8_t>(piece[i]);
    if (id_of_byte_[byte] < 0) {
      return Error{ErrorCode::unsupported, fmt::format("the vocabulary has no token for byte 0x{:02x}", byte), ""};
    }
    const auto at = static_cast<std::int32_t>(i);
    symbols[i] = {id_of_byte_[byte], at - 1, i + 1 < piece.size() ? at + 1 : -1};
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
  return {};
}

const std::string* Bpe::bytes(Token id) const {
  const auto index = static_cast<std::size_t>(id);
  return id >= 0 && index < bytes_.size() && present_[index] ? &bytes_[index] : nullptr;
}

std::optional<Token> Bpe::find_text(std::string_view text) const {
  const auto it = id_of_text_.find(std::string(text));
  if (it == id_of_text_.end()) return std::nullopt;
  return it->second;
}

}  // namespace r1::rt
