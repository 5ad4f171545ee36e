#include "runtime/cli/conversation.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace r1::cli {

using nlohmann::ordered_json;

std::vector<Message> to_messages(const std::vector<Turn>& turns) {
  std::vector<Message> messages;
  for (const Turn& turn : turns) {
    const std::string thought = turn.thinking.empty() ? "" : "<think>\n" + turn.thinking + "\n</think>\n\n";
    messages.push_back({turn.role, thought + turn.content, {}});
  }
  return messages;
}

std::string conversation_to_json(const std::vector<Turn>& turns, const std::string& model) {
  ordered_json messages = ordered_json::array();
  for (const Turn& turn : turns) {
    ordered_json message = {{"role", turn.role}, {"content", turn.content}};
    if (!turn.thinking.empty()) message["thinking"] = turn.thinking;
    messages.push_back(std::move(message));
  }
  const ordered_json conversation = {{"model", model}, {"messages", std::move(messages)}};
  return conversation.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

Result<std::vector<Turn>> conversation_from_json(std::string_view text, const std::string& where) {
  const auto json = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto wrong = [&](std::string message) { return Error{ErrorCode::corrupt, std::move(message), where}; };
  if (!json.is_object() || !json.contains("messages") || !json["messages"].is_array()) {
    return wrong("not a conversation: expected a JSON object with a list \"messages\"");
  }
  std::vector<Turn> turns;
  for (const auto& message : json["messages"]) {
    const auto text_of = [&](const char* key) -> const std::string* {
      return message.is_object() && message.contains(key) ? message[key].get_ptr<const std::string*>() : nullptr;
    };
    const std::string *role = text_of("role"), *content = text_of("content"), *thinking = text_of("thinking");
    if (role == nullptr || content == nullptr || (*role != "system" && *role != "user" && *role != "assistant")) {
      return wrong(
          fmt::format("message {}: needs \"role\" (system, user or assistant) and \"content\"", turns.size() + 1));
    }
    turns.push_back({*role, *content, thinking == nullptr ? "" : *thinking});
  }
  return turns;
}

}  // namespace r1::cli
