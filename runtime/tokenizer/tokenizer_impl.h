// What a Tokenizer is made of, and how it is read from text alone (tests, fuzzing).
#pragma once

#include <r1/tokenizer.h>

#include "runtime/tokenizer/added_tokens.h"
#include "runtime/tokenizer/bpe.h"
#include "runtime/tokenizer/normalizer.h"
#include "runtime/tokenizer/pre_tokenizer.h"

namespace r1 {

struct Tokenizer::Impl {
  rt::Bpe bpe;
  rt::AddedTokens added;
  rt::Normalizer normalizer;
  rt::PreTokenizer pre_tokenizer;
  std::vector<Token> prefix, suffix;  // what the post-processor, or add_bos_token, puts around a text
  std::optional<Token> bos, eos;
};

namespace rt {

// tokenizer.json and, where it exists ("" if not), tokenizer_config.json.
[[nodiscard]] Result<std::shared_ptr<const Tokenizer>> parse_tokenizer(std::string_view tokenizer_json,
                                                                       std::string_view tokenizer_config_json,
                                                                       const std::string& where);

}  // namespace rt
}  // namespace r1
