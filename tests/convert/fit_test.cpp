// --fit against the optimum of a dynamic program, against its limits, and against what people get wrong.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "checkpoint_maker.h"
#include "convert/fit.h"
#include "quant/encode.h"
#include "runtime/model_file/imatrix.h"

using namespace r1;
using nlohmann::json;
using quant::Format;
using quant::TensorClass;

namespace {

const std::string nano = R1_SOURCE_DIR "/examples/r1-nano";
const std::string r1_config = R1_FIXTURES "/tokenizers/DeepSeek-R1/config.json";

template <class T>
T expect(Result<T> result) {
  REQUIRE_MESSAGE(result.ok(), (result.ok() ? "" : result.error().text()));
  return std::move(result).value();
}

rt::ModelConfig config_of(const std::string& path) {
  return expect(rt::parse_config(read_file(path), path));
}

// As if measured: some parts a thousand times as sensitive as others.
rt::Sensitivity random_sensitivity(const rt::ModelConfig& config, unsigned seed, int layers_per_group = 1) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> exponent(-3, 0);
  rt::Sensitivity sensitivity;
  sensitivity.identity = "measured";
  sensitivity.description = rt::model_description(config);
  sensitivity.items = rt::sensitivity_items(config, layers_per_group);
  for (rt::SensitivityItem& item : sensitivity.items) {
    const double kld = std::pow(10, exponent(engine));
    item.measured = {{Format::t2, 0.29, kld, 0}, {Format::t4, 0.07, kld / 20, 0}};
  }
  return sensitivity;
}

convert::Fit fit(const rt::ModelConfig& config, const rt::Sensitivity& sensitivity, std::uint64_t bytes,
                 double speed_weight = 0) {
  return expect(convert::fit_mix(config, convert::usual_bf16(config), sensitivity, {bytes, "size", speed_weight}, "s"));
}

convert::ConversionPlan plan(const rt::ModelConfig& config, const convert::Mix& mix) {
  return expect(convert::make_plan(config, mix, convert::usual_bf16(config), std::string(16, '0')));
}

// Bytes of an item at a format.
std::uint64_t bytes_of(const std::vector<rt::BlobSpec>& blobs, const rt::SensitivityItem& item, Format format) {
  std::uint64_t bytes = 0;
  for (const rt::BlobSpec& blob : blobs) {
    if (blob.layer < item.first_layer || blob.layer > item.last_layer) continue;
    for (std::size_t part = 0; part < blob.n_parts; ++part) {
      const rt::MatrixSpec& matrix = blob.matrices[blob.rule == rt::PartRule::experts ? part : 0];
      if (matrix.tensor_class == item.tensor_class) bytes += quant::blob_layout(format, matrix.rows, matrix.k)->bytes;
    }
  }
  return bytes;
}

// The least sum of predicted divergences of parts of `bytes` together. Sizes are rounded down: a lower bound.
double least_kld(const rt::ModelConfig& config, const rt::Sensitivity& sensitivity, std::uint64_t bytes) {
  constexpr std::uint64_t unit = 4096;
  const std::vector<rt::BlobSpec> blobs = rt::expected_blobs(config);
  std::vector<double> best(bytes / unit + 1, 0.0);
  for (const rt::SensitivityItem& item : sensitivity.items) {
    std::vector<double> next(best.size(), INFINITY);
    for (const Format format : quant::all_formats) {
      const int size = quant::info(format).superchunk_bytes;
      if (!quant::info(format).is_packed()) continue;
      if (item.tensor_class == TensorClass::embed && size < quant::info(Format::t4h).superchunk_bytes) continue;
      if (item.tensor_class == TensorClass::head && size < quant::info(Format::nl6).superchunk_bytes) continue;
      const std::uint64_t cost = bytes_of(blobs, item, format) / unit;
      const double kld = convert::predicted_kld(item, format);
      for (std::size_t at = cost; at < best.size(); ++at) next[at] = std::min(next[at], best[at - cost] + kld);
    }
    best = std::move(next);
  }
  return best.back();
}

}  // namespace

