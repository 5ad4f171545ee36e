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
#include "runtime/model_file/moments.h"

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
  Moments moments;                    // Σ x xᵀ over tokens, or none; n is 1 then
};

// Which inputs have second moments.
struct MomentsWanted {
  std::uint32_t max_k = 0;                     // wider inputs have none: 4 bytes for each pair of columns are many
  int layer_begin = 0, layer_end = 1'000'000;  // of these layers only

  [[nodiscard]] bool wants(const MatrixInput& input) const {
    return may_have_moments(input.role) && input.k <= max_k && input.layer >= layer_begin && input.layer < layer_end;
  }
  // Memory that they take, and room in the file.
  [[nodiscard]] std::uint64_t bytes(const ModelConfig& config) const;
};

enum class MomentsOf : std::uint8_t { file, none };  // what to load: those that the file has, or none

struct Imatrix {
  std::string identity, description;  // of the model
  std::uint64_t n_tokens = 0;
  // A collection that is not finished: what it collects from, and how far it is.
  std::string work;
  std::uint64_t windows_done = 0;
  std::vector<ImatrixInput> inputs;  // in order of matrix_inputs

  [[nodiscard]] static Imatrix zeros(const ModelConfig& config, std::string identity, const MomentsWanted& wanted = {});
  // Moments stay in the file, which is mapped.
  [[nodiscard]] static Result<Imatrix> load(const std::string& path, MomentsOf moments = MomentsOf::file);
  [[nodiscard]] Result<void> save(const std::string& path) const;
  [[nodiscard]] std::string fingerprint() const;  // of the contents
  [[nodiscard]] bool has_moments() const;
  // Adds another text's sums; moments that only one has are kept. An error if it belongs to another model; `path` names
  // it there.
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

  // The input whose second moments are known and are those of what a matrix reads, or null.
  [[nodiscard]] const ImatrixInput* moments(const BlobSpec& blob, const MatrixSpec& matrix) const;

 private:
  const ModelConfig* config_ = nullptr;
  const Imatrix* imatrix_ = nullptr;
  std::map<std::pair<InputRole, int>, std::size_t> index_;  // (role, layer) → input
  std::map<std::size_t, std::vector<double>> layer_mean_;   // of expert inputs [k]; none without tokens
};

}  // namespace r1::rt
