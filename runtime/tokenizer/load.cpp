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

// nlohmann parses without recursion, and nothing here reads by depth: no callback, which would double the time of 11
// MB.
Result<Json> parse_large_json(const std::string& text, const std::string& where) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_discarded()) return json;
  R1_TRY(json, parse_json(text, where));  // again, for its message
  return json;
}

Result<bool> reads_nfc(const Json* normalizer, const std::string& where) {
  if (normalizer == nullptr || normalizer->is_null()) return false;
  const JsonObject json(*normalizer, where + ": normalizer");
  R1_TRY(const std::string type, json.string("type"));
  if (type == "NFC") return true;
  if (type == "Sequence") {
    const Json* list = json.find("normalizers");
    if (list == nullptr || !list->is_array()) return json.error("normalizers", "must be a list");
    if (list->empty()) return false;
    if (list->size() == 1 && (*list)[0].is_object() && (*list)[0].value("type", "") == "NFC") return true;
  }
  return Error{ErrorCode::unsupported, fmt::format("type {} is not supported, only NFC or none", type), json.where()};
}

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
    const Json* ids = nullptr;
    if (special_tokens != nullptr && special_tokens->is_object() && special_tokens->contains(name) &&
        (*special_tokens)[name].is_object()) {
      ids = JsonObject((*special_tokens)[name], json.where()).find("ids");
    }
    if (ids == nullptr || !ids->is_array()) return json.error("special_tokens", fmt::format("has no ids for {}", name));
    for (const Json& id : *ids) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= 1 << 24)
        return json.error("special_tokens", fmt::format("an id of {} is not a token's", name));
      (behind_text ? impl.suffix : impl.prefix).push_back(id.get<Token>());
    }
  }
  return {};
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

Result<std::shared_ptr<const Tokenizer>> parse_tokenizer(const std::string& tokenizer_json,
                                                         const std::string& tokenizer_config_json,
                                                         const std::string& where) {
  if (const auto bad = first_invalid_utf8(tokenizer_json); bad != std::string::npos) {
    return Error{ErrorCode::corrupt, fmt::format("byte {}: is not UTF-8", bad), where};
  }
  R1_TRY(const Json document, parse_large_json(tokenizer_json, where));
  if (!document.is_object()) return Error{ErrorCode::corrupt, "is not a JSON object", where};
  const JsonObject json(document, where);
  auto impl = std::make_unique<Tokenizer::Impl>();
  const Json* model = json.find("model");
  if (model == nullptr || !model->is_object()) return json.error("model", "must be an object");
  R1_TRY(impl->bpe, Bpe::load(*model, where + ": model"));
  R1_TRY(impl->added, AddedTokens::load(json.find("added_tokens"), where));
  R1_TRY(impl->nfc, reads_nfc(json.find("normalizer"), where));
  R1_TRY(impl->pre_tokenizer, PreTokenizer::load(json.find("pre_tokenizer"), where));
  R1_CHECK(read_post_processor(json.find("post_processor"), where, *impl));
  if (!tokenizer_config_json.empty()) {
    const std::string config_where = where + " (tokenizer_config.json)";
    R1_TRY(const Json config_document, parse_json(tokenizer_config_json, config_where));
    const JsonObject config(config_document, config_where);
    impl->bos = special_token(config, "bos_token", *impl);
    impl->eos = special_token(config, "eos_token", *impl);
    R1_TRY(const bool add_bos, config.boolean("add_bos_token", false));
    if (add_bos && impl->bos && impl->prefix.empty()) impl->prefix.push_back(*impl->bos);
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