TEST_CASE("a fit is as good as the optimum, and fills its size") {
  const rt::ModelConfig config = config_of(nano + "/config.json");
  for (const unsigned seed : {1u, 2u, 3u}) {
    const rt::Sensitivity sensitivity = random_sensitivity(config, seed, seed == 3 ? 2 : 1);
    double before = INFINITY;
    for (const char* name : {"r2.2", "r2.7", "r3.5", "r4.5"}) {
      CAPTURE(seed);
      CAPTURE(name);
      const convert::Mix hand_made = convert::hand_made_mix(config, *quant::find_recipe(name));
      const std::uint64_t size = plan(config, hand_made).file_bytes;
      const convert::Fit fitted = fit(config, sensitivity, size);
      const convert::ConversionPlan its_plan = plan(config, fitted.mix);
      CHECK(its_plan.file_bytes <= size);
      CHECK(static_cast<double>(its_plan.file_bytes) > 0.98 * static_cast<double>(size));
      std::uint64_t bytes = 0;
      double kld = 0;
      for (const convert::FittedItem& item : fitted.items) {
        bytes += item.bytes;
        kld += item.kld;
      }
      CHECK(fitted.kld == doctest::Approx(kld));
      CHECK(convert::predicted_kld(sensitivity, fitted.mix) == doctest::Approx(kld));
      const double least = least_kld(config, sensitivity, bytes);
      CAPTURE(least);
      CHECK(kld >= least * (1 - 1e-9));
      CHECK(kld <= least * 1.1);  // steps are whole items
      CHECK(kld < convert::predicted_kld(sensitivity, hand_made));
      CHECK(kld < before);
      before = kld;
    }
  }
}

TEST_CASE("a fit of R1 keeps what recipes must keep, and minds speed where asked") {
  const rt::ModelConfig config = config_of(r1_config);
  const rt::Sensitivity sensitivity = convert::assumed_sensitivity(config);
  constexpr std::uint64_t size = std::uint64_t{200} << 30;
  const convert::Fit fitted = fit(config, sensitivity, size);
  const convert::Mix r2_7 = convert::hand_made_mix(config, *quant::find_recipe("r2.7"));
  for (const auto& [slot, choice] : fitted.mix.formats) {
    REQUIRE(choice.has_value());
    const int bytes = quant::info(*choice).superchunk_bytes;
    if (slot.tensor_class == TensorClass::embed) CHECK(bytes >= quant::info(Format::t4h).superchunk_bytes);
    if (slot.tensor_class == TensorClass::head) CHECK(bytes >= quant::info(Format::nl6).superchunk_bytes);
    if (slot.tensor_class == TensorClass::router || slot.layer == 61) CHECK(choice == r2_7.formats.at(slot));
  }
  const convert::ConversionPlan its_plan = plan(config, fitted.mix);
  CHECK(its_plan.file_bytes <= size);
  CHECK(static_cast<double>(its_plan.file_bytes) > 0.995 * static_cast<double>(size));
  std::uint64_t read_bytes = its_plan.read_bytes;
  for (const double weight : {0.3, 3.0}) {
    const convert::ConversionPlan faster = plan(config, fit(config, sensitivity, size, weight).mix);
    CHECK(faster.file_bytes <= size);
    CHECK(faster.read_bytes < read_bytes);
    read_bytes = faster.read_bytes;
  }
}

