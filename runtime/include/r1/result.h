// Result<T>: a value, or an Error with one clear line for the person who caused it.
// The library never throws for flow, prints, exits or aborts; it returns one of these.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace r1 {

enum class ErrorCode {
  invalid_argument,  // the caller's option, prompt or request is wrong
  not_found,         // a file, tensor or name does not exist
  io,                // the operating system refused: message carries its reason
  corrupt,           // a file's content contradicts itself, its checksum or its format
  unsupported,       // well-formed, but not something this version can do
  out_of_memory,     // a budget or the machine's memory does not suffice
  context_full,      // the session has no room for another token
  cancelled,         // the caller asked to stop
  numeric,           // NaN or infinity where a number was due
};

struct Error {
  ErrorCode code = ErrorCode::invalid_argument;
  std::string message;  // what went wrong and what to do, one line
  std::string context;  // where: file, tensor, byte offset, layer; may be empty

  // "context: message", or the message alone.
  [[nodiscard]] std::string text() const { return context.empty() ? message : context + ": " + message; }
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& value() & { return *std::get_if<0>(&state_); }
  const T& value() const& { return *std::get_if<0>(&state_); }
  T&& value() && { return std::move(*std::get_if<0>(&state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  Error& error() & { return *std::get_if<1>(&state_); }
  const Error& error() const& { return *std::get_if<1>(&state_); }
  Error&& error() && { return std::move(*std::get_if<1>(&state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : failed_(true), error_(std::move(error)) {}

  [[nodiscard]] bool ok() const { return !failed_; }
  explicit operator bool() const { return ok(); }
  Error& error() & { return error_; }
  const Error& error() const& { return error_; }
  Error&& error() && { return std::move(error_); }

 private:
  bool failed_ = false;
  Error error_;
};

}  // namespace r1
