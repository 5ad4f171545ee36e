// r1-bench: what it measures is there, adds up, and what cannot be measured is a clear line.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "../cli/program.h"
#include "simd/kernels.h"

namespace {

const std::string model = R1_NANO_MODEL;

nlohmann::json measured(const std::vector<std::string>& arguments) {
  const auto result = run_r1(arguments);
  CAPTURE(result.err);
  REQUIRE(result.exit_code == 0);
  return nlohmann::json::parse(result.out);
}

void check_error(const std::vector<std::string>& arguments, int exit_code, const std::string& part) {
  const auto result = run_r1(arguments);
  CAPTURE(result.err);
  CHECK(result.exit_code == exit_code);
  CHECK(result.err.starts_with("r1-bench: "));
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  CHECK(result.err.find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("a model: every depth and prompt with every number of threads, and phases that add up") {
  const std::string svg = std::string(R1_WORK_DIR) + "/speed.svg";
  std::filesystem::remove(svg);
  const auto json = measured({model, "--depth", "0,300", "--prompt", "7,64", "--generate", "3", "--repeat", "2",
                              "--threads", "1,2", "--profile", "--svg", svg, "--json"});
  const auto& results = json["results"];
  REQUIRE(results.size() == 8);
  for (std::size_t i = 0; i < results.size(); ++i) {
    const auto& r = results[i];
    CAPTURE(r.dump());
    CHECK(r["threads"] == (i < 4 ? 1 : 2));
    CHECK(r["phase"] == (i % 4 < 2 ? "decode" : "prefill"));
    CHECK(r[i % 4 < 2 ? "depth" : "prompt"] == std::vector<int>{0, 300, 7, 64}[i % 4]);
    CHECK(r["tokens_per_second"] > 0);
    CHECK(r["lowest"] <= r["tokens_per_second"]);
    CHECK(r["tokens_per_second"] <= r["highest"]);
    CHECK(r["gb_per_s"].get<double>() * 1e9 ==
          doctest::Approx(r["tokens_per_second"].get<double>() * r["bytes_per_token"].get<double>()));
    CHECK(r["read_gb_per_s"] > 0);
    CHECK(r["fraction"] > 0);
    CHECK_FALSE(r["isa"].get<std::string>().empty());
    CHECK(r.contains("peak_fraction") == (r["phase"] == "prefill"));
    double sum = 0;
    for (const auto& [name, share] : r["profile"].items()) sum += share.get<double>();
    CHECK(sum == doctest::Approx(1));
    for (const char* phase : {"attention projections", "attention", "router", "experts", "dense MLP", "head"}) {
      CHECK(r["profile"][phase] > 0);
    }
    CHECK(r["profile"].contains("barriers") == (i >= 4));
  }
  std::ifstream file(svg);
  std::stringstream text;
  text << file.rdbuf();
  CHECK(text.str().starts_with("<svg"));
  CHECK(text.str().ends_with("</svg>\n"));
  CHECK(text.str().find(">2 threads<") != std::string::npos);
  CHECK(text.str().find("nan") == std::string::npos);

  const auto table = run_r1({model, "--depth", "0", "--generate", "2", "--repeat", "1", "--prompt", "0"});
  CHECK(table.exit_code == 0);
  CHECK(table.out.find("decode") != std::string::npos);
  CHECK(table.out.find("\nprefill") == std::string::npos);
}

TEST_CASE("kernels: a row for each format and place, and attention") {
  const auto json =
      measured({"kernels", "--format", "t3,w8", "--k", "1536", "--isa", "avx2", "--seconds", "0.02", "--json"});
  CHECK(json["k"] == 1536);
  REQUIRE(json["results"].size() == 4);
  for (const auto& r : json["results"]) {
    CAPTURE(r.dump());
    CHECK(r["kernel"] == "gemv");
    CHECK(r["isa"] == "avx2");
    CHECK(r["fraction_lowest"] > 0);
    CHECK(r["fraction_lower_quartile"] >= r["fraction_lowest"]);
    CHECK(r["fraction"] >= r["fraction_lower_quartile"]);
    CHECK(r["fraction_upper_quartile"] >= r["fraction"]);
    CHECK(r["fraction_highest"] >= r["fraction_upper_quartile"]);
    CHECK(r["gb_per_s"] > 0);
    CHECK(r["highest_gb_per_s"] >= r["gb_per_s"]);
    CHECK(r["read_gb_per_s"] > 0);
  }
  CHECK(json["results"][0]["format"] == "t3");
  CHECK(json["results"][0]["where"] == "dram");
  CHECK(json["results"][3]["format"] == "w8");
  CHECK(json["results"][3]["where"] == "l2");

  const auto gemm =
      measured({"kernels", "--gemm", "--format", "t2,bf16", "--isa", "avx2", "--seconds", "0.01", "--json"});
  REQUIRE(gemm["results"].size() == 8);  // bf16 is not packed
  for (const auto& r : gemm["results"]) {
    CHECK(r["format"] == "t2");
    CHECK(r["fraction"] > 0);
    CHECK(r["peak_per_second"] > r["multiply_adds_per_second"]);
  }

  for (const char* kind : {"fma", "int8"}) CHECK(gemm["peaks"]["avx2"][kind] > 1e9);
  CHECK(gemm["products"].empty());  // nothing to turn weights with

  if (r1::simd::kernels_for(r1::simd::Isa::avx512_vnni) != nullptr) {
    const auto products = measured({"kernels", "--gemm", "--format", "t2", "--product", "kv_b,attention", "--isa",
                                    "avx512_vnni", "--seconds", "0.01", "--json"});
    CHECK(products["peaks"]["avx512_vnni"]["vnni"] > products["peaks"]["avx512_vnni"]["fma"]);
    std::size_t n_ours = 0;
    for (const auto& r : products["products"]) {
      const bool ours = r["kernel"] == "tiles";
      n_ours += ours ? 1 : 0;
      CHECK(ours == r["code"].get<std::string>().empty());
      CHECK(r["fraction"] > 0);
      // One after the other on a machine that others share: the clock may change between them.
      CHECK(1.05 * r["peak_per_second"].get<double>() > r["multiply_adds_per_second"].get<double>());
      CHECK(r.contains("from_packed_per_second") == (r["product"] == "kv_b"));
    }
    CHECK(n_ours == 10);  // two products, five batches
    CHECK(products["products"].size() > n_ours);
  }
  check_error({"kernels", "--gemm", "--product", "q_z"}, 2, "q_z");

  const auto attention = measured({"kernels", "--attention", "--isa", "avx2", "--seconds", "0.01", "--json"});
  REQUIRE(attention["results"].size() == 6);
  for (const auto& r : attention["results"]) {
    CHECK(r["fraction"].get<double>() ==
          doctest::Approx(r["multiply_adds_per_second"].get<double>() / r["peak_per_second"].get<double>()));
  }
}

TEST_CASE("what cannot be measured is one clear line") {
  CHECK(run_r1({"--version"}).out.starts_with("r1-bench "));
  check_error({model, "--frobnicate"}, 2, "--frobnicate");
  check_error({}, 2, "MODEL or kernels is required");
  check_error({"/nonexistent"}, 1, "/nonexistent");
  check_error({model, "--threads", "0"}, 2, "--threads");
  check_error({model, "--threads", "-1"}, 2, "--threads");
  check_error({model, "--repeat", "0"}, 2, "--repeat");
  check_error({model, "--depth", "4000000"}, 2, "depth 4000000 needs a context of 4000065 tokens; the model has");
  check_error({model, "--prompt", "5000000"}, 2, "prompt 5000000 needs a context of 5000000 tokens; the model has");
  check_error({model, "--generate", "0", "--prompt", "0"}, 2, "nothing to measure");
  check_error({model, "--isa", "sse9"}, 2, "sse9");
  check_error({"kernels", "--format", "q4_0"}, 2, "q4_0 is no weight format");
  check_error({"kernels", "--attention", "--format", "t2"}, 2, "--attention has no weight formats");
  check_error({"kernels", "--k", "0"}, 2, "--k");
  check_error({"kernels", "--isa", "sse9"}, 2, "sse9");
  check_error(
      {model, "--generate", "1", "--repeat", "1", "--depth", "0", "--prompt", "0", "--svg", "/nonexistent/a.svg"}, 1,
      "/nonexistent/a.svg");
}
