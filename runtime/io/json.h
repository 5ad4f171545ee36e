// Reading JSON that anybody may have written: no exceptions, every value typed and range-checked, errors that name the
// key.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace r1::rt {

using Json = nlohmann::json;

// Parses text; `where` names the file. Refuses invalid UTF-8, a key that appears twice in one object, and nesting
// deeper than 64: nothing we read nests deeper.
[[nodiscard]] Result<Json> parse_json(std::string_view text, const std::string& where);

// Fields of one object. Absent and null mean the same.
class JsonObject {
 public:
  JsonObject(const Json& object, std::string where) : object_(&object), where_(std::move(where)) {}

  [[nodiscard]] bool has(const char* key) const;
  [[nodiscard]] Result<std::int64_t> integer(const char* key, std::int64_t least, std::int64_t most,
                                             std::optional<std::int64_t> otherwise = {}) const;
  [[nodiscard]] Result<double> number(const char* key, double least, double most,
                                      std::optional<double> otherwise = {}) const;
  [[nodiscard]] Result<bool> boolean(const char* key, std::optional<bool> otherwise = {}) const;
  [[nodiscard]] Result<std::string> string(const char* key, std::optional<std::string> otherwise = {}) const;
  [[nodiscard]] Result<JsonObject> object(const char* key) const;
  [[nodiscard]] const Json* find(const char* key) const;  // null if absent or null
  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] Error error(const char* key, std::string_view problem) const;  // "where: key: problem"

 private:
  const Json* object_;
  std::string where_;
};

}  // namespace r1::rt
