#include "convert/synth.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <vector>

#include "convert/output_directory.h"
#include "convert/parallel.h"
#include "runtime/base/try.h"
#include "runtime/io/file.h"
#include "runtime/io/safetensors.h"
#include "runtime/model_file/shard_writer.h"

namespace r1::convert {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// What a synthetic shard's fingerprint begins with. The number changes whenever other weights are drawn.
constexpr const char* fingerprint_prefix = "synthetic-1-";

const char* router_name(SynthRouter router) {
  return router == SynthRouter::zipf ? "zipf" : "uniform";
}

Error bad_count(const char* what, std::int64_t value, const std::string& problem, const std::string& where) {
  return {ErrorCode::invalid_argument, fmt::format("{} {}: {}", what, value, problem), where};
}

// Groups as the config has them, or, where fewer experts do not allow that, the most that divide them; the tokens'
// groups in proportion, but enough for num_experts_per_tok.
void fit_groups(ordered_json& json, const rt::ModelConfig& config, std::uint32_t n_experts) {
  std::uint32_t n_group = config.n_group;
  while (n_group > 1 && (n_experts % n_group != 0 || n_experts / n_group < 2)) --n_group;
  const std::uint32_t group_size = n_experts / n_group;
  const std::uint32_t in_proportion = config.topk_group * n_group / config.n_group;
  const std::uint32_t needed = (config.num_experts_per_tok + group_size - 1) / group_size;
  json["n_group"] = n_group;
  json["topk_group"] = std::max({in_proportion, needed, 1u});
}

// A directory that a synthetic model may replace: no shard in it is of a conversion.
Result<void> check_replaceable(const std::string& directory) {
  std::error_code ec;
  for (auto it = fs::directory_iterator(directory, ec); !ec && it != fs::directory_iterator(); it.increment(ec)) {
    if (it->path().extension() != ".safetensors") continue;
    const auto shard = rt::SafetensorsFile::open(it->path().string());
    if (shard) {
      const auto found = shard->metadata().find(rt::key_fingerprint);
      if (found != shard->metadata().end() && found->second.starts_with(fingerprint_prefix)) continue;
    }
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("holds {}, which is not synthetic; give an empty directory", it->path().filename().string()),
        directory};
  }
  return {};
}

// Panels of one part, about four megabytes: what a thread draws and writes in one go.
struct Unit {
  std::size_t blob = 0, part = 0;
  std::uint32_t panel_begin = 0, panel_end = 0;
};

class ShardSynthesis {
 public:
  ShardSynthesis(const SynthModel& model, const SynthOptions& options, int n_threads, rt::ShardWriter& writer,
                 Progress& progress)
      : model_(model), options_(options), n_threads_(n_threads), writer_(writer), progress_(progress) {}

  Result<void> run() {
    std::vector<Unit> units;
    for (std::size_t b = 0; b < writer_.blobs().size(); ++b) add_units(b, units);
    R1_CHECK(parallel_for_each(units.size(), n_threads_, options_.stop, [&](std::size_t i) { return draw(units[i]); }));
    R1_CHECK(parallel_for_each(writer_.blobs().size(), n_threads_, options_.stop,
                               [&](std::size_t i) { return writer_.finish_pieces(i); }));
    return writer_.finish();
  }

 private:
  [[nodiscard]] const rt::PlannedBlob& blob_of(const Unit& unit) const { return writer_.blobs()[unit.blob]; }

  [[nodiscard]] static const rt::MatrixSpec& matrix_of(const rt::BlobSpec& spec, std::size_t part) {
    return spec.matrices[spec.rule == rt::PartRule::experts ? part : 0];
  }

  void add_units(std::size_t blob, std::vector<Unit>& units) const {
    constexpr std::size_t unit_bytes = std::size_t{4} << 20;
    const rt::StoredBlob& stored = writer_.blobs()[blob].stored;
    for (std::size_t part = 0; part < stored.parts.size(); ++part) {
      const quant::BlobLayout& layout = stored.parts[part].layout;
      const auto n = static_cast<std::uint32_t>(std::max<std::size_t>(1, unit_bytes / layout.panel_bytes));
      for (std::uint32_t panel = 0; panel < layout.n_panels; panel += std::min(n, layout.n_panels - panel))
        units.push_back({blob, part, panel, panel + std::min(n, layout.n_panels - panel)});
    }
  }

