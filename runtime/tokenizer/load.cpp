// tokenizer.json and tokenizer_config.json → Tokenizer.
#include <fmt/format.h>
#include <sys/stat.h>

#include "runtime/base/try.h"
#include "runtime/io/file.h"
#include "runtime/tokenizer/tokenizer_impl.h"
#include "runtime/tokenizer/utf8.h"

namespace r1 {
namespace rt {
namespace {

constexpr std::uint64_t max_file_bytes = 256 << 20;

// TemplateProcessing's `single`: ids before and behind the text. ByteLevel adds nothing.
Result<void> read_post_processor(const Json* value, const std::string& where, Tokenizer::Impl& impl, int depth = 0) {
  if (value == nullptr || value->is_null()) return {};
  const JsonObject json(*value, where + ": post_processor");
  R1_TRY(const std::string type, json.string("type"));
  if (type == "ByteLevel") return {};
  if (type == "Sequence") {
    const Json* list = json.find("processors");
    if (list == nullptr || !list->is_array() || depth > 4)
      return json.error("processors", "must be a list, not nested deeply");
    for (const Json& entry : *list) R1_CHECK(read_post_processor(&entry, where, impl, depth + 1));
    return {};
  }
  if (type != "TemplateProcessing") {
    return Error{ErrorCode::unsupported,
                 fmt::format("type {} is not supported, only TemplateProcessing, ByteLevel and Sequence", type),
                 json.where()};
  }
  const Json* single = json.find("single");
  const Json* special_tokens = json.find("special_tokens");
  if (single == nullptr || !single->is_array()) return json.error("single", "must be a list");
  std::vector<Token> before, behind;
  bool behind_text = false;
  for (const Json& item : *single) {
    if (!item.is_object()) return json.error("single", "must hold objects");
    if (item.contains("Sequence")) {
      behind_text = true;
      continue;
    }
    const JsonObject entry(item, json.where());
    R1_TRY(const JsonObject special, entry.object("SpecialToken"));
    R1_TRY(const std::string name, special.string("id"));
    const Json* token =
        special_tokens == nullptr ? nullptr : JsonObject(*special_tokens, json.where()).find(name.c_str());
    const Json* ids = token == nullptr ? nullptr : JsonObject(*token, json.where()).find("ids");
    if (ids == nullptr || !ids->is_array()) return json.error("special_tokens", fmt::format("has no ids for {}", name));
    for (const Json& id : *ids) {
      const bool known = id.is_number_unsigned() && id.get<std::uint64_t>() <= std::uint64_t{max_token_id} &&
                         (impl.added.find(id.get<Token>()) != nullptr || impl.bpe.text(id.get<Token>()));
      if (!known) return json.error("special_tokens", fmt::format("an id of {} is no token's", name));
      (behind_text ? behind : before).push_back(id.get<Token>());
    }
  }
  // The processors of a sequence put theirs around what the earlier ones made.
  impl.prefix.insert(impl.prefix.begin(), before.begin(), before.end());
  impl.suffix.insert(impl.suffix.end(), behind.begin(), behind.end());
  return {};
}

// Ids must mean one thing: an added token that the vocabulary lists too has the same id there, and no other's.
Result<void> check_added_tokens(const Tokenizer::Impl& impl, const std::string& where) {
  for (const AddedToken& token : impl.added.all()) {
    const auto text = impl.bpe.text(token.id);
    const auto id = impl.bpe.find_text(token.content);
    if ((text && *text != token.content) || (id && *id != token.id)) {
      return Error{ErrorCode::corrupt,
                   fmt::format("added token {} has id {}, but in the vocabulary {} is {}", token.content, token.id,
                               text ? fmt::format("id {}", token.id) : token.content,
                               text ? std::string(*text) : fmt::format("id {}", *id)),
                   where};
    }
  }
  return {};
}

// Decoding assumes byte-level text. The reference decodes by this field.
Result<void> check_decoder(const Json* decoder, const std::string& where) {
  if (decoder == nullptr) return {};
  const JsonObject json(*decoder, where + ": decoder");
  R1_TRY(const std::string type, json.string("type"));
  if (type == "ByteLevel") return {};
  return Error{ErrorCode::unsupported, fmt::format("type {} is not supported, only ByteLevel", type), json.where()};
}

// bos_token and eos_token: a string, or an added token as an object.
std::optional<Token> special_token(const JsonObject& json, const char* key, const Tokenizer::Impl& impl) {
  const Json* value = json.find(key);
  if (value != nullptr && value->is_object()) value = JsonObject(*value, "").find("content");
  if (value == nullptr || !value->is_string()) return std::nullopt;
  const auto& content = value->get_ref<const std::string&>();
  if (const AddedToken* token = impl.added.find(std::string_view(content))) return token->id;
  return impl.bpe.find_text(content);
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> parse_tokenizer(std::string_view tokenizer_json,
                                                         std::string_view tokenizer_config_json,
                                                         const std::string& where) {
  if (const auto bad = first_invalid_utf8(tokenizer_json); bad != std::string_view::npos) {
    return Error{ErrorCode::corrupt, fmt::format("byte {}: is not UTF-8", bad), where};
  }
  R1_TRY(TokenizerFile file, read_tokenizer_file(tokenizer_json, where));
  if (!file.document.is_object()) return Error{ErrorCode::corrupt, "is not a JSON object", where};
  const JsonObject json(file.document, where);
  auto impl = std::make_unique<Tokenizer::Impl>();
  R1_TRY(impl->bpe, Bpe::make(file, where));
  R1_TRY(impl->normalizer, Normalizer::load(json.find("normalizer"), where));
  R1_TRY(impl->added, AddedTokens::load(json.find("added_tokens"), impl->normalizer, where));
  R1_CHECK(check_added_tokens(*impl, where));
  R1_TRY(impl->pre_tokenizer, PreTokenizer::load(json.find("pre_tokenizer"), where));
  R1_CHECK(read_post_processor(json.find("post_processor"), where, *impl));
  R1_CHECK(check_decoder(json.find("decoder"), where));
  if (!tokenizer_config_json.empty()) {
    const std::string config_where = where + " (its tokenizer_config.json)";
    R1_TRY(const Json config_document, parse_json(tokenizer_config_json, config_where));
    const JsonObject config(config_document, config_where);
    impl->bos = special_token(config, "bos_token", *impl);
    impl->eos = special_token(config, "eos_token", *impl);
    R1_TRY(const bool add_bos, config.boolean("add_bos_token", false));
    R1_TRY(const bool add_eos, config.boolean("add_eos_token", false));
    if (add_bos && impl->bos && impl->prefix.empty()) impl->prefix.push_back(*impl->bos);
    if (add_eos && impl->eos && impl->suffix.empty()) impl->suffix.push_back(*impl->eos);
  }
  return std::shared_ptr<const Tokenizer>(std::make_shared<Tokenizer>(std::move(impl)));
}

}  // namespace rt

Result<std::shared_ptr<const Tokenizer>> Tokenizer::load(const std::string& path) {
  struct stat status {};
  const bool is_directory = ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
  const std::string file = is_directory ? path + "/tokenizer.json" : path;
  R1_TRY(const std::string tokenizer_json, rt::read_text_file(file, rt::max_file_bytes));
  const std::size_t slash = file.find_last_of('/');
  const std::string config_file =
      (slash == std::string::npos ? "" : file.substr(0, slash + 1)) + "tokenizer_config.json";
  auto config = rt::read_text_file(config_file, rt::max_file_bytes);
  if (!config && config.error().code != ErrorCode::not_found) return std::move(config).error();
  return rt::parse_tokenizer(tokenizer_json, config ? *config : std::string(), file);
}

}  // namespace r1
