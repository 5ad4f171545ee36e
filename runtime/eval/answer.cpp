#include "runtime/eval/answer.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>

namespace r1::eval {
namespace {

constexpr std::array<std::string_view, 3> judge_names = {"exact", "number", "choice"};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
// ASCII alone: Chinese puts no space between words and numbers or letters.
bool is_word(char c) {
  return is_digit(c) || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

std::string_view strip(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

// An unsigned number at `at`: digits, with commas between groups of three, and a decimal part. Moves `at` behind it.
std::optional<double> read_unsigned(std::string_view text, std::size_t& at) {
  std::string digits;
  std::size_t i = at;
  const auto group_follows = [&] {  // ",123" and no fourth digit
    return i + 3 < text.size() && text[i] == ',' && is_digit(text[i + 1]) && is_digit(text[i + 2]) &&
           is_digit(text[i + 3]) && !(i + 4 < text.size() && is_digit(text[i + 4]));
  };
  while (i < text.size() && (is_digit(text[i]) || (!digits.empty() && group_follows()))) {
    if (text[i] != ',') digits += text[i];
    ++i;
  }
  if (digits.empty() && !(i + 1 < text.size() && text[i] == '.' && is_digit(text[i + 1]))) return {};
  if (i + 1 < text.size() && text[i] == '.' && is_digit(text[i + 1])) {
    digits += '.';
    for (++i; i < text.size() && is_digit(text[i]); ++i) digits += text[i];
  }
  double value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  at = i;
  return value;
}

// A number at `at`: sign, then digits, digits/digits, or \frac{digits}{digits}.
std::optional<double> read_number(std::string_view text, std::size_t& at) {
  std::size_t i = at;
  double sign = 1;
  if (i < text.size() && (text[i] == '-' || text[i] == '+')) {
    sign = text[i] == '-' ? -1 : 1;
    ++i;
  } else if (text.substr(i).starts_with("\u2212")) {
    sign = -1;
    i += std::string_view("\u2212").size();
  }
  const auto expect = [&](char c) { return i < text.size() && text[i] == c && ++i > 0; };
  for (const std::string_view frac : {"\\frac{", "\\dfrac{", "\\tfrac{"}) {
    if (!text.substr(i).starts_with(frac)) continue;
    i += frac.size();
    const auto above = read_unsigned(text, i);
    if (!above || !expect('}') || !expect('{')) return {};
    const auto below = read_unsigned(text, i);
    if (!below || *below == 0 || !expect('}')) return {};
    at = i;
    return sign * *above / *below;
  }
  const auto value = read_unsigned(text, i);
  if (!value) return {};
  at = i;
  if (i + 1 < text.size() && text[i] == '/' && is_digit(text[i + 1])) {
    ++i;
    if (const auto below = read_unsigned(text, i); below && *below != 0) {
      at = i;
      return sign * *value / *below;
    }
  }
  return sign * *value;
}

// The last number in a text. Digits that belong to a word ("x2", "3rd") are none of their own.
std::optional<double> last_number(std::string_view text) {
  std::optional<double> last;
  for (std::size_t i = 0; i < text.size();) {
    const bool within_word = i > 0 && is_word(text[i - 1]) && is_digit(text[i]);
    // A sign belongs to the number if nothing that it could be subtracted from stands before it.
    const bool is_operator =
        (text[i] == '-' || text[i] == '+') && i > 0 && (is_word(text[i - 1]) || text[i - 1] == ')');
    std::size_t end = i;
    const auto number = within_word || is_operator ? std::nullopt : read_number(text, end);
    if (!number) {
      ++i;
      while (within_word && i < text.size() && is_digit(text[i])) ++i;
      continue;
    }
    const bool word_follows = end < text.size() && ((text[end] >= 'a' && text[end] <= 'z') ||
                                                    (text[end] >= 'A' && text[end] <= 'Z') || text[end] == '_');
    if (!word_follows) last = number;
    i = end;
  }
  return last;
}

std::string number_text(double value) {
  if (value == 0) value = 0;  // no −0
  return fmt::format("{:.12g}", value);
}

std::optional<char> last_letter(std::string_view text) {
  for (std::size_t i = text.size(); i-- > 0;) {
    if (text[i] < 'A' || text[i] > 'Z') continue;
    const bool alone = (i == 0 || (!is_word(text[i - 1]) && text[i - 1] != '\'')) &&
                       (i + 1 == text.size() || (!is_word(text[i + 1]) && text[i + 1] != '\''));
    // "I" is a word, too; only in brackets is it a choice.
    const bool in_brackets = i > 0 && i + 1 < text.size() && text[i - 1] == '(' && text[i + 1] == ')';
    if (alone && (text[i] != 'I' || in_brackets || strip(text).size() == 1)) return text[i];
  }
  return {};
}

}  // namespace

std::optional<Judge> judge_from_name(std::string_view name) {
  for (std::size_t i = 0; i < judge_names.size(); ++i) {
    if (judge_names[i] == name) return static_cast<Judge>(i);
  }
  return {};
}

const char* judge_name(Judge judge) {
  return judge_names[static_cast<std::size_t>(judge)].data();
}

std::optional<std::string> last_boxed(std::string_view text) {
  constexpr std::string_view opening = "\\boxed{";
  for (std::size_t from = text.rfind(opening); from != std::string_view::npos;
       from = from == 0 ? std::string_view::npos : text.rfind(opening, from - 1)) {
    const std::size_t begin = from + opening.size();
    int depth = 1;
    for (std::size_t i = begin; i < text.size(); ++i) {
      depth += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
      if (depth == 0) return std::string(text.substr(begin, i - begin));
    }
  }
  return {};
}

std::string extract_answer(Judge judge, std::string_view text) {
  const std::optional<std::string> boxed = last_boxed(text);
  if (boxed) {
    const std::string inside = normalize_answer(judge, *boxed);
    if (!inside.empty()) return inside;
  }
  return judge == Judge::exact && boxed ? std::string() : normalize_answer(judge, text);
}

std::string normalize_answer(Judge judge, std::string_view answer) {
  switch (judge) {
    case Judge::exact:
      break;
    case Judge::number: {
      const auto number = last_number(answer);
      return number ? number_text(*number) : std::string();
    }
    case Judge::choice: {
      const std::string_view text = strip(answer);
      if (text.size() == 1 && text[0] >= 'a' && text[0] <= 'z') {
        return std::string(1, static_cast<char>(text[0] - 'a' + 'A'));
      }
      const auto letter = last_letter(text);
      return letter ? std::string(1, *letter) : std::string();
    }
  }
  return std::string(strip(answer));
}

}  // namespace r1::eval
