#include "runtime/model_file/imatrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include "quant/feedback.h"
#include "runtime/base/try.h"
#include "runtime/io/file.h"
#include "runtime/io/safetensors.h"

namespace r1::rt {
namespace {

constexpr const char* squares_suffix = ".squares";
constexpr const char* tokens_suffix = ".tokens";
constexpr const char* moments_suffix = ".moments";

bool is_expert_role(InputRole role) {
  return role == InputRole::expert_mlp || role == InputRole::expert_down;
}

std::string shapes_text(const ModelConfig& c) {
  std::string text = fmt::format("{} {}", architecture_name(c.architecture), c.vocab_size);
  for (const MatrixInput& input : matrix_inputs(c)) text += fmt::format("\n{} {} {}", input.name, input.n, input.k);
  return text;
}

std::vector<TensorView> tensors_of(const Imatrix& imatrix) {
  std::vector<TensorView> tensors;
  for (const ImatrixInput& input : imatrix.inputs) {
    tensors.push_back(
        {input.name + squares_suffix, Dtype::f64, {input.n, input.k}, std::as_bytes(std::span(input.squares))});
    tensors.push_back({input.name + tokens_suffix, Dtype::i64, {input.n}, std::as_bytes(std::span(input.tokens))});
    if (input.moments.empty()) continue;
    const std::span<const float> values = input.moments.values();
    tensors.push_back({input.name + moments_suffix, Dtype::f32, {values.size()}, std::as_bytes(values)});
  }
  return tensors;
}

Error not_ours(const std::string& path, std::string_view problem) {
  return {ErrorCode::corrupt, fmt::format("is no importance matrix of r1-quantize: {}", problem), path};
}

Result<std::uint64_t> number(const SafetensorsFile& file, const char* key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) return not_ours(file.path(), fmt::format("its header lacks {}", key));
  std::uint64_t value = 0;
  const std::string& text = found->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    return not_ours(file.path(), fmt::format("{} is no number", key));
  return value;
}

}  // namespace

std::string model_description(const ModelConfig& c) {
  return fmt::format("{}, {} layers of {}{}, {} tokens", architecture_name(c.architecture), c.num_hidden_layers,
                     c.hidden_size, c.is_moe() ? fmt::format(", {} experts", c.n_routed_experts) : "", c.vocab_size);
}

Result<std::string> model_identity(const ModelConfig& config, const ReadVector& read) {
  const std::string shapes = shapes_text(config);
  std::vector<std::byte> bytes;
  const auto append = [&](std::span<const std::byte> more) { bytes.insert(bytes.end(), more.begin(), more.end()); };
  append(std::as_bytes(std::span(shapes)));
  for (const BlobSpec& blob : expected_blobs(config)) {
    if (blob.matrices[0].tensor_class != quant::TensorClass::norm) continue;
    R1_TRY(const std::vector<float> values, read(blob));
    append(std::as_bytes(std::span(values)));
  }
  return fmt::format("{:016x}", xxh3_64(bytes));
}

std::uint64_t MomentsWanted::bytes(const ModelConfig& config) const {
  std::uint64_t bytes = 0;
  for (const MatrixInput& input : matrix_inputs(config)) {
    if (wants(input)) bytes += quant::triangle_values(input.k) * sizeof(float);
  }
  return bytes;
}

Imatrix Imatrix::zeros(const ModelConfig& config, std::string identity, const MomentsWanted& wanted) {
  Imatrix imatrix;
  imatrix.identity = std::move(identity);
  imatrix.description = model_description(config);
  for (const MatrixInput& input : matrix_inputs(config)) {
    imatrix.inputs.push_back({input.name, input.n, input.k, std::vector<double>(std::size_t{input.n} * input.k),
                              std::vector<std::uint64_t>(input.n),
                              wanted.wants(input) ? Moments::zeros(input.k) : Moments()});
  }
  return imatrix;
}

