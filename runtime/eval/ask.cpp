// Several attempts at once: each a sequence of its own, one token of all of them per pass.
#include <fmt/format.h>
#include <r1/chat.h>
#include <r1/generate.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <set>

#include "runtime/base/try.h"
#include "runtime/eval/journal.h"
#include "runtime/eval/tasks.h"

namespace r1::eval {
namespace {

// 32 bits: short enough to type again, and exact in any JSON.
std::uint64_t seed_of(const Task& task, std::uint32_t sample, std::uint64_t seed) {
  return key_of({key_of_text(task.question), sample, seed}) & 0xffffffff;
}

// A sequence in progress.
struct Sequence {
  Session session;
  std::optional<Sampler> sampler;
  std::vector<Token> tokens;  // generated
  Attempt attempt;
};

class Asker {
 public:
  Asker(const std::shared_ptr<const Model>& model, std::span<const Task> tasks, const TaskOptions& options,
        const std::function<Result<void>(Attempt)>& on_attempt)
      : model_(model), tasks_(tasks), options_(options), on_attempt_(on_attempt) {}

  Result<void> run(std::span<const Attempt> done) {
    R1_CHECK(prepare(done));
    std::vector<Sequence> sequences;
    sequences.reserve(n_together_);
    std::vector<Sequence*> idle, running;
    while (!waiting_.empty() || !running.empty()) {
      while (running.size() < n_together_ && !waiting_.empty()) {
        if (idle.empty()) {
          R1_TRY(Session session, Session::create(model_, session_options_));
          sequences.push_back({std::move(session), {}, {}, {}});
          idle.push_back(&sequences.back());
        }
        R1_CHECK(begin(*idle.back()));
        running.push_back(idle.back());
        idle.pop_back();
      }
      std::vector<Sequence*> going_on;
      std::vector<Session*> sessions;
      std::vector<Token> tokens;
      for (Sequence* s : running) {
        R1_TRY(const bool goes_on, next_token(*s));
        if (goes_on) {
          going_on.push_back(s);
          sessions.push_back(&s->session);
          tokens.push_back(s->tokens.back());
        } else {
          R1_CHECK(end(*s));
          idle.push_back(s);
        }
      }
      R1_CHECK(append_together(sessions, tokens));
      running = std::move(going_on);
    }
    return {};
  }

 private:
  struct Place {
    std::uint32_t task = 0, sample = 0;
  };

  Result<void> prepare(std::span<const Attempt> done) {
    R1_TRY(tokenizer_, model_->tokenizer());
    R1_TRY(const ChatTemplate chat, model_->chat_template());
    const auto stops = chat.stop_tokens();
    end_tokens_ = model_->end_tokens();
    end_tokens_.insert(end_tokens_.end(), stops.begin(), stops.end());
    std::size_t longest = 0;
    for (const Task& task : tasks_) {
      const std::string text =
          options_.instruction.empty() ? task.question : task.question + "\n" + options_.instruction;
      const Message message{"user", text, {}};
      RenderOptions render;
      if (chat.is_reasoning()) render.thinking = Thinking::enforced;
      R1_TRY(Prompt prompt, chat.render({&message, 1}, render));
      longest = std::max(longest, prompt.ids.size());
      prompts_.push_back(std::move(prompt));
    }
    std::set<std::pair<std::uint32_t, std::uint32_t>> have;
    for (const Attempt& a : done) have.emplace(a.task, a.sample);
    // A task's samples follow each other: a category's figures are there early, and an end is never far.
    for (std::uint32_t t = 0; t < tasks_.size(); ++t) {
      for (std::uint32_t s = 0; s < options_.n_samples; ++s) {
        if (have.count({t, s}) == 0) waiting_.push_back({t, s});
      }
    }
    n_together_ = std::max<std::size_t>(1, std::min<std::size_t>(options_.n_together, waiting_.size()));
    session_options_ = options_.session;
    session_options_.batch_tokens =
        std::max(session_options_.batch_tokens.value_or(512), static_cast<std::uint32_t>(n_together_));
    if (session_options_.context_tokens == 0) {
      session_options_.context_tokens = static_cast<std::uint32_t>(
          std::min<std::size_t>(longest + options_.max_tokens, model_->info().max_context_tokens));
    }
    return {};
  }

  Result<void> begin(Sequence& s) {
    const Place place = waiting_.front();
    waiting_.pop_front();
    const Prompt& prompt = prompts_[place.task];
    SamplingOptions sampling = options_.sampling;
    sampling.seed = seed_of(tasks_[place.task], place.sample, options_.sampling.seed);
    R1_TRY(s.sampler, Sampler::create(sampling));
    s.sampler->see_prompt(prompt.ids);
    s.tokens.clear();
    s.attempt = {};
    s.attempt.task = place.task;
    s.attempt.sample = place.sample;
    s.attempt.seed = sampling.seed;
    s.attempt.n_prompt_tokens = static_cast<std::uint32_t>(prompt.ids.size());
    R1_CHECK(s.session.rewind(0));
    return s.session.append(prompt.ids);
  }

  // False: the attempt has ended, for its stop_reason.
  Result<bool> next_token(Sequence& s) {
    R1_TRY(const Token token, s.sampler->sample(s.session.logits()));
    if (std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end()) {
      s.attempt.stop_reason = stop_reason_name(StopReason::end_token);
      return false;
    }
    s.tokens.push_back(token);
    if (s.tokens.size() >= options_.max_tokens) {
      s.attempt.stop_reason = stop_reason_name(StopReason::max_tokens);
    } else if (s.session.tokens().size() >= s.session.context_tokens()) {
      s.attempt.stop_reason = stop_reason_name(StopReason::context_full);
    }
    return s.attempt.stop_reason.empty();
  }

  Result<void> end(Sequence& s) {
    Attempt& a = s.attempt;
    StreamDecoder decoder(tokenizer_);
    for (const Token token : s.tokens) a.text += decoder.push(token);
    a.text += decoder.finish();
    a.n_tokens = static_cast<std::uint32_t>(s.tokens.size());
    ThoughtSplitter splitter(prompts_[a.task].starts_in_thinking);
    std::string answer;
    const auto take = [&](const std::vector<ThoughtSplitter::Piece>& pieces) {
      for (const auto& piece : pieces) {
        if (!piece.is_thought) answer += piece.text;
      }
    };
    take(splitter.push(a.text));
    take(splitter.finish());
    a.answer = extract_answer(tasks_[a.task].judge, answer);
    a.is_right = !a.answer.empty() && a.answer == tasks_[a.task].answer;
    return on_attempt_(a);
  }

  const std::shared_ptr<const Model>& model_;
  std::span<const Task> tasks_;
  const TaskOptions& options_;
  const std::function<Result<void>(Attempt)>& on_attempt_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<Token> end_tokens_;
  std::vector<Prompt> prompts_;
  std::deque<Place> waiting_;
  std::size_t n_together_ = 1;
  SessionOptions session_options_;
};

}  // namespace

Result<void> run_tasks(const std::shared_ptr<const Model>& model, std::span<const Task> tasks,
                       const TaskOptions& options, std::span<const Attempt> done,
                       const std::function<Result<void>(Attempt)>& on_attempt) {
  Asker asker(model, tasks, options, on_attempt);
  return asker.run(done);
}

}  // namespace r1::eval
