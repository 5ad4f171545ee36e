// r1 tokenize: ids of a text. r1 render: prompts of conversations. Both work from a tokenizer alone, without weights.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <r1/chat.h>
#include <r1/tokenizer.h>

#include <functional>
#include <iostream>
#include <memory>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/files.h"
#include "runtime/cli/options.h"

namespace r1::cli {
namespace {

using nlohmann::ordered_json;

// One JSON object per line of standard input; answers each with a line. A line that is no JSON object ends the work.
int for_each_line(Terminal& terminal, const std::function<Result<ordered_json>(const ordered_json&)>& answer) {
  std::string line;
  for (std::size_t number = 1; std::getline(std::cin, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const Error not_json{ErrorCode::corrupt, "not a JSON object", fmt::format("line {}", number)};
    const auto json = ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return report(not_json);
    auto result = answer(json);
    if (!result) {
      Error error = result.error();
      error.context = fmt::format("line {}", number) + (error.context.empty() ? "" : ": " + error.context);
      return report(error);
    }
    if (!terminal.write(to_line(*result))) return exit_failed;
  }
  return exit_done;
}

ordered_json id_of(const ordered_json& line) {
  return line.contains("id") ? line["id"] : ordered_json(nullptr);
}

struct TokenizeFlags {
  std::string path, text;
  bool text_given = false, literal = false, add_special = false, jsonl = false;
};

int tokenize(const TokenizeFlags& flags, Environment& environment) {
  const auto tokenizer = Tokenizer::load(flags.path);
  if (!tokenizer) return report(tokenizer.error());
  const SpecialTokens special = flags.literal ? SpecialTokens::literal : SpecialTokens::parsed;
  const auto encode = [&](const std::string& text) {
    return flags.add_special ? (*tokenizer)->encode_with_special(text, special) : (*tokenizer)->encode(text, special);
  };
  if (flags.jsonl) {
    return for_each_line(environment.terminal, [&](const ordered_json& line) -> Result<ordered_json> {
      if (!line.contains("text") || !line["text"].is_string()) {
        return Error{ErrorCode::corrupt, "no string \"text\"", ""};
      }
      auto ids = encode(line["text"].get<std::string>());
      if (!ids) return ids.error();
      return ordered_json{{"id", id_of(line)}, {"ids", *ids}};
    });
  }
  auto text = flags.text_given ? Result<std::string>(flags.text) : read_input("-");
  if (!text) return report(text.error());
  const auto ids = encode(*text);
  if (!ids) return report(ids.error());
  environment.terminal.write(fmt::format("{}\n", fmt::join(*ids, " ")));
  return exit_done;
}

struct RenderFlags {
  std::string path, template_name, text;
  bool jsonl = false, text_given = false;
  PromptFlags prompt;
};

Result<ChatTemplate> load_template(const RenderFlags& flags) {
  auto tokenizer = Tokenizer::load(flags.path);
  if (!tokenizer) return tokenizer.error();
  if (flags.template_name.empty()) return ChatTemplate::detect(flags.path, *std::move(tokenizer));
  const auto kind = template_from_name(flags.template_name);
  if (!kind) return kind.error();
  return ChatTemplate::named(*kind, *std::move(tokenizer));
}

// What a conversation's template refuses is an answer too: {"id", "error"}.
Result<ordered_json> render_line(const ChatTemplate& chat, const ordered_json& line, Thinking thinking) {
  ordered_json result = {{"id", id_of(line)}};
  if (!line.contains("messages")) return Error{ErrorCode::corrupt, "no \"messages\"", ""};
  RenderOptions options;
  options.thinking = thinking;
  if (line.contains("add_generation_prompt")) {
    if (!line["add_generation_prompt"].is_boolean()) {
      return Error{ErrorCode::corrupt, "\"add_generation_prompt\" is not true or false", ""};
    }
    options.add_generation_prompt = line["add_generation_prompt"].get<bool>();
  }
  const auto messages = messages_from_json(line["messages"].dump());
  const auto prompt = messages ? chat.render(*messages, options) : Result<Prompt>(messages.error());
  if (prompt) {
    result["text"] = prompt->text;
    result["ids"] = prompt->ids;
  } else {
    result["error"] = prompt.error().text();
  }
  return result;
}

int render(const RenderFlags& flags, Environment& environment) {
  if (flags.jsonl == flags.text_given) {
    return report(
        {ErrorCode::invalid_argument, "give one question with --prompt TEXT, or conversations with --jsonl", ""});
  }
  const auto chat = load_template(flags);
  if (!chat) return report(chat.error());
  // The goldens' mode unless asked otherwise: exactly the template.
  const Thinking thinking = flags.prompt.no_think ? Thinking::empty : Thinking::by_template;
  if (flags.jsonl) {
    return for_each_line(environment.terminal,
                         [&](const ordered_json& line) { return render_line(*chat, line, thinking); });
  }
  std::vector<Message> messages;
  if (!flags.prompt.system.empty()) messages.push_back({"system", flags.prompt.system, {}});
  messages.push_back({"user", flags.text, {}});
  const auto prompt = chat->render(messages, {.add_generation_prompt = true, .thinking = thinking});
  if (!prompt) return report(prompt.error());
  environment.terminal.write_foreign(prompt->text + "\n");
  return exit_done;
}

}  // namespace

Command add_tokenize(CLI::App& app) {
  const auto flags = std::make_shared<TokenizeFlags>();
  app.add_option("PATH", flags->path, "Model directory or tokenizer.json")->required()->type_name("");
  app.add_option("-p,--prompt", flags->text, "The text [standard input]")
      ->type_name("TEXT")
      ->each([flags](const std::string&) { flags->text_given = true; });
  app.add_flag("--literal", flags->literal, "Special tokens in the text are only text");
  app.add_flag("--add-special", flags->add_special, "With what the tokenizer puts around a text (BOS)");
  app.add_flag("--jsonl", flags->jsonl, R"(Read {"id", "text"} lines, write {"id", "ids"} lines)");
  return [flags](Environment& environment) { return tokenize(*flags, environment); };
}

Command add_render(CLI::App& app) {
  const auto flags = std::make_shared<RenderFlags>();
  app.add_option("PATH", flags->path, "Model directory, or folder with a tokenizer")->required()->type_name("");
  app.add_option("--template", flags->template_name,
                 fmt::format("Instead of the model's own: {}", fmt::join(template_names(), ", ")))
      ->type_name("NAME");
  app.add_option("-p,--prompt", flags->text, "One question")->type_name("TEXT")->each([flags](const std::string&) {
    flags->text_given = true;
  });
  app.add_option("--system", flags->prompt.system, "System prompt of the one question")->type_name("TEXT");
  app.add_flag("--no-think", flags->prompt.no_think, "With an empty think block for the answer");
  app.add_flag(
      "--jsonl", flags->jsonl,
      R"(Read {"id", "messages", "add_generation_prompt"} lines, write {"id", "text", "ids"} or {"id", "error"})");
  return [flags](Environment& environment) { return render(*flags, environment); };
}

}  // namespace r1::cli
