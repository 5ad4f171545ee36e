#include "convert/output_directory.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "convert/recipe_file.h"
#include "runtime/base/try.h"
#include "runtime/io/descriptor.h"
#include "runtime/io/file.h"
#include "runtime/io/json.h"

namespace r1::convert {
namespace {

namespace fs = std::filesystem;

// Copied byte for byte where the checkpoint has them.
constexpr std::array copied_files = {"tokenizer.json",      "tokenizer_config.json",   "generation_config.json",
                                     "chat_template.jinja", "special_tokens_map.json", "LICENSE"};
constexpr std::uint64_t max_copied_bytes = 1 << 30;

constexpr const char* errors_file = "errors.json";
constexpr const char* recipe_file = "recipe.json";

bool is_ours(const std::string& file_name) {
  std::string name = file_name;
  if (const std::string partial = ".partial"; name.size() > partial.size() && name.ends_with(partial))
    name.resize(name.size() - partial.size());
  if (name == "config.json" || name == "model.safetensors.index.json" || name == "common.safetensors" ||
      name == errors_file || name == recipe_file)
    return true;
  if (name.starts_with("experts-") && name.ends_with(".safetensors")) return true;
  return std::find(copied_files.begin(), copied_files.end(), name) != copied_files.end();
}

Result<void> write_text(const std::string& directory, const char* name, const std::string& text) {
  return rt::write_file_atomically(directory + "/" + name, std::as_bytes(std::span(text)));
}

}  // namespace

Result<void> prepare_output_directory(const std::string& source, const std::string& directory) {
  std::error_code ec;
  if (fs::equivalent(source, directory, ec)) {
    return Error{ErrorCode::invalid_argument, "is the checkpoint itself; give another output directory", directory};
  }
  fs::create_directories(directory, ec);
  if (ec) return Error{ErrorCode::io, "cannot make the directory: " + ec.message(), directory};
  bool has_config = false, has_ours = false;
  for (auto it = fs::directory_iterator(directory, ec); !ec && it != fs::directory_iterator(); it.increment(ec)) {
    const std::string name = it->path().filename().string();
    if (!is_ours(name)) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("holds {}, which r1-quantize did not write; give an empty directory", name), directory};
    }
    has_config = has_config || name == "config.json";
    has_ours = has_ours || name.find("safetensors") != std::string::npos;
  }
  if (ec) return Error{ErrorCode::io, "cannot list: " + ec.message(), directory};
  // A checkpoint of one architecture has the same small files: only our own config.json tells whose directory it is.
  if (has_config) {
    R1_TRY(const std::string text, rt::read_text_file(directory + "/config.json", max_copied_bytes));
    const auto json = rt::parse_json(text, directory);
    const rt::Json* method = nullptr;
    if (json) {
      const rt::JsonObject config(*json, directory);
      const rt::Json* quantization = config.find("quantization_config");
      if (quantization != nullptr) method = rt::JsonObject(*quantization, directory).find("quant_method");
    }
    if (method == nullptr || *method != "r1") {
      return Error{ErrorCode::invalid_argument, "holds another model's config.json; give an empty directory",
                   directory};
    }
  }
  return {};
}

Result<void> check_free_space(const std::string& directory, std::uint64_t needed_bytes) {
  struct statvfs status {};
  if (::statvfs(directory.c_str(), &status) != 0) return rt::os_error(directory, "read the free space");
  std::uint64_t free_bytes = std::uint64_t{status.f_bavail} * status.f_frsize;
  // Unfinished shards are replaced, so their space counts as free.
  std::error_code ec;
  for (auto it = fs::directory_iterator(directory, ec); !ec && it != fs::directory_iterator(); it.increment(ec)) {
    if (it->path().extension() == ".partial") free_bytes += it->file_size(ec);
  }
  if (free_bytes >= needed_bytes) return {};
  return Error{ErrorCode::io,
               fmt::format("needs {:.3f} GB, but the disk has {:.3f} GB free", static_cast<double>(needed_bytes) / 1e9,
                           static_cast<double>(free_bytes) / 1e9),
               directory};
}

Result<void> copy_companions(const std::string& source, const std::string& directory) {
  for (const char* name : copied_files) {
    auto text = rt::read_text_file(source + "/" + name, max_copied_bytes);
    if (!text && text.error().code == ErrorCode::not_found) continue;
    if (!text) return std::move(text).error();
    R1_CHECK(write_text(directory, name, *text));
  }
  return {};
}

nlohmann::json read_errors(const std::string& directory, const std::string& fingerprint) {
  const auto text = rt::read_text_file(directory + "/" + errors_file, max_copied_bytes);
  if (!text) return nlohmann::json::object();
  const auto json = rt::parse_json(*text, directory);
  const bool sound = json && json->is_object() && json->contains("fingerprint") &&
                     (*json)["fingerprint"] == fingerprint && json->contains("errors") && (*json)["errors"].is_object();
  return sound ? (*json)["errors"] : nlohmann::json::object();
}

Result<void> write_errors(const nlohmann::json& errors, const std::string& directory, const std::string& fingerprint) {
  const nlohmann::json json = {{"fingerprint", fingerprint}, {"errors", errors}};
  return write_text(directory, errors_file, json.dump(1) + "\n");
}

Result<void> write_config_and_index(const nlohmann::ordered_json& source_config, const nlohmann::ordered_json& origin,
                                    const ConversionPlan& plan, const std::string& directory) {
  R1_CHECK(write_text(directory, recipe_file, recipe_text(plan.mix)));
  nlohmann::ordered_json config = source_config;
  nlohmann::ordered_json quantization = {{"quant_method", "r1"},
                                         {"format_version", rt::format_version},
                                         {"recipe", plan.mix.name},
                                         {"bits_per_weight", std::round(plan.bits_per_weight() * 1000) / 1000},
                                         {"fingerprint", plan.fingerprint}};
  quantization.update(origin);
  config["quantization_config"] = quantization;
  R1_CHECK(write_text(directory, "config.json",
                      config.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n"));

  nlohmann::ordered_json index;
  std::uint64_t total_bytes = 0;
  nlohmann::json weight_map = nlohmann::json::object();  // alphabetical
  for (const ShardPlan& shard : plan.shards) {
    for (const rt::PlannedBlob& blob : shard.blobs) {
      weight_map[blob.spec.name] = shard.name;
      total_bytes += blob.stored.length_bytes;
    }
  }
  index["metadata"] = {{"total_size", total_bytes}};
  index["weight_map"] = weight_map;
  return write_text(directory, "model.safetensors.index.json", index.dump(1) + "\n");
}

}  // namespace r1::convert
