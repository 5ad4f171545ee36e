#include "runtime/io/json.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>
#include <vector>

namespace r1::rt {
namespace {

constexpr std::size_t max_depth = 64;

// Builds the document from nlohmann's events. Its own builder keeps the last of two equal keys in silence, has no bound
// on depth, and throws.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    const auto [member, is_new] = open_.back()->get_ref<Json::object_t&>().try_emplace(std::move(name));
    member_ = &member->second;
    if (!is_new) problem = fmt::format("{}: the key appears twice in one object", member->first);
    return is_new;
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception& error) override {
    // nlohmann's text is one line with line and column; its prefix "[json.exception…] " helps nobody.
    std::string_view what = error.what();
    if (const auto end = what.find("] "); end != std::string_view::npos) what.remove_prefix(end + 2);
    problem = fmt::format("byte {}: is not JSON: {}", position, what.substr(0, 200));
    return false;
  }

  Json root;
  std::string problem;  // why parsing ended early

 private:
  template <class T>
  Json* place(T&& value) {
    if (open_.empty()) {
      root = std::forward<T>(value);
      return &root;
    }
    if (Json& parent = *open_.back(); parent.is_array()) {
      auto& elements = parent.get_ref<Json::array_t&>();
      elements.emplace_back(std::forward<T>(value));
      return &elements.back();
    }
    *member_ = std::forward<T>(value);
    return member_;
  }
  template <class T>
  bool add(T&& value) {
    place(std::forward<T>(value));
    return true;
  }
  bool open(Json container) {
    if (open_.size() == max_depth) {
      problem = fmt::format("JSON nests deeper than {} levels", max_depth);
      return false;
    }
    open_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::vector<Json*> open_;  // a container stays where it is while it is open: its parent grows only after it closes
  Json* member_ = nullptr;   // where the value of the last key goes
};

}  // namespace

Result<Json> parse_json(std::string_view text, const std::string& where) {
  Builder builder;
  if (!Json::sax_parse(text, &builder)) return Error{ErrorCode::corrupt, std::move(builder.problem), where};
  return std::move(builder.root);
}

Error JsonObject::error(const char* key, std::string_view problem) const {
  return {ErrorCode::corrupt, fmt::format("{}: {}", key, problem), where_};
}

const Json* JsonObject::find(const char* key) const {
  if (!object_->is_object()) return nullptr;
  const auto it = object_->find(key);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

bool JsonObject::has(const char* key) const {
  return find(key) != nullptr;
}

Result<std::int64_t> JsonObject::integer(const char* key, std::int64_t least, std::int64_t most,
                                         std::optional<std::int64_t> otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) {
    if (otherwise) return *otherwise;
    return error(key, "is missing");
  }
  if (!value->is_number_integer()) return error(key, "must be an integer");
  const bool too_big =
      value->is_number_unsigned() && value->get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX);
  const std::int64_t number = too_big ? INT64_MAX : value->get<std::int64_t>();
  if (too_big || number < least || number > most) {
    return error(key, fmt::format("{} is outside {} … {}", value->dump(), least, most));
  }
  return number;
}

Result<double> JsonObject::number(const char* key, double least, double most, std::optional<double> otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) {
    if (otherwise) return *otherwise;
    return error(key, "is missing");
  }
  if (!value->is_number()) return error(key, "must be a number");
  const double number = value->get<double>();
  if (!std::isfinite(number) || number < least || number > most) {
    return error(key, fmt::format("{} is outside {} … {}", number, least, most));
  }
  return number;
}

Result<bool> JsonObject::boolean(const char* key, std::optional<bool> otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) {
    if (otherwise) return *otherwise;
    return error(key, "is missing");
  }
  if (!value->is_boolean()) return error(key, "must be true or false");
  return value->get<bool>();
}

Result<std::string> JsonObject::string(const char* key, std::optional<std::string> otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) {
    if (otherwise) return *std::move(otherwise);
    return error(key, "is missing");
  }
  if (!value->is_string()) return error(key, "must be a string");
  return value->get<std::string>();
}

Result<JsonObject> JsonObject::object(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return error(key, "is missing");
  if (!value->is_object()) return error(key, "must be an object");
  return JsonObject(*value, where_ + ": " + key);
}

}  // namespace r1::rt
