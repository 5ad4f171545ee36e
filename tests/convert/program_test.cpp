// r1-quantize as a user meets it: exit codes, one line of error, JSON, limits.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "checkpoint_maker.h"

namespace {

const std::string nano = R1_SOURCE_DIR "/examples/r1-nano";

void check_one_line(const Run& run, int exit_code, const char* part) {
  CAPTURE(run.err);
  CHECK(run.exit_code == exit_code);
  CHECK(run.err.rfind("r1-quantize: ", 0) == 0);
  CHECK(std::count(run.err.begin(), run.err.end(), '\n') == 1);
  CHECK(run.err.find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("wrong usage exits 2, failed work 1, each with one line") {
  const ScratchDirectory scratch;
  const std::string out = scratch / "out";
  check_one_line(run_quantize({}), 2, "checkpoint");
  check_one_line(run_quantize({nano}), 2, "output directory");
  check_one_line(run_quantize({nano, out, "--recipe", "r9"}), 2, "r9");
  check_one_line(run_quantize({nano, out, "--threads", "0"}), 2, "threads");
  check_one_line(run_quantize({nano, out, "--ram", "lots"}), 2, "lots");
  check_one_line(run_quantize({nano, out, "--effort", "most"}), 2, "--effort: most is unknown");
  check_one_line(run_quantize({nano, out, "--effort", ""}), 2, "--effort");
  check_one_line(run_quantize({nano, out, "--what"}), 2, "--what");
  check_one_line(run_quantize({"/nonexistent", out, "--recipe", "w8"}), 1, "/nonexistent");
  check_one_line(run_quantize({nano, out, "--recipe", "w8", "--ram", "1MiB"}), 1, "MiB");
  check_one_line(run_quantize({"verify", nano}), 1, "is a checkpoint");
  check_one_line(run_quantize({"verify", "/nonexistent"}), 1, "/nonexistent");
  CHECK(run_quantize({"--help"}).exit_code == 0);
  CHECK(run_quantize({"recipes"}).out.find("r2.7") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(out));
}

TEST_CASE("--plan needs nothing but a config.json, and is JSON where asked") {
  const std::string config = R1_FIXTURES "/tokenizers/DeepSeek-R1/config.json";
  const Run text = run_quantize({"--plan", config, "--recipe", "r2.7"});
  CHECK(text.exit_code == 0);
  CHECK(text.out.find("routed gate, up") != std::string::npos);
  const auto json = nlohmann::json::parse(run_quantize({"--plan", config, "--recipe", "r2.7", "--json"}).out);
  CHECK(json["bytes"].get<double>() / 1e9 == doctest::Approx(230.2).epsilon(0.001));
  CHECK(json["files"].size() == 60);
  CHECK(json["estimated_seconds"] > 0);
  CHECK(json["feedback_inputs"] == 0);
  check_one_line(run_quantize({"--plan", config, "--recipe", "r2.7", "--imatrix", "/nonexistent"}), 1, "/nonexistent");
}

TEST_CASE("verify finds one flipped bit and names it") {
  const ScratchDirectory scratch;
  REQUIRE(run_quantize({nano, scratch / "m", "--recipe", "w8"}).exit_code == 0);
  CHECK(run_quantize({"verify", scratch / "m"}).exit_code == 0);
  const std::string path = scratch / "m/experts-002.safetensors";
  std::string bytes = read_file(path);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 16);
  write_file(path, bytes);
  const Run run = run_quantize({"verify", scratch / "m"});
  check_one_line(run, 1, "experts-002.safetensors: tensor model.layers.2.mlp.experts.");
  const auto json = nlohmann::json::parse(run_quantize({"verify", scratch / "m", "--json"}).out);
  CHECK(json["failures"].size() == 1);
}

TEST_CASE("an imatrix is made, changes the weights, and goes with them, bad texts and other models' are refused") {
  const ScratchDirectory scratch;
  REQUIRE(run_quantize({nano, scratch / "w8", "--recipe", "w8"}).exit_code == 0);
  std::string text;
  for (int i = 0; i < 200; ++i) text += "The quick brown fox number " + std::to_string(i) + " jumps. ";
  write_file(scratch / "text", text);
  write_file(scratch / "empty", "");
  write_file(scratch / "short", "Too short.");
  const std::string imatrix = scratch / "i.imatrix";
  const auto collect = [&](const char* name, const std::string& out) {
    return run_quantize({"imatrix", scratch / "w8", out, "--text", scratch / name, "--context", "64"});
  };
  check_one_line(collect("empty", imatrix), 1, "empty");
  check_one_line(collect("short", imatrix), 1, "fewer than one context");
  check_one_line(collect("absent", imatrix), 1, "absent");
  check_one_line(run_quantize({"imatrix", nano, imatrix, "--text", scratch / "text"}), 1, "checkpoint");
  const Run made = collect("text", imatrix);
  CAPTURE(made.err);
  REQUIRE(made.exit_code == 0);
  CHECK(made.out.find("tokens") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(imatrix + ".state"));
  CHECK(run_quantize({"imatrix", "merge", scratch / "sum", imatrix, imatrix}).exit_code == 0);
  check_one_line(run_quantize({"imatrix", "merge", scratch / "sum", nano + "/model-00001-of-000003.safetensors"}), 1,
                 "no importance matrix");

  const std::string golden = R1_FIXTURES "/models/deepseek-v3-bf16";
  check_one_line(run_quantize({golden, scratch / "other", "--recipe", "r2.2", "--imatrix", imatrix}), 1,
                 "another model");
  CHECK_FALSE(std::filesystem::exists(scratch / "other"));
  REQUIRE(run_quantize({nano, scratch / "one", "--recipe", "w8", "--imatrix", imatrix, "--threads", "1"}).exit_code ==
          0);
  REQUIRE(run_quantize({nano, scratch / "two", "--recipe", "w8", "--imatrix", imatrix, "--threads", "2"}).exit_code ==
          0);
  CHECK(read_directory(scratch / "one") == read_directory(scratch / "two"));
  CHECK(read_file(scratch / "one/common.safetensors") != read_file(scratch / "w8/common.safetensors"));
  const auto config = nlohmann::json::parse(read_file(scratch / "one/config.json"));
  CHECK(config["quantization_config"]["imatrix"]["tokens"].get<int>() > 64);
}

TEST_CASE("moments are collected, make up for errors at any number of threads, and can be left aside") {
  const ScratchDirectory scratch;
  REQUIRE(run_quantize({nano, scratch / "w8", "--recipe", "w8"}).exit_code == 0);
  std::string text;
  for (int i = 0; i < 200; ++i) text += "The quick brown fox number " + std::to_string(i) + " jumps. ";
  write_file(scratch / "text", text);
  const auto collect = [&](const std::string& out, std::vector<std::string> more) {
    std::vector<std::string> arguments = {"imatrix",        scratch / "w8", scratch / out, "--text",
                                          scratch / "text", "--context",    "64"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_quantize(arguments);
  };
  check_one_line(collect("bad", {"--moments-layers", "3-"}), 2, "--moments-layers: 3- is no range");
  check_one_line(collect("bad", {"--moments-layers", "4-2"}), 2, "is no range");
  check_one_line(collect("bad", {"--moments", "--moments-width", "0"}), 2, "moments-width");
  REQUIRE(collect("plain", {}).exit_code == 0);
  const Run made = collect("with", {"--moments"});
  CAPTURE(made.err);
  REQUIRE(made.exit_code == 0);
  CHECK(made.err.find("GB of memory") != std::string::npos);
  CHECK(std::filesystem::file_size(scratch / "with") > 2 * std::filesystem::file_size(scratch / "plain"));

  // The plan counts what moments cost: in r1-nano those of attention and the dense MLPs.
  const auto feedback_inputs = [&](const std::string& imatrix, std::vector<std::string> more) {
    std::vector<std::string> arguments = {"--plan", nano, "--recipe", "r2.2", "--json", "--imatrix", scratch / imatrix};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return nlohmann::json::parse(run_quantize(arguments).out)["feedback_inputs"].get<int>();
  };
  CHECK(feedback_inputs("with", {}) > 0);
  CHECK(feedback_inputs("with", {"--no-feedback"}) == 0);
  CHECK(feedback_inputs("plain", {}) == 0);
  check_one_line(run_quantize({"--plan", R1_FIXTURES "/tokenizers/DeepSeek-R1/config.json", "--recipe", "r2.2",
                               "--imatrix", scratch / "with"}),
                 1, "with");

  const auto convert = [&](const std::string& out, const std::string& imatrix, std::vector<std::string> more) {
    std::vector<std::string> arguments = {nano, scratch / out, "--recipe", "r2.2", "--imatrix", scratch / imatrix};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Run run = run_quantize(arguments);
    CAPTURE(run.err);
    REQUIRE(run.exit_code == 0);
    return read_directory(scratch / out);
  };
  const auto one = convert("one", "with", {"--threads", "1"});
  CHECK(one == convert("three", "with", {"--threads", "3"}));
  CHECK(nlohmann::json::parse(one.at("config.json"))["quantization_config"]["imatrix"]["feedback"] == true);
  const auto plain = convert("plain-model", "plain", {});
  CHECK(plain == convert("without", "with", {"--no-feedback"}));
  CHECK(plain.at("common.safetensors") != one.at("common.safetensors"));
  CHECK(run_quantize({"verify", scratch / "one"}).exit_code == 0);

  // Moments that are all zero cannot be factored, and that is said.
  std::string bytes = read_file(scratch / "with");
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  const auto header = nlohmann::json::parse(bytes.substr(8, header_bytes));
  std::string input;
  for (const auto& [name, entry] : header.items()) {
    if (!input.empty() || !name.ends_with(".moments")) continue;
    input = name.substr(0, name.size() - std::string(".moments").size());
    const std::size_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(8 + header_bytes + begin), end - begin, '\0');
  }
  REQUIRE(!input.empty());
  write_file(scratch / "zeros", bytes);
  const Run told = run_quantize({nano, scratch / "told", "--recipe", "r2.2", "--imatrix", scratch / "zeros"});
  CAPTURE(told.err);
  CHECK(told.exit_code == 0);
  CHECK(told.err.find("the moments of " + input + " tell nothing") != std::string::npos);

  // What is lost is made again, alike, what is there stays.
  std::filesystem::remove(scratch / "one/common.safetensors");
  std::filesystem::remove(scratch / "one/model.safetensors.index.json");
  CHECK(convert("one", "with", {}) == one);
  check_one_line(
      run_quantize({nano, scratch / "small", "--recipe", "r2.2", "--imatrix", scratch / "with", "--ram", "100MiB"}), 1,
      "is not enough");
  std::filesystem::resize_file(scratch / "with", std::filesystem::file_size(scratch / "with") - 1);
  check_one_line(run_quantize({nano, scratch / "cut", "--recipe", "r2.2", "--imatrix", scratch / "with"}), 1, "with");
}

TEST_CASE("sensitivities are measured, go on after a stop, and fit a mix, bad input is one line") {
  const ScratchDirectory scratch;
  REQUIRE(run_quantize({nano, scratch / "w8", "--recipe", "w8"}).exit_code == 0);
  std::string text;
  for (int i = 0; i < 6; ++i)
    text += "<｜begin▁of▁sentence｜><｜User｜>What is " + std::to_string(i) +
            " plus 17?<｜Assistant｜><think>\nLet me see.";
  write_file(scratch / "text", text);
  write_file(scratch / "plain", "The quick brown fox jumps over the lazy dog again and again.");
  write_file(scratch / "empty", "");
  const std::string out = scratch / "s.json";
  const auto measure = [&](std::vector<std::string> more, const std::string& model) {
    std::vector<std::string> arguments = {"sensitivity", model, out, "--layers-per-group", "100"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_quantize(arguments);
  };
  const std::string w8 = scratch / "w8";
  check_one_line(measure({"--text", scratch / "empty"}, w8), 1, "empty");
  check_one_line(measure({"--text", scratch / "plain"}, w8), 1, "fewer than one context");
  check_one_line(measure({"--text", scratch / "absent"}, w8), 1, "absent");
  check_one_line(measure({"--text", scratch / "text", "--documents"}, nano), 1, "is a checkpoint");
  check_one_line(measure({"--text", scratch / "text", "--formats", "t2,q4"}, w8), 2, "--formats: there are t2");
  check_one_line(measure({"--text", scratch / "text", "--layers-per-group", "0"}, w8), 2, "layers-per-group");
  check_one_line(measure({"--text", scratch / "text", "--documents", "--imatrix", scratch / "absent"}, w8), 1,
                 "absent");
  const Run made = measure({"--text", scratch / "text", "--documents", "--formats", "t2"}, w8);
  CAPTURE(made.err);
  REQUIRE(made.exit_code == 0);
  CHECK(made.out.find("routed_down") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(out + ".state"));
  CHECK_FALSE(std::filesystem::exists(out + ".state.logits"));
  const auto json = nlohmann::json::parse(read_file(out));
  CHECK(json["items"].size() == 12);
  for (const auto& item : json["items"]) CHECK(item["measured"][0]["kld"].get<double>() > 0);
  CHECK(run_quantize({nano, scratch / "fit", "--fit", "14MB", "--sensitivity", out}).exit_code == 0);
  CHECK(run_quantize({"verify", scratch / "fit"}).exit_code == 0);

  // Documents of an imatrix: none of the tokens is lost to windows that do not fill.
  const auto tokens_of = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"imatrix", w8, scratch / "i", "--text", scratch / "text", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Run run = run_quantize(arguments);
    CAPTURE(run.err);
    REQUIRE(run.exit_code == 0);
    return nlohmann::json::parse(run.out)["tokens"].get<int>();
  };
  const int all = tokens_of({"--documents"});
  CHECK(all % 6 == 0);
  CHECK(tokens_of({"--context", std::to_string(all - 1)}) == all - 1);
}

TEST_CASE("a write that the disk refuses is told, and finished shards stay") {
  const ScratchDirectory scratch;
  // A limit on the size of files stands in for a full disk: the first shard that exceeds it cannot be reserved.
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  rlimit small = before;
  small.rlim_cur = 2'500'000;
  ::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  const Run run = run_quantize({nano, scratch / "m", "--recipe", "r2.2"});
  ::setrlimit(RLIMIT_FSIZE, &before);
  CHECK(run.exit_code == 1);
  CHECK(run.err.find("common.safetensors") != std::string::npos);
  CHECK(run.err.find("reserve") != std::string::npos);
  CHECK(run_quantize({nano, scratch / "m", "--recipe", "r2.2"}).exit_code == 0);
}

TEST_CASE("memory stays under --ram on a checkpoint larger than it") {
  const ScratchDirectory scratch;
  std::filesystem::create_directories(scratch / "in");
  // 560 MB of BF16 in one shard, mostly one wide matrix, as an embedding is.
  constexpr std::size_t vocab = 60000, hidden = 2048, intermediate = 2048;
  std::mt19937 engine(1);
  const auto tensor = [&](std::vector<std::size_t> shape) {
    std::size_t n = 1;
    for (const std::size_t d : shape) n *= d;
    RawTensor t{"BF16", std::move(shape), std::string(2 * n, '\0')};
    for (std::size_t i = 0; i < n; ++i) {
      t.bytes[2 * i] = static_cast<char>(i * 37);
      t.bytes[2 * i + 1] = static_cast<char>(i % 3 == 0 ? 0xbc : 0x3c);  // ± about 0.01
    }
    return t;
  };
  RawTensors tensors = {{"model.embed_tokens.weight", tensor({vocab, hidden})},
                        {"lm_head.weight", tensor({vocab, hidden})},
                        {"model.norm.weight", tensor({hidden})}};
  const std::string layer = "model.layers.0.";
  for (const char* norm : {"input_layernorm", "post_attention_layernorm"})
    tensors[layer + norm + ".weight"] = tensor({hidden});
  for (const char* p : {"q_proj", "k_proj", "v_proj", "o_proj"})
    tensors[layer + "self_attn." + p + ".weight"] = tensor({hidden, hidden});
  for (const char* p : {"gate_proj", "up_proj"})
    tensors[layer + "mlp." + p + ".weight"] = tensor({intermediate, hidden});
  tensors[layer + "mlp.down_proj.weight"] = tensor({hidden, intermediate});
  write_raw(scratch / "in/model.safetensors", tensors);
  tensors.clear();
  const nlohmann::json config = {{"model_type", "llama"},     {"vocab_size", vocab},
                                 {"hidden_size", hidden},     {"intermediate_size", intermediate},
                                 {"num_hidden_layers", 1},    {"num_attention_heads", 16},
                                 {"num_key_value_heads", 16}, {"max_position_embeddings", 4096}};
  write_file(scratch / "in/config.json", config.dump());
  const Run run = run_quantize({scratch / "in", scratch / "out", "--recipe", "w8", "--ram", "256MiB", "--json"});
  CAPTURE(run.err);
  REQUIRE(run.exit_code == 0);
#ifndef __SANITIZE_ADDRESS__  // whose shadow counts, and what it keeps of freed memory
  CHECK(nlohmann::json::parse(run.out)["peak_rss_bytes"].get<std::uint64_t>() < 256u << 20);
#endif
}
