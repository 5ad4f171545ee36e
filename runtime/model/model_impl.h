// What an open model is made of.
#pragma once

#include <r1/model.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/attention/rope.h"
#include "runtime/expert_store/expert_store.h"
#include "runtime/model/weights.h"
#include "runtime/model_file/model_file.h"
#include "simd/kernels.h"

namespace r1 {

struct Model::Impl {
  std::shared_ptr<const rt::ModelFile> file;
  rt::Weights weights;
  rt::Rope rope;
  std::shared_ptr<rt::ExpertStore> experts;  // shared by all sessions
  const simd::Kernels* kernels = nullptr;

  ModelInfo info;
  LoadReport load_report;
  Result<std::shared_ptr<const Tokenizer>> tokenizer = Error{};
  Result<ChatTemplate> chat_template = Error{};
  SamplingOptions sampling_defaults;
  std::vector<Token> end_tokens;
};

}  // namespace r1

namespace r1::rt {

[[nodiscard]] ModelInfo describe(const ModelFile& file);

// The same model with its weights elsewhere or in other formats; its info and fingerprint stay those of `model`.
[[nodiscard]] Result<std::shared_ptr<const Model>> with_file(const Model& model, std::shared_ptr<const ModelFile> file);

}  // namespace r1::rt
