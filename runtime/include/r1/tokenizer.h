// Byte-level BPE as tokenizer.json describes it: DeepSeek-V3/R1, R1-Distill-Qwen, Qwen2.5, Qwen3, Llama-3-style files.
// Immutable after load, safe to share between threads.
#pragma once

#include <r1/result.h>
#include <r1/types.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace r1 {

enum class SpecialTokens {
  parsed,   // added tokens in the text become their ids: for templates and raw prompts, never for what a user wrote
  literal,  // the text is only text
};

class Tokenizer {
 public:
  // `path`: a tokenizer.json, or a directory that holds one (its tokenizer_config.json is read too where present).
  static Result<std::shared_ptr<const Tokenizer>> load(const std::string& path);
  ~Tokenizer();

  // Ids of `text`, without BOS or EOS. Invalid UTF-8 is an error that names the byte. Any length; NUL is a character.
  [[nodiscard]] Result<std::vector<Token>> encode(std::string_view text, SpecialTokens special) const;
  // With what the file's post-processor adds (BOS), or `tokenizer_config.json`'s add_bos_token.
  [[nodiscard]] Result<std::vector<Token>> encode_with_special(std::string_view text, SpecialTokens special) const;

  // Bytes of the ids, not necessarily whole characters; unknown ids and, unless asked, special tokens give nothing.
  [[nodiscard]] std::string decode(std::span<const Token> ids, bool show_special = false) const;
  [[nodiscard]] std::string token_bytes(Token id) const;

  [[nodiscard]] std::optional<Token> find(std::string_view token) const;  // an added token or a vocabulary entry by name
  [[nodiscard]] bool is_special(Token id) const;
  [[nodiscard]] std::size_t vocab_size() const;  // highest id + 1
  [[nodiscard]] std::optional<Token> bos() const;  // from tokenizer_config.json
  [[nodiscard]] std::optional<Token> eos() const;

  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

// Turns ids into text that may be shown at once: never half a character. Invalid bytes become U+FFFD, as in the
// reference, once it is certain that no continuation follows.
class StreamDecoder {
 public:
  explicit StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool show_special = false);
  [[nodiscard]] std::string push(Token id);
  [[nodiscard]] std::string finish();  // what is still held back

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool show_special_;
  std::string pending_;
};

}  // namespace r1
