#include <r1/model.h>

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <new>

#include "runtime/base/try.h"
#include "runtime/io/file.h"
#include "runtime/model/load.h"
#include "runtime/model/model_impl.h"
#include "runtime/sampler/generation_config.h"

namespace r1 {
namespace {

// generation_config.json is optional. What ends an answer: what it says, and what config.json says.
Result<void> read_generation_config(const std::string& directory, const rt::ModelConfig& config, Model::Impl& model) {
  const std::string path = directory + "/generation_config.json";
  std::string text = "{}";
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) {
    constexpr std::uint64_t max_bytes = 1 << 20;
    R1_TRY(text, rt::read_text_file(path, max_bytes));
  }
  R1_TRY(const rt::GenerationConfig generation, rt::parse_generation_config(text, path));
  model.sampling_defaults = generation.sampling;
  model.end_tokens = generation.eos_token_ids;
  for (const Token id : config.eos_token_ids) {
    if (std::find(model.end_tokens.begin(), model.end_tokens.end(), id) == model.end_tokens.end()) {
      model.end_tokens.push_back(id);
    }
  }
  return {};
}

std::uint64_t fingerprint(const rt::ModelFile& file) {
  std::string text = fmt::format("{} {}", rt::architecture_name(file.config().architecture), file.config().r1_recipe);
  for (const rt::BlobInfo& blob : file.blobs()) text += fmt::format("\n{} {:016x}", blob.name, blob.xxh3);
  return rt::xxh3_64(std::as_bytes(std::span(text)));
}

Result<const simd::Kernels*> find_kernels(const std::string& isa) {
  const char* environment = std::getenv("R1_ISA");
  const std::string name = !isa.empty() || environment == nullptr ? isa : environment;
  std::string why;
  const simd::Kernels* kernels = simd::choose_kernels(name, &why);
  if (kernels == nullptr) return Error{ErrorCode::invalid_argument, why, isa.empty() ? "R1_ISA" : "isa"};
  return kernels;
}

Result<std::shared_ptr<const Tokenizer>> find_tokenizer(const std::string& directory) {
  std::error_code ignored;
  if (!std::filesystem::exists(directory + "/tokenizer.json", ignored)) {
    return Error{ErrorCode::not_found, "the model has no tokenizer.json: it runs on token ids alone", directory};
  }
  return Tokenizer::load(directory);
}

Result<ChatTemplate> find_template(const std::string& directory, const std::string& name,
                                   const Result<std::shared_ptr<const Tokenizer>>& tokenizer) {
  if (!tokenizer.ok()) return tokenizer.error();
  if (name.empty()) return ChatTemplate::detect(directory, *tokenizer);
  R1_TRY(const TemplateKind kind, template_from_name(name));
  return ChatTemplate::named(kind, *tokenizer);
}

Result<std::shared_ptr<const Model>> open_model(const ModelOptions& options) {
  auto impl = std::make_unique<Model::Impl>();
  R1_TRY(impl->kernels, find_kernels(options.isa));
  R1_TRY(impl->file, rt::ModelFile::open(options.path));
  const rt::MemoryFacts memory = options.load == LoadMode::map ? rt::MemoryFacts{} : rt::memory_facts(*impl->file);
  R1_TRY(rt::LoadedFile loaded, rt::load(impl->file, options.load, memory));
  impl->file = std::move(loaded.file);
  impl->load_report = std::move(loaded.report);
  const rt::ModelFile& file = *impl->file;
  if (options.verify) {
    for (const rt::BlobInfo& blob : file.blobs()) R1_CHECK(file.verify(blob));
  }
  R1_TRY(impl->weights, rt::resolve_weights(file));
  R1_TRY(rt::ResidentStore experts, rt::ResidentStore::create(file));
  impl->experts = std::make_shared<rt::ResidentStore>(std::move(experts));
  impl->rope = rt::Rope(file.config());
  impl->info = rt::describe(file);
  impl->info.fingerprint = fingerprint(file);
  R1_CHECK(read_generation_config(options.path, file.config(), *impl));
  impl->tokenizer = find_tokenizer(options.path);
  if (!options.template_name.empty()) {  // a name nobody knows is the caller's mistake, at once
    R1_TRY([[maybe_unused]] const TemplateKind kind, template_from_name(options.template_name));
  }
  impl->chat_template = find_template(options.path, options.template_name, impl->tokenizer);
  return std::make_shared<const Model>(std::move(impl));
}

}  // namespace

Result<std::shared_ptr<const Model>> rt::with_file(const Model& model, std::shared_ptr<const ModelFile> file) {
  auto impl = std::make_unique<Model::Impl>(model.impl());
  impl->file = std::move(file);
  R1_TRY(impl->weights, resolve_weights(*impl->file));
  R1_TRY(ResidentStore experts, ResidentStore::create(*impl->file));
  impl->experts = std::make_shared<ResidentStore>(std::move(experts));
  return std::make_shared<const Model>(std::move(impl));
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

Result<std::shared_ptr<const Model>> Model::open(const ModelOptions& options) {
  try {
    return open_model(options);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory to open the model", options.path};
  } catch (const std::exception& e) {  // nlohmann and the file system library throw where a file is hostile
    return Error{ErrorCode::corrupt, e.what(), options.path};
  }
}

const ModelInfo& Model::info() const {
  return impl_->info;
}
const LoadReport& Model::load_report() const {
  return impl_->load_report;
}
const char* Model::isa() const {
  return simd::isa_name(impl_->kernels->isa);
}
Result<std::shared_ptr<const Tokenizer>> Model::tokenizer() const {
  return impl_->tokenizer;
}
Result<ChatTemplate> Model::chat_template() const {
  return impl_->chat_template;
}
const SamplingOptions& Model::sampling_defaults() const {
  return impl_->sampling_defaults;
}
const std::vector<Token>& Model::end_tokens() const {
  return impl_->end_tokens;
}

}  // namespace r1
