#include "runtime/attention/prefill.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "runtime/attention/transpose.h"
#include "runtime/model/pass.h"

namespace r1::rt {
namespace {

using simd::PrefillKind, simd::PrefillShape;
constexpr std::uint32_t page_rows = simd::prefill_page_rows;
static_assert(page_rows == kv_page_tokens);

// Heads of one KV head and tokens that one member computes; queries lie token by token.
struct Unit {
  std::uint32_t first_head = 0, n_heads = 1;
  std::uint32_t first_token = 0, n_tokens = 0;
  std::size_t first_query = 0;  // in the member's scratch

  [[nodiscard]] std::uint32_t n_queries() const { return n_heads * n_tokens; }
};

// How batch and heads are cut: `n_slices` runs of tokens for each of n_heads (KV) heads. More than one only where whole
// heads would leave members idle.
struct Cut {
  std::uint32_t n_heads = 0, n_slices = 1, n_tokens = 0;

  Cut(std::uint32_t heads, std::uint32_t tokens, std::uint32_t n_members, double head_cost, double token_cost)
      : n_heads(heads), n_tokens(tokens) {
    double best = std::numeric_limits<double>::infinity();
    for (std::uint32_t slices = 1; slices <= 8 && tokens / slices >= prefill_min_tokens / 2; ++slices) {
      const std::uint32_t rounds = (heads * slices + n_members - 1) / n_members;
      const double cost = rounds * (head_cost + token_cost * tokens / slices);
      if (cost >= best * 0.98) continue;  // clearly better
      best = cost;
      n_slices = slices;
    }
  }
  [[nodiscard]] std::uint32_t n_units() const { return n_heads * n_slices; }
  [[nodiscard]] std::uint32_t head(std::uint32_t unit) const { return unit / n_slices; }
  [[nodiscard]] Unit tokens(std::uint32_t unit) const {
    const std::uint32_t slice = unit % n_slices;
    const std::uint32_t begin = n_tokens * slice / n_slices, end = n_tokens * (slice + 1) / n_slices;
    Unit result;
    result.first_token = begin;
    result.n_tokens = end - begin;
    return result;
  }
};

// Bytes give MLA's two parts of a key a scale each, as a q8 cache does; words are fine enough to share one.
PrefillShape shape_of(const ModelConfig& c, simd::KvType type, bool tiles) {
  PrefillShape shape;
  shape.kind = type == simd::KvType::q8 ? PrefillKind::i8 : PrefillKind::i16;
  shape.width[0] = c.is_mla() ? c.qk_nope_head_dim : c.head_dim;
  (shape.kind == PrefillKind::i8 ? shape.width[1] : shape.width[0]) += c.is_mla() ? c.qk_rope_head_dim : 0;
  shape.d_v = c.is_mla() ? c.v_head_dim : c.head_dim;
  shape.tiles = tiles && simd::may_have_tiles(shape);
  return shape;
}

// Codes of keys of a q8 cache, which are + 128, for tiles, which take them signed.
void copy_signed(const std::byte* in, std::size_t n_bytes, std::byte* out) {
  for (std::size_t i = 0; i < n_bytes; ++i) out[i] = in[i] ^ std::byte{0x80};
}

// The unit's queries against one page.
void attend_page(const Pass& pass, PrefillScratch& own, const PrefillShape& shape, const Unit& unit, std::uint32_t page,
                 const simd::PrefillKeys& keys, const simd::PrefillValues& values) {
  const std::uint32_t first_row = page * page_rows, unit_row = pass.slots[unit.first_token].row;
  const std::uint32_t skipped = first_row > unit_row ? first_row - unit_row : 0;  // tokens before the page
  if (skipped >= unit.n_tokens) return;
  const std::size_t at = unit.first_query + std::size_t{skipped} * unit.n_heads;
  pass.kernels.prefill_page(
      shape, {own.q.at(at * shape.query_bytes()), shape.query_bytes(), own.q_scale.at(2 * at), own.q_start.at(2 * at)},
      (unit.n_tokens - skipped) * unit.n_heads, unit_row + skipped - first_row + 1, unit.n_heads, keys, values,
      {own.max.at(at), own.sum.at(at), own.out.at(at * shape.d_v), shape.d_v});
}

// Pages in turn, as the kernels see them.
struct TurnPages {
  std::uint32_t first = 0, n = 0;
  simd::PrefillKeys keys[prefill_turn_pages];
  simd::PrefillValues values[prefill_turn_pages];
};

// The unit's queries against all of them.
void attend_pages(const Pass& pass, PrefillScratch& own, const PrefillShape& shape, const Unit& unit,
                  const TurnPages& pages) {
  const std::uint32_t tokens = std::max(1u, prefill_turn_queries / unit.n_heads);
  for (std::uint32_t begin = 0; begin < unit.n_tokens; begin += tokens) {
    Unit some = unit;
    some.first_token += begin;
    some.n_tokens = std::min(tokens, unit.n_tokens - begin);
    some.first_query += std::size_t{begin} * unit.n_heads;
    for (std::uint32_t i = 0; i < pages.n; ++i)
      attend_page(pass, own, shape, some, pages.first + i, pages.keys[i], pages.values[i]);
  }
}

// Queries packed, nothing attended to yet. fill(token, head, x) writes x [d_qk].
template <class Fill>
void start(const Pass& pass, PrefillScratch& own, const PrefillShape& shape, const Unit& unit, Fill&& fill) {
  const float factor = pass.rope.softmax_scale() * std::numbers::log2e_v<float>;
  std::size_t at = unit.first_query;
  for (std::uint32_t token = unit.first_token; token < unit.first_token + unit.n_tokens; ++token) {
    for (std::uint32_t head = unit.first_head; head < unit.first_head + unit.n_heads; ++head, ++at) {
      fill(token, head, own.q_row.data());
      simd::pack_prefill_query(shape, own.q_row.data(), factor, own.q.at(at * shape.query_bytes()),
                               own.q_scale.at(2 * at), own.q_start.at(2 * at));
    }
  }
  const std::size_t n = unit.n_queries();
  std::fill_n(own.max.at(unit.first_query), n, simd::prefill_no_max);
  std::fill_n(own.sum.at(unit.first_query), n, 0.0f);
  std::fill_n(own.out.at(unit.first_query * shape.d_v), n * shape.d_v, 0.0f);
}

void finish(Pass& pass, const PrefillScratch& own, const PrefillShape& shape, const Unit& unit) {
  std::size_t at = unit.first_query;
  const std::size_t ld = std::size_t{pass.config.num_attention_heads} * shape.d_v;
  for (std::uint32_t token = unit.first_token; token < unit.first_token + unit.n_tokens; ++token) {
    for (std::uint32_t head = unit.first_head; head < unit.first_head + unit.n_heads; ++head, ++at) {
      const float scale = 1.0f / own.sum[at];
      const float* in = own.out.at(at * shape.d_v);
      float* out = pass.scratch.heads.at(token * ld + std::size_t{head} * shape.d_v);
      for (std::uint32_t i = 0; i < shape.d_v; ++i) out[i] = in[i] * scale;
    }
  }
}

// Whether products with w read codes in order of k.
bool uses_q8_codes(const Matrix& w) {
  return w.format != quant::Format::t2 && w.format != quant::Format::t4 && w.format != quant::Format::t4h &&
         quant::info(w.format).is_packed();
}

// Codes of a q8 page → rows first_row …, under the row's one scale.
void latents_of_q8(const simd::Q8KeyShape& keys, const std::byte* page, std::uint32_t first_row, std::uint32_t n_rows,
                   bool wants_floats, const simd::Activations& out) {
  const std::uint32_t n_quads = keys.quads(0), n_blocks = out.k_padded / quant::block_k;
  const auto* scales = reinterpret_cast<const float*>(page + keys.code_bytes());
  for (std::uint32_t row = 0; row < n_rows; ++row) {
    const std::size_t at = std::size_t{first_row} + row;
    auto* q = const_cast<std::int8_t*>(out.q) + at * out.k_padded;
    const std::byte* in =
        page + row / simd::q8_block_rows * keys.block_bytes() + std::size_t{row % simd::q8_block_rows} * 4;
    for (std::uint32_t quad = 0; quad < n_quads; ++quad) {
      std::uint32_t four = 0;
      std::memcpy(&four, in + std::size_t{quad} * 4 * simd::q8_block_rows, 4);
      four ^= 0x80808080u;
      std::memcpy(q + std::size_t{quad} * 4, &four, 4);
    }
    std::memset(q + out.k, 0, out.k_padded - out.k);
    auto* sums = const_cast<std::int32_t*>(out.block_sum) + at * n_blocks;
    for (std::uint32_t block = 0; block < n_blocks; ++block) {
      std::int32_t sum = 0;
      for (std::uint32_t i = 0; i < quant::block_k; ++i) sum += q[block * quant::block_k + i];
      sums[block] = sum;
    }
    std::fill_n(const_cast<float*>(out.scale) + at * (out.k_padded / quant::superchunk_k),
                out.k_padded / quant::superchunk_k, scales[row]);
    if (!wants_floats) continue;
    float* x = simd::ActivationBuffer::x_row(out, first_row + row);
    for (std::uint32_t i = 0; i < out.k_padded; ++i) x[i] = static_cast<float>(q[i]) * scales[row];
  }
}

// c^KV of some pages, ready for matrices, and what becomes of it: keys and values of one head after the other.
class LatentPages {
 public:
  LatentPages(Pass& pass, PrefillScratch& own, std::uint32_t layer, std::uint32_t kv_layer, const Mla& w,
              const PrefillShape& shape)
      : pass_(pass), own_(own), layer_(layer), kv_layer_(kv_layer), shape_(shape), kv_(*pass.slots[0].kv) {
    by_codes_ = uses_q8_codes(w.v_b[0]);  // k_b is w8 or f32 by now, and packed where v_b is
  }