  [[nodiscard]] std::uint64_t seed_of(const rt::BlobSpec& spec, std::size_t part) const {
    const std::string text = fmt::format("{} {} {}", model_.seed, spec.name, part);
    return rt::xxh3_64(std::as_bytes(std::span(text)));
  }

  Result<void> draw(const Unit& unit) {
    const rt::BlobSpec& spec = blob_of(unit).spec;
    const rt::PartLayout& part = blob_of(unit).stored.parts[unit.part];
    const rt::MatrixSpec& matrix = matrix_of(spec, unit.part);
    const quant::BlobLayout& layout = part.layout;
    const std::uint64_t seed = seed_of(spec, unit.part);
    if (matrix.tensor_class == quant::TensorClass::norm) {
      const std::vector<float> values = draw_vector(model_.config, spec, model_.router, seed);
      R1_CHECK(writer_.write_piece(unit.blob, part.offset_bytes, std::as_bytes(std::span(values))));
      report(unit);
      return {};
    }
    const RandomTensor tensor{part.format, layout, synthetic_rms(model_.config, spec, matrix), seed};
    const bool packed = quant::info(part.format).is_packed();
    const std::size_t begin = unit.panel_begin * layout.panel_bytes;
    const std::size_t end = std::min(unit.panel_end * layout.panel_bytes, layout.bytes - layout.panels_offset_bytes);
    std::vector<std::byte> panels(end - begin);
    std::vector<float> row_scales(std::size_t{unit.panel_end - unit.panel_begin} * quant::panel_rows);
    for (std::uint32_t panel = unit.panel_begin; panel < unit.panel_end; ++panel) {
      const std::size_t i = panel - unit.panel_begin, at = i * layout.panel_bytes;
      draw_panel(tensor, panel, std::span(panels).subspan(at, std::min(layout.panel_bytes, panels.size() - at)),
                 row_scales.data() + i * quant::panel_rows);
    }
    R1_CHECK(writer_.write_piece(unit.blob, part.offset_bytes + layout.panels_offset_bytes + begin, panels));
    if (packed) {
      R1_CHECK(writer_.write_piece(
          unit.blob,
          part.offset_bytes + layout.row_scale_offset_bytes + unit.panel_begin * quant::panel_rows * sizeof(float),
          std::as_bytes(std::span(row_scales))));
      if (unit.panel_begin == 0) {
        const auto table = random_s4_table(part.format);
        R1_CHECK(writer_.write_piece(unit.blob, part.offset_bytes, std::as_bytes(std::span(table))));
      }
    }
    report(unit);
    return {};
  }

  void report(const Unit& unit) {
    const rt::StoredBlob& stored = blob_of(unit).stored;
    const quant::BlobLayout& layout = stored.parts[unit.part].layout;
    const std::uint32_t rows = std::min(unit.panel_end * quant::panel_rows, layout.rows);
    const std::uint64_t n_weights = std::uint64_t{rows - unit.panel_begin * quant::panel_rows} * layout.k;
    const std::lock_guard lock(mutex_);
    progress_.weights_done += n_weights;
    progress_.source_bytes_done += (unit.panel_end - unit.panel_begin) * layout.panel_bytes;
    progress_.tensors_done += unit.panel_end == layout.n_panels && unit.part + 1 == stored.parts.size();
    const auto now = std::chrono::steady_clock::now();
    if (options_.on_progress && now - last_progress_ > std::chrono::milliseconds(200)) {
      last_progress_ = now;
      options_.on_progress(progress_);
    }
  }

  const SynthModel& model_;
  const SynthOptions& options_;
  int n_threads_;
  rt::ShardWriter& writer_;
  Progress& progress_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point last_progress_{};
};

}  // namespace

