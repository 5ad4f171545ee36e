#include "runtime/bench/onednn_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>

#include "numa/thread_team.h"
#include "runtime/bench/peak_bench.h"
#include "runtime/model/buffer.h"
#include "simd/onednn_matmul.h"

namespace r1::bench {
namespace {

using simd::OnednnMatmul, simd::OnednnType;

// A product with weights, as the common recipe packs them. A call takes call_rows of the rows, as the forward pass
// shares them out; the rest would be more of the same.
struct Shape {
  const char* name;
  std::uint32_t k;
  quant::Format format;
};
constexpr std::uint32_t call_rows = 256;
constexpr Shape shapes[] = {
    {"q_b", 1536, quant::Format::t5},         {"kv_b", 512, quant::Format::w8},         {"o", 16384, quant::Format::t5},
    {"gate_up", 7168, quant::Format::t5},  // of shared experts and dense layers
    {"shared_down", 2048, quant::Format::t5}, {"dense_down", 18432, quant::Format::t5},
};
constexpr std::uint32_t d_qk = 192, d_v = 128;  // of a head

// Codes that are neither zero nor all alike.
void fill(std::span<std::byte> bytes) {
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>((i * 167 + (i >> 8)) % 120);
}

class Bench {
 public:
  Bench(const OnednnBenchOptions& options, std::vector<OnednnBenchResult>& results)
      : options_(options), results_(results), integer_(integer_peak(*options.kernels)) {}

  void weights(const Shape& shape, std::uint32_t n_tokens) {
    const simd::Kernels& kernels = *options_.kernels;
    const auto format = static_cast<std::size_t>(shape.format);
    const quant::BlobLayout layout = *quant::blob_layout(shape.format, call_rows, shape.k);
    rt::Buffer<std::byte> blob(layout.bytes);
    fill({blob.data(), layout.bytes});
    std::fill_n(reinterpret_cast<float*>(blob.data()), 16, 1.0f);
    std::fill_n(reinterpret_cast<float*>(blob.data() + layout.row_scale_offset_bytes), call_rows, 1.0f);
    const simd::PackedMatrix w{shape.format, layout, blob.data()};
    const double products = double{call_rows} * shape.k * n_tokens;

    simd::ActivationBuffer buffer(n_tokens, shape.k);
    const simd::Activations x = buffer.view(n_tokens, shape.k);
    for (std::uint32_t t = 0; t < n_tokens; ++t) {
      float* row = simd::ActivationBuffer::x_row(x, t);
      for (std::uint32_t i = 0; i < shape.k; ++i)
        row[i] = static_cast<float>(static_cast<int>((i * 7919 + t) % 255) - 127);
      (void)kernels.quantize_row(x, t);
    }
    rt::Buffer<std::byte> tile(simd::gemm_tile_bytes);
    rt::Buffer<float> y(std::size_t{n_tokens} * call_rows);
    step(shape.name, quant::info(shape.format).name, n_tokens);
    OnednnBenchResult ours = result(shape.name, shape.k, call_rows, n_tokens);
    ours.by = fmt::format("tiles {}", quant::info(shape.format).name);
    set(ours, integer_, measure_beside(integer_, products, options_.seconds, [&] {
          kernels.gemm_for(shape.format, n_tokens)(w, x, 0, n_tokens, 0, layout.n_panels, y.data(), call_rows,
                                                   tile.data());
        }));
    ours.from_packed_per_s = ours.multiply_adds_per_s;
    ours.from_packed_fraction = ours.fraction;
    results_.push_back(std::move(ours));

    for (const OnednnType type : {OnednnType::u8s8, OnednnType::s8s8, OnednnType::bf16}) {
      const auto unpack = type == OnednnType::bf16 ? kernels.unpack_bf16[format] : kernels.unpack_s8[format];
      if (unpack == nullptr) continue;
      const auto take = [&](OnednnMatmul& matmul) {
        const std::size_t four = std::size_t{4} * quant::panel_rows * shape.k * (type == OnednnType::bf16 ? 2 : 1);
        for (std::uint32_t p = 0; p < layout.n_panels; p += simd::unpack_panels)
          unpack(w, p, matmul.weights() + p / simd::unpack_panels * four);
        matmul.take_weights();
      };
      onednn(shape.name, type, shape.k, call_rows, n_tokens, take);
    }
  }

  // One head's scores with a page of keys, or values, all of them seen. Ours is one kernel for both and the softmax.
  void attention(std::uint32_t n_tokens) {
    simd::PrefillShape shape{simd::PrefillKind::i8, {128, 64}, d_v};
    shape.tiles = options_.kernels->prefill_tiles;
    rt::Buffer<std::byte> queries(n_tokens * shape.query_bytes()), keys(shape.key_bytes(0) + shape.key_bytes(1)),
        values(shape.value_bytes());
    fill({queries.data(), n_tokens * shape.query_bytes()});
    fill({keys.data(), shape.key_bytes(0) + shape.key_bytes(1)});
    fill({values.data(), shape.value_bytes()});
    constexpr std::uint32_t rows = simd::prefill_page_rows;
    std::vector<float> query_scale(std::size_t{2} * n_tokens, 1e-3f), row_scale(rows, 1e-3f), max(n_tokens),
        sum(n_tokens), out(std::size_t{n_tokens} * d_v);
    std::vector<std::int32_t> query_sum(std::size_t{2} * n_tokens, 100);
    const simd::PrefillKeys k{{keys.data(), keys.data() + shape.key_bytes(0)},
                              {shape.key_block_bytes(0), shape.key_block_bytes(1)},
                              {row_scale.data(), row_scale.data()}};
    const simd::PrefillValues v{values.data(), row_scale.data(), row_scale.data()};
    std::fill(max.begin(), max.end(), simd::prefill_no_max);
    step("attention", "page", n_tokens);
    const Peak vnni{integer_.kind == "amx" ? "vnni" : integer_.kind, options_.kernels->peak_int8};
    OnednnBenchResult ours = result("attention", d_qk, rows, n_tokens);
    ours.by = "page q8";
    set(ours, vnni, measure_beside(vnni, double{rows} * (d_qk + d_v) * n_tokens, options_.seconds, [&] {
          options_.kernels->prefill_page(shape,
                                         {queries.data(), shape.query_bytes(), query_scale.data(), query_sum.data()},
                                         n_tokens, rows, 1, k, v, {max.data(), sum.data(), out.data(), d_v});
        }));
    results_.push_back(std::move(ours));
    for (const OnednnType type : {OnednnType::u8s8, OnednnType::s8s8, OnednnType::bf16}) {
      onednn("scores", type, d_qk, rows, n_tokens, nullptr);
      onednn("values", type, rows, d_v, n_tokens, nullptr);
    }
  }

