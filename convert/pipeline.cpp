#include "convert/pipeline.h"

#include <dirent.h>
#include <fmt/format.h>
#include <omp.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "convert/feedback_input.h"
#include "convert/output_directory.h"
#include "convert/parallel.h"
#include "runtime/base/try.h"

namespace r1::convert {
namespace {

// One part of a blob: its source and, once prepared, its encoding.
struct PartWork {
  std::size_t blob = 0, part = 0;
  const rt::MatrixSpec* matrix = nullptr;
  SourceTensor source;
  quant::TensorEncoding encoding;
  std::vector<float> importance;   // [k], or empty: uniform
  std::uint64_t offset_bytes = 0;  // of the part in its blob
};

// What one thread does in one go: panels of one part.
struct Unit {
  std::size_t work = 0;
  std::uint32_t panel_begin = 0, panel_end = 0;
};

// Parts that share error feedback: it is made, used and dropped before the next one's.
struct FeedbackGroup {
  const rt::ImatrixInput* input = nullptr;  // null: parts without feedback
  std::vector<std::size_t> works, units;
};

// About a megabyte of f32 at a time: enough to amortise a write, little enough to bound memory and share the tail. With
// feedback, as many rows as the encoder takes together.
std::uint32_t panels_per_unit(std::uint32_t k, bool has_feedback) {
  const std::uint32_t panels = std::max(1u, (1u << 18) / (quant::panel_rows * k));
  constexpr std::uint32_t together = quant::feedback_rows / quant::panel_rows;
  return has_feedback ? (panels + together - 1) / together * together : panels;
}

// Rows of a part: of the source as it is, of one head's V rows, or of one head's K rows transposed (absorbed MLA).
class PartReader {
 public:
  PartReader(const rt::ModelConfig& config, const rt::BlobSpec& blob, const PartWork& work)
      : work_(work), rule_(blob.rule) {
    head_row_ = static_cast<std::uint32_t>(work.part) * (config.qk_nope_head_dim + config.v_head_dim);
    nope_ = config.qk_nope_head_dim;
  }

  // out [row_end − row_begin, k]
  void read(std::uint32_t row_begin, std::uint32_t row_end, std::vector<float>& out) const {
    const std::uint32_t k = work_.matrix->k;
    out.resize(std::size_t{row_end - row_begin} * k);
    if (rule_ != rt::PartRule::k_b) {
      const std::uint32_t first = rule_ == rt::PartRule::v_b ? head_row_ + nope_ : 0;
      read_rows(work_.source, first + row_begin, first + row_end, out.data());
      return;
    }
    const std::uint32_t kv_lora_rank = work_.source.k;
    std::vector<float> head(std::size_t{nope_} * kv_lora_rank);
    read_rows(work_.source, head_row_, head_row_ + nope_, head.data());
    for (std::uint32_t r = row_begin; r < row_end; ++r) {
      for (std::uint32_t i = 0; i < nope_; ++i)
        out[std::size_t{r - row_begin} * k + i] = head[std::size_t{i} * kv_lora_rank + r];
    }
  }

  void release(std::uint32_t row_begin, std::uint32_t row_end) const {
    if (rule_ == rt::PartRule::whole || rule_ == rt::PartRule::experts) {
      release_rows(work_.source, row_begin, row_end);
    } else {
      release_rows(work_.source, head_row_, head_row_ + nope_ + (rule_ == rt::PartRule::v_b ? work_.matrix->rows : 0));
    }
  }

 private:
  const PartWork& work_;
  rt::PartRule rule_;
  std::uint32_t head_row_ = 0, nope_ = 0;
};

Error not_finite(const PartWork& work, std::uint32_t row_begin, const std::vector<float>& rows) {
  const auto at = static_cast<std::size_t>(
      std::find_if(rows.begin(), rows.end(), [](float x) { return !std::isfinite(x); }) - rows.begin());
  const std::size_t k = work.matrix->k;
  return {ErrorCode::numeric,
          fmt::format("row {}, column {}: {} is not a weight", row_begin + at / k, at % k, rows[at]),
          fmt::format("{}: tensor {}", work.source.shard->path(), work.matrix->source)};
}

bool all_finite(const std::vector<float>& rows) {
  // Sum of x·0 is 0 for finite values and NaN otherwise; it vectorizes.
  float zero = 0;
  for (const float x : rows) zero += x * 0.0f;
  return zero == 0.0f;
}

// Converts one shard with a team of threads. Errors of any thread end the work; the first one is reported.
class ShardConversion {
 public:
  ShardConversion(const Checkpoint& checkpoint, const ConvertOptions& options, quant::Effort effort, int n_threads,
                  rt::ShardWriter& writer, const rt::Importance* importance,
                  std::function<Result<void>()> before_finish, Progress& progress, ConvertReport& report)
      : checkpoint_(checkpoint),
        options_(options),
        effort_(effort),
        n_threads_(n_threads),
        writer_(writer),
        importance_(importance),
        before_finish_(std::move(before_finish)),
        progress_(progress),
        report_(report) {}

