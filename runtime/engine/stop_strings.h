// Finds stop strings in text that arrives in pieces.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace r1::rt {

// Length of the longest proper prefix of `pattern` that `text` ends with.
inline std::size_t partial_match_bytes(std::string_view text, std::string_view pattern) {
  for (std::size_t n = std::min(text.size(), pattern.size() - 1); n > 0; --n) {
    if (text.ends_with(pattern.substr(0, n))) return n;
  }
  return 0;
}

class StopStrings {
 public:
  explicit StopStrings(std::span<const std::string> strings) : strings_(strings.begin(), strings.end()) {}

  // Adds text; returns what may be shown now. Once found() nothing more comes out: the text ends before the first
  // match.
  [[nodiscard]] std::string push(std::string_view text) {
    if (found_) return {};
    pending_ += text;
    std::size_t end = 0, complete = std::string::npos;  // of the match: where it begins, and where it is complete
    for (const std::string& s : strings_) {
      const std::size_t at = pending_.find(s);
      if (at == std::string::npos || at + s.size() > complete) continue;
      end = at + s.size() < complete ? at : std::min(end, at);
      complete = at + s.size();
    }
    found_ = complete != std::string::npos;
    if (!found_) {
      std::size_t held = 0;
      for (const std::string& s : strings_) held = std::max(held, partial_match_bytes(pending_, s));
      end = pending_.size() - held;
    }
    std::string shown = pending_.substr(0, end);
    pending_.erase(0, end);
    return shown;
  }

  // At the end of the text: what was held back, unless a stop string was found.
  [[nodiscard]] std::string finish() { return found_ ? std::string() : std::move(pending_); }
  [[nodiscard]] bool found() const { return found_; }

 private:
  std::vector<std::string> strings_;  // none empty
  std::string pending_;
  bool found_ = false;
};

}  // namespace r1::rt
