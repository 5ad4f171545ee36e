// What is done to a text before it is cut: nothing, or Unicode's normal form C.
#pragma once

#include <r1/result.h>

#include <string>
#include <string_view>

#include "runtime/io/json.h"

namespace r1::rt {

class Normalizer {
 public:
  // `json`: tokenizer.json's normalizer (null: none). Types: NFC, Sequence of such.
  static Result<Normalizer> load(const Json* json, const std::string& where);

  // The normalized text: `text` itself if nothing changes, else `storage`, which is overwritten.
  [[nodiscard]] Result<std::string_view> apply(std::string_view text, std::string& storage) const;

 private:
  Result<void> add(const Json& json, const std::string& where, int depth);
  bool nfc_ = false;
};

}  // namespace r1::rt
