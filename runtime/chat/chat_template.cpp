#include <r1/chat.h>

#include <fmt/format.h>

#include <array>

#include "runtime/base/try.h"
#include "runtime/chat/render.h"
#include "runtime/io/file.h"
#include "runtime/io/json.h"

namespace r1 {
namespace {

constexpr std::array<std::string_view, 6> names = {"deepseek-v3", "deepseek-r1", "deepseek-r1-0528",
                                                   "r1-distill",  "qwen2.5",     "qwen3"};
constexpr std::uint64_t max_template_bytes = 64 << 20;

std::string all_names() {
  return fmt::format("{}", fmt::join(names, ", "));
}

// Which of the known templates a Jinja text is, by what tells them apart. Later templates of the same houses (V3.1,
// V3.2, QwQ) render differently and carry switches the known ones lack.
std::optional<TemplateKind> recognise(std::string_view text) {
  const auto has = [&](std::string_view part) { return text.find(part) != std::string_view::npos; };
  if (has("<｜User｜>") && has("is_output_first")) {
    if (has("enable_thinking") || has("DSML")) return std::nullopt;
    if (has("is_last_user")) return TemplateKind::deepseek_r1_0528;
    if (has("'tool_calls' in message")) return TemplateKind::deepseek_r1;
    if (!has("is none")) return std::nullopt;
    if (has("</think>")) return TemplateKind::r1_distill;
    return has("<think>") ? std::nullopt : std::optional(TemplateKind::deepseek_v3);
  }
  if (has("<|im_start|>")) {
    if (has("reasoning_content") && has("last_query_index")) return TemplateKind::qwen3;
    if (has("You are Qwen, created by Alibaba Cloud") && !has("think>")) return TemplateKind::qwen2_5;
  }
  return std::nullopt;
}

bool is_deepseek(TemplateKind kind) {
  return kind != TemplateKind::qwen2_5 && kind != TemplateKind::qwen3;
}

// chat_template.jinja, else tokenizer_config.json's chat_template (a text, or a list of named ones).
Result<std::string> read_template(const std::string& directory) {
  auto jinja = rt::read_text_file(directory + "/chat_template.jinja", max_template_bytes);
  if (jinja || jinja.error().code != ErrorCode::not_found) return jinja;
  const std::string path = directory + "/tokenizer_config.json";
  R1_TRY(const std::string text, rt::read_text_file(path, max_template_bytes));
  R1_TRY(const rt::Json document, rt::parse_json(text, path));
  const rt::JsonObject json(document, path);
  const rt::Json* value = json.find("chat_template");
  if (value != nullptr && value->is_array()) {
    for (const rt::Json& entry : *value) {
      const rt::JsonObject named(entry, path);
      if (named.string("name", "").ok() && *named.string("name", "") == "default") return named.string("template");
    }
  }
  if (value == nullptr || !value->is_string())
    return json.error("chat_template", "is missing; choose one with --template: " + all_names());
  return value->get<std::string>();
}

}  // namespace

std::span<const std::string_view> template_names() {
  return names;
}

Result<TemplateKind> template_from_name(std::string_view name) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (name == names[i]) return static_cast<TemplateKind>(i);
  }
  return Error{ErrorCode::invalid_argument, fmt::format("template {} is unknown; there are {}", name, all_names()), ""};
}

Result<ChatTemplate> ChatTemplate::detect(const std::string& path, std::shared_ptr<const Tokenizer> tokenizer) {
  R1_TRY(const std::string text, read_template(path));
  const auto kind = recognise(text);
  if (!kind) {
    return Error{ErrorCode::unsupported,
                 "its chat template is not one r1rt knows; choose one with --template: " + all_names(), path};
  }
  R1_TRY(ChatTemplate result, named(*kind, std::move(tokenizer)));
  // R1's repository writes it; the copy in DeepSeek's API documentation does not.
  result.writes_think_ = text.find("<｜Assistant｜><think>\\n") != std::string::npos ||
                         text.find("<｜Assistant｜><think>\n") != std::string::npos;
  return result;
}

Result<ChatTemplate> ChatTemplate::named(TemplateKind kind, std::shared_ptr<const Tokenizer> tokenizer) {
  ChatTemplate result;
  result.kind_ = kind;
  result.tokenizer_ = std::move(tokenizer);
  result.writes_think_ = kind == TemplateKind::deepseek_r1 || kind == TemplateKind::r1_distill;
  const std::string_view stop = is_deepseek(kind) ? "<｜end▁of▁sentence｜>" : "<|im_end|>";
  const auto id = result.tokenizer_->find(stop);
  if (!id) {
    return Error{
        ErrorCode::unsupported,
        fmt::format("the tokenizer has no {}, which template {} needs", stop, names[static_cast<std::size_t>(kind)]),
        ""};
  }
  result.stop_tokens_.push_back(*id);
  return result;
}

bool ChatTemplate::is_reasoning() const {
  return kind_ != TemplateKind::deepseek_v3 && kind_ != TemplateKind::qwen2_5;
}

Result<Prompt> ChatTemplate::render(std::span<const Message> messages, const RenderOptions& options) const {
  if (messages.empty() && !is_deepseek(kind_)) {
    return Error{ErrorCode::invalid_argument, "list object has no element 0: this template needs at least one message",
                 "messages"};
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("role {} is unknown; there are system, user, assistant and tool", role),
                   fmt::format("message {}", i)};
    }
  }
  using Render = bool (*)(std::span<const Message>, bool, rt::PromptBuilder&);
  constexpr Render renderers[] = {rt::render_deepseek_v3, rt::render_deepseek_r1, rt::render_deepseek_r1_0528,
                                  rt::render_r1_distill,  rt::render_qwen2_5,     rt::render_qwen3};
  rt::PromptBuilder out(*tokenizer_);
  const bool opened = renderers[static_cast<std::size_t>(kind_)](messages, options.add_generation_prompt, out);
  bool starts_in_thinking = false;
  if (opened && is_reasoning()) {
    const bool r1 = kind_ == TemplateKind::deepseek_r1 || kind_ == TemplateKind::r1_distill;
    if (options.thinking == Thinking::empty) {
      out.special("<think>").text("\n\n").special("</think>").text("\n\n");
    } else if (writes_think_ || (r1 && options.thinking == Thinking::enforced)) {
      out.special("<think>").text("\n");
      starts_in_thinking = true;
    }
  }
  R1_TRY(Prompt prompt, out.finish());
  prompt.starts_in_thinking = starts_in_thinking;
  const bool advises_against_system = kind_ == TemplateKind::deepseek_r1 || kind_ == TemplateKind::r1_distill;
  for (const Message& message : messages) {
    if (advises_against_system && message.role == "system" && !message.content.empty()) {
      prompt.warnings.emplace_back(
          "the model card advises against a system prompt: put instructions into the user's message");
      break;
    }
  }
  return prompt;
}

}  // namespace r1
