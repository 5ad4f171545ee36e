// Products shared out over a team.
#include "runtime/model/linear.h"

#include <doctest/doctest.h>

#include <array>
#include <random>
#include <vector>

#include "numa/thread_team.h"
#include "runtime/model/buffer.h"

using namespace r1;

TEST_CASE("oneDNN gives a product the same bits whatever the number of threads") {
  constexpr std::uint32_t n_tokens = 40, n_rows = 512, k = 8192;
  static_assert(n_tokens >= simd::gemm_onednn_min_tokens);
  std::mt19937 engine(1);
  const auto random = [&] { return static_cast<float>(static_cast<int>(engine() % 2001) - 1000) * 1e-3f; };
  rt::Buffer<std::byte> blob(std::size_t{n_rows} * k * sizeof(float));
  auto* weights = reinterpret_cast<float*>(blob.data());
  for (std::size_t i = 0; i < std::size_t{n_rows} * k; ++i) weights[i] = random();
  const simd::PackedMatrix w{quant::Format::f32, quant::blob_layout(quant::Format::f32, n_rows, k).value(),
                             blob.data()};
  simd::ActivationBuffer buffer(n_tokens, k);
  const simd::Activations x = buffer.view(n_tokens, k);
  for (std::uint32_t t = 0; t < n_tokens; ++t) {
    for (std::uint32_t i = 0; i < k; ++i) simd::ActivationBuffer::x_row(x, t)[i] = random();
  }
  const simd::Kernels& kernels = *simd::choose_kernels("", nullptr);
  std::vector<float> first;
  for (const int n_threads : {1, 2, 3}) {
    CAPTURE(n_threads);
    std::vector<float> y(std::size_t{n_tokens} * n_rows, -7.0f);
    const std::array<rt::Product, 1> product = {rt::Product{&w, &x, 0, n_tokens, y.data(), n_rows}};
    numa::ThreadTeam team({n_threads, true});
    team.run([&](const numa::Member& member) { rt::multiply(member, kernels, product, nullptr); });
    if (first.empty()) first = y;
    CHECK(y == first);
  }
}