Result<Imatrix> Imatrix::load(const std::string& path, MomentsOf moments) {
  R1_TRY(const SafetensorsFile file, SafetensorsFile::open(path));
  const auto text = [&](const char* key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  if (text("format") != "r1-imatrix") return not_ours(path, "its header does not say so");
  if (text("version") != "1") {
    return Error{ErrorCode::unsupported, fmt::format("version {} is unknown; update r1rt", text("version")), path};
  }
  Imatrix imatrix;
  imatrix.identity = text("model");
  imatrix.description = text("model_description");
  imatrix.work = text("work");
  R1_TRY(imatrix.n_tokens, number(file, "tokens"));
  if (!imatrix.work.empty()) {
    R1_TRY(imatrix.windows_done, number(file, "windows_done"));
  }
  for (const SafetensorsEntry& entry : file.entries()) {
    if (!entry.name.ends_with(squares_suffix)) continue;
    ImatrixInput input;
    input.name = entry.name.substr(0, entry.name.size() - std::strlen(squares_suffix));
    const SafetensorsEntry* tokens = file.find(input.name + tokens_suffix);
    const bool sound = entry.dtype == Dtype::f64 && entry.shape.size() == 2 && entry.shape[0] >= 1 &&
                       entry.shape[0] <= UINT32_MAX && entry.shape[1] >= 1 && entry.shape[1] <= UINT32_MAX &&
                       tokens != nullptr && tokens->dtype == Dtype::i64 && tokens->shape.size() == 1 &&
                       tokens->shape[0] == entry.shape[0];
    if (!sound) return not_ours(path, fmt::format("shapes or types of {}", input.name));
    input.n = static_cast<std::uint32_t>(entry.shape[0]);
    input.k = static_cast<std::uint32_t>(entry.shape[1]);
    input.squares.resize(std::size_t{input.n} * input.k);
    input.tokens.resize(input.n);
    std::memcpy(input.squares.data(), file.data(entry).data(), input.squares.size() * sizeof(double));
    std::memcpy(input.tokens.data(), file.data(*tokens).data(), input.tokens.size() * sizeof(std::uint64_t));
    for (const double x : input.squares) {
      if (!(x >= 0) || !std::isfinite(x)) return not_ours(path, fmt::format("{} holds {}", input.name, x));
    }
    const SafetensorsEntry* pairs = file.find(input.name + moments_suffix);
    if (pairs != nullptr && moments == MomentsOf::file) {
      if (input.n != 1 || pairs->dtype != Dtype::f32 || pairs->shape.size() != 1 ||
          pairs->shape[0] != quant::triangle_values(input.k) || pairs->offset_bytes % alignof(float) != 0)
        return not_ours(path, fmt::format("shape or type of the moments of {}", input.name));
      input.moments = Moments::of_file(file.file(), pairs->offset_bytes, input.k);
      const bool are_moments = input.moments.are_sound();
      input.moments.release();
      if (!are_moments) return not_ours(path, fmt::format("the moments of {} are none", input.name));
    }
    imatrix.inputs.push_back(std::move(input));
  }
  return imatrix;
}

Result<void> Imatrix::save(const std::string& path) const {
  std::map<std::string, std::string> metadata = {{"format", "r1-imatrix"},
                                                 {"version", "1"},
                                                 {"model", identity},
                                                 {"model_description", description},
                                                 {"tokens", std::to_string(n_tokens)}};
  if (!work.empty()) {
    metadata["work"] = work;
    metadata["windows_done"] = std::to_string(windows_done);
  }
  return write_safetensors(path, tensors_of(*this), metadata);
}

std::string Imatrix::fingerprint() const {
  std::string text = identity;
  for (const ImatrixInput& input : inputs) {
    text += fmt::format(" {:016x} {:016x}", xxh3_64(std::as_bytes(std::span(input.squares))),
                        xxh3_64(std::as_bytes(std::span(input.tokens))));
    if (input.moments.empty()) continue;
    text += fmt::format(" {:016x}", xxh3_64(std::as_bytes(input.moments.values())));
    input.moments.release();
  }
  return fmt::format("{:016x}", xxh3_64(std::as_bytes(std::span(text))));
}

bool Imatrix::has_moments() const {
  return std::any_of(inputs.begin(), inputs.end(), [](const ImatrixInput& input) { return !input.moments.empty(); });
}

Result<void> Imatrix::add(const Imatrix& other, const std::string& path) {
  if (other.identity != identity) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("is the imatrix of another model ({}; wanted: {})", other.description, description), path};
  }
  if (!other.work.empty()) {
    return Error{ErrorCode::invalid_argument, "is not finished: run the r1-quantize imatrix that made it again", path};
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (i >= other.inputs.size() || other.inputs[i].name != inputs[i].name || other.inputs[i].n != inputs[i].n ||
        other.inputs[i].k != inputs[i].k)
      return not_ours(path, fmt::format("{} is missing or of another shape", inputs[i].name));
    for (std::size_t j = 0; j < inputs[i].squares.size(); ++j) inputs[i].squares[j] += other.inputs[i].squares[j];
    for (std::size_t j = 0; j < inputs[i].tokens.size(); ++j) inputs[i].tokens[j] += other.inputs[i].tokens[j];
    Moments& mine = inputs[i].moments;
    const Moments& theirs = other.inputs[i].moments;
    if (mine.empty()) {
      mine = theirs;
    } else if (!theirs.empty()) {
      mine.add(theirs);
    }
    theirs.release();
  }
  n_tokens += other.n_tokens;
  return {};
}