TEST_CASE("a size below the smallest possible one is an error that names it") {
  const rt::ModelConfig config = config_of(nano + "/config.json");
  const rt::Sensitivity sensitivity = random_sensitivity(config, 1);
  const auto result = convert::fit_mix(config, convert::usual_bf16(config), sensitivity, {1000, "size", 0}, "s");
  REQUIRE_FALSE(result.ok());
  const std::string error = result.error().text();
  const std::size_t at = error.find("(");
  REQUIRE(at != std::string::npos);
  const std::uint64_t smallest = std::stoull(error.substr(at + 1));
  const convert::Fit fitted = fit(config, sensitivity, smallest);
  CHECK(plan(config, fitted.mix).file_bytes <= smallest);
  for (const convert::FittedItem& item : fitted.items) {
    if (item.tensor_class != TensorClass::embed && item.tensor_class != TensorClass::head)
      CHECK(item.format == Format::t2);
  }
  CHECK_FALSE(convert::fit_mix(config, convert::usual_bf16(config), sensitivity, {smallest - 1, "size", 0}, "s").ok());
}

TEST_CASE("divergence is predicted from the squared error of the weights") {
  rt::SensitivityItem item{TensorClass::o, 0, 0, {}, {{Format::t3, quant::expected_error(Format::t3), 0.04, 0}}};
  const auto squared = [](Format format) { return std::pow(quant::expected_error(format), 2); };
  for (const Format format : {Format::t2, Format::t4, Format::w8})
    CHECK(convert::predicted_kld(item, format) == doctest::Approx(0.04 * squared(format) / squared(Format::t3)));
  item.measured = {{Format::t2, 0.30, 0.09, 0}, {Format::t4, 0.08, 0.001, 0}};
  CHECK(convert::predicted_kld(item, Format::t2) == doctest::Approx(0.09));
  CHECK(convert::predicted_kld(item, Format::t4) == doctest::Approx(0.001));
  double before = INFINITY;
  for (const Format format : {Format::t2, Format::t2_5, Format::t3, Format::t3_5, Format::t4, Format::t5, Format::w8}) {
    CHECK(convert::predicted_kld(item, format) < before);
    before = convert::predicted_kld(item, format);
  }
  item.measured = {{Format::t2, 0.30, 0.092, 0}, {Format::t4, 0.08, 0.003, 0}};
  item.floor = 0.002;
  CHECK(convert::predicted_kld(item, Format::t2) == doctest::Approx(0.090));
  CHECK(convert::predicted_kld(item, Format::t4) == doctest::Approx(0.001));
  item.floor = 0.004;  // noise: more than was measured
  CHECK(convert::predicted_kld(item, Format::t4) > 0);
  CHECK(convert::predicted_kld(item, Format::t4) < 0.001);
  item.floor.reset();
  // Noise: what measured worse at a smaller error is no gain.
  item.measured = {{Format::t2, 0.30, 0.001, 0}, {Format::t4, 0.08, 0.002, 0}};
  CHECK(convert::predicted_kld(item, Format::t2) == doctest::Approx(0.002));
}

TEST_CASE("what roundings add to every measurement changes no choice, and counts once") {
  const rt::ModelConfig config = config_of(nano + "/config.json");
  const rt::Sensitivity sensitivity = random_sensitivity(config, 4);
  rt::Sensitivity with_floor = sensitivity;
  constexpr double floor = 2e-4;
  for (rt::SensitivityItem& item : with_floor.items) {
    item.floor = item.tensor_class == TensorClass::head ? 0 : floor;
    for (rt::Lowered& m : item.measured) m.kld += *item.floor;
  }
  for (const char* name : {"r2.2", "r2.7", "r3.5", "r4.5"}) {
    CAPTURE(name);
    const convert::Mix hand_made = convert::hand_made_mix(config, *quant::find_recipe(name));
    const std::uint64_t size = plan(config, hand_made).file_bytes;
    const convert::Fit without = fit(config, sensitivity, size), fitted = fit(config, with_floor, size);
    CHECK(fitted.mix.formats == without.mix.formats);
    CHECK(without.floor == 0);
    CHECK(fitted.floor == floor);
    CHECK(fitted.kld == doctest::Approx(without.kld + floor));
    CHECK(convert::predicted_kld(with_floor, hand_made) ==
          doctest::Approx(convert::predicted_kld(sensitivity, hand_made) + floor));
  }
}

