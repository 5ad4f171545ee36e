// What a model answered, taken out of its text, and whether it is right.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace r1::eval {

enum class Judge {
  exact,   // the last \boxed{…}, or else the whole answer without the space around it: the same characters
  number,  // the number in the last \boxed{…}, or else the last number: the same value
  choice,  // the letter in the last \boxed{…}, or else the last capital that stands alone: "C", "(C)", "C."
};
[[nodiscard]] std::optional<Judge> judge_from_name(std::string_view name);
[[nodiscard]] const char* judge_name(Judge judge);

// What is inside the last \boxed{…}, with the braces in it; nothing if there is none that ends.
[[nodiscard]] std::optional<std::string> last_boxed(std::string_view text);

// The answer in a form in which equal answers are equal texts ("1,234.50" → "1234.5", "(c)" → "C"); empty if the text
// has none. `text` is what stands behind the thoughts.
[[nodiscard]] std::string extract_answer(Judge judge, std::string_view text);
// The same for the answer that a task gives; empty if it is none of the judge's kind.
[[nodiscard]] std::string normalize_answer(Judge judge, std::string_view answer);

}  // namespace r1::eval