ExpertCoverage expert_coverage(const ModelConfig& config, const Imatrix& imatrix) {
  ExpertCoverage coverage;
  const std::vector<MatrixInput> inputs = matrix_inputs(config);
  for (std::size_t i = 0; i < inputs.size() && i < imatrix.inputs.size(); ++i) {
    if (inputs[i].role != InputRole::expert_mlp) continue;
    for (const std::uint64_t tokens : imatrix.inputs[i].tokens) {
      ++coverage.n_experts;
      coverage.n_few += tokens < enough_expert_tokens;
      coverage.n_none += tokens == 0;
    }
  }
  return coverage;
}

Result<Importance> Importance::of(const Imatrix& imatrix, const ModelConfig& config, const std::string& identity,
                                  const std::string& path) {
  Imatrix wanted = Imatrix::zeros(config, identity);
  R1_CHECK(wanted.add(imatrix, path));  // the same model, finished, every input there
  Importance importance;
  importance.config_ = &config;
  importance.imatrix_ = &imatrix;
  const std::vector<MatrixInput> inputs = matrix_inputs(config);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    importance.index_[{inputs[i].role, inputs[i].layer}] = i;
    if (!is_expert_role(inputs[i].role)) continue;
    const ImatrixInput& input = imatrix.inputs[i];
    std::uint64_t n_tokens = 0;
    std::vector<double> mean(input.k);
    for (std::uint32_t e = 0; e < input.n; ++e) {
      n_tokens += input.tokens[e];
      for (std::uint32_t c = 0; c < input.k; ++c) mean[c] += input.squares[std::size_t{e} * input.k + c];
    }
    if (n_tokens == 0) continue;
    for (double& x : mean) x /= static_cast<double>(n_tokens);
    importance.layer_mean_[i] = std::move(mean);
  }
  return importance;
}

std::vector<float> Importance::columns(const BlobSpec& blob, const MatrixSpec& matrix, std::size_t part) const {
  const auto role = input_role(*config_, blob, matrix);
  if (!role) return {};
  const auto found = index_.find({*role, *role == InputRole::head ? -1 : blob.layer});
  if (found == index_.end()) return {};
  const ImatrixInput& input = imatrix_->inputs[found->second];
  const std::size_t row = is_expert_role(*role) ? static_cast<std::size_t>(blob.expert) : input.n > 1 ? part : 0;
  const auto tokens = static_cast<double>(input.tokens[row]);
  const auto layer_mean = layer_mean_.find(found->second);
  const bool known = layer_mean != layer_mean_.end();
  if (tokens == 0 && !known) return {};
  const double missing = known ? std::max(0.0, static_cast<double>(enough_expert_tokens) - tokens) : 0;
  std::vector<float> columns(input.k);
  for (std::uint32_t c = 0; c < input.k; ++c) {
    const double made_up = known ? missing * layer_mean->second[c] : 0;
    columns[c] = static_cast<float>((input.squares[row * input.k + c] + made_up) / (tokens + missing));
  }
  return columns;
}

const ImatrixInput* Importance::moments(const BlobSpec& blob, const MatrixSpec& matrix) const {
  const auto role = input_role(*config_, blob, matrix);
  if (!role) return nullptr;
  const auto found = index_.find({moments_role(*role), blob.layer});
  if (found == index_.end()) return nullptr;
  const ImatrixInput& input = imatrix_->inputs[found->second];
  return input.moments.empty() ? nullptr : &input;
}

}  // namespace r1::rt
