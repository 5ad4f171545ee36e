#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/tokenizer/regex.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>

#include "runtime/base/try.h"

namespace r1::rt {
namespace {

constexpr std::size_t max_pattern_bytes = 1 << 16;
// Steps one match may take: linear patterns stay far below it on any text, exponential ones are stopped in a second.
constexpr std::uint32_t min_match_limit = 10'000'000;
constexpr std::uint32_t heap_limit_kib = 64 << 10;

std::string pcre_message(int code) {
  PCRE2_UCHAR message[256];
  pcre2_get_error_message(code, message, sizeof message);
  return reinterpret_cast<const char*>(message);
}

bool is_continuation(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

}  // namespace

RegexScratch::RegexScratch()
    : data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
  if (context_ != nullptr) pcre2_set_heap_limit(context_, heap_limit_kib);
}

RegexScratch::~RegexScratch() {
  pcre2_match_data_free(data_);
  pcre2_match_context_free(context_);
}

void Regex::Free::operator()(pcre2_real_code_8* code) const {
  pcre2_code_free(code);
}

Result<Regex> Regex::compile(std::string_view pattern, const std::string& where) {
  if (pattern.size() > max_pattern_bytes) {
    return Error{ErrorCode::unsupported, fmt::format("pattern: is longer than {} bytes", max_pattern_bytes), where};
  }
  R1_TRY(const std::string translated, translate_pattern(pattern, where));
  Regex regex;
  int code = 0;
  PCRE2_SIZE at = 0;
  // In Ruby's syntax ^ and $ are those of a line.
  regex.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &at, nullptr));
  if (regex.code_ == nullptr) {
    return Error{ErrorCode::corrupt,
                 fmt::format("pattern: {}, at byte {} of {}", pcre_message(code), at, translated.substr(0, 200)),
                 where};
  }
  // Without the compiler (some hardened systems forbid it) the interpreter does the same, more slowly.
  pcre2_jit_compile(regex.code_.get(), PCRE2_JIT_COMPLETE);
  return regex;
}

Result<void> Regex::find_all(std::string_view text, RegexScratch& scratch, std::vector<Match>& matches) const {
  if (scratch.data_ == nullptr || scratch.context_ == nullptr)
    return Error{ErrorCode::out_of_memory, "no memory to split a text", ""};
  pcre2_set_match_limit(scratch.context_, static_cast<std::uint32_t>(
                                              std::clamp<std::size_t>(text.size() * 16, min_match_limit, 1u << 31)));
  const auto match = [&](std::size_t start, std::uint32_t options) {
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                       PCRE2_NO_UTF_CHECK | options, scratch.data_, scratch.context_);
  };
  std::size_t start = 0;
  while (start <= text.size()) {
    int n = match(start, 0);
    // Compiled code has a small stack, the interpreter has the heap.
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) n = match(start, PCRE2_NO_JIT);
    if (n == PCRE2_ERROR_NOMATCH) break;
    if (n < 0) {
      return Error{ErrorCode::unsupported,
                   fmt::format("the tokenizer's pattern cannot split this text: {}", pcre_message(n)), ""};
    }
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(scratch.data_);
    const std::size_t begin = offsets[0], end = offsets[1];
    const bool repeats_end = begin >= end && !matches.empty() && matches.back().end == end;
    if (begin > end || repeats_end) {  // begin > end: \K in a lookahead
      ++start;
      while (start < text.size() && is_continuation(text[start])) ++start;
      continue;
    }
    matches.push_back({begin, end});
    start = end;
  }
  return {};
}

}  // namespace r1::rt
