// r1 chat: a conversation.
#include <fmt/format.h>
#include <r1/generate.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/cli/answer.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/conversation.h"
#include "runtime/cli/files.h"
#include "runtime/cli/line_reader.h"
#include "runtime/cli/options.h"

namespace r1::cli {
namespace {

struct ChatFlags {
  ModelFlags model;
  SessionFlags session;
  SamplingFlags sampling;
  PromptFlags prompt;
  std::string resume;
};

constexpr std::string_view help_text =
    "/think       fold the thoughts, or show them again\n"
    "/reset       forget the conversation and start anew\n"
    "/save FILE   write the conversation as JSON; r1 chat MODEL --resume FILE goes on with it\n"
    "/stats       speed, context, seed\n"
    "/help        this\n"
    "/exit        leave (or Ctrl-D)\n"
    "Ctrl-C stops an answer. A line that ends in \\ goes on in the next. //text sends /text.\n";

std::string trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t"), end = text.find_last_not_of(" \t");
  return begin == std::string_view::npos ? "" : std::string(text.substr(begin, end - begin + 1));
}

class Chat {
 public:
  Chat(const ChatFlags& flags, Environment& environment, std::shared_ptr<const Model> model, ChatTemplate chat,
       Session session, Sampler sampler, std::vector<Turn> turns)
      : flags_(flags),
        terminal_(environment.terminal),
        interrupts_(environment.interrupts),
        model_(std::move(model)),
        template_(std::move(chat)),
        session_(std::move(session)),
        sampler_(std::move(sampler)),
        reader_(interrupts_, ::isatty(STDIN_FILENO) == 1 && terminal_.is_terminal()),
        show_(flags.prompt.hide_thinking ? ShowThoughts::no : ShowThoughts::yes),
        turns_(std::move(turns)) {}

  int run() {
    if (reader_.interactive()) greet();
    std::string input;
    while (!left_ && read_input(&input)) {
      const std::string command = trim(input);
      if (command.empty()) continue;
      if (command.starts_with("/") && !command.starts_with("//")) {
        obey(command);
      } else {
        answer(command.starts_with("//") ? command.substr(1) : input);
      }
      if (!terminal_.flush()) break;
    }
    // In a script a turn that failed is a failure; a person has read about it and gone on.
    return failed_ && !reader_.interactive() ? exit_failed : exit_done;
  }

 private:
  void greet() {
    const ModelInfo& info = model_->info();
    const std::string name = std::filesystem::weakly_canonical(info.path).filename().string();
    terminal_.write(fmt::format("{} · {}, {} parameters, {} · context {} tokens\n", name, info.architecture,
                                human_count(info.parameters), info.recipe, session_.context_tokens()));
    terminal_.write("Ctrl-C stops an answer, /help lists the commands, Ctrl-D leaves.\n");
    const auto n = std::count_if(turns_.begin(), turns_.end(), [](const Turn& t) { return t.role == "user"; });
    if (n > 0) terminal_.write(fmt::format("Going on after {} question{}.\n", n, n == 1 ? "" : "s"));
    terminal_.write("\n");
    terminal_.flush();
  }

  // Lines up to one that does not end in a backslash; false at the end of the input.
  bool read_input(std::string* input) {
    input->clear();
    std::string line;
    for (;;) {
      switch (reader_.read(input->empty() ? "> " : ". ", &line)) {
        case LineReader::Status::interrupted:
          terminal_.write(input->empty() && line.empty() ? "\n(Ctrl-D or /exit leaves)\n" : "\n");
          terminal_.flush();
          input->clear();
          line.clear();
          continue;
        case LineReader::Status::end:
          if (reader_.interactive()) terminal_.write("\n");
          return !input->empty();
        case LineReader::Status::line:
          break;
      }
      const bool goes_on = line.ends_with('\\');
      if (goes_on) line.pop_back();
      *input += line;
      if (!goes_on) break;
      *input += '\n';
    }
    reader_.remember(*input);
    return true;
  }

