// A quantized model, opened from its directory: immutable, shared by any number of sessions and threads.
#pragma once

#include <r1/chat.h>
#include <r1/result.h>
#include <r1/sampler.h>
#include <r1/tokenizer.h>
#include <r1/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace r1 {

// Where the weights are while the model runs.
enum class LoadMode {
  automatic,     // read if that is quick, fits and helps; else map
  map,        // in the files' pages: starts at once, shared by processes, memory that the system can take back
  read,          // copied to huge pages of this process; an error if they do not fit
  read_if_fits,  // read, however long it takes; map if they do not fit
};

struct ModelOptions {
  std::string path;      // a directory that r1-quantize wrote
  std::string isa;       // "", or a name of `r1 doctor`'s list; overrides R1_ISA
  std::string template_name;  // "", or one of template_names(): overrides the model's own template
  LoadMode load = LoadMode::automatic;
  bool verify = false;   // check every checksum first (reads the whole model)
};

// Bytes and counts of one class of tensors.
struct TensorClassInfo {
  std::string name;      // "routed gate, up"
  std::string formats;   // "t2", or "t2 (52 layers), t3 (6 layers)"
  std::uint64_t parameters = 0;
  std::uint64_t bytes = 0;
  std::uint64_t bytes_per_token = 0;  // read to decode one token at depth 0
};

struct ModelInfo {
  std::string path, architecture, recipe;
  int format_version = 0;
  std::uint64_t parameters = 0;         // without the MTP layer
  std::uint64_t active_parameters = 0;  // that one token uses
  std::uint64_t bytes = 0;              // of the weights on disk
  std::uint64_t bytes_per_token = 0;    // weights read to decode one token at depth 0
  std::uint64_t kv_bytes_per_token = 0; // cache of one token, f16
  std::uint32_t vocab_size = 0, hidden_size = 0, n_layers = 0, n_mtp_layers = 0;
  std::uint32_t max_context_tokens = 0;
  std::uint64_t fingerprint = 0;  // of the config and every weight's checksum: what saved sessions belong to
  std::vector<TensorClassInfo> classes;
};

struct LoadReport {
  LoadMode mode = LoadMode::map;  // map or read
  std::string reason;             // of that choice
  double seconds = 0;             // that reading took
};

class Model {
 public:
  static Result<std::shared_ptr<const Model>> open(const ModelOptions& options);
  ~Model();

  [[nodiscard]] const ModelInfo& info() const;
  [[nodiscard]] const LoadReport& load_report() const;
  [[nodiscard]] const char* isa() const;  // instruction set of the kernels in use
  // Errors if the directory has no tokenizer (a synthetic model), or a template nobody knows.
  [[nodiscard]] Result<std::shared_ptr<const Tokenizer>> tokenizer() const;
  [[nodiscard]] Result<ChatTemplate> chat_template() const;
  // generation_config.json; where it is silent, the model card's 0.6 / 0.95.
  [[nodiscard]] const SamplingOptions& sampling_defaults() const;
  [[nodiscard]] const std::vector<Token>& end_tokens() const;  // eos_token_id of generation_config.json and config.json

  struct Impl;
  [[nodiscard]] const Impl& impl() const { return *impl_; }  // for the library itself
  explicit Model(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace r1
