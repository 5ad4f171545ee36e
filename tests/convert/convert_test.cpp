// Conversions: what is decoded is what the checkpoint holds, whatever the threads and interruptions.
#include <doctest/doctest.h>
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "checkpoint_maker.h"
#include "convert/pipeline.h"
#include "quant/decode.h"
#include "quant/fp8.h"
#include "runtime/model_file/model_file.h"

using namespace r1;

namespace {

const std::vector<std::string> goldens = {"deepseek-v3-fp8", "deepseek-v3-bf16", "qwen2", "qwen3", "llama"};

// A checkpoint's tensors as f32 by an implementation of its own: plain loops over the raw file.
class PlainCheckpoint {
 public:
  explicit PlainCheckpoint(const std::string& directory) {
    for (const auto& [name, bytes] : read_directory(directory)) {
      if (name.ends_with(".safetensors") && name.rfind("golden", 0) != 0)
        tensors_.merge(read_raw(directory + "/" + name));
    }
  }

  std::vector<float> tensor(const std::string& name) const {
    const RawTensor& t = tensors_.at(name);
    REQUIRE((t.dtype == "F32" || t.dtype == "BF16" || t.dtype == "F8_E4M3"));
    std::vector<float> x;
    const std::size_t rows = t.shape.size() == 1 ? 1 : t.shape[0], k = t.shape.back();
    for (std::size_t r = 0; r < rows; ++r) {
      for (std::size_t c = 0; c < k; ++c) {
        const std::size_t i = r * k + c;
        if (t.dtype == "F32") {
          float v = 0;
          std::memcpy(&v, t.bytes.data() + 4 * i, 4);
          x.push_back(v);
        } else if (t.dtype == "BF16") {
          std::uint16_t v = 0;
          std::memcpy(&v, t.bytes.data() + 2 * i, 2);
          x.push_back(quant::bf16_to_f32(v));
        } else {
          const RawTensor& s = tensors_.at(name + "_scale_inv");
          float scale = 0;
          std::memcpy(&scale, s.bytes.data() + 4 * ((r / 128) * s.shape[1] + c / 128), 4);
          x.push_back(quant::fp8_e4m3_to_f32(static_cast<std::uint8_t>(t.bytes[i])) * scale);
        }
      }
    }
    return x;
  }

 private:
  RawTensors tensors_;
};

convert::ConvertReport convert_to(const std::string& source, const std::string& out, const char* recipe,
                                  int n_threads = 2, quant::Effort effort = quant::Effort::normal) {
  auto checkpoint = convert::Checkpoint::open(source);
  REQUIRE_MESSAGE(checkpoint.ok(), (checkpoint.ok() ? "" : checkpoint.error().text()));
  auto plan = convert::plan_conversion(*checkpoint, *quant::find_recipe(recipe), nullptr, effort);
  REQUIRE_MESSAGE(plan.ok(), (plan.ok() ? "" : plan.error().text()));
  convert::ConvertOptions options;
  options.n_threads = n_threads;
  auto report = convert::convert(*checkpoint, *plan, out, options);
  REQUIRE_MESSAGE(report.ok(), (report.ok() ? "" : report.error().text()));
  return *report;
}

// Part `part` of a blob as the checkpoint has it.
std::vector<float> expected_part(const PlainCheckpoint& source, const rt::ModelConfig& config, const rt::BlobSpec& spec,
                                 std::size_t part) {
  const rt::MatrixSpec& matrix = spec.matrices[spec.rule == rt::PartRule::experts ? part : 0];
  const std::vector<float> whole = source.tensor(matrix.source);
  if (spec.rule == rt::PartRule::whole || spec.rule == rt::PartRule::experts) return whole;
  std::vector<float> x(std::size_t{matrix.rows} * matrix.k);
  const std::size_t rank = config.kv_lora_rank, first = part * (config.qk_nope_head_dim + config.v_head_dim);
  for (std::size_t r = 0; r < matrix.rows; ++r) {
    for (std::size_t c = 0; c < matrix.k; ++c) {
      x[r * matrix.k + c] = spec.rule == rt::PartRule::k_b ? whole[(first + c) * rank + r]
                                                           : whole[(first + config.qk_nope_head_dim + r) * rank + c];
    }
  }
  return x;
}

}  // namespace

