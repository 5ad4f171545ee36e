#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/tokenizer/pre_tokenizer.h"

#include <fmt/format.h>
#include <pcre2.h>

#include "runtime/base/try.h"

namespace r1::rt {
namespace {

enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

// GPT-2's pattern, which ByteLevel applies where use_regex is true.
constexpr const char* gpt2_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The reference's engine takes \s for Unicode's White_Space; PCRE2 would add U+180E, which is a format character since
// Unicode 6.3. Spelt out, inside a class and outside.
std::string with_unicode_spaces(std::string_view pattern) {
  constexpr std::string_view spaces = R"(\t-\r\x{85}\p{Z})";
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\' || i + 1 == pattern.size()) {
      if (c == '[') in_class = true;
      if (c == ']') in_class = false;
      out += c;
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's') {
      out += in_class ? std::string(spaces) : fmt::format("[{}]", spaces);
    } else if (escaped == 'S' && !in_class) {
      out += fmt::format("[^{}]", spaces);
    } else {
      out += '\\';
      out += escaped;
    }
  }
  return out;
}

std::string literal_pattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("\\^$.[]|()?*+{}-#").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

std::string pcre_message(int code) {
  PCRE2_UCHAR message[256];
  pcre2_get_error_message(code, message, sizeof message);
  return reinterpret_cast<const char*>(message);
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

struct Span {
  std::string_view text;
  bool is_match;
};

}  // namespace

// One rule; immutable once made.
class SplitRule {
 public:
  static Result<std::unique_ptr<SplitRule>> make(std::string_view pattern, Behavior behavior, bool invert,
                                                 const std::string& where) {
    auto rule = std::make_unique<SplitRule>();
    rule->behavior_ = behavior;
    rule->invert_ = invert;
    if (pattern.size() > 1 << 16) return Error{ErrorCode::unsupported, "the pattern is longer than 65536 bytes", where};
    const std::string translated = with_unicode_spaces(pattern);
    int code = 0;
    PCRE2_SIZE at = 0;
    rule->code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                    PCRE2_UTF | PCRE2_UCP, &code, &at, nullptr));
    if (rule->code_ == nullptr)
      return Error{ErrorCode::corrupt, fmt::format("pattern: {} at byte {}", pcre_message(code), at), where};
    // Without the compiler (some hardened systems forbid it) the interpreter does the same, more slowly.
    pcre2_jit_compile(rule->code_.get(), PCRE2_JIT_COMPLETE);
    rule->context_.reset(pcre2_match_context_create(nullptr));
    if (rule->context_ != nullptr) pcre2_set_match_limit(rule->context_.get(), 100'000'000);
    return rule;
  }

  bool add_prefix_space = false;

  Result<void> apply(std::string_view text, std::vector<std::string>& pieces) const {
    R1_TRY(const std::vector<Span> spans, find(text));
    // The pieces of one text start at `first`: merging must not reach into what stood before it.
    const std::size_t first = pieces.size();
    bool last_is_match = false, prepend = false;
    for (const Span& span : spans) {
      switch (behavior_) {
        case Behavior::isolated:
          pieces.emplace_back(span.text);
          break;
        case Behavior::removed:
          if (!span.is_match) pieces.emplace_back(span.text);
          break;
        case Behavior::merged_with_previous:
          if (span.is_match && pieces.size() > first && !last_is_match) {
            pieces.back() += span.text;
          } else {
            pieces.emplace_back(span.text);
          }
          break;
        case Behavior::merged_with_next:
          if (prepend && !span.is_match) {
            pieces.back() += span.text;
          } else {
            pieces.emplace_back(span.text);
          }
          prepend = span.is_match;
          break;
        case Behavior::contiguous:
          if (pieces.size() > first && last_is_match == span.is_match) {
            pieces.back() += span.text;
          } else {
            pieces.emplace_back(span.text);
          }
          break;
      }
      last_is_match = span.is_match;
    }
    return {};
  }

 private:
  // Matches and what stands between them, in order, without empty ones.
  Result<std::vector<Span>> find(std::string_view text) const {
    std::vector<Span> spans;
    const std::unique_ptr<pcre2_match_data, FreeMatchData> data(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    std::size_t done = 0, start = 0;
    while (start < text.size()) {
      const int n = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                                PCRE2_NO_UTF_CHECK, data.get(), context_.get());
      if (n == PCRE2_ERROR_NOMATCH) break;
      if (n < 0)
        return Error{ErrorCode::unsupported,
                     fmt::format("the tokenizer's pattern cannot split this text: {}", pcre_message(n)), ""};
      const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data.get());
      const std::size_t begin = offsets[0], end = offsets[1];
      if (end <= begin) {  // empty: go on with the next character
        start = std::max(start, end) + 1;
        while (start < text.size() && (static_cast<unsigned char>(text[start]) & 0xc0) == 0x80) ++start;
        continue;
      }
      if (begin > done) spans.push_back({text.substr(done, begin - done), invert_});
      spans.push_back({text.substr(begin, end - begin), !invert_});
      done = start = end;
    }
    if (done < text.size()) spans.push_back({text.substr(done), invert_});
    return spans;
  }

  std::unique_ptr<pcre2_code, FreeCode> code_;
  std::unique_ptr<pcre2_match_context, FreeMatchContext> context_;
  Behavior behavior_ = Behavior::isolated;
  bool invert_ = false;
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