  Result<void> run() {
    R1_CHECK(collect());
    for (const FeedbackGroup& group : groups_) R1_CHECK(run_group(group));
    R1_CHECK(judge());
    R1_CHECK(for_each(writer_.blobs().size(), [&](std::size_t i) { return writer_.finish_pieces(i); }));
    R1_CHECK(before_finish_());
    return writer_.finish();
  }

 private:
  Result<void> collect() {
    for (std::size_t b = 0; b < writer_.blobs().size(); ++b) {
      const rt::PlannedBlob& blob = writer_.blobs()[b];
      for (std::size_t p = 0; p < blob.stored.parts.size(); ++p) {
        PartWork work;
        work.blob = b;
        work.part = p;
        work.matrix = &blob.spec.matrices[blob.spec.rule == rt::PartRule::experts ? p : 0];
        R1_TRY(work.source, checkpoint_.find(blob.spec, *work.matrix));
        if (importance_ != nullptr && quant::info(blob.stored.parts[p].format).is_packed())
          work.importance = importance_->columns(blob.spec, *work.matrix, p);
        work.encoding.format = blob.stored.parts[p].format;
        work.encoding.layout = blob.stored.parts[p].layout;
        work.offset_bytes = blob.stored.parts[p].offset_bytes;
        const rt::ImatrixInput* const input =
            feedback_input(importance_, blob.spec, *work.matrix, work.encoding.format);
        FeedbackGroup& group = group_of(input);
        group.works.push_back(works_.size());
        const std::uint32_t n_panels = work.encoding.layout.n_panels;
        const std::uint32_t step = panels_per_unit(work.matrix->k, input != nullptr);
        for (std::uint32_t panel = 0; panel < n_panels; panel += step) {
          group.units.push_back(units_.size());
          units_.push_back({works_.size(), panel, std::min(panel + step, n_panels)});
        }
        works_.push_back(std::move(work));
      }
    }
    unit_errors_.resize(units_.size());
    return {};
  }

  FeedbackGroup& group_of(const rt::ImatrixInput* input) {
    const auto [found, is_new] = group_index_.try_emplace(input, groups_.size());
    if (is_new) groups_.push_back({input, {}, {}});
    return groups_[found->second];
  }

  Result<void> run_group(const FeedbackGroup& group) {
    feedback_.reset();
    if (group.input != nullptr) {
      const rt::Moments& moments = group.input->moments;
      feedback_ = quant::Feedback::of(group.input->k, moments.values(),
                                      [&](std::size_t n, const std::function<void(std::size_t)>& fn) {
                                        // Stopped, it leaves out the rest; so does all that follows.
                                        (void)for_each(n, [&](std::size_t i) -> Result<void> {
                                          fn(i);
                                          return {};
                                        });
                                      });
      moments.release();
      std::vector<std::string>& unused = report_.unused_moments;  // one line for an input of several shards
      if (!feedback_ && std::find(unused.begin(), unused.end(), group.input->name) == unused.end())
        unused.push_back(group.input->name);
    }
    R1_CHECK(for_each(group.works.size(), [&](std::size_t i) { return prepare(works_[group.works[i]]); }));
    return for_each(group.units.size(), [&](std::size_t i) { return encode(group.units[i]); });
  }

  const rt::BlobSpec& spec_of(const PartWork& work) const { return writer_.blobs()[work.blob].spec; }