 private:
  void step(const std::string& product, const std::string& by, std::uint32_t n_tokens) const {
    if (options_.on_step) options_.on_step(fmt::format("{} by {}, {} tokens", product, by, n_tokens));
  }
  static OnednnBenchResult result(const char* product, std::uint32_t k, std::uint32_t n_rows, std::uint32_t n_tokens) {
    OnednnBenchResult r;
    r.product = product;
    r.k = k;
    r.n_rows = n_rows;
    r.n_tokens = n_tokens;
    return r;
  }
  static void set(OnednnBenchResult& r, const Peak& peak, const Rate& rate) {
    r.multiply_adds_per_s = rate.per_s;
    r.fraction = rate.fraction;
    r.peak = peak.kind;
    r.peak_per_s = rate.peak_per_s;
  }
  // oneDNN takes the best instructions of the machine, whatever ours are asked for.
  [[nodiscard]] Peak peak_of(const OnednnMatmul& matmul, bool bf16) const {
    if (matmul.implementation().find("amx") != std::string::npos) {
      const simd::Kernels* tiles = simd::kernels_for(simd::Isa::amx);
      if (tiles != nullptr) return integer_peak(*tiles);
    }
    if (bf16 && options_.kernels->peak_bf16 != nullptr) return {"bf16", options_.kernels->peak_bf16};
    return integer_;
  }
  void onednn(const char* product, OnednnType type, std::uint32_t k, std::uint32_t n_rows, std::uint32_t n_tokens,
              const std::function<void(OnednnMatmul&)>& take_packed) {
    const auto matmul = OnednnMatmul::create(type, n_tokens, n_rows, k);
    if (matmul == nullptr) return;
    step(product, simd::onednn_type_name(type), n_tokens);
    const bool bf16 = type == OnednnType::bf16;
    const Peak peak = peak_of(*matmul, bf16);
    // Small numbers in either type: bytes of bf16 must not make up NaN, and denormals would slow it down.
    rt::Buffer<std::byte> x(std::size_t{n_tokens} * k * (bf16 ? 2 : 1));
    rt::Buffer<float> y(std::size_t{n_tokens} * n_rows);
    const auto set_small = [&](std::byte* p, std::size_t n) {
      if (!bf16) return fill({p, n});
      for (std::size_t i = 0; i < n; ++i) {
        const auto one_and_some = static_cast<std::uint16_t>(0x3f80 + i % 64);
        std::memcpy(p + 2 * i, &one_and_some, 2);
      }
    };
    set_small(x.data(), std::size_t{n_tokens} * k);
    if (take_packed) {
      take_packed(*matmul);
    } else {
      set_small(matmul->weights(), std::size_t{n_rows} * k);
      matmul->take_weights();
    }
    OnednnBenchResult r = result(product, k, n_rows, n_tokens);
    r.by = simd::onednn_type_name(type);
    r.code = matmul->implementation();
    const double products = double{1} * n_rows * k * n_tokens;
    set(r, peak, measure_beside(peak, products, options_.seconds, [&] { matmul->multiply(x.data(), y.data()); }));
    if (take_packed) {
      const Rate rate = measure_beside(peak, products, options_.seconds, [&] {
        take_packed(*matmul);
        matmul->multiply(x.data(), y.data());
      });
      r.from_packed_per_s = rate.per_s;
      r.from_packed_fraction = rate.fraction;
    }
    results_.push_back(std::move(r));
  }

  const OnednnBenchOptions& options_;
  std::vector<OnednnBenchResult>& results_;
  Peak integer_;
};

}  // namespace

std::vector<std::string> onednn_bench_products() {
  std::vector<std::string> names;
  for (const Shape& shape : shapes) names.emplace_back(shape.name);
  names.emplace_back("attention");
  return names;
}

std::vector<OnednnBenchResult> bench_onednn(const OnednnBenchOptions& options) {
  std::vector<OnednnBenchResult> results;
  if (options.kernels->unpack_s8[static_cast<std::size_t>(quant::Format::t5)] == nullptr) return results;
  const auto wanted = [&](const std::string& name) {
    return options.products.empty() ||
           std::find(options.products.begin(), options.products.end(), name) != options.products.end();
  };
  numa::ThreadTeam team({1, false});  // oneDNN's threads
  team.run([&](const numa::Member&) {
    Bench bench(options, results);
    for (const Shape& shape : shapes) {
      for (const std::uint32_t n : options.n_tokens) {
        if (wanted(shape.name)) bench.weights(shape, n);
      }
    }
    for (const std::uint32_t n : options.n_tokens) {
      if (wanted("attention")) bench.attention(n);
    }
  });
  return results;
}

}  // namespace r1::bench
