// The main of every test program. ctest runs one test case at a time, by name, and doctest's own main would fail it
// twice: it splits a filter at every comma (escaped or not), and calls it success when the filter matches nothing.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <atomic>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace {

std::atomic<int> n_run = 0;

struct Counter : doctest::IReporter {
  explicit Counter(const doctest::ContextOptions&) {}
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_start(const doctest::TestCaseData&) override { ++n_run; }
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};
DOCTEST_REGISTER_LISTENER("counter", 1, Counter);

}  // namespace

int main(int argc, char** argv) {
  constexpr std::string_view filter = "--test-case=", escaped_comma = "\\,";
  std::vector<std::string> arguments(argv, argv + argc);
  bool filtered = false;
  for (std::string& argument : arguments) {
    if (argument.rfind(filter, 0) != 0) continue;
    filtered = true;
    for (std::size_t at; (at = argument.find(escaped_comma)) != std::string::npos;) {
      argument.erase(at, 1);
      argument[at] = '?';  // doctest's wildcard for one character
    }
  }
  std::vector<const char*> pointers;
  for (const std::string& argument : arguments) pointers.push_back(argument.c_str());

  doctest::Context context(static_cast<int>(pointers.size()), pointers.data());
  const int result = context.run();
  if (result == 0 && filtered && !context.shouldExit() && n_run == 0) {
    std::fputs("no test case has this name\n", stderr);
    return 1;
  }
  return result;
}
