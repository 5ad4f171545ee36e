#include "quant/encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "quant/decode.h"
#include "quant/feedback_encoder.h"
#include "quant/fp8.h"
#include "quant/row_encoder.h"

namespace r1::quant {
namespace {

constexpr std::array effort_names = {"fast", "normal", "best"};

std::array<float, 16> s4_grid(int steps_per_octave) {
  std::array<float, 16> table{};
  for (int i = 0; i < 16; ++i)
    table[static_cast<std::size_t>(i)] = std::exp2(static_cast<float>(i - 15) / static_cast<float>(steps_per_octave));
  return table;
}

// Importance for the search: of mean 1, and never zero, so that no column is free to become anything. Padding is 0.
std::vector<float> padded_importance(std::span<const float> importance, std::uint32_t k, std::uint32_t k_padded) {
  constexpr float least = 1e-4f;
  std::vector<float> w(k_padded, 0.0f);
  double sum = 0;
  for (const float x : importance) sum += std::isfinite(x) && x > 0 ? x : 0;
  if (importance.size() != k || sum <= 0) {
    std::fill_n(w.begin(), k, 1.0f);
    return w;
  }
  const double scale = k / sum;
  for (std::uint32_t i = 0; i < k; ++i) {
    const double value = std::isfinite(importance[i]) && importance[i] > 0 ? importance[i] * scale : 0;
    w[i] = std::max(static_cast<float>(value), least);
  }
  return w;
}

// Not finite → 0. A code may decode to several times its weight (one of little importance among large ones): the limit
// keeps that finite.
void load_row(const float* x, std::uint32_t k, float* row) {
  constexpr float limit = 1e37f;
  for (std::uint32_t i = 0; i < k; ++i) row[i] = std::isfinite(x[i]) ? std::clamp(x[i], -limit, limit) : 0.0f;
}

// Writes a row's scales and codes to their places in the panel (FORMAT.md, "Superchunk").
void pack_row(const FormatInfo& format, const EncodedRow& row, std::uint32_t r, std::uint8_t* panel) {
  const std::size_t scale_bytes = format.scale == ScaleKind::s8 ? 64 : 32;
  const std::size_t group_bytes = format.group_bytes;
  for (std::uint32_t block = 0; block < row.scales.size(); ++block) {
    std::uint8_t* superchunk = panel + std::size_t{block / 4} * format.superchunk_bytes;
    const std::uint32_t b = block % 4;
    if (format.scale == ScaleKind::s8) {
      superchunk[16 * b + r] = row.scales[block];
    } else {
      const std::uint32_t nibble = r >> 1;
      superchunk[8 * b + 4 * (r & 1) + nibble / 2] |=
          static_cast<std::uint8_t>(row.scales[block] << (4 * (nibble & 1)));
    }
    std::uint8_t* codes = superchunk + scale_bytes + b * format.block_bytes;
    const std::uint8_t* code = row.codes.data() + std::size_t{block} * block_k;
    if (!format.is_trellis()) {
      for (std::uint32_t k = 0; k < block_k; ++k) codes[k / 4 * 64 + r * 4 + k % 4] = code[k];
      continue;
    }
    for (std::uint32_t g = 0; g < block_k / format.group_weights; ++g) {
      std::uint8_t* string = codes + g * 16 * group_bytes + (r & 1) * 8 * group_bytes + (r >> 1) * group_bytes;
      std::uint64_t bits = 0;
      int offset = 0;
      for (int t = 0; t < format.group_weights; ++t) {  // a weight owns the first `step` bits of its code
        const int step = format.steps[t & 1];
        bits |= std::uint64_t{*code++ & ((1u << step) - 1)} << offset;
        offset += step;
      }
      std::memcpy(string, &bits, group_bytes);
    }
  }
}

EncodeError error_of(const float* x, const float* decoded, const float* w, std::size_t n) {
  EncodeError e;
  for (std::size_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(x[i]) - decoded[i];
    e.error += w[i] * d * d;
    e.signal += w[i] * static_cast<double>(x[i]) * x[i];
  }
  return e;
}

// What a row decodes to; codes need no circular reading here, they are whole.
void decode_encoded(const FormatInfo& format, const std::array<float, 16>& s4_table, const EncodedRow& row,
                    std::uint32_t k, float* out) {
  for (std::uint32_t i = 0; i < k; ++i) {
    const std::uint8_t scale = row.scales[i / block_k];
    const float block_scale = format.scale == ScaleKind::s8 ? s8_scale(scale) : s4_table[scale];
    const int value = format.is_trellis() ? format.codebook[row.codes[i]] : row.codes[i] - 128;
    out[i] = row.row_scale * (block_scale * static_cast<float>(value));
  }
}

// By what a decoded row must be multiplied for Σ w x·decoded to be Σ w x². Only what little importance covers is
// further from 1 than the limit.
float gain_of(const float* x, const float* decoded, const float* w, std::size_t n) {
  constexpr double limit = 1.25;
  double signal = 0, product = 0;
  for (std::size_t i = 0; i < n; ++i) {
    signal += w[i] * static_cast<double>(x[i]) * x[i];
    product += w[i] * static_cast<double>(x[i]) * decoded[i];
  }
  if (!(product > 0)) return 1;
  return static_cast<float>(std::clamp(signal / product, 1 / limit, limit));
}

// Encodes rows of one bundle and packs each into its panel.
class PanelEncoder {
 public:
  explicit PanelEncoder(const TensorEncoding& encoding, std::span<const float> importance)
      : encoding_(encoding),
        format_(info(encoding.format)),
        w_(padded_importance(encoding.feedback != nullptr ? encoding.feedback->importance() : importance,
                             encoding.layout.k, encoding.layout.k_padded)) {
    if (encoding.feedback != nullptr) {
      with_feedback_.emplace(format_, encoding.s4_table, encoding.options, *encoding.feedback);
    } else {
      without_.emplace(format_, encoding.s4_table, encoding.options);
    }
  }

