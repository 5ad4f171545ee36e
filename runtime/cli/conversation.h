// A conversation: what was said, and its JSON for /save and --resume.
#pragma once

#include <r1/chat.h>
#include <r1/result.h>

#include <string>
#include <string_view>
#include <vector>

namespace r1::cli {

struct Turn {
  std::string role;  // system, user, assistant
  std::string content;
  std::string thinking;  // assistant
};

// As the model wrote it, thoughts in their tags: the template drops those of earlier turns.
[[nodiscard]] std::vector<Message> to_messages(const std::vector<Turn>& turns);

[[nodiscard]] std::string conversation_to_json(const std::vector<Turn>& turns, const std::string& model);
// `where` names the file.
[[nodiscard]] Result<std::vector<Turn>> conversation_from_json(std::string_view json, const std::string& where);

}  // namespace r1::cli
