// Answers taken out of texts, tasks read from files, scores of attempts.
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "runtime/eval/answer.h"
#include "runtime/eval/tasks.h"

using namespace r1;
using eval::extract_answer;
using eval::Judge;
using eval::normalize_answer;

TEST_CASE("exact answers are all that is there, without the space around it, or what is boxed") {
  CHECK(extract_answer(Judge::exact, "\n\n 42 apples \n") == "42 apples");
  CHECK(extract_answer(Judge::exact, "It is \\boxed{x^{2}+1}, so \\boxed{ 7 }.") == "7");
  CHECK(extract_answer(Judge::exact, "\\boxed{a{b}c} \\boxed{open") == "a{b}c");
  CHECK(extract_answer(Judge::exact, " \n").empty());
  CHECK(eval::last_boxed("none") == std::nullopt);
}

TEST_CASE("numbers are compared by value") {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"The answer is 42.", "42"},
      {"First 3, then 1,234.50 dollars.", "1234.5"},
      {"\\boxed{1{,}000}", "0"},  // the last number in the box
      {"x = -7", "-7"},
      {"x = \u22127", "-7"},
      {"5-3", "3"},  // a difference's second number has no sign
      {"It is 10/4 of it", "2.5"},
      {"\\boxed{\\frac{3}{4}}", "0.75"},
      {"\\boxed{-\\dfrac{1}{3}}", "-0.333333333333"},
      {"$12,345,678$", "12345678"},
      {"1,2,3", "3"},
      {"12,3456", "3456"},
      {".5 or 0.50", "0.5"},
      {"the 3rd of x2", ""},
      {"答案是158。", "158"},
      {"答案-7", "-7"},
      {"No number here: \\boxed{none}", ""},
      {"\\boxed{none} but 8", "8"},
      {"-0.0", "0"},
      {"2 + 2 = 4\n", "4"},
  };
  for (const auto& [text, expected] : cases) {
    CAPTURE(text);
    CHECK(extract_answer(Judge::number, text) == expected);
  }
  CHECK(normalize_answer(Judge::number, "1,000") == normalize_answer(Judge::number, "1000.0"));
}

TEST_CASE("choices are the last capital that stands alone") {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"The answer is (C).", "C"},
      {"\\boxed{B}", "B"},
      {"\\boxed{\\text{D}}", "D"},
      {"A or B? B.", "B"},
      {"**Answer: A**", "A"},
      {"I think it's C, said I.", "C"},
      {"Choose (I)", "I"},
      {"c", "C"},
      {"A's better: DNA", ""},
      {"选B。", "B"},
      {"答案：B", "B"},
      {"none of them", ""},
  };
  for (const auto& [text, expected] : cases) {
    CAPTURE(text);
    CHECK(extract_answer(Judge::choice, text) == expected);
  }
}

TEST_CASE("tasks are read, and what is wrong with a line is said") {
  const auto good = eval::parse_tasks(
      "{\"task\": \"add\", \"question\": \"1+1?\", \"answer\": 2, \"judge\": \"number\"}\n\n"
      "{\"question\": \"q\", \"answer\": \" yes \"}",
      Judge::exact, "t.jsonl");
  REQUIRE(good.ok());
  CHECK(good->size() == 2);
  CHECK((*good)[0].category == "add");
  CHECK((*good)[0].answer == "2");
  CHECK((*good)[1].answer == "yes");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "t.jsonl: holds no tasks"},
      {"{\"question\": \"q\", \"answer\": \"a\"}\n{\"question\": \"q\"}", "t.jsonl: line 2: no \"answer\""},
      {"{\"question\": \"q\", \"answer\": \"a\", \"solution\": 1}", "unknown key \"solution\""},
      {"{\"question\": \"q\", \"answer\": \"a\", \"judge\": \"vibes\"}", "none of exact, number, choice"},
      {"{\"question\": \"q\", \"answer\": \"many\", \"judge\": \"number\"}", "\"many\" is no number answer"},
      {"{\"question\": \"\", \"answer\": \"a\"}", "question: is empty"},
      {"{\"question\": 7, \"answer\": \"a\"}", "question"},
      {"{\"question\": \"q\", \"answer\": [1]}", "neither text nor a number"},
      {"[1]", "line 1: not a JSON object"},
      {"{\"question\"", "line 1"},
  };
  for (const auto& [text, expected] : cases) {
    CAPTURE(text);
    const auto bad = eval::parse_tasks(text, Judge::exact, "t.jsonl");
    REQUIRE(!bad.ok());
    CHECK_MESSAGE(bad.error().text().find(expected) != std::string::npos, bad.error().text());
  }
}

TEST_CASE("pass@1 is a mean over samples, cons@K a vote") {
  std::vector<eval::Task> tasks(3);
  for (eval::Task& task : tasks)
    task.answer = std::string("1");  // GCC 12 warns of an overlap that is none where a literal is assigned
  tasks[2].category = std::string("hard");
  std::vector<eval::Attempt> attempts;
  const auto add = [&](std::uint32_t task, std::uint32_t sample, const std::string& answer) {
    eval::Attempt a;
    a.task = task;
    a.sample = sample;
    a.answer = answer;
    a.is_right = answer == "1";
    a.stop_reason = answer.empty() ? "max_tokens" : "end_token";
    a.n_tokens = 10;
    attempts.push_back(a);
  };
  add(1, 3, "2");  // in any order
  for (std::uint32_t s = 0; s < 4; ++s) add(0, s, s == 2 ? "2" : "1");
  add(1, 0, "");
  add(1, 1, "2");
  add(1, 2, "1");
  for (std::uint32_t s = 0; s < 4; ++s) add(2, s, s % 2 == 0 ? "1" : "5");  // a tie: the first counts
  const auto report = eval::task_report(tasks, attempts);
  CHECK(report.all.n_tasks == 3);
  CHECK(report.all.n_attempts == 12);
  CHECK(report.all.pass_at_1.value == doctest::Approx((0.75 + 0.25 + 0.5) / 3));
  CHECK(report.all.pass_at_1.standard_error == doctest::Approx(0.25 / std::sqrt(3)));
  CHECK(report.all.consensus.value == doctest::Approx(2.0 / 3));
  CHECK(report.all.n_without_answer == 1);
  CHECK(report.all.n_cut_off == 1);
  CHECK(report.all.mean_tokens == 10);
  CHECK(report.by_category.size() == 1);
  CHECK(report.by_category.at("hard").pass_at_1.value == 0.5);

  const auto back = eval::attempt_from_json(eval::attempt_to_json(attempts[0], tasks[1]), "line");
  REQUIRE(back.ok());
  CHECK(back->task == 1);
  CHECK(back->sample == 3);
  CHECK(back->answer == "2");
  CHECK(!back->is_right);
  CHECK(!eval::attempt_from_json("{\"task\": 1}", "line").ok());
}
