// r1 info: what a model is.
#include <fmt/format.h>
#include <r1/model.h>

#include <memory>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/cli/options.h"

namespace r1::cli {
namespace {

using nlohmann::ordered_json;

ordered_json to_json(const Model& model) {
  const ModelInfo& info = model.info();
  ordered_json classes = ordered_json::array();
  for (const TensorClassInfo& c : info.classes) {
    classes.push_back({{"name", c.name},
                       {"formats", c.formats},
                       {"parameters", c.parameters},
                       {"bytes", c.bytes},
                       {"bytes_per_token", c.bytes_per_token}});
  }
  const auto chat = model.chat_template();
  const SamplingOptions& sampling = model.sampling_defaults();
  return {{"path", info.path},
          {"architecture", info.architecture},
          {"recipe", info.recipe},
          {"format_version", info.format_version},
          {"parameters", info.parameters},
          {"active_parameters", info.active_parameters},
          {"bytes", info.bytes},
          {"bits_per_weight",
           info.parameters == 0 ? 0.0 : 8.0 * static_cast<double>(info.bytes) / static_cast<double>(info.parameters)},
          {"bytes_per_token", info.bytes_per_token},
          {"kv_bytes_per_token", info.kv_bytes_per_token},
          {"vocab_size", info.vocab_size},
          {"hidden_size", info.hidden_size},
          {"n_layers", info.n_layers},
          {"n_mtp_layers", info.n_mtp_layers},
          {"max_context_tokens", info.max_context_tokens},
          {"template",
           chat ? ordered_json(template_names()[static_cast<std::size_t>(chat->kind())]) : ordered_json(nullptr)},
          {"sampling", {{"temperature", sampling.temperature}, {"top_p", sampling.top_p}, {"top_k", sampling.top_k}}},
          {"end_tokens", model.end_tokens()},
          {"classes", std::move(classes)}};
}

std::string to_text(const Model& model) {
  const ModelInfo& info = model.info();
  std::string text;
  const auto line = [&](const char* name, const std::string& value) { text += fmt::format("{:<16}{}\n", name, value); };
  line("model", info.path);
  line("architecture", fmt::format("{}, {} layers{}, hidden size {}, vocabulary {}", info.architecture, info.n_layers,
                                   info.n_mtp_layers == 0 ? "" : fmt::format(" + {} MTP", info.n_mtp_layers),
                                   info.hidden_size, info.vocab_size));
  line("parameters", fmt::format("{}, {} of them active per token", human_count(info.parameters),
                                 human_count(info.active_parameters)));
  line("recipe", fmt::format("{} (format version {})", info.recipe, info.format_version));
  line("size", human_bytes(info.bytes));
  line("read per token", fmt::format("{} of weights, + {} of KV cache (f16) per token of context",
                                     human_bytes(info.bytes_per_token), human_bytes(info.kv_bytes_per_token)));
  line("context", fmt::format("{} tokens at most: {} of KV cache", info.max_context_tokens,
                              human_bytes(info.kv_bytes_per_token * info.max_context_tokens)));
  const auto chat = model.chat_template();
  line("template",
       chat ? std::string(template_names()[static_cast<std::size_t>(chat->kind())]) : "none: " + chat.error().text());
  const SamplingOptions& sampling = model.sampling_defaults();
  line("sampling", sampling.temperature == 0
                       ? "greedy"
                       : fmt::format("temperature {}, top-p {}{}", sampling.temperature, sampling.top_p,
                                     sampling.top_k == 0 ? "" : fmt::format(", top-k {}", sampling.top_k)));

  std::size_t name_width = 12, formats_width = 7;
  for (const TensorClassInfo& c : info.classes) {
    name_width = std::max(name_width, c.name.size());
    formats_width = std::max(formats_width, c.formats.size());
  }
  text += fmt::format("\n{:<{}}  {:<{}}  {:>10}  {:>10}  {:>10}\n", "tensors", name_width, "format", formats_width,
                      "parameters", "size", "per token");
  for (const TensorClassInfo& c : info.classes) {
    text += fmt::format("{:<{}}  {:<{}}  {:>10}  {:>10}  {:>10}\n", c.name, name_width, c.formats, formats_width,
                        human_count(c.parameters), human_bytes(c.bytes), human_bytes(c.bytes_per_token));
  }
  return text;
}

}  // namespace

Command add_info(CLI::App& app) {
  struct InfoFlags {
    ModelFlags model;
    bool json = false;
  };
  const auto flags = std::make_shared<InfoFlags>();
  flags->model.add_to(app, false);
  app.add_flag("--verify", flags->model.options.verify, "Check every checksum first (reads the whole model)");
  add_isa_option(app, flags->model.options.isa);
  app.add_flag("--json", flags->json, "As one JSON object, sizes in bytes");
  return [flags](Environment& environment) {
    const auto model = flags->model.open();
    if (!model) return report(model.error());
    if (flags->json) {
      environment.terminal.write(to_line(to_json(**model)));
    } else {
      environment.terminal.write_foreign(to_text(**model));
    }
    return int{exit_done};
  };
}

}  // namespace r1::cli