TEST_CASE("sensitivities of another model or with holes are refused") {
  const rt::ModelConfig config = config_of(nano + "/config.json");
  const auto message = [&](const rt::Sensitivity& sensitivity) {
    const auto result =
        convert::fit_mix(config, convert::usual_bf16(config), sensitivity, {1u << 30, "size", 0}, "s.json");
    REQUIRE_FALSE(result.ok());
    CHECK(result.error().text().find("s.json: ") == 0);
    return result.error().text();
  };
  rt::Sensitivity bad = random_sensitivity(config, 1);
  bad.description = "another";
  CHECK(message(bad).find("another model") != std::string::npos);
  bad = random_sensitivity(config, 1);
  bad.items.pop_back();
  CHECK(message(bad).find("says nothing of o, layer 4") != std::string::npos);
  bad = random_sensitivity(config, 1);
  bad.items.push_back(bad.items.back());
  CHECK(message(bad).find("twice") != std::string::npos);
  bad = random_sensitivity(config, 1);
  bad.items[2].measured.clear();
  CHECK(message(bad).find("no measurement") != std::string::npos);
}

TEST_CASE("a sensitivity file is read as it was written, and a damaged one is one line with file and key") {
  const ScratchDirectory scratch;
  const rt::ModelConfig config = config_of(nano + "/config.json");
  rt::Sensitivity sensitivity = random_sensitivity(config, 1);
  sensitivity.n_tokens = 1000;
  sensitivity.n_scored_tokens = 490;
  sensitivity.items[5].floor = 0.00125;
  const std::string path = scratch / "s.json";
  REQUIRE(sensitivity.save(path).ok());
  const rt::Sensitivity again = expect(rt::Sensitivity::load(path));
  REQUIRE(again.save(scratch / "again.json").ok());
  CHECK(read_file(scratch / "again.json") == read_file(path));
  REQUIRE(again.items.size() == sensitivity.items.size());
  CHECK(again.items[5].measured[1].kld == sensitivity.items[5].measured[1].kld);
  CHECK(again.items[5].floor == sensitivity.items[5].floor);
  CHECK_FALSE(again.items[4].floor.has_value());

  const struct {
    const char* patch;
    const char* part;
  } table[] = {
      {R"({"r1_sensitivity": null})", "is no file of r1-quantize sensitivity"},
      {R"({"r1_sensitivity": 2})", "r1_sensitivity: 2 is outside"},
      {R"({"model": 7})", "model: must be a string"},
      {R"({"tokens": -1})", "tokens: -1 is outside"},
      {R"({"items": {}})", "items: must be a list"},
      {R"({"items": [{"class": "up"}]})", "items: 0: class: up is no tensor class"},
      {R"({"items": [{"class": "o", "first_layer": 3, "last_layer": 1}]})", "last_layer: 1 is outside"},
      {R"({"items": [{"class": "o", "first_layer": 0, "last_layer": 1}]})", "measured: must be a list"},
      {R"({"items": [{"class": "o", "first_layer": 0, "last_layer": 1, "floor": -1, "measured": []}]})",
       "floor: -1 is outside"},
      {R"({"items": [{"class": "o", "first_layer": 0, "last_layer": 1, "measured": [{"format": "f32"}]}]})",
       "measured: 0: format: f32 is no format"},
      {R"({"items": [{"class": "o", "first_layer": 0, "last_layer": 1, "measured": [{"format": "t2", "error": -1}]}]})",
       "error: -1 is outside"},
      {R"({"items": [{"class": "o", "first_layer": 0, "last_layer": 1, "measured": [{"format": "t2", "error": 1}]}]})",
       "kld: is missing"},
  };
  for (const auto& row : table) {
    CAPTURE(row.patch);
    json document = json::parse(read_file(path));
    document.merge_patch(json::parse(row.patch));
    write_file(scratch / "bad.json", document.dump());
    const auto result = rt::Sensitivity::load(scratch / "bad.json");
    REQUIRE_FALSE(result.ok());
    const std::string error = result.error().text();
    CAPTURE(error);
    CHECK(error.find("bad.json: ") != std::string::npos);
    CHECK(error.find(row.part) != std::string::npos);
  }
}