  void load(std::uint32_t first_page, std::uint32_t n_rows) {
    n_rows_ = n_rows;
    latents_ = own_.latents.view(n_rows, pass_.config.kv_lora_rank);
    turn_.first = first_page;
    turn_.n = (n_rows + page_rows - 1) / page_rows;
    for (std::uint32_t i = 0; i < turn_.n; ++i) load_page(i);
  }

  // k^C = W^UK c^KV and v = W^UV c^KV of a head.
  void decompress(const Matrix& up_k, const Matrix& up_v, std::byte* tile) {
    const std::uint32_t nope = up_k.rows(), d_k = shape_.width[0], rope = d_k - nope;
    for (std::uint32_t i = 0; i < turn_.n; ++i) {
      PrefillPage& page = own_.pages[i];
      multiply(up_k, i, tile, d_k);
      for (std::uint32_t row = 0; rope > 0 && row < rows_of(i); ++row) {
        std::memcpy(own_.rows.at(std::size_t{row} * d_k + nope),
                    own_.rope_rows.at((std::size_t{i} * page_rows + row) * rope), rope * sizeof(float));
      }
      simd::pack_prefill_keys(shape_, 0, own_.rows.data(), d_k, 0, rows_of(i), page.keys.data(),
                              shape_.key_block_bytes(0), page.key_scale.data());
      multiply(up_v, i, tile, up_v.rows());
      simd::pack_prefill_values(shape_, own_.rows.data(), up_v.rows(), rows_of(i), page.values.data(),
                                page.value_scale.data());
      simd::prefill_scale_max(page.value_scale.data(), rows_of(i), page.value_scale_max.data());
    }
  }

