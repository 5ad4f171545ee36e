#include "convert/fit.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "quant/encode.h"
#include "runtime/base/try.h"
#include "runtime/model_file/imatrix.h"
#include "runtime/model_file/layout.h"

namespace r1::convert {
namespace {

using quant::Format;
using quant::TensorClass;
using rt::SensitivityItem;

// Where a measured divergence is lost in rounding: its logarithm must exist.
constexpr double least_kld = 1e-12;
// Of a measured divergence, how much is taken to be the item's own at least: the floor is known to some percent.
constexpr double least_own_share = 0.05;
// True sizes are tried so often at the end, where pages decide.
constexpr int max_trials = 100;

double square(double x) {
  return x * x;
}

struct Point {
  double squared_error = 0, kld = 0;
};

// Ascending in both. Where a smaller error measured worse, which is noise, the worse counts for the larger too.
std::vector<Point> points_of(const SensitivityItem& item) {
  std::vector<Point> points;
  for (const rt::Lowered& m : item.measured) {
    const double own = std::max(m.kld - item.floor.value_or(0), least_own_share * m.kld);
    if (m.error > 0) points.push_back({square(m.error), std::max(own, least_kld)});
  }
  std::sort(points.begin(), points.end(),
            [](const Point& a, const Point& b) { return a.squared_error < b.squared_error; });
  for (std::size_t i = 1; i < points.size(); ++i) points[i].kld = std::max(points[i].kld, points[i - 1].kld);
  return points;
}

// Of an item's weights at a format: measured, or what the format costs on Gaussian weights, times what the nearest
// measured format cost more than that.
double squared_error_of(const SensitivityItem& item, Format format) {
  const double expected = square(quant::expected_error(format));
  double nearest = INFINITY, ratio = 1;
  for (const rt::Lowered& m : item.measured) {
    if (m.error <= 0) continue;
    if (m.format == format) return square(m.error);
    const double its_expected = square(quant::expected_error(m.format));
    const double distance = std::abs(std::log(expected / its_expected));
    if (distance < nearest) {
      nearest = distance;
      ratio = square(m.error) / its_expected;
    }
  }
  return expected * ratio;
}

struct Candidate {
  Format format = Format::t2;
  std::uint64_t bytes = 0, read_bytes = 0;
  double price = 0, kld = 0;
};

struct Item {
  const SensitivityItem* measured = nullptr;
  std::vector<Candidate> candidates;  // ascending in bytes; in the end those on the lower convex hull
  std::size_t chosen = 0;
  std::uint64_t n_parts = 0;
};

// A step up from candidate `to` − 1.
struct Step {
  std::size_t item = 0, to = 0;
  double slope = 0;  // divergence it saves, for its price
};

// Keeps the vertices of the lower convex hull, seen from the cheapest candidate on.
void keep_hull(std::vector<Candidate>& candidates) {
  const auto slope = [](const Candidate& a, const Candidate& b) { return (a.kld - b.kld) / (b.price - a.price); };
  std::vector<Candidate> hull;
  for (const Candidate& c : candidates) {
    if (!hull.empty() && (c.price <= hull.back().price || c.kld >= hull.back().kld)) continue;
    while (hull.size() > 1 && slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), c)) hull.pop_back();
    hull.push_back(c);
  }
  candidates = std::move(hull);
}

class Fitter {
 public:
  Fitter(const rt::ModelConfig& config, const IsBf16& is_bf16, const rt::Sensitivity& sensitivity,
         const FitOptions& options, std::string where)
      : config_(config), is_bf16_(is_bf16), sensitivity_(sensitivity), options_(options), where_(std::move(where)) {}

  Result<Fit> run() {
    base_ = hand_made_mix(config_, *quant::find_recipe("r2.7"));
    R1_CHECK(collect());
    price();
    R1_TRY(const std::uint64_t smallest, file_bytes());
    if (smallest > options_.size_bytes) {
      return Error{
          ErrorCode::invalid_argument,
          fmt::format("--fit: {:.3f} GB is below this model's smallest possible size, {:.3f} GB ({} bytes)",
                      static_cast<double>(options_.size_bytes) / 1e9, static_cast<double>(smallest) / 1e9, smallest),
          ""};
    }
    R1_CHECK(climb(smallest));
    return result();
  }

