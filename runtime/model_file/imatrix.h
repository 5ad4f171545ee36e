// An importance matrix: how large the values are, on calibration text, that each column of each matrix is multiplied
// with. FORMAT.md, "Importance matrices", describes the file.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "runtime/model_file/matrix_inputs.h"

namespace r1::rt {

// Identifies a model whatever it is quantized to: its shapes, and its norms and biases, which every recipe keeps exact.
// `read` gives the values of such a blob.
using ReadVector = std::function<Result<std::vector<float>>(const BlobSpec&)>;
[[nodiscard]] Result<std::string> model_identity(const ModelConfig& config, const ReadVector& read);
// "deepseek_v3, 61 layers of 7168, 256 experts": for messages.
[[nodiscard]] std::string model_description(const ModelConfig& config);

struct ImatrixInput {
  std::string name;
  std::uint32_t n = 1, k = 0;
  std::vector<double> squares;        // [n, k] Σ x² over tokens
  std::vector<std::uint64_t> tokens;  // [n]
};

struct Imatrix {
  std::string identity, description;  // of the model
  std::uint64_t n_tokens = 0;
  // A collection that is not finished: what it collects from, and how far it is.
  std::string work;
  std::uint64_t windows_done = 0;
  std::vector<ImatrixInput> inputs;  // in order of matrix_inputs

  [[nodiscard]] static Imatrix zeros(const ModelConfig& config, std::string identity);
  [[nodiscard]] static Result<Imatrix> load(const std::string& path);
  [[nodiscard]] Result<void> save(const std::string& path) const;
  [[nodiscard]] std::string fingerprint() const;  // of the contents
  // Adds another text's sums. An error if it belongs to another model; `path` names it there.
  [[nodiscard]] Result<void> add(const Imatrix& other, const std::string& path);
};

// Experts with fewer tokens than this are known too little to stand alone: what is missing is made up with the mean of
// their layer.
inline constexpr std::uint64_t enough_expert_tokens = 128;

struct ExpertCoverage {
  std::uint64_t n_experts = 0, n_few = 0, n_none = 0;  // n_few includes n_none
};
[[nodiscard]] ExpertCoverage expert_coverage(const ModelConfig& config, const Imatrix& imatrix);

// Mean squares for the matrices of one model.
class Importance {
 public:
  // An error in one line if the imatrix is another model's. It must outlive this.
  static Result<Importance> of(const Imatrix& imatrix, const ModelConfig& config, const std::string& identity,
                               const std::string& path);

  // [k] of a part of a blob; empty where nothing is known (no text reached it) or nothing is multiplied.
  [[nodiscard]] std::vector<float> columns(const BlobSpec& blob, const MatrixSpec& matrix, std::size_t part) const;

 private:
  const ModelConfig* config_ = nullptr;
  const Imatrix* imatrix_ = nullptr;
  std::map<std::pair<InputRole, int>, std::size_t> index_;  // (role, layer) → input
  std::map<std::size_t, std::vector<double>> layer_mean_;   // of expert inputs [k]; none without tokens
};

}  // namespace r1::rt