  // Rows first_row … first_row + n_rows − 1 of those that x and the outputs begin with.
  EncodeError encode(std::size_t first_row, std::size_t n_rows, const float* x, std::byte* panels_out,
                     float* row_scales) {
    const std::uint32_t k = encoding_.layout.k, k_padded = encoding_.layout.k_padded;
    rows_.assign(n_rows * k_padded, 0.0f);
    encoded_.resize(n_rows);
    decoded_.resize(k);
    for (std::size_t r = 0; r < n_rows; ++r) load_row(x + (first_row + r) * k, k, rows_.data() + r * k_padded);
    if (with_feedback_) {
      with_feedback_->encode(rows_.data(), w_.data(), k_padded, encoded_);
    } else {
      for (std::size_t r = 0; r < n_rows; ++r)
        without_->encode(rows_.data() + r * k_padded, w_.data(), k_padded, encoded_[r]);
    }
    EncodeError total;
    for (std::size_t r = 0; r < n_rows; ++r) {
      const float* row = rows_.data() + r * k_padded;
      EncodedRow& encoded = encoded_[r];
      decode_encoded(format_, encoding_.s4_table, encoded, k, decoded_.data());
      if (encoding_.options.restore_gain) {
        encoded.row_scale *= gain_of(row, decoded_.data(), w_.data(), k);
        decode_encoded(format_, encoding_.s4_table, encoded, k, decoded_.data());
      }
      const std::size_t at = first_row + r;
      pack_row(format_, encoded, static_cast<std::uint32_t>(at % panel_rows),
               reinterpret_cast<std::uint8_t*>(panels_out) + at / panel_rows * encoding_.layout.panel_bytes);
      row_scales[at] = encoded.row_scale;
      const EncodeError e = error_of(with_feedback_ ? with_feedback_->targets(r) : row, decoded_.data(), w_.data(), k);
      total.error += e.error;
      total.signal += e.signal;
    }
    return total;
  }

