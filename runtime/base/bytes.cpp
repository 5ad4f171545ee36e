#include "runtime/base/bytes.h"

#include <cctype>
#include <charconv>
#include <cmath>
#include <string>

namespace r1::rt {

std::optional<std::uint64_t> parse_bytes(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number)) return std::nullopt;
  std::string unit;
  for (const char c : text.substr(static_cast<std::size_t>(end - text.data()))) {
    if (c != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  double factor = 1;
  if (!unit.empty() && unit != "b") {
    constexpr std::string_view prefixes = "kmgt";
    const auto power = prefixes.find(unit[0]);
    if (power == std::string_view::npos) return std::nullopt;
    const std::string_view rest = std::string_view(unit).substr(1);
    if (rest == "ib" || rest == "i") {
      factor = std::ldexp(1.0, 10 * static_cast<int>(power + 1));
    } else if (rest == "b" || rest.empty()) {
      factor = std::pow(1000.0, static_cast<double>(power + 1));
    } else {
      return std::nullopt;
    }
  }
  const double bytes = number * factor;
  if (bytes < 1 || bytes > 0x1p62) return std::nullopt;
  return static_cast<std::uint64_t>(bytes);
}

}  // namespace r1::rt
