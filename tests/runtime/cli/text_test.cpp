// Text as it streams: stop strings and thoughts, against the same search over the whole text at once, for every way to
// cut the text in two and for one byte at a time.
#include <doctest/doctest.h>
#include <r1/generate.h>

#include <algorithm>
#include <string>
#include <vector>

#include "runtime/engine/stop_strings.h"

namespace {

// What may be shown of `text` as a whole: up to the end of the earliest match to be complete, without the match.
std::string until_stop(const std::string& text, const std::vector<std::string>& stops) {
  std::size_t complete = std::string::npos, begin = text.size();
  for (const auto& s : stops) {
    const std::size_t at = text.find(s);
    if (at == std::string::npos || at + s.size() > complete) continue;
    begin = at + s.size() < complete ? at : std::min(begin, at);
    complete = at + s.size();
  }
  return text.substr(0, begin);
}

std::string streamed(const std::vector<std::string>& pieces, const std::vector<std::string>& stops) {
  r1::rt::StopStrings stop(stops);
  std::string shown;
  for (const auto& piece : pieces) shown += stop.push(piece);
  return shown + stop.finish();
}

std::vector<std::vector<std::string>> cuts(const std::string& text) {
  std::vector<std::vector<std::string>> all{{text}};
  for (std::size_t i = 0; i <= text.size(); ++i) all.push_back({text.substr(0, i), text.substr(i)});
  std::vector<std::string> single;
  for (const char c : text) single.emplace_back(1, c);
  all.push_back(single);
  return all;
}

struct Split {
  std::string thought, answer;
};

Split split(const std::vector<std::string>& pieces, bool starts_in_thinking) {
  r1::ThoughtSplitter splitter(starts_in_thinking);
  Split result;
  const auto add = [&](const std::vector<r1::ThoughtSplitter::Piece>& parts) {
    for (const auto& part : parts) {
      CHECK(!part.text.empty());
      (part.is_thought ? result.thought : result.answer) += part.text;
    }
  };
  for (const auto& piece : pieces) add(splitter.push(piece));
  add(splitter.finish());
  return result;
}

}  // namespace

TEST_CASE("stop strings: found across pieces, and nothing is lost without them") {
  const std::vector<std::vector<std::string>> stop_lists = {
      {}, {"</s>"}, {"\n\n", "User:"}, {"aab"}, {"b", "abc"}, {"aaa", "a"}, {"你好"}, {"abab", "babb"}};
  const std::string texts[] = {"",      "hello",    "one\n\ntwo", "x</s",   "x</s>y", "aaab",       "aaaab and aab",
                               "ababb", "说你好吗", "说你",       "abcabc", "User",   "Us\nUser:x", "abaababab"};
  for (const auto& stops : stop_lists) {
    for (const auto& text : texts) {
      for (const auto& pieces : cuts(text)) {
        CAPTURE(text);
        CHECK(streamed(pieces, stops) == until_stop(text, stops));
      }
    }
  }
}

TEST_CASE("stop strings: text that may become one is withheld") {
  const std::vector<std::string> stops = {"END"};
  r1::rt::StopStrings stop(stops);
  CHECK(stop.push("some E") == "some ");
  CHECK(stop.push("N") == "");
  CHECK(stop.push("T") == "ENT");
  CHECK(stop.push("xEND and more") == "x");
  CHECK(stop.found());
  CHECK(stop.push("still more") == "");
  CHECK(stop.finish() == "");
}

TEST_CASE("thoughts: told from the answer however the text is cut") {
  struct Case {
    std::string text;
    bool starts_in_thinking;
    Split expected;
  };
  const Case cases[] = {
      {"I think.\n</think>\n\nSo it is.", true, {"I think.", "So it is."}},
      {"<think>\nI think.\n\nMore.\n</think>\n\nSo.\n\nIt is.\n", false, {"I think.\n\nMore.", "So.\n\nIt is.\n"}},
      {"\n <think>a</think>b", false, {"a", "b"}},
      {"No tags here", false, {"", "No tags here"}},
      {"Never closed </thin", true, {"Never closed </thin", ""}},
      {"</think>\n\nAt once.", true, {"", "At once."}},
      {"An answer about <think> and </think>.", false, {"", "An answer about <think> and </think>."}},
      {"a</think>b</think>c<think>d", true, {"a", "b</think>c<think>d"}},
      {"<thin", false, {"", "<thin"}},
      {"", true, {"", ""}},
      {"", false, {"", ""}},
      {"  indented", false, {"", "  indented"}},
  };
  for (const auto& c : cases) {
    for (const auto& pieces : cuts(c.text)) {
      CAPTURE(c.text);
      const Split result = split(pieces, c.starts_in_thinking);
      CHECK(result.thought == c.expected.thought);
      CHECK(result.answer == c.expected.answer);
    }
  }
}