 private:
  const TensorEncoding& encoding_;
  const FormatInfo& format_;
  std::vector<float> w_;  // [k_padded]
  std::optional<FeedbackEncoder> with_feedback_;
  std::optional<RowEncoder> without_;
  std::vector<float> rows_, decoded_;
  std::vector<EncodedRow> encoded_;
};

EncodeError encode_packed_panels(const TensorEncoding& encoding, std::uint32_t panel_begin, std::uint32_t panel_end,
                                 const float* x, std::span<const float> importance, std::byte* panels_out,
                                 float* row_scales) {
  const BlobLayout& layout = encoding.layout;
  const std::size_t n_panels = panel_end - panel_begin;
  std::memset(panels_out, 0, n_panels * layout.panel_bytes);
  std::fill_n(row_scales, n_panels * panel_rows, 0.0f);
  const std::size_t n_rows = std::min(panel_end * panel_rows, layout.rows) - panel_begin * panel_rows;
  const std::size_t bundle = encoding.feedback != nullptr ? feedback_rows : 1;
  PanelEncoder encoder(encoding, importance);
  EncodeError total;
  for (std::size_t r = 0; r < n_rows; r += bundle) {
    const EncodeError e = encoder.encode(r, std::min(bundle, n_rows - r), x, panels_out, row_scales);
    total.error += e.error;
    total.signal += e.signal;
  }
  return total;
}

EncodeError encode_plain_panels(const TensorEncoding& encoding, std::uint32_t panel_begin, std::uint32_t panel_end,
                                const float* x, std::byte* panels_out) {
  constexpr float largest_bf16 = 0x1.fep127f;
  const std::uint32_t n_rows = std::min(panel_end * panel_rows, encoding.layout.rows) - panel_begin * panel_rows;
  EncodeError e;
  for (std::size_t i = 0; i < std::size_t{n_rows} * encoding.layout.k; ++i) {
    const float value = std::isfinite(x[i]) ? x[i] : 0.0f;
    e.signal += static_cast<double>(value) * value;
    if (encoding.format == Format::f32) {
      std::memcpy(panels_out + i * sizeof value, &value, sizeof value);
      continue;
    }
    const std::uint16_t bits = f32_to_bf16(std::clamp(value, -largest_bf16, largest_bf16));  // never to infinity
    const double d = static_cast<double>(value) - bf16_to_f32(bits);
    e.error += d * d;
    std::memcpy(panels_out + i * sizeof bits, &bits, sizeof bits);
  }
  return e;
}

}  // namespace

const char* effort_name(Effort effort) {
  return effort_names[static_cast<std::size_t>(effort)];
}

std::optional<Effort> effort_from_name(std::string_view name) {
  for (const Effort effort : {Effort::fast, Effort::normal, Effort::best}) {
    if (name == effort_name(effort)) return effort;
  }
  return std::nullopt;
}

float expected_error(Format format) {
  switch (format) {
    case Format::t2:
      return 0.280f;
    case Format::t2_5:
      return 0.205f;
    case Format::t3:
      return 0.143f;
    case Format::t3_5:
      return 0.104f;
    case Format::t4:
    case Format::t4h:
      return 0.071f;
    case Format::t5:
      return 0.037f;
    case Format::nl6:
      return 0.021f;
    case Format::w8:
      return 0.007f;
    case Format::bf16:
      return 0.002f;
    case Format::f32:
      break;
  }
  return 0;
}

std::uint32_t n_sample_rows(std::uint32_t rows) {
  return std::min(rows, max_sample_rows);
}

std::uint32_t sample_row_index(std::uint32_t rows, std::uint32_t sample) {
  return static_cast<std::uint32_t>(std::uint64_t{sample} * rows / n_sample_rows(rows));
}

bool takes_feedback(Format format) {
  return info(format).is_packed() && format != Format::w8;
}

// The grid is tried without feedback, which changes how rows are rounded, not how far apart their scales are.
TensorEncoding prepare_encoding(Format format, const BlobLayout& layout, std::span<const float> sample_rows,
                                std::uint32_t n_rows, std::span<const float> importance, const EncodeOptions& options,
                                const Feedback* feedback) {
  TensorEncoding encoding;
  if (takes_feedback(format)) encoding.feedback = feedback;
  encoding.options = options;
  encoding.format = format;
  encoding.layout = layout;
  if (info(format).scale != ScaleKind::s4) return encoding;
  const std::vector<float> w =
      padded_importance(encoding.feedback != nullptr ? feedback->importance() : importance, layout.k, layout.k_padded);
  double best = 0;
  for (const int steps_per_octave : {5, 3, 4, 6, 8, 10}) {
    const std::array<float, 16> table = s4_grid(steps_per_octave);
    RowEncoder encoder(info(format), table, options);
    std::vector<float> row(layout.k_padded, 0.0f), decoded(layout.k);
    EncodedRow encoded;
    double error = 0;
    for (std::uint32_t r = 0; r < n_rows; ++r) {
      load_row(sample_rows.data() + std::size_t{r} * layout.k, layout.k, row.data());
      encoder.encode(row.data(), w.data(), layout.k_padded, encoded);
      decode_encoded(info(format), table, encoded, layout.k, decoded.data());
      error += error_of(row.data(), decoded.data(), w.data(), layout.k).error;
    }
    if (steps_per_octave == 5 || error < best) {
      best = error;
      encoding.s4_table = table;
    }
  }
  return encoding;
}

EncodeError encode_panels(const TensorEncoding& encoding, std::uint32_t panel_begin, std::uint32_t panel_end,
                          const float* x, std::span<const float> importance, std::byte* panels_out, float* row_scales) {
  if (!info(encoding.format).is_packed()) return encode_plain_panels(encoding, panel_begin, panel_end, x, panels_out);
  return encode_packed_panels(encoding, panel_begin, panel_end, x, importance, panels_out, row_scales);
}

EncodeError encode_tensor(Format format, const BlobLayout& layout, std::span<const float> x,
                          std::span<const float> importance, std::span<std::byte> blob_out,
                          const EncodeOptions& options, const Feedback* feedback) {
  std::vector<float> sample;
  const std::uint32_t n_samples = n_sample_rows(layout.rows);
  for (std::uint32_t i = 0; i < n_samples; ++i) {
    const float* row = x.data() + std::size_t{sample_row_index(layout.rows, i)} * layout.k;
    sample.insert(sample.end(), row, row + layout.k);
  }
  const TensorEncoding encoding = prepare_encoding(format, layout, sample, n_samples, importance, options, feedback);
  std::vector<float> row_scales(std::size_t{layout.n_panels} * panel_rows);
  const EncodeError error = encode_panels(encoding, 0, layout.n_panels, x.data(), importance,
                                          blob_out.data() + layout.panels_offset_bytes, row_scales.data());
  if (info(format).is_packed()) {
    std::fill_n(blob_out.begin(), layout.panels_offset_bytes, std::byte{0});
    std::memcpy(blob_out.data(), encoding.s4_table.data(), sizeof encoding.s4_table);
    std::memcpy(blob_out.data() + layout.row_scale_offset_bytes, row_scales.data(), row_scales.size() * sizeof(float));
  }
  return error;
}

}  // namespace r1::quant
