#include "runtime/tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/base/try.h"

namespace r1::rt {
namespace {

// GPT-2's pattern, which ByteLevel applies where use_regex is true.
constexpr const char* gpt2_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

Result<PreTokenizer> PreTokenizer::load(const Json* json, const std::string& where) {
  PreTokenizer result;
  if (json != nullptr) R1_CHECK(result.add(*json, where + ": pre_tokenizer", 0));
  if (!result.byte_level_) {
    return Error{ErrorCode::unsupported, "there is no ByteLevel in it, and only byte-level vocabularies are supported",
                 where + ": pre_tokenizer"};
  }
  return result;
}

Result<void> PreTokenizer::add(const Json& value, const std::string& where, int depth) {
  if (!value.is_object()) return Error{ErrorCode::corrupt, "is not an object", where};
  const JsonObject json(value, where);
  R1_TRY(const std::string type, json.string("type"));
  if (type == "Sequence") {
    const Json* list = json.find("pretokenizers");
    if (list == nullptr || !list->is_array() || depth > 4)
      return json.error("pretokenizers", "must be a list, not nested deeply");
    for (const Json& entry : *list) R1_CHECK(add(entry, where, depth + 1));
    return {};
  }
  Rule rule;
  if (type == "Split") {
    R1_TRY(const JsonObject pattern, json.object("pattern"));
    const bool is_regex = pattern.has("Regex");
    R1_TRY(const std::string text, pattern.string(is_regex ? "Regex" : "String"));
    R1_TRY(const std::string behavior, json.string("behavior", "Isolated"));
    R1_TRY(rule.invert, json.boolean("invert", false));
    if (behavior == "Removed") {
      rule.behavior = Behavior::removed;
    } else if (behavior == "MergedWithPrevious") {
      rule.behavior = Behavior::merged_with_previous;
    } else if (behavior == "MergedWithNext") {
      rule.behavior = Behavior::merged_with_next;
    } else if (behavior == "Contiguous") {
      rule.behavior = Behavior::contiguous;
    } else if (behavior != "Isolated") {
      return json.error("behavior", fmt::format("{} is unknown", behavior));
    }
    R1_TRY(rule.regex, Regex::compile(is_regex ? text : quote_pattern(text), where));
  } else if (type == "Digits") {
    R1_TRY(const bool individual, json.boolean("individual_digits", false));
    R1_TRY(rule.regex, Regex::compile(individual ? R"(\p{N})" : R"(\p{N}+)", where));
  } else if (type == "ByteLevel") {
    byte_level_ = true;
    R1_TRY(rule.add_prefix_space, json.boolean("add_prefix_space", true));
    R1_TRY(const bool use_regex, json.boolean("use_regex", true));
    if (use_regex) {
      R1_TRY(rule.regex, Regex::compile(gpt2_pattern, where));
    }
    if (!use_regex && !rule.add_prefix_space) return {};
  } else {
    return Error{ErrorCode::unsupported,
                 fmt::format("type {} is not supported, only Sequence, Split, Digits and ByteLevel", type), where};
  }
  rules_.push_back(std::move(rule));
  return {};
}

Result<void> PreTokenizer::apply(const Rule& rule, std::string_view piece, Pieces& pieces) {
  std::vector<std::string_view>& out = pieces.views;
  if (rule.add_prefix_space && !piece.starts_with(' ')) piece = pieces.with_spaces.emplace_back(" ").append(piece);
  if (!rule.regex) {
    out.push_back(piece);
    return {};
  }
  pieces.matches.clear();
  R1_CHECK(rule.regex->find_all(piece, pieces.regex, pieces.matches));
  // The pieces of one text start at `first`: merging must not reach into what stood before it.
  const std::size_t first = out.size();
  bool last_is_separator = false;
  const auto extend = [&](std::string_view part) { out.back() = {out.back().data(), out.back().size() + part.size()}; };
  const auto emit = [&](std::size_t begin, std::size_t end, bool is_match) {
    const std::string_view part = piece.substr(begin, end - begin);
    const bool separates = is_match != rule.invert, any = out.size() > first;
    switch (rule.behavior) {
      case Behavior::isolated:
        out.push_back(part);
        break;
      case Behavior::removed:
        if (!separates) out.push_back(part);
        break;
      case Behavior::merged_with_previous:
        separates&& any && !last_is_separator ? extend(part) : out.push_back(part);
        break;
      case Behavior::merged_with_next:
        !separates&& any&& last_is_separator ? extend(part) : out.push_back(part);
        break;
      case Behavior::contiguous:
        any&& separates == last_is_separator ? extend(part) : out.push_back(part);
        break;
    }
    last_is_separator = separates;
  };
  std::size_t done = 0;
  for (const Match& match : pieces.matches) {
    if (match.begin > done) emit(done, match.begin, false);
    emit(match.begin, match.end, true);
    done = match.end;
  }
  if (done < piece.size()) emit(done, piece.size(), false);
  // An empty match cuts too; what lies between is all that remains of it.
  const auto is_empty = [](std::string_view part) { return part.empty(); };
  out.erase(std::remove_if(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(), is_empty), out.end());
  return {};
}

Result<void> PreTokenizer::split(std::string_view text, Pieces& pieces) const {
  pieces.with_spaces.clear();
  pieces.views.clear();
  if (!text.empty()) pieces.views.push_back(text);
  for (const Rule& rule : rules_) {
    pieces.views.swap(pieces.previous);
    pieces.views.clear();
    for (const std::string_view piece : pieces.previous) R1_CHECK(apply(rule, piece, pieces));
  }
  return {};
}

}  // namespace r1::rt
