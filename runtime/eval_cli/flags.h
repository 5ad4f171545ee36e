// Options that several commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/cli/options.h"
#include "runtime/eval/report.h"
#include "runtime/eval/rows.h"
#include "runtime/eval/windows.h"

namespace r1::eval_cli {

struct MachineFlags {
  int n_threads = 0;
  std::string kv_type = "f16";
  void add_to(CLI::App& app, cli::ModelFlags& model);
  [[nodiscard]] eval::RunOptions run_options() const;
};

struct TextFlags {
  std::string path;
  std::uint32_t window_tokens = eval::default_window_tokens, max_windows = 0;
  bool special = false, documents = false;
  CLI::Option* add_to(CLI::App& app);  // --text's
  // Says on standard error if the text is shorter than a window.
  [[nodiscard]] Result<eval::Windows> windows(const Model& model, bool quiet) const;
};

struct OutputFlags {
  std::string state_path, svg_path;
  bool json = false, quiet = false;
  void add_to(CLI::App& app, bool with_state);
};

[[nodiscard]] nlohmann::ordered_json to_json(const eval::Estimate& estimate);
[[nodiscard]] nlohmann::ordered_json to_json(const eval::Windows& windows);
// "5.123 ± 0.045": as many digits as the error supports.
[[nodiscard]] std::string to_text(const eval::Estimate& estimate);
[[nodiscard]] std::string to_text(const eval::Windows& windows);  // a line

}  // namespace r1::eval_cli
