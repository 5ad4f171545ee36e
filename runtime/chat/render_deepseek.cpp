// The templates of DeepSeek-V3, R1, R1-0528 and the January distills (chat_template of their tokenizer_config.json).
// They differ in how system prompts join, what marks a turn of tool calls, and how tool outputs are separated; their
// quirks (a closing mark that V3 writes only behind a second tool call) are kept, since the models were trained on
// them.
#include "runtime/chat/render.h"

namespace r1::rt {
namespace {

constexpr std::string_view bos = "<｜begin▁of▁sentence｜>", eos = "<｜end▁of▁sentence｜>";
constexpr std::string_view user = "<｜User｜>", assistant = "<｜Assistant｜>";
constexpr std::string_view calls_begin = "<｜tool▁calls▁begin｜>", calls_end = "<｜tool▁calls▁end｜>";
constexpr std::string_view call_begin = "<｜tool▁call▁begin｜>", call_end = "<｜tool▁call▁end｜>",
                           separator = "<｜tool▁sep｜>";
constexpr std::string_view outputs_begin = "<｜tool▁outputs▁begin｜>", outputs_end = "<｜tool▁outputs▁end｜>";
constexpr std::string_view output_begin = "<｜tool▁output▁begin｜>", output_end = "<｜tool▁output▁end｜>";
constexpr std::string_view end_of_thought = "</think>";

std::string_view without_thought(std::string_view content) {
  const auto at = content.rfind(end_of_thought);
  return at == std::string_view::npos ? content : content.substr(at + end_of_thought.size());
}

std::string joined_system_prompts(std::span<const Message> messages) {
  std::string system;
  bool first = true;
  for (const Message& message : messages) {
    if (message.role != "system") continue;
    system += (first ? "" : "\n\n") + message.content;
    first = false;
  }
  return system;
}

std::string last_system_prompt(std::span<const Message> messages) {
  std::string system;
  for (const Message& message : messages) {
    if (message.role == "system") system = message.content;
  }
  return system;
}

void write_call(const ToolCall& call, PromptBuilder& out) {
  out.special(call_begin)
      .text(call.type)
      .special(separator)
      .text(call.name + "\n```json\n" + call.arguments + "\n```")
      .special(call_end);
}

void write_output(const Message& message, bool& is_first_output, std::string_view between, PromptBuilder& out) {
  if (is_first_output) {
    out.special(outputs_begin);
  } else {
    out.text(between);
  }
  out.special(output_begin).text(message.content).special(output_end);
  is_first_output = false;
}

// V3 and the distills: a turn of tool calls is one whose content is null. `is_first` is never reset, as in the
// template.
void write_calls_of_null_turn(const Message& message, bool& is_first, PromptBuilder& out) {
  for (const ToolCall& call : message.tool_calls) {
    if (!is_first) {
      out.special(assistant).special(calls_begin);
      write_call(call, out);
      is_first = true;
    } else {
      out.text("\n");
      write_call(call, out);
      out.special(calls_end).special(eos);
    }
  }
}

bool render_v3_style(std::span<const Message> messages, bool add_generation_prompt, const std::string& system,
                     bool drop_thoughts, PromptBuilder& out) {
  out.special(bos).text(system);
  bool is_first = false, is_tool = false, is_first_output = true;
  for (const Message& message : messages) {
    if (message.role == "user") {
      is_tool = false;
      out.special(user).text(message.content);
    } else if (message.role == "assistant" && message.content_is_null) {
      is_tool = false;
      write_calls_of_null_turn(message, is_first, out);
    } else if (message.role == "assistant") {
      if (is_tool) {
        out.special(outputs_end).text(message.content).special(eos);
        is_tool = false;
      } else {
        out.special(assistant).text(drop_thoughts ? without_thought(message.content) : message.content).special(eos);
      }
    } else if (message.role == "tool") {
      is_tool = true;
      write_output(message, is_first_output, "\n", out);
    }
  }
  if (is_tool) out.special(outputs_end);
  if (!add_generation_prompt || is_tool) return false;
  out.special(assistant);
  return true;
}

}  // namespace

bool render_deepseek_v3(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out) {
  return render_v3_style(messages, add_generation_prompt, joined_system_prompts(messages), false, out);
}

bool render_r1_distill(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out) {
  return render_v3_style(messages, add_generation_prompt, last_system_prompt(messages), true, out);
}

bool render_deepseek_r1(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out) {
  out.special(bos).text(joined_system_prompts(messages));
  bool is_first = false, is_tool = false, is_first_output = true;
  for (const Message& message : messages) {
    if (message.role == "user") {
      is_tool = false;
      out.special(user).text(message.content);
    } else if (message.role == "assistant" && !message.tool_calls.empty()) {
      is_tool = false;
      for (const ToolCall& call : message.tool_calls) {
        if (!is_first) {
          out.special(assistant).text(message.content).special(calls_begin);
          is_first = true;
        } else {
          out.text("\n");
        }
        write_call(call, out);
      }
      out.special(calls_end).special(eos);
    } else if (message.role == "assistant") {
      if (is_tool) {
        out.special(outputs_end).text(message.content).special(eos);
        is_tool = false;
      } else {
        out.special(assistant).text(without_thought(message.content)).special(eos);
      }
    } else if (message.role == "tool") {
      is_tool = true;
      write_output(message, is_first_output, "", out);
    }
  }
  if (is_tool) out.special(outputs_end);
  if (!add_generation_prompt || is_tool) return false;
  out.special(assistant);
  return true;
}

bool render_deepseek_r1_0528(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out) {
  out.special(bos).text(joined_system_prompts(messages));
  bool is_tool = false, is_first_output = true, is_last_user = false;
  for (const Message& message : messages) {
    if (message.role == "user") {
      is_tool = false;
      is_last_user = true;
      out.special(user).text(message.content).special(assistant);
    } else if (message.role == "assistant" && !message.tool_calls.empty()) {
      is_last_user = false;
      if (is_tool) out.special(outputs_end);
      is_tool = false;
      is_first_output = true;
      bool is_first = true;
      for (const ToolCall& call : message.tool_calls) {
        if (is_first) {
          out.text(without_thought(message.content)).special(calls_begin);
          is_first = false;
        } else {
          out.text("\n");
        }
        write_call(call, out);
      }
      out.special(calls_end).special(eos);
    } else if (message.role == "assistant") {
      is_last_user = false;
      if (is_tool) out.special(outputs_end);
      is_tool = false;
      out.text(without_thought(message.content)).special(eos);
    } else if (message.role == "tool") {
      is_last_user = false;
      is_tool = true;
      write_output(message, is_first_output, "\n", out);
    }
  }
  if (is_tool) out.special(outputs_end);
  if (add_generation_prompt && !is_last_user && !is_tool) out.special(assistant);
  return add_generation_prompt && !is_tool;
}

}  // namespace r1::rt