  [[nodiscard]] const TurnPages& turn() const { return turn_; }

 private:
  [[nodiscard]] std::uint32_t rows_of(std::uint32_t i) const { return std::min(page_rows, n_rows_ - i * page_rows); }

  void load_page(std::uint32_t i) {
    const ModelConfig& c = pass_.config;
    const std::uint32_t first_row = i * page_rows, n_rows = rows_of(i), rope = c.qk_rope_head_dim;
    const std::byte* rows = kv_.k_page(turn_.first + i, kv_layer_, 0);
    PrefillPage& page = own_.pages[i];
    simd::PrefillKeys& keys = turn_.keys[i];
    turn_.values[i] = {page.values.data(), page.value_scale.data(), page.value_scale_max.data()};
    keys.codes[0] = page.keys.data();
    keys.block_bytes[0] = shape_.key_block_bytes(0);
    keys.scale[0] = page.key_scale.data();
    if (kv_.shape().type == simd::KvType::q8) {
      const simd::Q8KeyShape cached = kv_.shape().q8_keys();
      const bool reads_bf16 = pass_.kernels.reads_bf16();
      latents_of_q8(cached, rows, first_row, n_rows, !by_codes_ || reads_bf16, latents_);
      if (!by_codes_) quantize(first_row, n_rows);
      for (std::uint32_t row = 0; by_codes_ && reads_bf16 && row < n_rows; ++row)
        pass_.kernels.bf16_row(latents_, first_row + row);
      keys.codes[1] = rows + std::size_t{cached.quads(0)} * 4 * simd::q8_block_rows;
      keys.block_bytes[1] = cached.block_bytes();
      if (shape_.tiles) {
        std::byte* codes = page.keys.at(shape_.key_bytes(0));
        const std::size_t block_bytes = shape_.key_block_bytes(1);
        for (std::uint32_t block = 0; block < page_rows / simd::q8_block_rows; ++block)
          copy_signed(keys.codes[1] + block * keys.block_bytes[1], block_bytes, codes + block * block_bytes);
        keys.codes[1] = codes;
        keys.block_bytes[1] = block_bytes;
      }
      keys.scale[1] = reinterpret_cast<const float*>(rows + cached.code_bytes()) + page_rows;
      return;
    }
    const simd::KvType type = kv_.shape().type;
    const std::size_t row_bytes = kv_.shape().k_row_bytes(), element = simd::kv_element_bytes(type);
    for (std::uint32_t row = 0; row < n_rows; ++row) {
      simd::load_kv(type, rows + row * row_bytes, c.kv_lora_rank,
                    simd::ActivationBuffer::x_row(latents_, first_row + row));
      simd::load_kv(type, rows + row * row_bytes + c.kv_lora_rank * element, rope,
                    own_.rope_rows.at((std::size_t{first_row} + row) * rope));
    }
    quantize(first_row, n_rows);
  }
  void quantize(std::uint32_t first_row, std::uint32_t n_rows) {
    for (std::uint32_t row = first_row; row < first_row + n_rows; ++row) {
      if (!pass_.kernels.quantize_row(latents_, row)) pass_.report_not_finite(layer_);
    }
  }
  void multiply(const Matrix& w, std::uint32_t i, std::byte* tile, std::size_t ldy) {
    pass_.kernels.gemm_for(w.format, rows_of(i))(w, latents_, i * page_rows, rows_of(i), 0, w.layout.n_panels,
                                                 own_.rows.data(), ldy, tile);
  }

