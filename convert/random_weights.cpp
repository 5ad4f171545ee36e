#include "convert/random_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "quant/fp8.h"

namespace r1::convert {
namespace {

using quant::TensorClass;

// SplitMix64 (Steele, Lea, Flood 2014): a counter and a mixing function, one word in about a nanosecond.
class RandomBits {
 public:
  explicit RandomBits(std::uint64_t seed) : state_(seed) {}

  std::uint64_t word() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // Of [−1, 1).
  float symmetric() { return static_cast<float>(static_cast<std::int32_t>(word() >> 32)) * 0x1p-31f; }
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>((word() >> 32) * n >> 32); }
  void fill(std::span<std::byte> bytes) {
    for (std::size_t i = 0; i < bytes.size(); i += sizeof(std::uint64_t)) {
      const std::uint64_t bits = word();
      std::memcpy(bytes.data() + i, &bits, std::min(bytes.size() - i, sizeof bits));
    }
  }

 private:
  std::uint64_t state_;
};

// Block scales are drawn from one and a half octaves (S4: the upper eight of the table) or one (S8: bytes 112 … 127)
// below the row's largest, as trained rows have them.
constexpr int s4_steps_per_octave = 5;
constexpr std::uint8_t s8_lowest = 112, s8_mask = 15;
constexpr float row_scale_spread = 0.25f;  // rows differ by up to this part

double mean_square_code(const quant::FormatInfo& format) {
  double sum = 0;
  const int n = format.is_trellis() ? 64 : 256;
  for (int code = 0; code < n; ++code) {
    const double value = format.is_trellis() ? format.codebook[code] : code - 128;
    sum += value * value;
  }
  return sum / n;
}

double mean_square_block_scale(quant::Format format) {
  const auto table = random_s4_table(format);
  double sum = 0;
  if (quant::info(format).scale == quant::ScaleKind::s4) {
    for (int i = 8; i < 16; ++i) sum += static_cast<double>(table[i]) * table[i];
    return sum / 8;
  }
  for (int i = 0; i <= s8_mask; ++i) {
    const double scale = quant::s8_scale(static_cast<std::uint8_t>(s8_lowest + i));
    sum += scale * scale;
  }
  return sum / (s8_mask + 1);
}

// Rows behind the tensor's last one hold zeros (FORMAT.md, "Padding").
void clear_row(const quant::FormatInfo& format, std::uint32_t row, std::span<std::byte> panel) {
  const std::size_t scale_bytes = format.superchunk_bytes - std::size_t{4} * format.block_bytes;
  const bool w8 = format.id == quant::Format::w8;
  for (std::size_t at = 0; at < panel.size(); at += format.superchunk_bytes) {
    std::byte* superchunk = panel.data() + at;
    for (std::size_t block = 0; block < 4; ++block) {
      if (format.scale == quant::ScaleKind::s4) {
        std::byte& two_rows = superchunk[block * 8 + (row & 1) * 4 + (row >> 2)];
        two_rows &= (row >> 1 & 1) != 0 ? std::byte{0x0f} : std::byte{0xf0};
      } else {
        superchunk[block * 16 + row] = std::byte{0};
      }
      std::byte* codes = superchunk + scale_bytes + block * format.block_bytes;
      const std::size_t bytes = format.group_bytes;
      for (std::size_t group = 0; group < format.block_bytes / (16 * bytes); ++group) {
        std::byte* of_group = codes + group * 16 * bytes;
        std::memset(w8 ? of_group + row * bytes : of_group + (row & 1) * 8 * bytes + (row >> 1) * bytes, 0, bytes);
      }
    }
  }
}

void draw_packed_panel(const RandomTensor& tensor, RandomBits& random, std::uint32_t n_rows,
                       std::span<std::byte> panel_out, float* row_scale) {
  const quant::FormatInfo& format = quant::info(tensor.format);
  random.fill(panel_out);
  const std::size_t scale_bytes = format.superchunk_bytes - std::size_t{4} * format.block_bytes;
  for (std::size_t at = 0; at < panel_out.size(); at += format.superchunk_bytes) {
    for (std::byte& scale : panel_out.subspan(at, scale_bytes)) {
      scale = format.scale == quant::ScaleKind::s4 ? scale | std::byte{0x88}
                                                   : (scale & std::byte{s8_mask}) | std::byte{s8_lowest};
    }
  }
  for (std::uint32_t row = n_rows; row < quant::panel_rows; ++row) clear_row(format, row, panel_out);

  // Codebooks do not sum to zero. Were all row scales positive, every matrix would hold the same rank-one part, which
  // would grow from layer to layer and make all tokens alike; random signs turn it into noise.
  const double spread = row_scale_spread;
  const double scale = tensor.rms / std::sqrt(mean_square_code(format) * mean_square_block_scale(tensor.format) *
                                              (1 + spread * spread / 3));
  for (std::uint32_t row = 0; row < quant::panel_rows; ++row) {
    const float size = static_cast<float>(scale) * (1 + row_scale_spread * random.symmetric());
    const bool negative = random.symmetric() < 0;
    row_scale[row] = row >= n_rows ? 0 : negative ? -size : size;
  }
}

// Uniform weights.
void draw_plain_panel(const RandomTensor& tensor, RandomBits& random, std::span<std::byte> panel_out) {
  const float largest = tensor.rms * std::sqrt(3.0f);
  if (tensor.format == quant::Format::f32) {
    for (std::size_t at = 0; at < panel_out.size(); at += sizeof(float)) {
      const float x = largest * random.symmetric();
      std::memcpy(panel_out.data() + at, &x, sizeof x);
    }
    return;
  }
  for (std::size_t at = 0; at < panel_out.size(); at += sizeof(std::uint16_t)) {
    const std::uint16_t x = quant::f32_to_bf16(largest * random.symmetric());
    std::memcpy(panel_out.data() + at, &x, sizeof x);
  }
}

void shuffle(RandomBits& random, std::vector<std::uint32_t>& order) {
  for (std::uint32_t n = static_cast<std::uint32_t>(order.size()); n > 1; --n)
    std::swap(order[n - 1], order[random.below(n)]);
}

std::vector<std::uint32_t> shuffled(RandomBits& random, std::uint32_t n) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  shuffle(random, order);
  return order;
}

