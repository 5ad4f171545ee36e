#include <cstdint>
#include <cstdlib>
#include <string>

#include "runtime/tokenizer/tokenizer_impl.h"

// What is accepted must encode any text, or say why not.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto tokenizer = r1::rt::parse_tokenizer(std::string(reinterpret_cast<const char*>(data), size), "", "input");
  if (!tokenizer) {
    if (tokenizer.error().message.empty()) std::abort();
    return 0;
  }
  const auto ids = (*tokenizer)->encode_with_special("ab  a <s> 12ab\n\xc3\xa9", r1::SpecialTokens::parsed);
  if (ids) (void)(*tokenizer)->decode(*ids);
  (void)(*tokenizer)->encode(std::string(300, 'a'), r1::SpecialTokens::literal);
  return 0;
}