  Result<void> prepare(PartWork& work) {
    const quant::Format format = work.encoding.format;
    const quant::BlobLayout layout = work.encoding.layout;
    std::vector<float> sample, row;
    std::uint32_t n_rows = 0;
    if (quant::info(format).scale == quant::ScaleKind::s4) {
      const PartReader reader(checkpoint_.config(), spec_of(work), work);
      n_rows = quant::n_sample_rows(layout.rows);
      for (std::uint32_t i = 0; i < n_rows; ++i) {
        const std::uint32_t index = quant::sample_row_index(layout.rows, i);
        reader.read(index, index + 1, row);
        if (!all_finite(row)) return not_finite(work, index, row);
        sample.insert(sample.end(), row.begin(), row.end());
      }
    }
    work.encoding = quant::prepare_encoding(format, layout, sample, n_rows, work.importance,
                                            quant::model_encoding(effort_), feedback_ ? &*feedback_ : nullptr);
    if (!quant::info(format).is_packed()) return {};
    return writer_.write_piece(work.blob, work.offset_bytes, std::as_bytes(std::span(work.encoding.s4_table)));
  }

  Result<void> encode(std::size_t unit_index) {
    const Unit& unit = units_[unit_index];
    PartWork& work = works_[unit.work];
    const quant::BlobLayout& layout = work.encoding.layout;
    const std::uint32_t row_begin = unit.panel_begin * quant::panel_rows;
    const std::uint32_t row_end = std::min(unit.panel_end * quant::panel_rows, layout.rows);
    const PartReader reader(checkpoint_.config(), spec_of(work), work);
    std::vector<float> rows;
    reader.read(row_begin, row_end, rows);
    if (!all_finite(rows)) return not_finite(work, row_begin, rows);

    const bool packed = quant::info(work.encoding.format).is_packed();
    const std::size_t panels_bytes =
        packed ? (unit.panel_end - unit.panel_begin) * layout.panel_bytes
               : std::size_t{row_end - row_begin} * layout.k * quant::info(work.encoding.format).group_bytes;
    std::vector<std::byte> panels(panels_bytes);
    std::vector<float> row_scales(std::size_t{unit.panel_end - unit.panel_begin} * quant::panel_rows);
    const quant::EncodeError error = quant::encode_panels(work.encoding, unit.panel_begin, unit.panel_end, rows.data(),
                                                          work.importance, panels.data(), row_scales.data());
    R1_CHECK(writer_.write_piece(
        work.blob, work.offset_bytes + layout.panels_offset_bytes + unit.panel_begin * layout.panel_bytes, panels));
    if (packed) {
      R1_CHECK(writer_.write_piece(
          work.blob,
          work.offset_bytes + layout.row_scale_offset_bytes + unit.panel_begin * quant::panel_rows * sizeof(float),
          std::as_bytes(std::span(row_scales))));
    }
    reader.release(row_begin, row_end);
    unit_errors_[unit_index] = error;
    report_unit(work, rows.size(), unit.panel_end == layout.n_panels, error);
    return {};
  }

  // Errors of whole tensors, added up in order: the same figures for any number of threads.
  Result<void> judge() {
    std::vector<quant::EncodeError> sums(works_.size());
    for (std::size_t i = 0; i < units_.size(); ++i) {
      sums[units_[i].work].error += unit_errors_[i].error;
      sums[units_[i].work].signal += unit_errors_[i].signal;
    }
    for (std::size_t i = 0; i < works_.size(); ++i) {
      const PartWork& work = works_[i];
      const rt::BlobSpec& spec = spec_of(work);
      const bool is_half = spec.rule == rt::PartRule::k_b || spec.rule == rt::PartRule::v_b;
      TensorError tensor;
      tensor.name = is_half ? fmt::format("{}, head {}", spec.name, work.part) : work.matrix->source;
      tensor.format = work.encoding.format;
      tensor.error = sums[i].signal > 0 ? std::sqrt(sums[i].error / sums[i].signal) : 0;
      const double expected = quant::expected_error(tensor.format);
      tensor.is_suspicious = !(tensor.error <= 2 * expected);
      if (tensor.is_suspicious && options_.strict) {
        return Error{ErrorCode::numeric,
                     fmt::format("relative error {:.4f} at {}, which costs {:.4f} on ordinary weights: the tensor is "
                                 "damaged or wants a larger format (--strict)",
                                 tensor.error, quant::info(tensor.format).name, expected),
                     fmt::format("{}: tensor {}", work.source.shard->path(), tensor.name)};
      }
      report_.tensors.push_back(std::move(tensor));
    }
    return {};
  }

