// The templates, one function each, line by line after the models' own Jinja.
#pragma once

#include <r1/chat.h>

#include <span>

#include "runtime/chat/prompt_builder.h"

namespace r1::rt {

// Renders messages and the generation prompt, without anything about thinking that the template does not say itself.
// Returns whether a generation prompt was written.
bool render_deepseek_v3(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out);
bool render_deepseek_r1(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out);
bool render_deepseek_r1_0528(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out);
bool render_r1_distill(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out);
bool render_qwen2_5(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out);
bool render_qwen3(std::span<const Message> messages, bool add_generation_prompt, PromptBuilder& out);

}  // namespace r1::rt