 private:
  // Bytes of every item at every format.
  Result<void> collect() {
    std::map<Slot, std::size_t> item_of;
    for (const SensitivityItem& measured : sensitivity_.items) {
      if (points_of(measured).empty()) {
        return Error{ErrorCode::corrupt,
                     fmt::format("holds no measurement of {}, layer {}", quant::class_name(measured.tensor_class),
                                 measured.first_layer),
                     where_};
      }
      for (int layer = measured.first_layer; layer <= measured.last_layer; ++layer) {
        if (!item_of.emplace(Slot{measured.tensor_class, layer}, items_.size()).second) {
          return Error{ErrorCode::corrupt,
                       fmt::format("names {} of layer {} twice", quant::class_name(measured.tensor_class), layer),
                       where_};
        }
      }
      items_.push_back({&measured, candidates_of(measured), 0, 0});
    }
    for (const rt::BlobSpec& blob : rt::expected_blobs(config_)) {
      if (blob.layer >= static_cast<int>(config_.num_hidden_layers)) continue;
      for (const rt::MatrixSpec& matrix : blob.matrices) {
        if (matrix.tensor_class == TensorClass::norm || matrix.tensor_class == TensorClass::router) continue;
        const Slot slot = slot_of(config_, blob, matrix);
        const auto found = item_of.find(slot);
        if (found == item_of.end()) {
          return Error{ErrorCode::invalid_argument,
                       fmt::format("says nothing of {}, layer {}: it is of another model",
                                   quant::class_name(slot.tensor_class), slot.layer),
                       where_};
        }
        R1_CHECK(add(items_[found->second], blob, matrix));
      }
    }
    std::erase_if(items_, [](const Item& item) { return item.candidates.back().bytes == 0; });  // other models' layers
    return {};
  }

  [[nodiscard]] std::vector<Candidate> candidates_of(const SensitivityItem& measured) const {
    const TensorClass c = measured.tensor_class;
    int least_bytes = 0;
    if (c == TensorClass::embed || c == TensorClass::head) {
      static const quant::Recipe& smallest = quant::recipes().front();
      const FormatChoice least = hand_made_mix(config_, smallest).formats.at({c, measured.first_layer});
      least_bytes = quant::info(least.value_or(Format::w8)).superchunk_bytes;
    }
    std::vector<Candidate> candidates;
    for (const Format format : quant::all_formats) {
      const quant::FormatInfo& info = quant::info(format);
      if (!info.is_packed() || info.superchunk_bytes < least_bytes) continue;
      candidates.push_back({format, 0, 0, 0, predicted_kld(measured, format)});
    }
    return candidates;
  }

  Result<void> add(Item& item, const rt::BlobSpec& blob, const rt::MatrixSpec& matrix) const {
    const std::uint64_t n_parts = blob.rule == rt::PartRule::experts ? 1 : blob.n_parts;
    item.n_parts += n_parts;
    for (Candidate& c : item.candidates) {
      const auto layout = quant::blob_layout(c.format, matrix.rows, matrix.k);
      if (!layout) {
        return Error{ErrorCode::unsupported, fmt::format("[{}, {}] is too large", matrix.rows, matrix.k), blob.name};
      }
      c.bytes += n_parts * layout->bytes;
      c.read_bytes += n_parts * read_bytes_per_token(config_, blob, matrix, layout->bytes);
    }
    return {};
  }

  void price() {
    double bytes = 0, read_bytes = 0;  // of the smallest mix
    for (const Item& item : items_) {
      bytes += static_cast<double>(item.candidates.front().bytes);
      read_bytes += static_cast<double>(item.candidates.front().read_bytes);
    }
    for (Item& item : items_) {
      for (Candidate& c : item.candidates) {
        c.price = static_cast<double>(c.bytes) / bytes +
                  options_.speed_weight * static_cast<double>(c.read_bytes) / std::max(read_bytes, 1.0);
      }
      keep_hull(item.candidates);
    }
  }

  [[nodiscard]] Mix mix() const {
    Mix mix = base_;
    for (const Item& item : items_) {
      for (int layer = item.measured->first_layer; layer <= item.measured->last_layer; ++layer) {
        const auto slot = mix.formats.find({item.measured->tensor_class, layer});
        if (slot != mix.formats.end()) slot->second = item.candidates[item.chosen].format;
      }
    }
    return mix;
  }

  [[nodiscard]] Result<std::uint64_t> file_bytes() const {
    // As long as fingerprints become: headers hold them.
    constexpr std::size_t source = 16, effort_and_imatrix = 24;
    R1_TRY(const ConversionPlan plan,
           make_plan(config_, mix(), is_bf16_, std::string(source, '0'), std::string(effort_and_imatrix, '0')));
    return plan.file_bytes;
  }

