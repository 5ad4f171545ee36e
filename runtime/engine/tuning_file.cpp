// {"version": 1, "tunings": [{"machine", "model", "path", "decode_threads", "prefill_threads", "load"}]}
#include <fmt/format.h>
#include <r1/tune.h>

#include <cstdlib>
#include <filesystem>
#include <span>
#include <system_error>

#include "numa/topology.h"
#include "runtime/base/try.h"
#include "runtime/io/file.h"
#include "runtime/io/json.h"

namespace r1 {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t max_file_bytes = 4 << 20, max_config_bytes = 16 << 20;
constexpr int file_version = 1, max_threads = 1024;

// What a tuning belongs to: hardware and affinity, and the model by its config.json, which holds the fingerprint of its
// weights, so that a copied or renamed directory keeps it.
struct Key {
  std::string machine, model;
};

Result<Key> key_of(const std::string& model_path) {
  const numa::Topology t = numa::read_topology();
  const std::string config_path = model_path + "/config.json";
  R1_TRY(const std::string config, rt::read_text_file(config_path, max_config_bytes));
  return Key{fmt::format("{}, {} cores, {} usable, {} threads, {} nodes, {} GiB", t.cpu_name, t.n_cores,
                         t.n_team_threads, t.n_threads, t.nodes.size(), t.memory_bytes >> 30),
             fmt::format("{:016x}", rt::xxh3_64(std::as_bytes(std::span(config))))};
}

struct Entry {
  Key key;
  Tuning tuning;
};

Result<Entry> read_entry(const rt::Json& json, const std::string& where) {
  if (!json.is_object()) return Error{ErrorCode::corrupt, "is not an object", where};
  const rt::JsonObject object(json, where);
  Entry entry;
  R1_TRY(entry.key.machine, object.string("machine"));
  R1_TRY(entry.key.model, object.string("model"));
  R1_TRY(const std::int64_t decode_threads, object.integer("decode_threads", 0, max_threads));
  R1_TRY(const std::int64_t prefill_threads, object.integer("prefill_threads", 0, max_threads));
  R1_TRY(const std::string load, object.string("load"));
  if (load != "map" && load != "read") return object.error("load", "must be map or read");
  entry.tuning = {static_cast<int>(decode_threads), static_cast<int>(prefill_threads),
                  load == "map" ? LoadMode::map : LoadMode::read_if_fits};
  return entry;
}

// The file's tunings as JSON; an empty list if there is no file.
Result<rt::Json> read_tunings(const std::string& file) {
  const auto text = rt::read_text_file(file, max_file_bytes);
  if (!text && text.error().code == ErrorCode::not_found) return rt::Json::array();
  if (!text) return text.error();
  R1_TRY(const rt::Json document, rt::parse_json(*text, file));
  if (!document.is_object()) return Error{ErrorCode::corrupt, "is not a JSON object", file};
  const rt::JsonObject object(document, file);
  R1_TRY([[maybe_unused]] const std::int64_t version, object.integer("version", file_version, file_version));
  const rt::Json* tunings = object.find("tunings");
  if (tunings == nullptr || !tunings->is_array()) return object.error("tunings", "must be a list");
  for (std::size_t i = 0; i < tunings->size(); ++i) {
    R1_TRY([[maybe_unused]] const Entry entry, read_entry((*tunings)[i], fmt::format("{}: tunings[{}]", file, i)));
  }
  return *tunings;
}

}  // namespace

Result<std::string> tuning_file() {
  // The XDG base directory specification: a relative path is to be ignored.
  const char* xdg = std::getenv("XDG_CONFIG_HOME");
  if (xdg != nullptr && xdg[0] == '/') return std::string(xdg) + "/r1rt/tune.json";
  const char* home = std::getenv("HOME");
  if (home != nullptr && home[0] == '/') return std::string(home) + "/.config/r1rt/tune.json";
  return Error{ErrorCode::not_found, "neither XDG_CONFIG_HOME nor HOME names a folder for settings", ""};
}

Result<std::optional<Tuning>> find_tuning(const std::string& file, const std::string& model_path) {
  R1_TRY(const rt::Json tunings, read_tunings(file));
  if (tunings.empty()) return std::optional<Tuning>();
  R1_TRY(const Key key, key_of(model_path));
  for (const rt::Json& json : tunings) {
    R1_TRY(const Entry entry, read_entry(json, file));
    if (entry.key.machine == key.machine && entry.key.model == key.model) return std::optional(entry.tuning);
  }
  return std::optional<Tuning>();
}

Result<void> store_tuning(const std::string& file, const std::string& model_path, const Tuning& tuning) {
  R1_TRY(const rt::Json before, read_tunings(file));
  R1_TRY(const Key key, key_of(model_path));
  std::error_code ec;
  rt::Json tunings = rt::Json::array();
  for (const rt::Json& json : before) {
    R1_TRY(const Entry entry, read_entry(json, file));
    if (entry.key.machine != key.machine || entry.key.model != key.model) tunings.push_back(json);
  }
  tunings.push_back({{"machine", key.machine},
                     {"model", key.model},
                     {"path", fs::absolute(model_path, ec).lexically_normal().string()},
                     {"decode_threads", tuning.decode_threads},
                     {"prefill_threads", tuning.prefill_threads},
                     {"load", tuning.load == LoadMode::map ? "map" : "read"}});
  const rt::Json document = {{"version", file_version}, {"tunings", tunings}};
  const std::string text = document.dump(2, ' ', false, rt::Json::error_handler_t::replace) + "\n";
  const fs::path folder = fs::path(file).parent_path();
  fs::create_directories(folder, ec);
  if (ec) return Error{ErrorCode::io, "cannot make the folder: " + ec.message(), folder.string()};
  return rt::write_file_atomically(file, std::as_bytes(std::span(text)));
}

}  // namespace r1
