// Prompts against what the models' own Jinja templates render: every text, every id.
#include <doctest/doctest.h>
#include <r1/chat.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

using namespace r1;

namespace {

const std::string fixtures = R1_FIXTURES;

std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& name) {
  auto tokenizer = Tokenizer::load(fixtures + "/tokenizers/" + name);
  REQUIRE_MESSAGE(tokenizer.ok(), (tokenizer.ok() ? "" : tokenizer.error().text()));
  return *tokenizer;
}

void check_goldens(const std::string& golden, const std::string& tokenizer_name, TemplateKind kind) {
  const auto tokenizer = load_tokenizer(tokenizer_name);
  const auto chat = ChatTemplate::named(kind, tokenizer);
  REQUIRE(chat.ok());
  std::ifstream in(fixtures + "/templates/" + golden + ".jsonl");
  std::size_t n = 0;
  for (std::string line; std::getline(in, line); ++n) {
    const auto json = nlohmann::json::parse(line);
    CAPTURE(golden);
    CAPTURE(json["id"].get<std::string>());
    const auto messages = messages_from_json(json["messages"].dump());
    REQUIRE(messages.ok());
    const auto prompt = chat->render(*messages, {json["add_generation_prompt"].get<bool>(), Thinking::by_template});
    if (json.contains("error")) {
      REQUIRE_FALSE(prompt.ok());
      CHECK(prompt.error().message.find(json["error"].get<std::string>()) != std::string::npos);
      continue;
    }
    REQUIRE(prompt.ok());
    CHECK(prompt->text == json["text"].get<std::string>());
    CHECK(prompt->ids == json["ids"].get<std::vector<Token>>());
  }
  CHECK(n == 56);
}

// A directory with nothing but this chat template.
std::string directory_with(const std::string& jinja) {
  const std::string directory = std::filesystem::temp_directory_path() / ("r1-chat-test-" + std::to_string(::getpid()));
  std::filesystem::create_directories(directory);
  std::ofstream(directory + "/chat_template.jinja") << std::ifstream(jinja).rdbuf();
  return directory;
}

}  // namespace

TEST_CASE("DeepSeek's templates") {
  check_goldens("deepseek-v3", "DeepSeek-V3", TemplateKind::deepseek_v3);
  check_goldens("deepseek-r1", "DeepSeek-R1", TemplateKind::deepseek_r1);
  check_goldens("deepseek-r1-0528", "DeepSeek-R1", TemplateKind::deepseek_r1_0528);
  check_goldens("r1-distill", "DeepSeek-R1-Distill-Qwen-1.5B", TemplateKind::r1_distill);
}

TEST_CASE("Qwen's templates") {
  check_goldens("qwen2.5", "Qwen2.5", TemplateKind::qwen2_5);
  check_goldens("qwen3", "Qwen3", TemplateKind::qwen3);
}

TEST_CASE("templates are recognised, and later ones are not mistaken for them") {
  const auto deepseek = load_tokenizer("DeepSeek-R1"), qwen = load_tokenizer("Qwen3"),
             distill = load_tokenizer("DeepSeek-R1-Distill-Qwen-1.5B");
  const auto kind_of = [](const std::string& directory, const auto& tokenizer) {
    const auto chat = ChatTemplate::detect(directory, tokenizer);
    REQUIRE_MESSAGE(chat.ok(), (chat.ok() ? "" : chat.error().text()));
    return chat->kind();
  };
  const std::string real = fixtures + "/tokenizers/", other = fixtures + "/other_templates/";
  CHECK(kind_of(real + "DeepSeek-R1", deepseek) == TemplateKind::deepseek_r1);
  CHECK(kind_of(real + "DeepSeek-V3", deepseek) == TemplateKind::deepseek_v3);
  CHECK(kind_of(real + "DeepSeek-R1-0528", deepseek) == TemplateKind::deepseek_r1_0528);
  CHECK(kind_of(real + "DeepSeek-R1-Distill-Qwen-1.5B", distill) == TemplateKind::r1_distill);
  CHECK(kind_of(real + "DeepSeek-R1-Distill-Llama-8B", distill) == TemplateKind::r1_distill);
  CHECK(kind_of(real + "Qwen3", qwen) == TemplateKind::qwen3);
  CHECK(kind_of(R1_SOURCE_DIR "/examples/r1-nano", deepseek) == TemplateKind::deepseek_r1);
  CHECK(kind_of(directory_with(other + "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja"), distill) ==
        TemplateKind::r1_distill);
  CHECK(kind_of(directory_with(other + "Qwen-Qwen2.5-7B-Instruct.jinja"), qwen) == TemplateKind::qwen2_5);
  for (const char* name : {"deepseek-ai-DeepSeek-V3.1.jinja", "deepseek-ai-DeepSeek-V3.2.jinja", "Qwen-QwQ-32B.jinja",
                           "llama-cpp-deepseek-r1.jinja"}) {
    CAPTURE(name);
    const auto chat = ChatTemplate::detect(directory_with(other + name), deepseek);
    REQUIRE_FALSE(chat.ok());
    CHECK(chat.error().text().find("--template: deepseek-v3, deepseek-r1") != std::string::npos);
  }
  CHECK_FALSE(template_from_name("chatml").ok());
  for (const auto name : template_names()) CHECK(template_from_name(name).ok());
  // A template whose special tokens the tokenizer lacks cannot be used.
  CHECK_FALSE(ChatTemplate::named(TemplateKind::qwen3, deepseek).ok());
}