  void obey(const std::string& command) {
    const std::size_t space = command.find_first_of(" \t");
    const std::string name = command.substr(0, space);
    const std::string argument = space == std::string::npos ? "" : trim(std::string_view(command).substr(space));
    if (name == "/exit" || name == "/quit") {
      left_ = true;
    } else if (name == "/help") {
      terminal_.write(help_text);
    } else if (name == "/reset") {
      std::erase_if(turns_, [](const Turn& turn) { return turn.role != "system"; });
      last_.reset();
      terminal_.write("(a new conversation)\n");
    } else if (name == "/think") {
      toggle_thoughts();
    } else if (name == "/stats") {
      print_stats();
    } else if (name == "/save") {
      save(argument);
    } else {
      fail({ErrorCode::invalid_argument, name + " is no command; /help lists them, and //text sends /text", ""});
    }
  }

  void toggle_thoughts() {
    show_ = show_ == ShowThoughts::yes ? ShowThoughts::folded : ShowThoughts::yes;
    if (show_ == ShowThoughts::folded) {
      terminal_.write("(thoughts are folded)\n");
      return;
    }
    terminal_.write("(thoughts are shown)\n");
    if (turns_.empty() || turns_.back().thinking.empty()) return;
    const std::string& thinking = turns_.back().thinking;
    if (terminal_.can_dim()) terminal_.write("\033[2m");
    terminal_.write_foreign(thinking);
    terminal_.write(terminal_.can_dim() ? "\033[0m\n" : "\n");
  }

  void print_stats() {
    terminal_.write(fmt::format("context: {} of {} tokens\nseed: {}\n", session_.tokens().size(),
                                session_.context_tokens(), sampler_.options().seed));
    if (!last_) return;
    terminal_.write(
        fmt::format("last answer: {} tokens at {:.1f} tok/s, after {} new tokens of prompt at {:.1f} tok/s\n",
                    last_->n_generated_tokens, last_->decode_tokens_per_s(), last_->n_prompt_tokens,
                    last_->prefill_tokens_per_s()));
    terminal_.write(fmt::format("all answers: {} tokens\n", n_generated_tokens_));
  }

  void save(const std::string& path) {
    if (path.empty()) return fail({ErrorCode::invalid_argument, "/save needs a file name", ""});
    if (const auto written = write_file(path, conversation_to_json(turns_, flags_.model.options.path)); !written) {
      return fail(written.error());
    }
    terminal_.write(fmt::format("(saved to {})\n", path));
  }

  void answer(const std::string& question) {
    turns_.push_back({"user", question, ""});
    const auto messages = to_messages(turns_);
    const auto prompt =
        template_.render(messages, {.add_generation_prompt = true, .thinking = flags_.prompt.thinking(template_)});
    if (!prompt) return give_up(prompt.error());
    for (const std::string& warning : prompt->warnings) {
      if (std::find(warned_.begin(), warned_.end(), warning) != warned_.end()) continue;
      warn(warning);
      warned_.push_back(warning);
    }
    if (prompt->ids.size() > session_.context_tokens()) {
      return give_up({ErrorCode::context_full,
                      fmt::format("the conversation has {} tokens, but the context holds {}: /reset starts anew",
                                  prompt->ids.size(), session_.context_tokens()),
                      ""});
    }

    GenerateOptions options = flags_.sampling.generation();
    const auto stops = template_.stop_tokens();
    options.end_tokens.assign(stops.begin(), stops.end());
    AnswerPrinter printer(terminal_, SplitThoughts::yes, prompt->starts_in_thinking, show_, false);
    const auto stats = generate_answer(prompt->ids, options, printer);
    printer.finish();
    if (!stats) return give_up(stats.error());
    last_ = *stats;
    n_generated_tokens_ += stats->n_generated_tokens;
    // A thought that was cut off is dropped: the template could not tell it from an answer.
    turns_.push_back({"assistant", printer.answer(), printer.ended_in_thought() ? "" : printer.thinking()});
    explain(stats->reason);
    if (reader_.interactive()) terminal_.write("\n");
  }