TEST_CASE("every tensor of every golden checkpoint comes back: exactly, or within its format's error") {
  for (const std::string& name : goldens) {
    const std::string source = R1_FIXTURES "/models/" + name;
    const PlainCheckpoint plain(source);
    for (const auto& recipe : quant::recipes()) {
      CAPTURE(name);
      CAPTURE(recipe.name);
      const ScratchDirectory scratch;
      convert_to(source, scratch / "out", recipe.name);
      const auto model = rt::ModelFile::open(scratch / "out");
      REQUIRE_MESSAGE(model.ok(), (model.ok() ? "" : model.error().text()));
      const auto specs = rt::expected_blobs((*model)->config());
      REQUIRE(specs.size() == (*model)->blobs().size());
      for (std::size_t b = 0; b < specs.size(); ++b) {
        const rt::BlobInfo& blob = (*model)->blobs()[b];
        CHECK((*model)->verify(blob).ok());
        for (std::size_t p = 0; p < blob.parts.size(); ++p) {
          const simd::PackedMatrix& part = blob.parts[p];
          const auto expected = expected_part(plain, (*model)->config(), specs[b], p);
          std::vector<float> decoded(expected.size());
          quant::decode_rows(part.format, part.layout, {part.blob, part.layout.bytes}, 0, part.layout.rows,
                             decoded.data());
          if (std::string(recipe.name) == "exact" || !quant::info(part.format).is_packed()) {
            const bool exact_or_bf16 = part.format == quant::Format::f32 || std::string(recipe.name) == "exact";
            if (exact_or_bf16) CHECK(std::memcmp(decoded.data(), expected.data(), expected.size() * 4) == 0);
            continue;
          }
          double error = 0, signal = 0;
          for (std::size_t i = 0; i < expected.size(); ++i) {
            error += std::pow(decoded[i] - expected[i], 2);
            signal += std::pow(expected[i], 2);
          }
          CAPTURE(blob.name);
          const double bound = part.format == quant::Format::t2     ? 0.31
                               : part.format == quant::Format::t2_5 ? 0.23
                               : part.format == quant::Format::t3   ? 0.165
                               : part.format == quant::Format::t3_5 ? 0.125
                               : part.format == quant::Format::w8   ? 0.008
                                                                    : 0.09;
          CHECK(std::sqrt(error / signal) < bound);
        }
      }
    }
  }
}

TEST_CASE("bytes do not depend on the number of threads") {
  for (const char* recipe : {"r2.2", "exact"}) {
    const ScratchDirectory scratch;
    for (const int n : {1, 2, 5})
      convert_to(R1_FIXTURES "/models/deepseek-v3-fp8", scratch / std::to_string(n), recipe, n);
    const auto one = read_directory(scratch / "1");
    CHECK(one == read_directory(scratch / "2"));
    CHECK(one == read_directory(scratch / "5"));
    CHECK(one.contains("experts-001.safetensors"));
    CHECK(one.at("generation_config.json") == read_file(R1_FIXTURES "/models/deepseek-v3-fp8/generation_config.json"));
  }
}

TEST_CASE("more effort costs less error, and never depends on the number of threads") {
  const ScratchDirectory scratch;
  const std::string source = R1_FIXTURES "/models/deepseek-v3-fp8";
  double last = 1;
  for (const auto effort : {quant::Effort::fast, quant::Effort::normal, quant::Effort::best}) {
    const std::string name = quant::effort_name(effort);
    CAPTURE(name);
    const auto report = convert_to(source, scratch / name, "r2.2", 1, effort);
    convert_to(source, scratch / (name + "-3"), "r2.2", 3, effort);
    CHECK(read_directory(scratch / name) == read_directory(scratch / (name + "-3")));
    const auto config = nlohmann::json::parse(read_file(scratch / (name + "/config.json")));
    CHECK(config["quantization_config"]["effort"] == name);
    quant::EncodeError sum;
    for (const auto& [label, e] : report.error_by_class) {
      sum.error += e.error;
      sum.signal += e.signal;
    }
    CHECK(sum.error / sum.signal < last);
    last = sum.error / sum.signal;
  }
}

