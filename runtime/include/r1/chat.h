// Conversations → prompts, exactly as the models' own templates render them. What a user writes is never parsed for
// special tokens: ids are made piece by piece.
#pragma once

#include <r1/result.h>
#include <r1/tokenizer.h>
#include <r1/types.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace r1 {

enum class TemplateKind {
  deepseek_v3,  // V3 and R1-Zero: no <think>
  deepseek_r1,  // "<｜Assistant｜><think>\n"
  deepseek_r1_0528,
  r1_distill,  // the January distills on Qwen2.5 and Llama 3
  qwen2_5,
  qwen3,  // Qwen3 and R1-0528-Qwen3-8B
};
[[nodiscard]] std::span<const std::string_view> template_names();  // for --template, in the order of TemplateKind
[[nodiscard]] Result<TemplateKind> template_from_name(std::string_view name);

struct ToolCall {
  std::string type = "function";  // as the template prints it
  std::string name;
  std::string arguments;  // JSON text
};

struct Message {
  std::string role;  // system, user, assistant, tool
  std::string content;
  std::vector<ToolCall> tool_calls;  // assistant
  bool content_is_null = false;      // an assistant turn of tool calls alone: some templates tell null from ""
};

// A JSON list of messages, or an object with a "messages" list, as OpenAI's API has them: {"role", "content",
// "tool_calls"}.
[[nodiscard]] Result<std::vector<Message>> messages_from_json(std::string_view json);

enum class Thinking {
  by_template,  // as the template renders it; the goldens' mode
  enforced,  // R1 and the January distills: "<think>\n" after the generation prompt even if the template leaves it out,
             // as their model card asks (R1-0528's and Qwen3's say that it is not needed)
  empty,     // an empty think block: the model answers at once (--no-think)
};

struct RenderOptions {
  bool add_generation_prompt = true;
  Thinking thinking = Thinking::by_template;
};

struct Prompt {
  std::string text;
  std::vector<Token> ids;
  bool starts_in_thinking = false;    // the answer begins inside <think>
  std::vector<std::string> warnings;  // e.g. a system prompt where the model card advises against it
};

// Bound to one tokenizer. Immutable, thread-safe.
class ChatTemplate {
 public:
  // Recognises the template of a model directory: tokenizer_config.json's chat_template or chat_template.jinja. An
  // unknown one is an error that lists the names to choose from.
  static Result<ChatTemplate> detect(const std::string& path, std::shared_ptr<const Tokenizer> tokenizer);
  static Result<ChatTemplate> named(TemplateKind kind, std::shared_ptr<const Tokenizer> tokenizer);

  [[nodiscard]] TemplateKind kind() const { return kind_; }
  [[nodiscard]] bool is_reasoning() const;  // writes <think> … </think>
  [[nodiscard]] Result<Prompt> render(std::span<const Message> messages, const RenderOptions& options) const;
  // What ends an assistant turn in this template.
  [[nodiscard]] std::span<const Token> stop_tokens() const { return stop_tokens_; }

 private:
  TemplateKind kind_ = TemplateKind::deepseek_r1;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<Token> stop_tokens_;
  bool writes_think_ = false;  // the template itself ends the generation prompt with "<think>\n"
};

}  // namespace r1