// How often the expert of each rank is to be chosen: Zipf's law, no more than nine times in ten, num_experts_per_tok in
// all.
std::vector<double> zipf_shares(std::uint32_t n_experts, std::uint32_t n_chosen) {
  constexpr double exponent = 0.8, most = 0.9;
  std::vector<double> share(n_experts);
  for (std::uint32_t i = 0; i < n_experts; ++i) share[i] = std::pow(i + 1.0, -exponent);
  if (n_chosen >= most * n_experts) return std::vector<double>(n_experts, double{1} * n_chosen / n_experts);
  for (std::uint32_t n_capped = 0;;) {
    const double left = n_chosen - n_capped * most;
    const double sum = std::accumulate(share.begin() + n_capped, share.end(), 0.0);
    for (std::uint32_t i = n_capped; i < n_experts; ++i) share[i] *= left / sum;
    if (share[n_capped] <= most) return share;
    share[n_capped++] = most;
  }
}

// x with P(z > x) = p for a standard normal z.
double normal_quantile_above(double p) {
  double low = -8, high = 8;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(middle / std::sqrt(2.0)) > p ? low : high) = middle;
  }
  return (low + high) / 2;
}

// Router rows give logits z that are standard normal over random tokens. An expert is chosen where sigmoid(z) + bias is
// among the largest, that is, above a threshold that hardly varies: so its bias is the threshold less the sigmoid of
// the z that its share of tokens exceeds. Ranks are dealt to the groups in turn, so that no group is preferred.
std::vector<float> zipf_biases(const rt::ModelConfig& config, RandomBits& random) {
  const std::uint32_t n = config.n_routed_experts, n_group = config.n_group, group_size = n / n_group;
  const std::vector<double> share = zipf_shares(n, config.num_experts_per_tok);
  std::vector<double> wanted(n);
  double mean = 0;
  for (std::uint32_t rank = 0; rank < n; ++rank) {
    wanted[rank] = -1 / (1 + std::exp(-normal_quantile_above(share[rank])));
    mean += wanted[rank] / n;
  }
  std::vector<std::vector<std::uint32_t>> place;  // of each group's experts
  for (std::uint32_t g = 0; g < n_group; ++g) place.push_back(shuffled(random, group_size));
  std::vector<float> bias(n);
  for (std::uint32_t round = 0; round < group_size; ++round) {
    const std::vector<std::uint32_t> groups = shuffled(random, n_group);
    for (std::uint32_t i = 0; i < n_group; ++i) {
      const std::uint32_t expert = groups[i] * group_size + place[groups[i]][round];
      bias[expert] = static_cast<float>(wanted[round * n_group + i] - mean);
    }
  }
  return bias;
}

}  // namespace