Result<SynthModel> shape_synthetic(std::string_view config_text, const std::string& where, const SynthShape& shape) {
  R1_TRY(const rt::ModelConfig source, rt::parse_config(config_text, where));
  const std::int64_t n_all = source.num_hidden_layers;
  std::int64_t n_dense = 0;
  if (source.is_moe()) {
    n_dense = shape.n_dense.value_or(source.first_k_dense_replace);
  } else if (shape.n_dense || shape.n_experts) {
    return Error{ErrorCode::invalid_argument, "has no experts: its layers are all dense, and --layers counts them",
                 where};
  }
  if (shape.n_layers < 1) return bad_count("layers", shape.n_layers, "at least one is needed", where);
  if (n_dense < 0) return bad_count("dense layers", n_dense, "must not be negative", where);
  if (n_dense > n_all || shape.n_layers > n_all - n_dense) {
    const std::string dense = source.is_moe() ? fmt::format(" behind {} dense ones", n_dense) : "";
    return bad_count(
        "layers", shape.n_layers,
        fmt::format("more than the {} that the config has{}", std::max<std::int64_t>(n_all - n_dense, 0), dense),
        where);
  }
  auto json = ordered_json::parse(config_text, nullptr, false);
  const std::int64_t n_layers = n_dense + shape.n_layers;
  json["num_hidden_layers"] = n_layers;
  if (json.contains("layer_types") && json["layer_types"].is_array()) {  // of dense models: one word a layer
    auto& types = json["layer_types"];
    while (types.size() > static_cast<std::size_t>(n_layers)) types.erase(types.size() - 1);
  }
  if (source.is_moe()) {
    const std::int64_t n_experts = shape.n_experts.value_or(source.n_routed_experts);
    if (n_experts < source.num_experts_per_tok) {
      return bad_count("experts", n_experts,
                       fmt::format("fewer than the {} that a token uses", source.num_experts_per_tok), where);
    }
    json["first_k_dense_replace"] = n_dense;
    json["n_routed_experts"] = n_experts;
    if (n_experts <= INT32_MAX) fit_groups(json, source, static_cast<std::uint32_t>(n_experts));
  }
  if (source.is_mla()) json["num_nextn_predict_layers"] = 0;
  json.erase("quantization_config");

  SynthModel model;
  model.config_text = json.dump(2, ' ', false, ordered_json::error_handler_t::replace);
  R1_TRY(model.config, rt::parse_config(model.config_text, where));
  return model;
}

Result<ConversionPlan> plan_synthetic(const SynthModel& model, const Mix& mix) {
  const std::string facts = fmt::format("{} {} {}", model.seed, router_name(model.router), model.config_text);
  return make_plan(model.config, mix, usual_bf16(model.config),
                   fmt::format("{}{:016x}", fingerprint_prefix, rt::xxh3_64(std::as_bytes(std::span(facts)))));
}

Result<std::uint64_t> write_synthetic(const SynthModel& model, const ConversionPlan& plan, const std::string& directory,
                                      const SynthOptions& options) {
  R1_CHECK(prepare_output_directory("", directory));
  R1_CHECK(check_replaceable(directory));
  Progress progress;
  std::vector<const ShardPlan*> todo;
  std::uint64_t needed_bytes = 0;
  for (const ShardPlan& shard : plan.shards) {
    if (rt::is_finished_shard(directory + "/" + shard.name, shard.blobs, plan.fingerprint)) continue;
    todo.push_back(&shard);
    needed_bytes += shard.file_bytes;
    progress.tensors_total += shard.blobs.size();
    for (const rt::PlannedBlob& blob : shard.blobs) {
      for (const rt::PartLayout& part : blob.stored.parts) {
        progress.weights_total += std::uint64_t{part.layout.rows} * part.layout.k;
        progress.source_bytes_total += part.layout.n_panels * part.layout.panel_bytes;
      }
    }
  }
  R1_CHECK(check_free_space(directory, needed_bytes));

  const int n_threads = options.n_threads > 0 ? options.n_threads : omp_get_num_procs();
  for (const ShardPlan* shard : todo) {
    progress.shard = shard->name;
    R1_TRY(const auto writer, rt::ShardWriter::create(directory + "/" + shard->name, shard->blobs, plan.fingerprint));
    R1_CHECK(ShardSynthesis(model, options, n_threads, *writer, progress).run());
  }
  if (options.on_progress) options.on_progress(progress);
  const ordered_json origin = {{"source", "synthetic"}, {"seed", model.seed}, {"router", router_name(model.router)}};
  R1_CHECK(write_config_and_index(ordered_json::parse(model.config_text, nullptr, false), origin, plan, directory));
  return needed_bytes;
}

}  // namespace r1::convert
