#include "runtime/io/json.h"

#include <fmt/format.h>

#include <cmath>

namespace r1::rt {

Result<Json> parse_json(std::string_view text, const std::string& where) {
  constexpr int max_depth = 64;
  bool too_deep = false;
  const auto watch_depth = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > max_depth;
    return !too_deep;
  };
  try {
    Json json = Json::parse(text.begin(), text.end(), watch_depth);
    if (too_deep) return Error{ErrorCode::corrupt, fmt::format("JSON nests deeper than {} levels", max_depth), where};
    return json;
  } catch (const Json::exception& e) {
    // nlohmann's text is one line with line and column; its prefix "[json.exception…] " helps nobody.
    std::string_view what = e.what();
    if (const auto end = what.find("] "); end != std::string_view::npos) what.remove_prefix(end + 2);
    return Error{ErrorCode::corrupt, fmt::format("is not JSON: {}", what.substr(0, 200)), where};
  }
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
