// The smallest program: open a model directory, ask one question, stream the answer.
// usage: hello MODEL_DIR "question"
#include <r1/generate.h>
#include <r1/model.h>
#include <r1/session.h>

#include <cstdio>

static int fail(const r1::Error& error) {
  std::fprintf(stderr, "hello: %s\n", error.text().c_str());
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: hello MODEL_DIR \"question\"\n");
    return 2;
  }
  r1::ModelOptions model_options;
  model_options.path = argv[1];
  auto model = r1::Model::open(model_options);
  if (!model) return fail(model.error());
  auto chat = (*model)->chat_template();
  if (!chat) return fail(chat.error());

  const r1::Message question{"user", argv[2], {}, false};
  r1::RenderOptions render_options;
  render_options.thinking = r1::Thinking::enforced;
  auto prompt = chat->render({&question, 1}, render_options);
  if (!prompt) return fail(prompt.error());

  auto session = r1::Session::create(*model);
  if (!session) return fail(session.error());
  auto sampler = r1::Sampler::create((*model)->sampling_defaults());
  if (!sampler) return fail(sampler.error());

  auto stats = r1::generate(*session, *sampler, prompt->ids, {}, [](std::string_view text, r1::Token) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    return true;
  });
  if (!stats) return fail(stats.error());
  std::printf("\n");
  return 0;
}
