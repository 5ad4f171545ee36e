// tokenizer.json in one pass: vocabulary and merges (99 % of its 7–11 MB) go straight into tables, the rest becomes a
// small document.
#pragma once

#include <r1/result.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/json.h"
#include "runtime/tokenizer/token_strings.h"

namespace r1::rt {

// Two tokens' names, one behind the other in TokenizerFile::merge_block.
struct MergeNames {
  std::uint32_t offset, left_length, right_length;
};

struct TokenizerFile {
  Json document;       // without model.vocab and model.merges
  TokenStrings vocab;  // as the file writes the tokens; all findable
  std::string merge_block;
  std::vector<MergeNames> merges;  // by rank
  bool has_vocab = false, has_merges = false;
};

[[nodiscard]] Result<TokenizerFile> read_tokenizer_file(std::string_view json, const std::string& where);

}  // namespace r1::rt
