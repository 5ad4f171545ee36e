#include "runtime/eval/lowered_model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "numa/arena.h"
#include "quant/decode.h"
#include "quant/encode.h"
#include "runtime/base/try.h"
#include "runtime/eval/item_parts.h"
#include "runtime/model/model_impl.h"

namespace r1::eval {
namespace {

// One matrix: as it is, and where it is encoded to.
struct Part {
  simd::PackedMatrix source;
  std::vector<float> importance;              // [k], or empty
  const rt::ImatrixInput* moments = nullptr;  // for error feedback, or null
  quant::TensorEncoding encoding;
  std::uint64_t offset_bytes = 0;  // in the arena
};

struct Unit {
  std::size_t part = 0;
  std::uint32_t panel_begin = 0, panel_end = 0;
};

void decode(const simd::PackedMatrix& m, std::uint32_t row_begin, std::uint32_t row_end, std::vector<float>& out) {
  out.resize(std::size_t{row_end - row_begin} * m.k());
  quant::decode_rows(m.format, m.layout, {m.blob, m.layout.bytes}, row_begin, row_end, out.data());
}

class Lowering {
 public:
  Lowering(const Model& model, const rt::SensitivityItem& item, quant::Format format, const rt::Importance* importance)
      : model_(model), item_(ItemParts::of(*model.impl().file, item)), format_(format), importance_(importance) {}

  Result<LoweredModel> run(numa::ThreadTeam& team) {
    for (const ItemParts::Place& place : item_.places) R1_CHECK(add(place));
    arena_ = numa::Arena::allocate(std::max<std::uint64_t>(bytes_, 1));
    if (arena_ == nullptr) return Error{ErrorCode::out_of_memory, "no memory for the lowered matrices", ""};
    make_feedback(team);
    for_each(team, parts_.size(), [&](std::size_t i) { prepare(parts_[i]); });
    errors_.resize(units_.size());
    for_each(team, units_.size(), [&](std::size_t i) { errors_[i] = encode(units_[i]); });
    quant::EncodeError sum;
    for (const quant::EncodeError& e : errors_) {
      sum.error += e.error;
      sum.signal += e.signal;
    }
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      item_.blobs[item_.places[i].blob].parts[item_.places[i].part] = {format_, parts_[i].encoding.layout,
                                                                       arena_->data() + parts_[i].offset_bytes};
    }
    LoweredModel lowered;
    lowered.error = sum.signal > 0 ? std::sqrt(sum.error / sum.signal) : 0;
    R1_TRY(lowered.model,
           rt::with_file(model_, rt::ModelFile::with_blobs(model_.impl().file, item_.blobs, std::move(arena_))));
    return lowered;
  }

 private:
  Result<void> add(const ItemParts::Place& place) {
    const rt::BlobSpec& spec = item_.specs[place.blob];
    const rt::MatrixSpec& matrix = item_.spec(place);
    Part part;
    part.source = item_.matrix(place);
    if (importance_ != nullptr) {
      part.importance = importance_->columns(spec, matrix, place.part);
      if (quant::takes_feedback(format_)) part.moments = importance_->moments(spec, matrix);
    }
    const auto layout = quant::blob_layout(format_, matrix.rows, matrix.k);
    if (!layout) return Error{ErrorCode::unsupported, "is too large", spec.name};
    part.encoding.layout = *layout;
    part.offset_bytes = bytes_;
    bytes_ +=
        (layout->bytes + quant::blob_alignment_bytes - 1) / quant::blob_alignment_bytes * quant::blob_alignment_bytes;
    // About a megabyte of f32 at a time; with feedback, at least the rows that the encoder takes together.
    constexpr std::uint32_t together = quant::feedback_rows / quant::panel_rows;
    const std::uint32_t n_panels =
        std::max(part.moments != nullptr ? together : 1u, (1u << 18) / (quant::panel_rows * matrix.k));
    for (std::uint32_t panel = 0; panel < layout->n_panels; panel += n_panels)
      units_.push_back({parts_.size(), panel, std::min(panel + n_panels, layout->n_panels)});
    parts_.push_back(std::move(part));
    return {};
  }

  // One factor for each input: the matrices that read it share it.
  void make_feedback(numa::ThreadTeam& team) {
    for (const Part& part : parts_) {
      if (part.moments == nullptr || feedbacks_.contains(part.moments)) continue;
      feedbacks_[part.moments] = quant::Feedback::of(
          part.moments->k, part.moments->moments.values(),
          [&](std::size_t n, const std::function<void(std::size_t)>& fn) { for_each(team, n, fn); });
      part.moments->moments.release();
    }
  }

  [[nodiscard]] const quant::Feedback* feedback_of(const Part& part) const {
    const auto found = feedbacks_.find(part.moments);
    return found != feedbacks_.end() && found->second ? &*found->second : nullptr;
  }

  void prepare(Part& part) const {
    const quant::BlobLayout layout = part.encoding.layout;
    std::vector<float> sample, row;
    const std::uint32_t n_rows = quant::n_sample_rows(layout.rows);
    for (std::uint32_t i = 0; i < n_rows; ++i) {
      const std::uint32_t index = quant::sample_row_index(layout.rows, i);
      decode(part.source, index, index + 1, row);
      sample.insert(sample.end(), row.begin(), row.end());
    }
    part.encoding = quant::prepare_encoding(format_, layout, sample, n_rows, part.importance, quant::model_encoding(),
                                            feedback_of(part));
    std::memcpy(arena_->data() + part.offset_bytes, part.encoding.s4_table.data(), sizeof part.encoding.s4_table);
  }

  [[nodiscard]] quant::EncodeError encode(const Unit& unit) const {
    const Part& part = parts_[unit.part];
    const quant::BlobLayout& layout = part.encoding.layout;
    const std::uint32_t row_begin = unit.panel_begin * quant::panel_rows;
    std::vector<float> rows;
    decode(part.source, row_begin, std::min(unit.panel_end * quant::panel_rows, layout.rows), rows);
    std::byte* const blob = arena_->data() + part.offset_bytes;
    auto* const row_scale = reinterpret_cast<float*>(blob + layout.row_scale_offset_bytes);
    return quant::encode_panels(part.encoding, unit.panel_begin, unit.panel_end, rows.data(), part.importance,
                                blob + layout.panels_offset_bytes + unit.panel_begin * layout.panel_bytes,
                                row_scale + std::size_t{unit.panel_begin} * quant::panel_rows);
  }

  template <class Fn>
  static void for_each(numa::ThreadTeam& team, std::size_t n, const Fn& fn) {
    std::atomic<std::size_t> next = 0;
    team.run([&](const numa::Member&) {
      for (std::size_t i = next++; i < n; i = next++) fn(i);
    });
  }

  const Model& model_;
  ItemParts item_;  // its blobs in the end with what changed
  quant::Format format_;
  const rt::Importance* importance_;
  std::vector<Part> parts_;  // [item_.places.size()]
  std::vector<Unit> units_;
  std::map<const rt::ImatrixInput*, std::optional<quant::Feedback>> feedbacks_;  // none where moments tell nothing
  std::vector<quant::EncodeError> errors_;                                       // of each unit
  std::uint64_t bytes_ = 0;
  std::shared_ptr<const numa::Arena> arena_;
};

}  // namespace

Result<LoweredModel> lower(const Model& model, const rt::SensitivityItem& item, quant::Format format,
                           const rt::Importance* importance, numa::ThreadTeam& team) {
  return Lowering(model, item, format, importance).run(team);
}

}  // namespace r1::eval
