// R1_TRY and R1_CHECK: pass an Error up to the caller, as `?` does in other languages.
#pragma once

#include <r1/result.h>

#define R1_CONCAT_INNER(a, b) a##b
#define R1_CONCAT(a, b) R1_CONCAT_INNER(a, b)

// R1_TRY(auto x, f()): evaluates f(), returns its error from the enclosing function or declares x with its value.
#define R1_TRY(declaration, expression) R1_TRY_INNER(R1_CONCAT(r1_try_, __LINE__), declaration, expression)
#define R1_TRY_INNER(result, declaration, expression)              \
  auto result = (expression);                                      \
  if (!result.ok()) return ::r1::Error(std::move(result).error()); \
  declaration = std::move(result).value()

// R1_CHECK(f()): the same for a Result<void>.
#define R1_CHECK(expression)                                                           \
  do {                                                                                 \
    auto r1_check_result = (expression);                                               \
    if (!r1_check_result.ok()) return ::r1::Error(std::move(r1_check_result).error()); \
  } while (false)
