// What runs a model fastest on this machine, measured; and the file that remembers it.
#pragma once

#include <r1/model.h>
#include <r1/result.h>
#include <r1/session.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace r1 {

struct Tuning {
  int decode_threads = 0, prefill_threads = 0;  // 0: one per physical core
  LoadMode load = LoadMode::automatic;          // map or read_if_fits where it was measured
};

struct TuneMeasurement {
  std::string phase;  // "load" (decode, to compare the modes), "decode", "prefill"
  LoadMode load = LoadMode::map;
  int n_threads = 0;
  double tokens_per_s = 0;     // median
  double lowest = 0, highest = 0;  // of all rounds
  bool is_default = false, is_best = false;
};

struct TuneReport {
  Tuning best;
  std::vector<TuneMeasurement> measurements;
  std::string load_note;  // why read was not measured; or empty
};

struct TuneOptions {
  std::string model_path;
  std::string isa;  // as in ModelOptions
  // Called before each round of measurements, 1 … n_rounds.
  std::function<void(int round, int n_rounds)> on_round;
};

// Takes some seconds to a few minutes. A setting other than the default is best only if it is clearly faster: by 3 %,
// and in all rounds but one.
[[nodiscard]] Result<TuneReport> tune(const TuneOptions& options);

// $XDG_CONFIG_HOME/r1rt/tune.json, else ~/.config/r1rt/tune.json.
[[nodiscard]] Result<std::string> tuning_file();

// The entry of this machine and model; nothing if the file or the entry is not there. An error names what is wrong with
// the file.
[[nodiscard]] Result<std::optional<Tuning>> find_tuning(const std::string& file, const std::string& model_path);
// Makes the file and its folder, or replaces the entry in it.
[[nodiscard]] Result<void> store_tuning(const std::string& file, const std::string& model_path, const Tuning& tuning);

}  // namespace r1
