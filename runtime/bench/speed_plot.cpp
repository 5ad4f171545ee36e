#include "runtime/bench/speed_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

namespace r1::bench {
namespace {

constexpr double width = 720, height = 420, left = 70, right = 150, top = 46, bottom = 56;  // pixels
constexpr std::array<const char*, 6> colours = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"};

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else if (static_cast<unsigned char>(c) >= 0x20) {
      out += c;
    }
  }
  return out;
}

// A step of 1, 2 or 5 times a power of ten that cuts [0, most] into four to ten pieces.
double tick_step(double most) {
  const double power = std::pow(10, std::floor(std::log10(most / 4)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (most / (factor * power) <= 10) return factor * power;
  }
  return 10 * power;
}

}  // namespace

std::string speed_by_depth_svg(const std::vector<ModelBenchResult>& results, const std::string& title) {
  std::map<int, std::vector<const ModelBenchResult*>> lines;  // by threads
  double most_depth = 1, most_rate = 0;
  for (const ModelBenchResult& r : results) {
    if (r.phase != "decode") continue;
    lines[r.n_threads].push_back(&r);
    most_depth = std::max(most_depth, double{1} * r.depth_tokens);
    most_rate = std::max(most_rate, r.tokens_per_s.highest);
  }
  if (lines.empty() || most_rate <= 0) return {};
  const double x_step = tick_step(most_depth), y_step = tick_step(most_rate);
  const double y_top = std::ceil(most_rate / y_step) * y_step;
  const auto x_of = [&](double depth) { return left + depth / most_depth * (width - left - right); };
  const auto y_of = [&](double rate) { return height - bottom - rate / y_top * (height - top - bottom); };

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n"
      "<text x=\"{2}\" y=\"26\" font-size=\"15\">{3}</text>\n",
      width, height, left, escaped(title));
  for (int tick = 0; tick * y_step <= y_top * 1.0001; ++tick) {
    const double rate = tick * y_step;
    svg += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{2:.1f}\" y2=\"{1:.1f}\" stroke=\"#ddd\"/>\n"
        "<text x=\"{3:.1f}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:g}</text>\n",
        left, y_of(rate), width - right, left - 8, y_of(rate) + 4, rate);
  }
  for (int tick = 0; tick * x_step <= most_depth * 1.0001; ++tick) {
    const double depth = tick * x_step;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.0f}</text>\n", x_of(depth),
                       height - bottom + 18, depth);
  }
  svg += fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">depth, tokens</text>\n"
      "<text x=\"18\" y=\"{:.1f}\" text-anchor=\"middle\" transform=\"rotate(-90 18 {:.1f})\">decode, "
      "tokens/s</text>\n",
      (left + width - right) / 2, height - 12, height / 2, height / 2);

  std::size_t i = 0;
  for (auto& [n_threads, points] : lines) {
    std::sort(points.begin(), points.end(),
              [](const auto* a, const auto* b) { return a->depth_tokens < b->depth_tokens; });
    const char* colour = colours[i % colours.size()];
    std::string path, marks;
    for (const ModelBenchResult* r : points) {
      const double x = x_of(r->depth_tokens);
      path += fmt::format("{:.1f},{:.1f} ", x, y_of(r->tokens_per_s.median));
      marks += fmt::format(
          "<circle cx=\"{0:.1f}\" cy=\"{1:.1f}\" r=\"3.5\" fill=\"{4}\"/>\n"
          "<line x1=\"{0:.1f}\" y1=\"{2:.1f}\" x2=\"{0:.1f}\" y2=\"{3:.1f}\" stroke=\"{4}\"/>\n",
          x, y_of(r->tokens_per_s.median), y_of(r->tokens_per_s.lowest), y_of(r->tokens_per_s.highest), colour);
    }
    const double legend_y = top + 20 * static_cast<double>(i);
    svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n{}", path, colour,
                       marks);
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\">{} thread{}</text>\n", width - right + 16,
                       legend_y + 4, colour, n_threads, n_threads == 1 ? "" : "s");
    ++i;
  }
  return svg + "</svg>\n";
}

}  // namespace r1::bench