  // Keeps what the cache has in common with the new prompt, and runs the rest.
  Result<GenerateStats> generate_answer(const std::vector<Token>& ids, const GenerateOptions& options,
                                        AnswerPrinter& printer) {
    const Interrupts::Guard guard(interrupts_, session_);
    for (;;) {
      const auto cached = session_.tokens();
      auto n_common = static_cast<std::size_t>(
          std::mismatch(ids.begin(), ids.end(), cached.begin(), cached.end()).first - ids.begin());
      n_common = std::min(n_common, ids.size() - 1);  // one at least is run, for its prediction
      if (n_common < cached.size()) {
        if (const auto rewound = session_.rewind(static_cast<std::uint32_t>(n_common)); !rewound)
          return rewound.error();
      }
      sampler_.forget();
      auto stats =
          generate(session_, sampler_, std::span(ids).subspan(n_common), options,
                   [&](std::string_view text, Token) { return printer.push(text) && !interrupts_.happened(); });
      // An interrupt that came as the last answer ended left its cancel to this one, which nobody asked to stop.
      const bool stale = stats && stats->reason == StopReason::cancelled && stats->n_generated_tokens == 0 &&
                         !interrupts_.happened() && terminal_.status();
      if (!stale) return stats;
    }
  }

  void explain(StopReason reason) {
    switch (reason) {
      case StopReason::cancelled:
        terminal_.write("(stopped)\n");
        break;
      case StopReason::max_tokens:
        terminal_.write("(token limit reached)\n");
        break;
      case StopReason::context_full:
        terminal_.write(
            fmt::format("(the context of {} tokens is full: /reset starts anew)\n", session_.context_tokens()));
        break;
      case StopReason::end_token:
      case StopReason::stop_string:
        break;
    }
  }

  void fail(const Error& error) {
    terminal_.flush();
    report(error);
    failed_ = true;
  }

  // The question was not answered: it is as if it had not been asked.
  void give_up(const Error& error) {
    turns_.pop_back();
    fail(error);
  }

  const ChatFlags& flags_;
  Terminal& terminal_;
  Interrupts& interrupts_;
  std::shared_ptr<const Model> model_;
  ChatTemplate template_;
  Session session_;
  Sampler sampler_;
  LineReader reader_;
  ShowThoughts show_;
  std::vector<Turn> turns_;
  std::vector<std::string> warned_;
  std::optional<GenerateStats> last_;
  std::uint64_t n_generated_tokens_ = 0;
  bool left_ = false, failed_ = false;
};

int run_chat(const ChatFlags& flags, Environment& environment) {
  std::vector<Turn> turns;
  if (!flags.resume.empty()) {
    const auto text = read_input(flags.resume);
    if (!text) return report(text.error());
    auto resumed = conversation_from_json(*text, flags.resume);
    if (!resumed) return report(resumed.error());
    turns = *std::move(resumed);
  }
  if (!flags.prompt.system.empty()) {
    std::erase_if(turns, [](const Turn& turn) { return turn.role == "system"; });
    turns.insert(turns.begin(), {"system", flags.prompt.system, ""});
  }
  const Tuning tuning = stored_tuning(flags.model.options.path);
  auto model = flags.model.open(tuning);
  if (!model) return report(model.error());
  auto chat = (*model)->chat_template();
  if (!chat) return report(chat.error());
  const auto sampling = flags.sampling.sampling((*model)->sampling_defaults());
  if (!sampling) return report(sampling.error());
  auto sampler = Sampler::create(*sampling);
  if (!sampler) return report(sampler.error());
  auto session = Session::create(*model, flags.session.options(tuning));
  if (!session) return report(session.error());
  return Chat(flags, environment, *std::move(model), *std::move(chat), *std::move(session), *std::move(sampler),
              std::move(turns))
      .run();
}

}  // namespace

Command add_chat(CLI::App& app) {
  const auto flags = std::make_shared<ChatFlags>();
  flags->model.add_to(app, true);
  flags->prompt.add_to(app);
  app.add_option("--resume", flags->resume, "Go on with a conversation that /save wrote")
      ->type_name("FILE")
      ->group("Prompt");
  flags->sampling.add_to(app);
  flags->session.add_to(app);
  flags->model.add_load_to(app);
  add_isa_option(app, flags->model.options.isa);
  app.footer("In the chat:\n" + std::string(help_text));
  return [flags](Environment& environment) { return run_chat(*flags, environment); };
}

}  // namespace r1::cli
