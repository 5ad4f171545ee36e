#include <r1/tokenizer.h>

#include <fmt/format.h>

#include <algorithm>

#include "runtime/base/try.h"
#include "runtime/tokenizer/tokenizer_impl.h"
#include "runtime/tokenizer/utf8.h"

namespace r1 {
namespace {

Result<void> encode_plain(const Tokenizer::Impl& impl, std::string_view text, rt::Pieces& pieces,
                          std::vector<Token>& ids) {
  R1_CHECK(impl.pre_tokenizer.split(text, pieces));
  for (const std::string_view piece : pieces.views) R1_CHECK(impl.bpe.encode(piece, ids));
  return {};
}

// A text without the added tokens that are looked for before normalizing.
Result<void> encode_normalized(const Tokenizer::Impl& impl, std::string_view text, bool parse_added, rt::Pieces& pieces,
                               std::vector<Token>& ids) {
  std::string storage;
  R1_TRY(const std::string_view normalized, impl.normalizer.apply(text, storage));
  if (!parse_added) return encode_plain(impl, normalized, pieces, ids);
  for (const rt::Segment& segment : impl.added.split(normalized, true)) {
    if (segment.token) {
      ids.push_back(*segment.token);
    } else {
      R1_CHECK(encode_plain(impl, segment.text, pieces, ids));
    }
  }
  return {};
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

Result<std::vector<Token>> Tokenizer::encode(std::string_view text, SpecialTokens special) const {
  if (text.size() > std::size_t{1} << 30)
    return Error{ErrorCode::invalid_argument, "the text is longer than 1 GiB", ""};
  if (const auto bad = rt::first_invalid_utf8(text); bad != std::string_view::npos) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the text is not UTF-8: byte {} (0x{:02x})", bad, static_cast<unsigned char>(text[bad])),
                 ""};
  }
  std::vector<Token> ids;
  rt::Pieces pieces;
  if (special == SpecialTokens::literal) {
    R1_CHECK(encode_normalized(*impl_, text, false, pieces, ids));
    return ids;
  }
  for (const rt::Segment& segment : impl_->added.split(text, false)) {
    if (segment.token) {
      ids.push_back(*segment.token);
    } else {
      R1_CHECK(encode_normalized(*impl_, segment.text, true, pieces, ids));
    }
  }
  return ids;
}

Result<std::vector<Token>> Tokenizer::encode_with_special(std::string_view text, SpecialTokens special) const {
  R1_TRY(const std::vector<Token> body, encode(text, special));
  std::vector<Token> ids = impl_->prefix;
  ids.insert(ids.end(), body.begin(), body.end());
  ids.insert(ids.end(), impl_->suffix.begin(), impl_->suffix.end());
  return ids;
}

std::string Tokenizer::token_bytes(Token id) const {
  if (const rt::AddedToken* token = impl_->added.find(id)) return token->content;
  return std::string(impl_->bpe.bytes(id).value_or(std::string_view()));
}

std::string Tokenizer::decode(std::span<const Token> ids, bool show_special) const {
  std::string text;
  for (const Token id : ids) {
    if (show_special || !is_special(id)) text += token_bytes(id);
  }
  return text;
}

std::optional<Token> Tokenizer::find(std::string_view token) const {
  if (const rt::AddedToken* added = impl_->added.find(token)) return added->id;
  return impl_->bpe.find_text(token);
}

bool Tokenizer::is_special(Token id) const {
  const rt::AddedToken* token = impl_->added.find(id);
  return token != nullptr && token->special;
}

std::size_t Tokenizer::vocab_size() const {
  return static_cast<std::size_t>(std::max(impl_->bpe.end_id(), impl_->added.end_id()));
}
std::optional<Token> Tokenizer::bos() const {
  return impl_->bos;
}
std::optional<Token> Tokenizer::eos() const {
  return impl_->eos;
}

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool show_special)
    : tokenizer_(std::move(tokenizer)), show_special_(show_special) {}

std::string StreamDecoder::push(Token id) {
  if (show_special_ || !tokenizer_->is_special(id)) pending_ += tokenizer_->token_bytes(id);
  std::string text;
  std::size_t at = 0, subpart = 0;
  bool truncated = false;
  while (at < pending_.size()) {
    const std::size_t length = rt::utf8_character(std::string_view(pending_).substr(at), &subpart, &truncated);
    if (length > 0) {
      text.append(pending_, at, length);
      at += length;
    } else if (truncated) {
      break;
    } else {
      text += "\xef\xbf\xbd";
      at += subpart;
    }
  }
  pending_.erase(0, at);
  return text;
}

std::string StreamDecoder::finish() {
  const bool held = !pending_.empty();
  pending_.clear();
  return held ? "\xef\xbf\xbd" : "";
}

}  // namespace r1