  Pass& pass_;
  PrefillScratch& own_;
  std::uint32_t layer_, kv_layer_;
  const PrefillShape& shape_;
  const KvCache& kv_;
  bool by_codes_ = false;
  std::uint32_t n_rows_ = 0;
  simd::Activations latents_;
  TurnPages turn_;
};

std::uint32_t rows_seen(const Pass& pass) {
  return pass.slots.back().row + 1;
}

}  // namespace

PrefillScratch::PrefillScratch(const ModelConfig& c, std::uint32_t max_tokens) {
  if (max_tokens < prefill_min_tokens) return;
  // Words take the most.
  const PrefillShape shape = shape_of(c, simd::KvType::f16, false);
  const std::size_t heads = c.is_mla() ? prefill_group_heads : c.num_attention_heads / c.num_key_value_heads;
  const std::size_t n = heads * max_tokens;
  q = Buffer<std::byte>(n * shape.query_bytes());
  q_scale = Buffer<float>(2 * n);
  q_start = Buffer<std::int32_t>(2 * n);
  max = Buffer<float>(n);
  sum = Buffer<float>(n);
  out = Buffer<float>(n * shape.d_v);
  q_row = Buffer<float>(std::size_t{shape.width[0]} + shape.width[1]);
  for (PrefillPage& page : pages) {
    page.keys = Buffer<std::byte>(shape.key_bytes(0) + shape.key_bytes(1));
    page.values = Buffer<std::byte>(shape.value_bytes());
    page.key_scale = Buffer<float>(page_rows);
    page.value_scale = Buffer<float>(page_rows);
    page.value_scale_max = Buffer<float>(page_rows);
  }
  rows = Buffer<float>(std::size_t{page_rows} * std::max(shape.width[0], shape.d_v));
  if (!c.is_mla()) return;
  latents = simd::ActivationBuffer(prefill_turn_pages * page_rows, c.kv_lora_rank);
  rope_rows = Buffer<float>(std::size_t{prefill_turn_pages} * page_rows * c.qk_rope_head_dim);
  up_k_bytes = transposed_bytes(c.kv_lora_rank, c.qk_nope_head_dim);
  up_k = Buffer<std::byte>(prefill_group_heads * up_k_bytes);
  up_k_rows = Buffer<float>(std::size_t{c.kv_lora_rank} * c.qk_nope_head_dim);
}

bool uses_prefill(const Pass& pass) {
  if (pass.n_tokens() < prefill_min_tokens || pass.slots[0].kv->shape().type == simd::KvType::f32) return false;
  return std::all_of(pass.slots.begin(), pass.slots.end(),
                     [&](const TokenSlot& slot) { return slot.kv == pass.slots[0].kv; });
}

void prefill_mla(const numa::Member& member, Pass& pass, const Mla& w, std::uint32_t layer, std::uint32_t kv_layer) {
  const ModelConfig& c = pass.config;
  Scratch& s = pass.scratch;
  PrefillScratch& own = pass.own(member).prefill;
  std::byte* tile = pass.own(member).tile.data();
  const PrefillShape shape = shape_of(c, pass.slots[0].kv->shape().type, pass.kernels.prefill_tiles);
  const std::uint32_t nope = c.qk_nope_head_dim, rope = c.qk_rope_head_dim, d_q = nope + rope, seen = rows_seen(pass);
  const std::size_t ld_q = std::size_t{c.num_attention_heads} * d_q;

  const double pairs = seen - pass.n_tokens() / 2.0;  // that a token sees on average
  const Cut cut(c.num_attention_heads, pass.n_tokens(), static_cast<std::uint32_t>(member.count()),
                static_cast<double>(c.kv_lora_rank) * (nope + c.v_head_dim) * seen, pairs * (d_q + c.v_head_dim));
  LatentPages pages(pass, own, layer, kv_layer, w, shape);
  const auto [begin, end] = member.share(cut.n_units());
  for (std::uint32_t first = begin; first < end; first += prefill_group_heads) {
    Unit units[prefill_group_heads];
    Matrix up_k[prefill_group_heads];
    const std::uint32_t n_units = std::min(prefill_group_heads, end - first);
    std::size_t n_queries = 0;
    for (std::uint32_t i = 0; i < n_units; ++i) {
      Unit& unit = units[i];
      unit = cut.tokens(first + i);
      unit.first_head = cut.head(first + i);
      unit.first_query = n_queries;
      n_queries += unit.n_queries();
      up_k[i] = i > 0 && units[i - 1].first_head == unit.first_head
                    ? up_k[i - 1]
                    : transpose(w.k_b[unit.first_head], own.up_k_rows.data(), own.up_k.at(i * own.up_k_bytes));
      start(pass, own, shape, unit, [&](std::uint32_t token, std::uint32_t head, float* q) {
        std::memcpy(q, s.q.at(token * ld_q + std::size_t{head} * d_q), d_q * sizeof(float));
        pass.kernels.rope_interleaved(q + nope, s.cos.at(std::size_t{token} * (rope / 2)),
                                      s.sin.at(std::size_t{token} * (rope / 2)), rope);
      });
    }
    for (std::uint32_t row = 0; row < seen; row += prefill_turn_pages * page_rows) {
      pages.load(row / page_rows, std::min(prefill_turn_pages * page_rows, seen - row));
      for (std::uint32_t i = 0; i < n_units; ++i) {
        if (i == 0 || units[i].first_head != units[i - 1].first_head)
          pages.decompress(up_k[i], w.v_b[units[i].first_head], tile);
        attend_pages(pass, own, shape, units[i], pages.turn());
      }
    }
    for (std::uint32_t i = 0; i < n_units; ++i) finish(pass, own, shape, units[i]);
  }
}

void prefill_gqa(const numa::Member& member, Pass& pass, std::uint32_t kv_layer) {
  const ModelConfig& c = pass.config;
  Scratch& s = pass.scratch;
  PrefillScratch& own = pass.own(member).prefill;
  const KvCache& kv = *pass.slots[0].kv;
  const PrefillShape shape = shape_of(c, kv.shape().type, pass.kernels.prefill_tiles);
  const std::uint32_t d = c.head_dim, seen = rows_seen(pass),
                      per_kv_head = c.num_attention_heads / c.num_key_value_heads;
  const std::size_t ld_q = std::size_t{c.num_attention_heads} * d;

  const double pairs = seen - pass.n_tokens() / 2.0;
  constexpr double packing = 16;  // products that an element of keys and values takes to pack
  const Cut cut(c.num_key_value_heads, pass.n_tokens(), static_cast<std::uint32_t>(member.count()),
                packing * 2 * d * seen, pairs * per_kv_head * 2 * d);
  const auto [begin, end] = member.share(cut.n_units());
  for (std::uint32_t i = begin; i < end; ++i) {
    const std::uint32_t kv_head = cut.head(i);
    Unit unit = cut.tokens(i);
    unit.first_head = kv_head * per_kv_head;
    unit.n_heads = per_kv_head;
    start(pass, own, shape, unit, [&](std::uint32_t token, std::uint32_t head, float* q) {
      std::memcpy(q, s.q.at(token * ld_q + std::size_t{head} * d), d * sizeof(float));
    });
    const std::uint32_t unit_seen = pass.slots[unit.first_token + unit.n_tokens - 1].row + 1;
    const std::uint32_t n_pages = (unit_seen + page_rows - 1) / page_rows;
    TurnPages turn;
    for (; turn.first < n_pages; turn.first += prefill_turn_pages) {
      turn.n = std::min(prefill_turn_pages, n_pages - turn.first);
      for (std::uint32_t p = 0; p < turn.n; ++p) {
        const std::uint32_t page = turn.first + p, n_rows = std::min(page_rows, seen - page * page_rows);
        const std::byte *k_page = kv.k_page(page, kv_layer, kv_head), *v_page = kv.v_page(page, kv_layer, kv_head);
        PrefillPage& packed = own.pages[p];
        simd::PrefillKeys& keys = turn.keys[p];
        simd::PrefillValues& values = turn.values[p];
        if (shape.kind == PrefillKind::i8) {
          const simd::Q8KeyShape key_shape = kv.shape().q8_keys();
          keys.codes[0] = k_page;
          keys.block_bytes[0] = key_shape.block_bytes();
          if (shape.tiles) {
            copy_signed(k_page, shape.key_bytes(0), packed.keys.data());
            keys.codes[0] = packed.keys.data();
          }
          keys.scale[0] = reinterpret_cast<const float*>(k_page + key_shape.code_bytes());
          values.codes = v_page;
          values.scale = reinterpret_cast<const float*>(v_page + kv.shape().q8_values().code_bytes());
        } else {
          keys.codes[0] = packed.keys.data();
          keys.block_bytes[0] = shape.key_block_bytes(0);
          keys.scale[0] = packed.key_scale.data();
          values.codes = packed.values.data();
          values.scale = packed.value_scale.data();
          simd::load_kv(kv.shape().type, k_page, std::size_t{n_rows} * d, own.rows.data());
          simd::pack_prefill_keys(shape, 0, own.rows.data(), d, 0, n_rows, packed.keys.data(), keys.block_bytes[0],
                                  packed.key_scale.data());
          simd::load_kv(kv.shape().type, v_page, std::size_t{n_rows} * d, own.rows.data());
          simd::pack_prefill_values(shape, own.rows.data(), d, n_rows, packed.values.data(), packed.value_scale.data());
        }
        simd::prefill_scale_max(values.scale, n_rows, packed.value_scale_max.data());
        values.scale_max = packed.value_scale_max.data();
      }
      attend_pages(pass, own, shape, unit, turn);
    }
    finish(pass, own, shape, unit);
  }
}

}  // namespace r1::rt