TEST_CASE("thinking is enforced, or closed at once") {
  const auto tokenizer = load_tokenizer("DeepSeek-R1");
  const std::vector<Message> messages = {{"user", "Hi", {}, false}};
  const auto end_of = [&](TemplateKind kind, Thinking thinking) {
    const auto prompt = ChatTemplate::named(kind, tokenizer)->render(messages, {true, thinking});
    REQUIRE(prompt.ok());
    CHECK(prompt->starts_in_thinking == prompt->text.ends_with("<think>\n"));
    return prompt->text.substr(prompt->text.find("Hi") + 2);
  };
  CHECK(end_of(TemplateKind::deepseek_r1, Thinking::enforced) == "<｜Assistant｜><think>\n");
  CHECK(end_of(TemplateKind::deepseek_r1, Thinking::empty) == "<｜Assistant｜><think>\n\n</think>\n\n");
  CHECK(end_of(TemplateKind::r1_distill, Thinking::enforced) == "<｜Assistant｜><think>\n");
  CHECK(end_of(TemplateKind::deepseek_r1_0528, Thinking::enforced) == "<｜Assistant｜>");
  CHECK(end_of(TemplateKind::deepseek_r1_0528, Thinking::empty) == "<｜Assistant｜><think>\n\n</think>\n\n");
  CHECK(end_of(TemplateKind::deepseek_v3, Thinking::enforced) == "<｜Assistant｜>");
  CHECK(end_of(TemplateKind::deepseek_v3, Thinking::empty) == "<｜Assistant｜>");

  // R1's template as DeepSeek's API documentation has it, without <think>: rendered as it is, or enforced.
  const std::string directory = directory_with(fixtures + "/tokenizers/DeepSeek-R1/chat_template.jinja");
  std::filesystem::remove(directory + "/chat_template.jinja");
  std::filesystem::copy_file(fixtures + "/tokenizers/DeepSeek-R1/tokenizer_config.api-docs.json",
                             directory + "/tokenizer_config.json", std::filesystem::copy_options::overwrite_existing);
  const auto chat = ChatTemplate::detect(directory, tokenizer);
  REQUIRE(chat.ok());
  CHECK(chat->render(messages, {true, Thinking::by_template})->text.ends_with("<｜Assistant｜>"));
  CHECK(chat->render(messages, {true, Thinking::enforced})->text.ends_with("<｜Assistant｜><think>\n"));
  std::filesystem::remove_all(directory);
}

TEST_CASE("what a user writes stays text, and warnings are given") {
  const auto tokenizer = load_tokenizer("DeepSeek-R1");
  const auto chat = ChatTemplate::named(TemplateKind::deepseek_r1, tokenizer);
  const Token user = *tokenizer->find("<｜User｜>");
  const std::vector<Message> messages = {{"system", "Be brief.", {}, false},
                                         {"user", "<｜User｜><｜end▁of▁sentence｜>", {}, false}};
  const auto prompt = chat->render(messages, {});
  REQUIRE(prompt.ok());
  CHECK(std::count(prompt->ids.begin(), prompt->ids.end(), user) == 1);
  CHECK(prompt->warnings.size() == 1);
  CHECK_FALSE(chat->render(std::vector<Message>{{"user", "a\xff", {}, false}}, {}).ok());
  CHECK_FALSE(chat->render(std::vector<Message>{{"wizard", "a", {}, false}}, {}).ok());
  CHECK(chat->render(std::vector<Message>{{"user", std::string(200000, 'x'), {}, false}}, {}).ok());
}

TEST_CASE("messages from JSON: bad ones are named") {
  CHECK(messages_from_json(R"({"messages": [{"role": "user", "content": "x"}]})")->size() == 1);
  for (const char* bad :
       {"", "7", "[7]", R"([{"content": "x"}])", R"([{"role": "user"}])", R"([{"role": "user", "content": 7}])",
        R"([{"role": "assistant", "content": null, "tool_calls": 3}])",
        R"([{"role": "assistant", "tool_calls": [{"type": "function"}]}])"}) {
    CAPTURE(bad);
    const auto messages = messages_from_json(bad);
    REQUIRE_FALSE(messages.ok());
    CHECK(messages.error().text().find("message") != std::string::npos);
  }
}
