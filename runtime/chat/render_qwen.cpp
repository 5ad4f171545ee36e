// The templates of Qwen2.5 and Qwen3 (chat_template of their tokenizer_config.json), without a list of tools.
#include <string>

#include "runtime/chat/render.h"
#include "runtime/io/json.h"

namespace r1::rt {
namespace {

constexpr std::string_view begin = "<|im_start|>", end = "<|im_end|>";

void write_turn(std::string_view role, std::string_view content, PromptBuilder& out) {
  out.special(begin).text(role).text("\n").text(content).special(end).text("\n");
}

// Neighbouring tool outputs share one user turn.
void write_tool_output(std::span<const Message> messages, std::size_t i, PromptBuilder& out) {
  if (i == 0 || messages[i - 1].role != "tool") out.special(begin).text("user");
  out.text("\n").special("<tool_response>").text("\n").text(messages[i].content).text("\n").special("</tool_response>");
  if (i + 1 == messages.size() || messages[i + 1].role != "tool") out.special(end).text("\n");
}

void write_call(const ToolCall& call, std::string_view arguments, PromptBuilder& out) {
  out.special("<tool_call>")
      .text("\n{\"name\": \"")
      .text(call.name)
      .text("\", \"arguments\": ")
      .text(arguments)
      .text("}\n")
      .special("</tool_call>");
}

std::string_view strip_newlines(std::string_view text, bool left, bool right) {
  while (left && !text.empty() && text.front() == '\n') text.remove_prefix(1);
  while (right && !text.empty() && text.back() == '\n') text.remove_suffix(1);
  return text;
}

}  // namespace

bool render_qwen2_5(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out) {
  const bool has_system = messages[0].role == "system";
  write_turn("system",
             has_system ? messages[0].content : "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
             out);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const Message& message = messages[i];
    if (message.role == "assistant" && !message.tool_calls.empty()) {
      out.special(begin).text("assistant");
      if (!message.content.empty()) out.text("\n").text(message.content);
      for (const ToolCall& call : message.tool_calls) {
        // The template prints arguments through `tojson`; they come as text, so they are quoted once more.
        out.text("\n");
        write_call(call, Json(call.arguments).dump(-1, ' ', false, Json::error_handler_t::replace), out);
      }
      out.special(end).text("\n");
    } else if (message.role == "tool") {
      write_tool_output(messages, i, out);
    } else if (i > 0 || message.role != "system") {
      write_turn(message.role, message.content, out);
    }
  }
  if (add_generation_prompt) out.special(begin).text("assistant\n");
  return add_generation_prompt;
}

bool render_qwen3(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out) {
  // Thoughts are kept behind the last query only: the last user message that is no tool response.
  std::size_t last_query = messages.size() - 1;
  for (std::size_t i = messages.size(); i-- > 0;) {
    const std::string& content = messages[i].content;
    if (messages[i].role == "user" &&
        !(content.starts_with("<tool_response>") && content.ends_with("</tool_response>"))) {
      last_query = i;
      break;
    }
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const Message& message = messages[i];
    if (message.role == "user" || message.role == "system") {
      write_turn(message.role, message.content, out);
    } else if (message.role == "tool") {
      write_tool_output(messages, i, out);
    } else if (message.role == "assistant") {
      std::string_view content = message.content, thought;
      const std::string_view open = "<think>", close = "</think>";
      if (const auto first = content.find(close); first != std::string_view::npos) {
        thought = strip_newlines(content.substr(0, first), false, true);
        if (const auto at = thought.rfind(open); at != std::string_view::npos)
          thought = thought.substr(at + open.size());
        thought = strip_newlines(thought, true, false);
        content = strip_newlines(content.substr(content.rfind(close) + close.size()), true, false);
      }
      out.special(begin).text("assistant\n");
      const bool last = i + 1 == messages.size();
      if (i > last_query && (last || !thought.empty())) {
        out.special(open).text("\n").text(strip_newlines(thought, true, true)).text("\n").special(close).text("\n\n");
        out.text(strip_newlines(content, true, false));
      } else {
        out.text(content);
      }
      for (std::size_t c = 0; c < message.tool_calls.size(); ++c) {
        if (c > 0 || !content.empty()) out.text("\n");
        write_call(message.tool_calls[c], message.tool_calls[c].arguments, out);
      }
      out.special(end).text("\n");
    }
  }
  if (add_generation_prompt) out.special(begin).text("assistant\n");
  return add_generation_prompt;
}

}  // namespace r1::rt
