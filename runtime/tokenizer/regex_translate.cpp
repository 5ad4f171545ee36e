// Where Oniguruma (Ruby syntax, what the reference uses) and PCRE2 read one pattern differently.
#include <fmt/format.h>

#include "runtime/base/try.h"
#include "runtime/tokenizer/regex.h"
#include "runtime/tokenizer/unicode_since_14.h"

namespace r1::rt {
namespace {

// Unicode's White_Space. PCRE2's \s would add U+180E, which is a format character since Unicode 6.3.
constexpr std::string_view spaces = R"(\t-\r\x{85}\p{Z})";

bool is_general_category(std::string_view name) {
  constexpr std::string_view major = "LMNPSZC";
  return !name.empty() && name.size() <= 2 && major.find(name[0]) != std::string_view::npos;
}

// The inside of a class that matches property `name`.
std::string property_ranges(std::string_view name) {
  // A script by itself; PCRE2 would take the wider Script_Extensions.
  std::string ranges = name == "Han" ? R"(\p{sc:Han})" : fmt::format(R"(\p{{{}}})", name);
  for (const AddedCharacters& added : unicode_since_14) {
    const bool within = is_general_category(name) ? added.property.size() == 2 && added.property.starts_with(name)
                                                  : added.property == name;
    if (within) ranges += added.ranges;
  }
  return ranges;
}

// A set, as an item of a class or as a class of its own.
std::string as_set(std::string_view ranges, bool in_class, bool negated) {
  if (in_class) return std::string(ranges);
  return fmt::format("[{}{}]", negated ? "^" : "", ranges);
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : pattern_(pattern), where_(where) {}

  Result<std::string> run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\' && at_ + 1 < pattern_.size()) {
        escape();
      } else if (in_class_) {
        R1_CHECK(class_item(c));
      } else {
        in_class_ = c == '[';
        class_start_ = at_ + 1;
        out_ += c;
        ++at_;
      }
    }
    return std::move(out_);
  }

 private:
  Result<void> class_item(char c) {
    const std::string_view rest = pattern_.substr(at_);
    const bool first = at_ == class_start_ || (at_ == class_start_ + 1 && pattern_[class_start_] == '^');
    if (rest.starts_with("&&")) return unsupported("an intersection of classes (&&)");
    if (rest.starts_with("[:")) {
      const auto end = rest.find(":]");
      if (end == std::string_view::npos) return unsupported("a class inside a class");
      out_ += rest.substr(0, end + 2);
      at_ += end + 2;
      return {};
    }
    if (c == '[') return unsupported("a class inside a class");
    if (c == ']' && !first) in_class_ = false;
    out_ += c;
    ++at_;
    return {};
  }

  void escape() {
    const char c = pattern_[at_ + 1];
    std::size_t length = 2;
    std::string replacement(pattern_.substr(at_, 2));
    switch (c) {
      case 's':
        replacement = as_set(spaces, in_class_, false);
        break;
      case 'S':  // inside a class a complement cannot be spelt out, but what PCRE2 leaves out can be added
        replacement = in_class_ ? R"(\S\x{180e})" : as_set(spaces, false, true);
        break;
      case 'w':
      case 'W':
        if (c == 'w' || !in_class_) {
          replacement = as_set(property_ranges("L") + property_ranges("M") + property_ranges("Nd") + R"(\p{Pc})",
                               in_class_, c == 'W');
        }
        break;
      case 'd':
      case 'D':
        if (c == 'd' || !in_class_) replacement = as_set(property_ranges("Nd"), in_class_, c == 'D');
        break;
      case 'h':  // a hexadecimal digit in Ruby
      case 'H':
        if (c == 'h' || !in_class_) replacement = as_set("0-9A-Fa-f", in_class_, c == 'H');
        break;
      case 'p':
      case 'P':
        property(c == 'P', length, replacement);
        break;
      default:
        break;
    }
    out_ += replacement;
    at_ += length;
  }

  void property(bool negated, std::size_t& length, std::string& replacement) const {
    const std::string_view rest = pattern_.substr(at_ + 2);
    if (!rest.starts_with('{')) return;
    const auto end = rest.find('}');
    if (end == std::string_view::npos) return;
    std::string_view name = rest.substr(1, end - 1);
    length = 2 + end + 1;
    replacement = std::string(pattern_.substr(at_, length));
    if (name.starts_with('^')) {
      name.remove_prefix(1);
      negated = !negated;
    }
    if (!is_general_category(name) && name != "Han") return;
    if (!in_class_ || !negated) replacement = as_set(property_ranges(name), in_class_, negated);
  }

  Error unsupported(std::string_view what) const {
    return {ErrorCode::unsupported, fmt::format("pattern: {} is not supported, at byte {}", what, at_), where_};
  }

  std::string_view pattern_;
  const std::string& where_;
  std::string out_;
  std::size_t at_ = 0, class_start_ = 0;
  bool in_class_ = false;
};

}  // namespace

Result<std::string> translate_pattern(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

std::string quote_pattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("\\^$.[]|()?*+{}-#").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace r1::rt