  // All steps, the steepest first. A hull's steps come in its own order, flatter and flatter.
  [[nodiscard]] std::vector<Step> steps() const {
    std::vector<Step> steps;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      const std::vector<Candidate>& c = items_[i].candidates;
      for (std::size_t to = 1; to < c.size(); ++to)
        steps.push_back({i, to, (c[to - 1].kld - c[to].kld) / (c[to].price - c[to - 1].price)});
    }
    std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.slope > b.slope; });
    return steps;
  }

  Result<void> climb(std::uint64_t smallest) {
    const std::vector<Step> all = steps();
    // Parts are rounded up to pages together: sizes add up but roughly, and the plan has the last word.
    std::uint64_t limit = options_.size_bytes, true_bytes = 0;
    for (;;) {
      take_steps(all, smallest, limit);
      R1_TRY(true_bytes, file_bytes());
      if (true_bytes <= options_.size_bytes) break;
      const std::uint64_t excess = true_bytes - options_.size_bytes;
      limit = limit > smallest + excess ? limit - excess : smallest;
    }
    int n_trials = 0;
    for (const Step& step : all) {
      Item& item = items_[step.item];
      if (item.chosen + 1 != step.to || n_trials == max_trials) continue;
      const std::uint64_t more = item.candidates[step.to].bytes - item.candidates[step.to - 1].bytes;
      if (more > options_.size_bytes - true_bytes + item.n_parts * rt::page_bytes) continue;
      ++n_trials;
      item.chosen = step.to;
      R1_TRY(const std::uint64_t tried_bytes, file_bytes());
      if (tried_bytes > options_.size_bytes) {
        item.chosen = step.to - 1;
      } else {
        true_bytes = tried_bytes;
      }
    }
    return {};
  }

  void take_steps(const std::vector<Step>& all, std::uint64_t smallest, std::uint64_t limit) {
    for (Item& item : items_) item.chosen = 0;
    std::uint64_t bytes = smallest;
    for (const Step& step : all) {
      Item& item = items_[step.item];
      if (item.chosen + 1 != step.to) continue;  // one before it did not fit
      const std::uint64_t more = item.candidates[step.to].bytes - item.candidates[step.to - 1].bytes;
      if (bytes + more > limit) continue;
      bytes += more;
      item.chosen = step.to;
    }
  }

  [[nodiscard]] Fit result() const {
    Fit fit;
    fit.mix = mix();
    fit.floor = fit.kld = floor_of(sensitivity_);
    for (const Item& item : items_) {
      const Candidate& c = item.candidates[item.chosen];
      fit.items.push_back({item.measured->tensor_class, item.measured->first_layer, item.measured->last_layer, c.format,
                           c.bytes, c.read_bytes, c.kld});
      fit.kld += c.kld;
    }
    const std::string speed =
        options_.speed_weight > 0 ? fmt::format("-speed{:.3g}", options_.speed_weight) : std::string();
    fit.mix.name = fmt::format("fit-{}{}", options_.size_name, speed);
    fit.mix.summary = sensitivity_.identity.empty()
                          ? fmt::format("fitted to {}, sensitivities assumed", options_.size_name)
                          : fmt::format("fitted to {}: predicted KLD {:.3g}", options_.size_name, fit.kld);
    return fit;
  }

  const rt::ModelConfig& config_;
  const IsBf16& is_bf16_;
  const rt::Sensitivity& sensitivity_;
  const FitOptions& options_;
  std::string where_;
  Mix base_;
  std::vector<Item> items_;
};

}  // namespace

double predicted_kld(const SensitivityItem& item, Format format) {
  const std::vector<Point> points = points_of(item);
  if (points.empty()) return 0;
  const double x = squared_error_of(item, format);
  const auto above =
      std::find_if(points.begin(), points.end(), [x](const Point& point) { return point.squared_error >= x; });
  if (above == points.begin()) return points.front().kld * x / points.front().squared_error;
  if (above == points.end()) return points.back().kld * x / points.back().squared_error;
  const Point& below = *(above - 1);
  const double place =
      std::log(x / below.squared_error) / std::max(std::log(above->squared_error / below.squared_error), 1e-9);
  return below.kld * std::pow(above->kld / below.kld, place);
}

double floor_of(const rt::Sensitivity& sensitivity) {
  double floor = 0;
  for (const SensitivityItem& item : sensitivity.items) floor = std::max(floor, item.floor.value_or(0));
  return floor;
}

double predicted_kld(const rt::Sensitivity& sensitivity, const Mix& mix) {
  double sum = floor_of(sensitivity);
  for (const SensitivityItem& item : sensitivity.items) {
    double item_sum = 0;
    int n_layers = 0;
    for (int layer = item.first_layer; layer <= item.last_layer; ++layer) {
      const auto found = mix.formats.find({item.tensor_class, layer});
      if (found == mix.formats.end()) continue;
      ++n_layers;
      if (found->second && quant::info(*found->second).is_packed()) item_sum += predicted_kld(item, *found->second);
    }
    if (n_layers > 0) sum += item_sum / n_layers;
  }
  return sum;
}

rt::Sensitivity assumed_sensitivity(const rt::ModelConfig& config) {
  rt::Sensitivity sensitivity;
  sensitivity.description = rt::model_description(config);
  sensitivity.items = rt::sensitivity_items(config, 1);
  const double error = quant::expected_error(Format::t2);
  for (SensitivityItem& item : sensitivity.items) item.measured.push_back({Format::t2, error, square(error), 0});
  return sensitivity;
}

Result<Fit> fit_mix(const rt::ModelConfig& config, const IsBf16& is_bf16, const rt::Sensitivity& sensitivity,
                    const FitOptions& options, const std::string& where) {
  if (sensitivity.description != rt::model_description(config)) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("is of another model: {}; this one is {}", sensitivity.description, rt::model_description(config)),
        where};
  }
  return Fitter(config, is_bf16, sensitivity, options, where).run();
}

}  // namespace r1::convert
