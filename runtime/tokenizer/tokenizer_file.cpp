#include "runtime/tokenizer/tokenizer_file.h"

#include <fmt/format.h>

#include "runtime/base/try.h"

namespace r1::rt {
namespace {

constexpr std::size_t max_depth = 64;
constexpr std::size_t max_bytes = 1 << 30;  // offsets have 32 bits

// nlohmann's events → TokenizerFile. An event returns false to stop; error_ then says why (or the text is not JSON).
class Reader final : public Json::json_sax_t {
 public:
  Reader(TokenizerFile& file, const std::string& where) : file_(file), where_(where + ": model") {}

  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

  bool null() override { return value(nullptr); }
  bool boolean(bool v) override { return value(v); }
  bool number_integer(number_integer_t v) override { return value(v); }
  bool number_float(number_float_t v, const string_t&) override { return value(v); }
  bool binary(binary_t&) override { return false; }
  bool number_unsigned(number_unsigned_t v) override {
    if (place_ != Place::vocab) return value(v);
    if (v > static_cast<number_unsigned_t>(max_token_id)) return bad_id();
    const auto id = static_cast<Token>(v);
    if (file_.vocab.at(id)) return fail("vocab", fmt::format("id {} is given twice, the second time to {}", id, key_));
    file_.vocab.set(id, key_);
    return file_.vocab.make_findable(id) || fail("vocab", fmt::format("{} is given twice", key_));
  }
  bool string(string_t& v) override {
    if (place_ == Place::merges) return merge_text(v);
    if (place_ == Place::pair) return merge_part(v);
    return value(std::move(v));
  }
  bool key(string_t& v) override {
    key_ = std::move(v);
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ != Place::rest) return value(nullptr);
    if (in_model() && key_ == "vocab") {
      if (file_.has_vocab) return fail("vocab", "is given twice");
      file_.has_vocab = true;
      place_ = Place::vocab;
      return true;
    }
    return open(Json::object());
  }
  bool end_object() override {
    if (place_ == Place::vocab) {
      place_ = Place::rest;
    } else {
      open_.pop_back();
    }
    return true;
  }
  bool start_array(std::size_t) override {
    if (place_ == Place::merges) {
      place_ = Place::pair;
      n_parts_ = 0;
      return true;
    }
    if (place_ != Place::rest) return value(nullptr);
    if (in_model() && key_ == "merges") {
      if (file_.has_merges) return fail("merges", "are given twice");
      file_.has_merges = true;
      place_ = Place::merges;
      return true;
    }
    return open(Json::array());
  }
  bool end_array() override {
    if (place_ == Place::pair) {
      place_ = Place::merges;
      return n_parts_ == 2 || bad_merge("must be two tokens");
    }
    if (place_ == Place::merges) {
      place_ = Place::rest;
    } else {
      open_.pop_back();
    }
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  enum class Place { rest, vocab, merges, pair };

  [[nodiscard]] bool in_model() const { return open_.size() == 2 && in_model_; }

  Json* add(Json&& v) {
    if (open_.empty()) {
      file_.document = std::move(v);
      return &file_.document;
    }
    Json& top = *open_.back();
    if (top.is_array()) {
      top.push_back(std::move(v));
      return &top.back();
    }
    return &(top[key_] = std::move(v));
  }
  bool open(Json&& container) {
    if (open_.size() >= max_depth) return fail("", fmt::format("JSON nests deeper than {} levels", max_depth));
    if (open_.size() == 1) in_model_ = key_ == "model";
    open_.push_back(add(std::move(container)));
    return true;
  }
  bool value(Json&& v) {
    switch (place_) {
      case Place::rest:
        add(std::move(v));
        return true;
      case Place::vocab:
        return bad_id();
      case Place::merges:
      case Place::pair:
        return bad_merge("must be two tokens");
    }
    return false;
  }

  bool merge_text(std::string_view text) {
    if (text.starts_with("#version")) return true;  // a headline of merges.txt, which the reference skips too
    const auto space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
      return bad_merge("must be two tokens with a space between");
    n_parts_ = 0;
    return merge_part(text.substr(0, space)) && merge_part(text.substr(space + 1));
  }
  bool merge_part(std::string_view text) {
    const auto length = static_cast<std::uint32_t>(text.size());
    if (++n_parts_ == 1) {
      pending_ = {static_cast<std::uint32_t>(file_.merge_block.size()), length, 0};
    } else if (n_parts_ == 2) {
      pending_.right_length = length;
      file_.merges.push_back(pending_);
    } else {
      return bad_merge("must be two tokens");
    }
    file_.merge_block += text;
    return true;
  }

  bool fail(std::string_view key, std::string_view problem) {
    error_ = Error{ErrorCode::corrupt, fmt::format("{}{}{}", key, key.empty() ? "" : ": ", problem), where_};
    return false;
  }
  bool bad_id() { return fail("vocab", fmt::format("the id of {} is not an integer of 0 … {}", key_, max_token_id)); }
  bool bad_merge(std::string_view problem) {
    return fail("merges", fmt::format("merge {}: {}", file_.merges.size(), problem));
  }

  TokenizerFile& file_;
  std::string where_;
  std::optional<Error> error_;
  std::vector<Json*> open_;  // containers of the document that are being filled, outermost first
  std::string key_;
  Place place_ = Place::rest;
  bool in_model_ = false;  // the container at depth 2 is `model`
  int n_parts_ = 0;
  MergeNames pending_{};
};

}  // namespace

Result<TokenizerFile> read_tokenizer_file(std::string_view json, const std::string& where) {
  if (json.size() > max_bytes) return Error{ErrorCode::unsupported, "is larger than 1 GiB", where};
  TokenizerFile file;
  Reader reader(file, where);
  if (Json::sax_parse(json.begin(), json.end(), &reader)) return file;
  if (reader.error()) return *reader.error();
  // Not JSON: once more, for the message.
  auto document = parse_json(json, where);
  if (!document) return std::move(document).error();
  return Error{ErrorCode::corrupt, "is not JSON", where};
}

}  // namespace r1::rt