TEST_CASE("--fit is shown, stored, and usable as a recipe") {
  const ScratchDirectory scratch;
  const auto check_one_line = [](const Run& run, int exit_code, const std::string& part) {
    CAPTURE(run.err);
    CHECK(run.exit_code == exit_code);
    CHECK(run.err.rfind("r1-quantize: ", 0) == 0);
    CHECK(std::count(run.err.begin(), run.err.end(), '\n') == 1);
    CHECK(run.err.find(part) != std::string::npos);
  };
  check_one_line(run_quantize({nano, scratch / "m", "--fit", "lots"}), 2, "--fit: lots is not a size");
  check_one_line(run_quantize({nano, scratch / "m", "--fit", "9MB", "--recipe", "r2.2"}), 2, "exclude");
  check_one_line(run_quantize({nano, scratch / "m", "--sensitivity", "s.json"}), 2, "need --fit");
  check_one_line(run_quantize({nano, scratch / "m", "--fit", "9MB", "--speed-weight", "-1"}), 2, "speed-weight");
  check_one_line(run_quantize({nano, scratch / "m", "--fit", "14MB", "--sensitivity", scratch / "absent.json"}), 1,
                 "absent.json");

  rt::Sensitivity sensitivity = random_sensitivity(config_of(nano + "/config.json"), 1);
  REQUIRE(sensitivity.save(scratch / "s.json").ok());
  check_one_line(run_quantize({nano, scratch / "m", "--fit", "1MB", "--sensitivity", scratch / "s.json"}), 1,
                 "smallest possible size");
  check_one_line(run_quantize({nano, scratch / "m", "--fit", "14MB", "--sensitivity", scratch / "s.json"}), 1,
                 "norms and biases");
  CHECK_FALSE(std::filesystem::exists(scratch / "m"));
  const Run planned = run_quantize(
      {"--plan", nano, "--fit", "14MB", "--sensitivity", scratch / "s.json", "--write-recipe", scratch / "fit.json"});
  CAPTURE(planned.err);
  REQUIRE(planned.exit_code == 0);
  CHECK(planned.out.find("predicted KLD") != std::string::npos);
  CHECK(planned.out.find("routed_gate_up") != std::string::npos);
  const auto parsed =
      json::parse(run_quantize({"--plan", nano, "--json", "--fit", "14MB", "--sensitivity", scratch / "s.json"}).out);
  CHECK(parsed["recipe"] == "fit-14MB");
  CHECK(parsed["file_bytes"].get<std::uint64_t>() <= 14'000'000);

  // Without sensitivities, by assumption, and said so.
  const Run run = run_quantize({nano, scratch / "m", "--fit", "14 MB"});
  CAPTURE(run.err);
  REQUIRE(run.exit_code == 0);
  CHECK(run.err.find("no --sensitivity") != std::string::npos);
  CHECK(json::parse(read_file(scratch / "m/config.json"))["quantization_config"]["recipe"] == "fit-14MB");
  std::uint64_t bytes = 0;
  for (const auto& [name, content] : read_directory(scratch / "m"))
    bytes += name.ends_with(".safetensors") ? content.size() : 0;
  CHECK(bytes <= 14'000'000);
  REQUIRE(run_quantize({nano, scratch / "again", "--recipe", scratch / "m/recipe.json"}).exit_code == 0);
  CHECK(read_directory(scratch / "again") == read_directory(scratch / "m"));
}