  void report_unit(const PartWork& work, std::size_t n_weights, bool last, const quant::EncodeError& error) {
    const std::lock_guard lock(mutex_);
    quant::EncodeError& sum = report_.error_by_class[class_label(work.matrix->tensor_class)];
    sum.error += error.error;
    sum.signal += error.signal;
    progress_.weights_done += n_weights;
    progress_.source_bytes_done += n_weights * rt::dtype_bytes(work.source.entry->dtype);
    progress_.tensors_done += last && work.part + 1 == writer_.blobs()[work.blob].stored.parts.size();
    const auto now = std::chrono::steady_clock::now();
    if (options_.on_progress && now - last_progress_ > std::chrono::milliseconds(200)) {
      last_progress_ = now;
      options_.on_progress(progress_);
    }
  }

  template <class Fn>
  Result<void> for_each(std::size_t n, const Fn& fn) {
    return parallel_for_each(n, n_threads_, options_.stop, fn);
  }

  const Checkpoint& checkpoint_;
  const ConvertOptions& options_;
  quant::Effort effort_;
  int n_threads_;
  rt::ShardWriter& writer_;
  const rt::Importance* importance_;
  std::function<Result<void>()> before_finish_;
  Progress& progress_;
  ConvertReport& report_;
  std::vector<PartWork> works_;
  std::vector<Unit> units_;
  std::vector<FeedbackGroup> groups_;
  std::map<const rt::ImatrixInput*, std::size_t> group_index_;
  std::optional<quant::Feedback> feedback_;      // of the group in work
  std::vector<quant::EncodeError> unit_errors_;  // of each unit
  std::mutex mutex_;
  std::chrono::steady_clock::time_point last_progress_{};
};

// Threads that fit the memory limit. Beside the buffers of one unit each, a thread has its share of mapped source
// pages; feedback and the moments that it is made of are shared.
Result<int> threads_for(const ConversionPlan& plan, const ConvertOptions& options, const rt::Importance* importance) {
  std::uint64_t widest = 0, feedback_bytes = 0;
  for (const ShardPlan& shard : plan.shards) {
    for (const rt::PlannedBlob& blob : shard.blobs) {
      for (std::size_t m = 0; m < blob.spec.matrices.size(); ++m) {
        const rt::MatrixSpec& matrix = blob.spec.matrices[m];
        const std::uint64_t panel_weights = std::uint64_t{quant::panel_rows} * matrix.k;
        const std::uint64_t unit_weights = std::max<std::uint64_t>(1u << 18, panel_weights);
        const std::uint64_t sample_weights = std::uint64_t{quant::max_sample_rows} * matrix.k;
        widest = std::max(widest, std::max(unit_weights, sample_weights));
        if (feedback_input(importance, blob.spec, matrix, blob.stored.parts[m].format) == nullptr) continue;
        // In the encoder: the rows, their targets and the same divided by the largest.
        const std::uint64_t feedback_weights = panels_per_unit(matrix.k, true) * panel_weights;
        widest = std::max(widest, feedback_weights + std::uint64_t{3} * quant::feedback_rows * matrix.k / 4);
        feedback_bytes = std::max(feedback_bytes,
                                  quant::Feedback::bytes(matrix.k) + quant::triangle_values(matrix.k) * sizeof(float));
      }
    }
  }
  const std::uint64_t per_thread = widest * 4 * 4 + (std::uint64_t{8} << 20);  // f32 rows, codes, source pages, stack
  const std::uint64_t fixed = (std::uint64_t{192} << 20) + feedback_bytes;     // program, headers, tables
  if (options.ram_bytes < fixed + per_thread) {
    return Error{ErrorCode::out_of_memory,
                 fmt::format("--ram {} MiB is not enough; this model needs {} MiB", options.ram_bytes >> 20,
                             (fixed + per_thread + (1 << 20)) >> 20),
                 ""};
  }
  const int wanted = options.n_threads > 0 ? options.n_threads : omp_get_num_procs();
  return static_cast<int>(
      std::min<std::uint64_t>(static_cast<std::uint64_t>(wanted), (options.ram_bytes - fixed) / per_thread));
}

}  // namespace

Result<std::string> identity_of(const Checkpoint& checkpoint) {
  return rt::model_identity(checkpoint.config(), [&](const rt::BlobSpec& spec) -> Result<std::vector<float>> {
    R1_TRY(const SourceTensor source, checkpoint.find(spec, spec.matrices[0]));
    std::vector<float> values(std::size_t{source.rows} * source.k);
    read_rows(source, 0, source.rows, values.data());
    return values;
  });
}

IsBf16 stored_bf16(const Checkpoint& checkpoint) {
  return [&checkpoint](const rt::BlobSpec& blob, const rt::MatrixSpec& matrix) {
    const auto source = checkpoint.find(blob, matrix);
    return source && source->is_bf16();
  };
}

Result<ConversionPlan> plan_conversion(const Checkpoint& checkpoint, const quant::Recipe& recipe,
                                       const rt::Imatrix* imatrix, quant::Effort effort) {
  return plan_conversion(checkpoint, hand_made_mix(checkpoint.config(), recipe), imatrix, effort);
}

Result<ConversionPlan> plan_conversion(const Checkpoint& checkpoint, const Mix& mix, const rt::Imatrix* imatrix,
                                       quant::Effort effort) {
  R1_CHECK(checkpoint.check(rt::expected_blobs(checkpoint.config())));
  std::string extra = quant::effort_name(effort);
  if (imatrix != nullptr) extra += fmt::format("-i{}", imatrix->fingerprint());
  R1_TRY(ConversionPlan plan,
         make_plan(checkpoint.config(), mix, stored_bf16(checkpoint), checkpoint.fingerprint(), extra));
  plan.effort = effort;
  return plan;
}

Result<ConvertReport> convert(const Checkpoint& checkpoint, const ConversionPlan& plan, const std::string& directory,
                              const ConvertOptions& options) {
  std::optional<rt::Importance> importance;
  if (options.imatrix != nullptr) {
    R1_TRY(const std::string identity, identity_of(checkpoint));
    R1_TRY(importance, rt::Importance::of(*options.imatrix, checkpoint.config(), identity, options.imatrix_path));
  }
  R1_TRY(const int n_threads, threads_for(plan, options, importance ? &*importance : nullptr));
  R1_CHECK(prepare_output_directory(checkpoint.directory(), directory));

  ConvertReport report;
  Progress progress;
  std::vector<const ShardPlan*> todo;
  std::uint64_t needed_bytes = 0;
  for (const ShardPlan& shard : plan.shards) {
    if (rt::is_finished_shard(directory + "/" + shard.name, shard.blobs, plan.fingerprint)) {
      ++report.n_shards_kept;
      continue;
    }
    todo.push_back(&shard);
    needed_bytes += shard.file_bytes;
    progress.tensors_total += shard.blobs.size();
    for (const rt::PlannedBlob& blob : shard.blobs) {
      for (std::size_t p = 0; p < blob.stored.parts.size(); ++p) {
        const rt::MatrixSpec& matrix = blob.spec.matrices[blob.spec.rule == rt::PartRule::experts ? p : 0];
        R1_TRY(const SourceTensor source, checkpoint.find(blob.spec, matrix));
        const std::uint64_t weights = std::uint64_t{matrix.rows} * matrix.k;
        progress.weights_total += weights;
        progress.source_bytes_total += weights * rt::dtype_bytes(source.entry->dtype);
      }
    }
  }
  R1_CHECK(check_free_space(directory, needed_bytes));

  // Stored before a shard gets its name: what is known of a shard that a rerun keeps is then in the file.
  nlohmann::json errors = read_errors(directory, plan.fingerprint);
  const auto store_errors = [&]() -> Result<void> {
    for (const TensorError& tensor : report.tensors) errors[tensor.name] = std::round(tensor.error * 1e6) / 1e6;
    return write_errors(errors, directory, plan.fingerprint);
  };
  for (const ShardPlan* shard : todo) {
    progress.shard = shard->name;
    R1_TRY(const auto writer, rt::ShardWriter::create(directory + "/" + shard->name, shard->blobs, plan.fingerprint));
    R1_CHECK(ShardConversion(checkpoint, options, plan.effort, n_threads, *writer, importance ? &*importance : nullptr,
                             store_errors, progress, report)
                 .run());
    ++report.n_shards_written;
  }
  if (options.on_progress) options.on_progress(progress);
  report.source_bytes = progress.source_bytes_done;
  R1_CHECK(copy_companions(checkpoint.directory(), directory));
  const auto config = nlohmann::ordered_json::parse(checkpoint.config_text(), nullptr, false);
  nlohmann::ordered_json origin = nlohmann::ordered_json::object();
  if (config.contains("quantization_config")) origin["source"] = config["quantization_config"];
  origin["effort"] = quant::effort_name(plan.effort);
  if (options.imatrix != nullptr) {
    origin["imatrix"] = {{"fingerprint", options.imatrix->fingerprint()},
                         {"tokens", options.imatrix->n_tokens},
                         {"feedback", options.imatrix->has_moments()}};
  }
  R1_CHECK(write_config_and_index(config, origin, plan, directory));
  return report;
}

}  // namespace r1::convert
