// Messages as OpenAI's API writes them.
#include <fmt/format.h>
#include <r1/chat.h>

#include "runtime/base/try.h"
#include "runtime/io/json.h"

namespace r1 {
namespace {

Result<ToolCall> read_call(const rt::Json& value, const std::string& where) {
  const rt::JsonObject json(value, where);
  ToolCall call;
  R1_TRY(call.type, json.string("type", "function"));
  R1_TRY(const rt::JsonObject function, json.object("function"));
  R1_TRY(call.name, function.string("name"));
  const rt::Json* arguments = function.find("arguments");
  if (arguments != nullptr)
    call.arguments = arguments->is_string() ? arguments->get<std::string>()
                                            : arguments->dump(-1, ' ', false, rt::Json::error_handler_t::replace);
  return call;
}

}  // namespace

Result<std::vector<Message>> messages_from_json(std::string_view text) {
  R1_TRY(const rt::Json document, rt::parse_json(text, "messages"));
  const rt::Json* list = &document;
  if (document.is_object()) list = rt::JsonObject(document, "messages").find("messages");
  if (list == nullptr || !list->is_array()) return Error{ErrorCode::invalid_argument, "must be a list", "messages"};
  std::vector<Message> messages;
  for (std::size_t i = 0; i < list->size(); ++i) {
    const std::string where = fmt::format("message {}", i);
    if (!(*list)[i].is_object()) return Error{ErrorCode::invalid_argument, "must be an object", where};
    const rt::JsonObject json((*list)[i], where);
    Message message;
    R1_TRY(message.role, json.string("role"));
    message.content_is_null = !json.has("content");
    R1_TRY(message.content, json.string("content", ""));
    if (const rt::Json* calls = json.find("tool_calls")) {
      if (!calls->is_array()) return json.error("tool_calls", "must be a list");
      for (const rt::Json& call : *calls) {
        R1_TRY(ToolCall read, read_call(call, where + ": tool_calls"));
        message.tool_calls.push_back(std::move(read));
      }
    }
    if (message.content_is_null && message.tool_calls.empty()) return json.error("content", "must be a string");
    messages.push_back(std::move(message));
  }
  return messages;
}

}  // namespace r1