Result<PreTokenizer> PreTokenizer::load(const Json* json, const std::string& where) {
  PreTokenizer result;
  if (json != nullptr && !json->is_null()) R1_CHECK(result.add(*json, where + ": pre_tokenizer", 0));
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
  if (type == "Split") {
    R1_TRY(const JsonObject pattern, json.object("pattern"));
    R1_TRY(const std::string regex, pattern.has("Regex") ? pattern.string("Regex") : pattern.string("String"));
    R1_TRY(const std::string behavior_name, json.string("behavior", "Isolated"));
    R1_TRY(const bool invert, json.boolean("invert", false));
    Behavior behavior = Behavior::isolated;
    if (behavior_name == "Removed") {
      behavior = Behavior::removed;
    } else if (behavior_name == "MergedWithPrevious") {
      behavior = Behavior::merged_with_previous;
    } else if (behavior_name == "MergedWithNext") {
      behavior = Behavior::merged_with_next;
    } else if (behavior_name == "Contiguous") {
      behavior = Behavior::contiguous;
    } else if (behavior_name != "Isolated") {
      return json.error("behavior", fmt::format("{} is unknown", behavior_name));
    }
    R1_TRY(auto rule, SplitRule::make(pattern.has("Regex") ? regex : literal_pattern(regex), behavior, invert, where));
    rules_.push_back(std::move(rule));
    return {};
  }
  if (type == "Digits") {
    R1_TRY(const bool individual, json.boolean("individual_digits", false));
    R1_TRY(auto rule, SplitRule::make(individual ? R"(\p{N})" : R"(\p{N}+)", Behavior::isolated, false, where));
    rules_.push_back(std::move(rule));
    return {};
  }
  if (type == "ByteLevel") {
    R1_TRY(const bool add_prefix_space, json.boolean("add_prefix_space", true));
    R1_TRY(const bool use_regex, json.boolean("use_regex", true));
    if (!add_prefix_space && !use_regex) return {};
    R1_TRY(auto rule, SplitRule::make(use_regex ? gpt2_pattern : "(?!)", Behavior::isolated, false, where));
    rule->add_prefix_space = add_prefix_space;
    rules_.push_back(std::move(rule));
    return {};
  }
  return Error{ErrorCode::unsupported,
               fmt::format("type {} is not supported, only Sequence, Split, Digits and ByteLevel", type), where};
}

Result<std::vector<std::string>> PreTokenizer::split(std::string_view text) const {
  std::vector<std::string> pieces;
  if (!text.empty()) pieces.emplace_back(text);
  for (const auto& rule : rules_) {
    std::vector<std::string> next;
    next.reserve(pieces.size());
    for (std::string& piece : pieces) {
      if (rule->add_prefix_space && piece.front() != ' ') piece.insert(piece.begin(), ' ');
      R1_CHECK(rule->apply(piece, next));
    }
    pieces = std::move(next);
  }
  return pieces;
}

}  // namespace r1::rt