float synthetic_rms(const rt::ModelConfig& config, const rt::BlobSpec& blob, const rt::MatrixSpec& matrix) {
  const auto gain = [](double factor, std::uint32_t n_inputs) {
    return static_cast<float>(factor / std::sqrt(static_cast<double>(n_inputs)));
  };
  switch (matrix.tensor_class) {
    case TensorClass::embed:  // a tied one is the head too: unit rows would have a token predict itself for ever
      return config.tie_word_embeddings ? gain(1, config.hidden_size) : 1.0f;
    case TensorClass::head:  // logits as peaked as a trained model's: at 0.6, few tokens hold most of the probability
      return gain(4, matrix.k);
    case TensorClass::o:
      // Attention averages over the same context for all tokens. At full strength its output would, layer after layer,
      // make their states alike, and with them the routers' choices; below the MLP's size it does not.
      return gain(0.3, matrix.k);
    case TensorClass::kv_b:  // stored transposed, k_b still is a product of kv_lora_rank inputs
      return gain(1, blob.rule == rt::PartRule::k_b ? matrix.rows : matrix.k);
    default:
      return gain(1, matrix.k);
  }
}

std::array<float, 16> random_s4_table(quant::Format format) {
  std::array<float, 16> table{};
  if (quant::info(format).scale != quant::ScaleKind::s4) return table;
  for (int i = 0; i < 16; ++i) table[i] = std::exp2(static_cast<float>(i - 15) / s4_steps_per_octave);
  return table;
}

void draw_panel(const RandomTensor& tensor, std::uint32_t panel, std::span<std::byte> panel_out, float* row_scale) {
  RandomBits seeds(tensor.seed ^ panel);
  RandomBits random(seeds.word());
  if (!quant::info(tensor.format).is_packed()) {
    draw_plain_panel(tensor, random, panel_out);
    return;
  }
  const std::uint32_t n_rows = std::min(quant::panel_rows, tensor.layout.rows - panel * quant::panel_rows);
  draw_packed_panel(tensor, random, n_rows, panel_out, row_scale);
}

std::vector<float> draw_vector(const rt::ModelConfig& config, const rt::BlobSpec& blob, SynthRouter router,
                               std::uint64_t seed) {
  RandomBits random(seed);
  const std::size_t n = blob.matrices[0].k;
  if (blob.name.ends_with("e_score_correction_bias")) {
    return router == SynthRouter::zipf ? zipf_biases(config, random) : std::vector<float>(n, 0.0f);
  }
  if (!blob.name.ends_with("bias")) return std::vector<float>(n, 1.0f);
  std::vector<float> bias(n);
  for (float& x : bias) x = 0.2f * random.symmetric();
  return bias;
}

}  // namespace r1::convert
