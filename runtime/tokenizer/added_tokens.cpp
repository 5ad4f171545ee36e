#include "runtime/tokenizer/added_tokens.h"

#include <fmt/format.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include "runtime/base/try.h"
#include "runtime/tokenizer/token_strings.h"

namespace r1::rt {
namespace {

UChar32 character_before(std::string_view text, std::size_t at) {
  auto i = static_cast<std::int32_t>(at);
  UChar32 c = 0;
  U8_PREV(reinterpret_cast<const std::uint8_t*>(text.data()), 0, i, c);
  return c;
}

UChar32 character_at(std::string_view text, std::size_t at, std::size_t* length) {
  std::int32_t i = 0;
  const auto n = static_cast<std::int32_t>(std::min<std::size_t>(text.size() - at, 4));
  UChar32 c = 0;
  U8_NEXT(reinterpret_cast<const std::uint8_t*>(text.data() + at), i, n, c);
  *length = static_cast<std::size_t>(i);
  return c;
}

// \w of the reference: letters, marks, decimal digits, connector punctuation, joiners.
bool is_word(UChar32 c) {
  const auto mask = U_GET_GC_MASK(c);
  return (mask & (U_GC_L_MASK | U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL);
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  std::size_t length = 0;
  if (begin > 0 && is_word(character_before(text, begin))) return false;
  return end == text.size() || !is_word(character_at(text, end, &length));
}

}  // namespace

void AddedTokens::Trie::add(std::string_view text, std::int32_t token) {
  starts[static_cast<std::uint8_t>(text[0])] = true;
  std::uint32_t node = 0;
  for (const char c : text) {
    const auto fresh = static_cast<std::uint32_t>(nodes.size());
    const auto [next, is_fresh] = nodes[node].next.emplace(static_cast<std::uint8_t>(c), fresh);
    node = next->second;
    if (is_fresh) nodes.emplace_back();
  }
  nodes[node].token = token;
}

Result<AddedTokens> AddedTokens::load(const Json* list, const Normalizer& normalizer, const std::string& where) {
  AddedTokens result;
  if (list == nullptr) return result;
  if (!list->is_array()) return Error{ErrorCode::corrupt, "added_tokens: must be a list", where};
  for (std::size_t i = 0; i < list->size(); ++i) {
    const JsonObject json((*list)[i], fmt::format("{}: added token {}", where, i));
    AddedToken token;
    R1_TRY(const std::int64_t id, json.integer("id", 0, max_token_id));
    token.id = static_cast<Token>(id);
    R1_TRY(token.content, json.string("content"));
    R1_TRY(token.special, json.boolean("special", false));
    R1_TRY(token.normalized, json.boolean("normalized", !token.special));
    R1_TRY(token.lstrip, json.boolean("lstrip", false));
    R1_TRY(token.rstrip, json.boolean("rstrip", false));
    R1_TRY(token.single_word, json.boolean("single_word", false));
    if (token.content.empty() || token.content.size() > 4096) return json.error("content", "must be 1 … 4096 bytes");
    const auto index = static_cast<std::int32_t>(result.tokens_.size());
    if (!result.by_id_.emplace(token.id, index).second)
      return json.error("id", fmt::format("{} is given twice", token.id));
    if (!result.by_content_.emplace(token.content, index).second)
      return json.error("content", fmt::format("{} is given twice", token.content));
    // One that is looked for in normalized text has to be normalized itself.
    std::string storage;
    std::string_view pattern = token.content;
    if (token.normalized) {
      R1_TRY(pattern, normalizer.apply(token.content, storage));
    }
    result.tries_[token.normalized].add(pattern, index);
    result.tokens_.push_back(std::move(token));
  }
  return result;
}

std::int32_t AddedTokens::longest_match(const Trie& trie, std::string_view text, std::size_t at, std::size_t* end) {
  std::int32_t best = -1;
  std::uint32_t node = 0;
  for (; at < text.size(); ++at) {
    const auto next = trie.nodes[node].next.find(static_cast<std::uint8_t>(text[at]));
    if (next == trie.nodes[node].next.end()) break;
    node = next->second;
    if (trie.nodes[node].token >= 0) {
      best = trie.nodes[node].token;
      *end = at + 1;
    }
  }
  return best;
}

std::vector<Segment> AddedTokens::split(std::string_view text, bool normalized) const {
  const Trie& trie = tries_[normalized];
  std::vector<Segment> segments;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t begin = at, end = at;
    const std::int32_t match =
        trie.starts[static_cast<std::uint8_t>(text[at])] ? longest_match(trie, text, at, &end) : -1;
    if (match < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<std::size_t>(match)];
    if (token.single_word && !stands_alone(text, begin, end)) {
      at = end;
      continue;
    }
    if (token.lstrip) {
      while (begin > done && u_isUWhiteSpace(character_before(text, begin))) {
        do --begin;
        while (begin > done && (static_cast<std::uint8_t>(text[begin]) & 0xc0) == 0x80);
      }
    }
    if (token.rstrip) {
      std::size_t length = 0;
      while (end < text.size() && u_isUWhiteSpace(character_at(text, end, &length))) end += length;
    }
    if (begin > done) segments.push_back({text.substr(done, begin - done), std::nullopt});
    segments.push_back({text.substr(begin, end - begin), token.id});
    done = at = end;
  }
  if (done < text.size()) segments.push_back({text.substr(done), std::nullopt});
  return segments;
}

const AddedToken* AddedTokens::find(Token id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &tokens_[it->second];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto it = by_content_.find(content);
  return it == by_content_.end() ? nullptr : &tokens_[it->second];
}

}  // namespace r1::rt
