#include "runtime/eval_cli/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace r1::eval_cli {
namespace {

constexpr double width = 760, left = 70, right = 30, top = 70;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

std::string begin(double height, const std::string& title, const std::string& subtitle) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
      "<text x=\"20\" y=\"28\" font-size=\"17\">{2}</text>\n<text x=\"20\" y=\"48\" fill=\"#666\">{3}</text>\n",
      width, height, escaped(title), escaped(subtitle));
}

std::string text(double x, double y, const char* anchor, const std::string& content) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, escaped(content));
}

std::string line(double x1, double y1, double x2, double y2, const char* style) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>\n", x1, y1, x2, y2, style);
}

std::string rectangle(double x, double y, double w, double h) {
  return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"#4a7ebb\"/>\n", x, y, w,
                     h);
}

constexpr const char* grid = "stroke=\"#ddd\"";
constexpr const char* axis = "stroke=\"#888\"";
constexpr const char* whisker = "stroke=\"#222\"";
constexpr const char* dashed = "stroke=\"#c0392b\" stroke-dasharray=\"4 3\"";

}  // namespace

std::string draw_bars(const std::string& title, const std::string& subtitle, std::span<const Bar> bars) {
  constexpr double row = 26, label_width = 190;
  const double bottom = top + row * static_cast<double>(bars.size());
  const double x0 = label_width, x1 = width - 80;
  const auto x_of = [&](double share) { return x0 + std::clamp(share, 0.0, 1.0) * (x1 - x0); };
  std::string svg = begin(bottom + 40, title, subtitle);
  for (int percent = 0; percent <= 100; percent += 20) {
    svg += line(x_of(percent / 100.0), top, x_of(percent / 100.0), bottom, grid);
    svg += text(x_of(percent / 100.0), bottom + 18, "middle", fmt::format("{} %", percent));
  }
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const Bar& bar = bars[i];
    const double y = top + row * static_cast<double>(i), middle = y + row / 2;
    svg += text(x0 - 8, middle + 4, "end", bar.label);
    svg += rectangle(x0, y + 4, x_of(bar.value) - x0, row - 8);
    svg += line(x_of(bar.value - bar.error), middle, x_of(bar.value + bar.error), middle, whisker);
    svg += text(x1 + 10, middle + 4, "start", fmt::format("{:.1f} %", 100 * bar.value));
  }
  return svg + line(x0, top, x0, bottom, axis) + "</svg>\n";
}

std::string draw_histogram(const Histogram& h) {
  constexpr double height = 420, bottom = 360;
  constexpr std::size_t n_bins = 60;
  const auto place = [&](double value) { return h.log_x ? std::log10(std::max(value, h.least)) : value; };
  double low = 0, high = 1;
  if (!h.values.empty()) {
    const auto [least, most] = std::minmax_element(h.values.begin(), h.values.end());
    low = place(*least);
    high = place(*most);
  }
  low = std::floor(low);
  high = std::max(std::ceil(high), low + 1);
  std::vector<double> counts(n_bins, 0);
  for (const double value : h.values) {
    const auto bin = static_cast<std::size_t>((place(value) - low) / (high - low) * n_bins);
    ++counts[std::min(bin, n_bins - 1)];
  }
  const double most = std::max(1.0, *std::max_element(counts.begin(), counts.end()));
  const double x1 = width - right;
  const auto x_of = [&](double at) { return left + (at - low) / (high - low) * (x1 - left); };

  std::string svg = begin(height, h.title, h.subtitle);
  const double step = std::max(1.0, std::ceil((high - low) / 10));
  for (double at = low; at <= high + 1e-9; at += step) {
    svg += line(x_of(at), top, x_of(at), bottom, grid);
    svg += text(x_of(at), bottom + 18, "middle", h.log_x ? fmt::format("1e{:.0f}", at) : fmt::format("{:.0f}", at));
  }
  const double bin_width = (x1 - left) / n_bins;
  for (std::size_t i = 0; i < n_bins; ++i) {
    const double bar = counts[i] / most * (bottom - top);
    svg += rectangle(left + bin_width * static_cast<double>(i), bottom - bar, bin_width - 1, bar);
  }
  svg += line(left, bottom, x1, bottom, axis);
  svg += text((left + x1) / 2, height - 16, "middle", h.x_label);
  svg += text(left - 8, top + 4, "end", fmt::format("{:.0f}", most)) + text(left - 8, bottom, "end", "0");
  for (std::size_t i = 0; i < h.marks.size(); ++i) {
    const double x = x_of(std::clamp(place(h.marks[i].x), low, high));
    svg += line(x, top - 4, x, bottom, dashed);
    svg += text(x + 4, top + 10 + 14 * static_cast<double>(i), "start", h.marks[i].label);
  }
  return svg + "</svg>\n";
}

}  // namespace r1::eval_cli
