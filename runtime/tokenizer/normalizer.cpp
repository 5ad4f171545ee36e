#include "runtime/tokenizer/normalizer.h"

#include <fmt/format.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>

#include <algorithm>

#include "runtime/base/try.h"

namespace r1::rt {

Result<Normalizer> Normalizer::load(const Json* json, const std::string& where) {
  Normalizer result;
  if (json != nullptr) R1_CHECK(result.add(*json, where + ": normalizer", 0));
  return result;
}

Result<void> Normalizer::add(const Json& value, const std::string& where, int depth) {
  if (!value.is_object()) return Error{ErrorCode::corrupt, "is not an object", where};
  const JsonObject json(value, where);
  R1_TRY(const std::string type, json.string("type"));
  if (type == "NFC") {
    nfc_ = true;
    return {};
  }
  if (type == "Sequence") {
    const Json* list = json.find("normalizers");
    if (list == nullptr || !list->is_array() || depth > 4)
      return json.error("normalizers", "must be a list, not nested deeply");
    for (const Json& entry : *list) R1_CHECK(add(entry, where, depth + 1));
    return {};
  }
  return Error{ErrorCode::unsupported,
               fmt::format("type {} is not supported, only NFC, a Sequence of it, or none", type), where};
}

Result<std::string_view> Normalizer::apply(std::string_view text, std::string& storage) const {
  if (!nfc_ || std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
    return text;
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(status);
  storage.clear();
  if (U_SUCCESS(status)) {
    icu::StringByteSink<std::string> sink(&storage);
    nfc->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())), sink, nullptr, status);
  }
  if (U_FAILURE(status))
    return Error{ErrorCode::unsupported, fmt::format("cannot normalize the text: {}", u_errorName(status)), ""};
  return std::string_view(storage);
}

}  // namespace r1::rt