TEST_CASE("a conversion killed at any moment goes on to the same bytes") {
  const std::string source = R1_SOURCE_DIR "/examples/r1-nano";
  const ScratchDirectory scratch;
  REQUIRE(run_quantize({source, scratch / "whole", "--recipe", "r2.7"}).exit_code == 0);
  const auto whole = read_directory(scratch / "whole");
  std::mt19937 engine(7);
  int n_killed = 0;
  for (int attempt = 0; attempt < 12; ++attempt) {
    const auto delay_us = 1000 + engine() % 1'200'000;
    const Run run = run_quantize({source, scratch / "out", "--recipe", "r2.7", "--threads", "2"}, [&](int pid) {
      ::usleep(static_cast<useconds_t>(delay_us));
      ::kill(pid, attempt % 3 == 2 ? SIGTERM : SIGKILL);
    });
    if (run.exit_code == 0) break;
    n_killed += run.exit_code == 128 + SIGKILL;
    if (run.exit_code == 1) CHECK(run.err.find("run the same command again") != std::string::npos);
  }
  CHECK(n_killed > 0);
  const Run last = run_quantize({source, scratch / "out", "--recipe", "r2.7"});
  CHECK(last.exit_code == 0);
  CHECK(read_directory(scratch / "out") == whole);
}

TEST_CASE("finished shards are kept, those of another recipe or effort or source are not") {
  const ScratchDirectory scratch;
  copy_golden("deepseek-v3-bf16", scratch / "in");
  CHECK(convert_to(scratch / "in", scratch / "out", "r3.5").n_shards_kept == 0);
  const auto first = convert_to(scratch / "in", scratch / "out", "r3.5");
  CHECK(first.n_shards_written == 0);
  CHECK(first.n_shards_kept > 1);
  CHECK(convert_to(scratch / "in", scratch / "out", "r2.5").n_shards_kept == 0);
  CHECK(convert_to(scratch / "in", scratch / "out", "r2.5", 2, quant::Effort::fast).n_shards_kept == 0);
  CHECK(convert_to(scratch / "in", scratch / "out", "r2.5", 2, quant::Effort::fast).n_shards_written == 0);
  CHECK(convert_to(scratch / "in", scratch / "out", "r2.5").n_shards_kept == 0);
  auto tensors = read_raw(scratch / "in/model.safetensors");
  tensors["model.norm.weight"].bytes[1] ^= 1;
  write_raw(scratch / "in/model.safetensors", tensors);
  CHECK(convert_to(scratch / "in", scratch / "out", "r2.5").n_shards_kept == 0);
}

TEST_CASE("a tensor that its format cannot hold is named, and fatal where asked") {
  const ScratchDirectory scratch;
  copy_golden("qwen2", scratch / "in");
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  for (const auto& [file, bytes] : read_directory(scratch / "in")) {
    if (!file.ends_with(".safetensors") || file.rfind("golden", 0) == 0) continue;
    RawTensors tensors = read_raw(scratch / ("in/" + file));
    const auto found = tensors.find(name);
    if (found == tensors.end()) continue;
    // In each block a one takes the scale, and all else rounds to zero.
    const bool wide = found->second.dtype == "F32";
    const std::size_t size = wide ? 4 : 2;
    for (std::size_t i = 0; i < found->second.bytes.size() / size; ++i) {
      const float value = i % 32 == 0 ? 1.0f : 0.0035f;
      const std::uint16_t narrow = quant::f32_to_bf16(value);
      std::memcpy(found->second.bytes.data() + size * i, wide ? static_cast<const void*>(&value) : &narrow, size);
    }
    write_raw(scratch / ("in/" + file), tensors);
  }
  const auto checkpoint = convert::Checkpoint::open(scratch / "in");
  REQUIRE(checkpoint.ok());
  const auto plan = convert::plan_conversion(*checkpoint, *quant::find_recipe("w8"));
  REQUIRE(plan.ok());
  convert::ConvertOptions options;
  options.n_threads = 2;
  options.strict = true;
  const auto refused = convert::convert(*checkpoint, *plan, scratch / "out", options);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::numeric);
  CHECK(refused.error().text().find("tensor " + name) != std::string::npos);
  options.strict = false;
  const auto report = convert::convert(*checkpoint, *plan, scratch / "out", options);
  REQUIRE(report.ok());
  for (const convert::TensorError& tensor : report->tensors) CHECK(tensor.is_suspicious == (tensor.name == name));
  const std::string stored = read_file(scratch / "out/errors.json");
  const auto errors = nlohmann::json::parse(stored)["errors"];
  CHECK(errors.size() == report->tensors.size());
  CHECK(errors[name].get<double>() > 0.014);
  // A rerun keeps all shards, and what is known of them.
  REQUIRE(convert::convert(*checkpoint, *plan, scratch / "out", options).ok());
  CHECK(read_file(scratch / "out/errors.json") == stored);
}
