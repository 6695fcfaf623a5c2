// Sessions: calls that follow one another with tools in between, drawn or from a trace; when each is sent,
// what its prompt keeps of the one before, and what is wrong with a file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "serving/content.h"
#include "serving/trace_sessions.h"
#include "support.h"

namespace foretoken {
namespace {

using test::error_of;
using test::make;
using test::synthetic;
using test::TemporaryFolder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Picoseconds kMs = 1'000'000'000;

// "content:tokens" of a prompt's runs; p3 and g3 are the private part and the answer of request 3.
std::vector<std::string> runs_of(const Workload& workload, const Request& request) {
  std::vector<std::string> words;
  for (const ContentRun& run : workload.content(request)) {
    std::string name = "#";
    for (RequestId id = 0; id <= request.id; ++id) {
      if (run.content == private_prompt_content(id)) name = "p" + std::to_string(id);
      if (run.content == generated_content(id)) name = "g" + std::to_string(id);
    }
    for (std::int64_t g = 0; g < 9; ++g)
      if (run.content == shared_prefix_content(g)) name = "s" + std::to_string(g);
    words.push_back(name + ":" + std::to_string(run.tokens));
  }
  return words;
}

WorkloadConfig agent() {
  WorkloadConfig c = synthetic(100, 10);
  c.agentic.emplace();
  c.agentic->calls = test::fixed(3);
  c.agentic->tool_tokens = test::fixed(7);
  c.agentic->tool_ms = test::fixed(250);
  c.request_rate = 1;
  c.arrival = "constant";
  c.num_prompts = 7;
  return c;
}

TEST(Sessions, ACallRepeatsWhatWasSaidAndAddsTheToolsResult) {
  WorkloadConfig c = agent();
  c.shared_prefix = SharedPrefix{.groups = 1, .prefix_len = 60};
  const auto w = make(c);
  EXPECT_EQ(w->total_requests(), 7);
  const Request a = w->pop();
  EXPECT_EQ(std::tuple(a.id, a.arrival, a.input_len, a.output_len, a.session, a.turn),
            std::tuple(0, Picoseconds{0}, 100, 10, 0, 0));
  EXPECT_THAT(runs_of(*w, a), ElementsAre("s0:60", "p0:40"));
  EXPECT_EQ(w->next_arrival(), 1000 * kMs) << "the second session's";
  w->finished(a, 300 * kMs);
  EXPECT_EQ(w->take_ended_session(), std::nullopt);
  EXPECT_EQ(w->next_arrival(), (300 + 250) * kMs) << "the tool's time after the answer";
  const Request b = w->pop();
  EXPECT_EQ(std::tuple(b.id, b.input_len, b.session, b.turn), std::tuple(1, 117, 0, 1));
  EXPECT_THAT(runs_of(*w, b), ElementsAre("s0:60", "p0:40", "g0:10", "p1:7"));
  w->finished(b, 900 * kMs);
  const Request other = w->pop();
  EXPECT_EQ(other.session, 1);
  const Request last = w->pop();
  EXPECT_EQ(last.arrival, 1150 * kMs);
  EXPECT_EQ(last.input_len, 134);
  EXPECT_THAT(runs_of(*w, last), ElementsAre("s0:60", "p0:40", "g0:10", "p1:7", "g1:10", "p3:7"));
  w->finished(last, 2000 * kMs);
  const auto ended = w->take_ended_session();
  ASSERT_TRUE(ended);
  EXPECT_EQ(std::tuple(ended->begin, ended->end, ended->pauses, ended->calls, ended->broken),
            std::tuple(Picoseconds{0}, 2000 * kMs, 500 * kMs, 3, false));
  EXPECT_EQ(w->take_ended_session(), std::nullopt);
}

// Whatever the answers take, everybody is sent once, a call its tool's time after the answer, in sessions
// whose calls and lengths are the same.
TEST(Sessions, ConservedAndTheSameHoweverFastAnswersCome) {
  WorkloadConfig c = agent();
  c.agentic->calls = test::uniform(1, 9);
  c.agentic->tool_tokens = test::lognormal(50, 400);
  c.agentic->tool_ms = test::uniform(1, 5000);
  c.input_len = test::uniform(10, 500);
  c.output_len = test::uniform(1, 90);
  c.arrival = "poisson";
  c.num_prompts = 500;
  const auto lengths = [&](Picoseconds service) {
    const auto w = make(c);
    std::map<std::pair<int, int>, std::pair<int, int>> seen;
    std::multimap<Picoseconds, Request> running;
    std::map<int, Request> before;
    double input = 0, output = 0, kept = 0;
    std::int64_t ended = 0, longest = 0;
    while (w->next_arrival() || !running.empty()) {
      if (!running.empty() && (!w->next_arrival() || running.begin()->first <= *w->next_arrival())) {
        const auto [at, r] = *running.begin();
        running.erase(running.begin());
        w->finished(r, at);
        before[r.session] = r;
        ended += w->take_ended_session().has_value();
        continue;
      }
      const Request r = w->pop();
      std::int64_t tokens = 0;
      for (const ContentRun& run : w->content(r)) tokens += run.tokens;
      EXPECT_EQ(tokens, r.input_len);
      if (r.turn > 0) {
        const Request& last = before.at(r.session);
        EXPECT_EQ(last.turn + 1, r.turn);
        EXPECT_GT(r.input_len, last.input_len + last.output_len);
        kept += last.input_len + last.output_len;
        EXPECT_GE(r.arrival, last.arrival + service + kMs);
      }
      EXPECT_TRUE(seen.emplace(std::pair(r.session, r.turn), std::pair(r.input_len, r.output_len)).second);
      input += r.input_len, output += r.output_len;
      longest = std::max<std::int64_t>(longest, r.input_len + r.output_len);
      running.emplace(r.arrival + service, r);
    }
    EXPECT_EQ(seen.size(), 500u);
    EXPECT_EQ(ended, seen.rbegin()->first.first + 1);
    EXPECT_DOUBLE_EQ(w->means().input_len, input / 500);
    EXPECT_DOUBLE_EQ(w->means().output_len, output / 500);
    EXPECT_DOUBLE_EQ(w->means().kept_len, kept / 500);
    EXPECT_EQ(w->longest(), longest);
    EXPECT_NEAR(w->means().request_rate, 500.0 / static_cast<double>(ended), 1e-9);
    return seen;
  };
  EXPECT_EQ(lengths(kMs), lengths(7000 * kMs));
}

TEST(Sessions, AClosedLoopKeepsSoManyUnderWay) {
  WorkloadConfig c = agent();
  c.request_rate.reset();
  c.arrival = "poisson";
  c.max_concurrency = 2;
  c.num_prompts = 12;
  const auto w = make(c);
  EXPECT_EQ(w->describe(), "4 agentic sessions of 3 calls, 2 at a time, 12 requests");
  EXPECT_EQ(w->means().request_rate, 0);
  const Request a = w->pop(), b = w->pop();
  EXPECT_EQ(w->next_arrival(), std::nullopt);
  w->finished(a, 5 * kMs);
  EXPECT_EQ(w->next_arrival(), 255 * kMs);
  const Request a1 = w->pop();
  w->finished(a1, 300 * kMs);
  const Request a2 = w->pop();
  w->finished(a2, 600 * kMs);
  EXPECT_EQ(w->next_arrival(), 600 * kMs) << "the third session takes the place at once";
  EXPECT_EQ(w->pop().session, 2);
  w->finished(b, 700 * kMs);
}

TEST(Sessions, ARefusedRequestBreaksItsSession) {
  const auto w = make(agent());
  w->refused(w->pop(), 0);
  for (int i = 0; i < 2; ++i) {
    const Request r = w->pop();
    ASSERT_EQ(r.session, 0);
    w->finished(r, r.arrival);
  }
  EXPECT_TRUE(w->take_ended_session()->broken);
}

std::string line(const std::string& id, std::int64_t ns, const std::string& calls) {
  return "{\"session_id\": \"" + id + "\", \"arrival_time_ns\": " + std::to_string(ns) +
         ", \"sub_requests\": [" + calls + "]}\n";
}
std::string call(int in, int out, std::int64_t tool) {
  return "{\"input_toks\": " + std::to_string(in) + ", \"output_toks\": " + std::to_string(out) +
         ", \"tool_duration_ns\": " + std::to_string(tool) + "}";
}

std::unique_ptr<Workload> of_trace(const std::string& text, WorkloadConfig c = {}) {
  static std::vector<std::unique_ptr<TemporaryFolder>> folders;  // read on as requests are popped
  folders.push_back(std::make_unique<TemporaryFolder>());
  c.trace = folders.back()->write("t.jsonl", text).string();
  return make(c);
}
std::string error(const std::string& text, WorkloadConfig c = {}) {
  return error_of([&] { of_trace(text, c); });
}

// Longer than prompt and answer: both are kept. Shorter than both, but not than the prompt: that. Shorter:
// nothing.
TEST(Sessions, OfATraceKeepWhatTheirLengthsLeaveRoomFor) {
  const auto w = of_trace(line("a", 2'000'000,
                               call(100, 20, 5'000'000) + ", " + call(130, 10, 0) + ", " +
                                   call(132, 4, 1'000'000) + ", " + call(50, 3, 9)) +
                          "{\"input_toks\": 9, \"output_toks\": 1, \"arrival_time_ns\": 4000000}\n");
  EXPECT_EQ(w->describe(), "LLMServingSim trace, 2 sessions, 5 requests");
  EXPECT_EQ(w->total_requests(), 5);
  EXPECT_EQ(w->longest(), 140);
  EXPECT_EQ(w->next_arrival(), 2 * kMs);
  const Request a = w->pop();
  w->finished(a, 3 * kMs);
  const Request alone = w->pop();
  EXPECT_EQ(std::tuple(alone.arrival, alone.input_len, alone.session), std::tuple(4 * kMs, 9, 1));
  const Request b = w->pop();
  EXPECT_EQ(b.arrival, 8 * kMs);
  EXPECT_THAT(runs_of(*w, b), ElementsAre("p0:100", "g0:20", "p2:10"));
  w->finished(b, 9 * kMs);
  const Request c = w->pop();
  EXPECT_EQ(c.arrival, 9 * kMs);
  EXPECT_THAT(runs_of(*w, c), ElementsAre("p0:100", "g0:20", "p2:10", "p3:2")) << "the answer was rewritten";
  w->finished(c, 10 * kMs);
  const Request d = w->pop();
  EXPECT_EQ(d.arrival, 11 * kMs);
  EXPECT_THAT(runs_of(*w, d), ElementsAre("p4:50"));
  w->finished(d, 20 * kMs);
  const auto ended = w->take_ended_session();
  EXPECT_EQ(std::tuple(ended->begin, ended->end, ended->pauses), std::tuple(2 * kMs, 20 * kMs, 6 * kMs))
      << "the last call's tool is nobody's wait";
}

// With token ids the common beginning is counted, into the answer if its ids are given.
TEST(Sessions, OfATraceKeepWhatTheirTokensHaveInCommon) {
  const auto ids = [](const char* key, std::vector<int> values) {
    std::string text = std::string(", \"") + key + "\": [";
    for (std::size_t i = 0; i < values.size(); ++i) text += (i ? "," : "") + std::to_string(values[i]);
    return text + "]";
  };
  const std::string first = "{\"input_toks\": 3, \"output_toks\": 2" + ids("input_tok_ids", {1, 2, 3});
  const std::string rest =
      "}, {\"input_toks\": 6, \"output_toks\": 1" + ids("input_tok_ids", {1, 2, 3, 4, 9, 9}) + "}";
  const auto second_runs = [&](const std::string& answer) {
    const auto w = of_trace(line("a", 0, first + answer + rest));
    const Request a = w->pop();
    EXPECT_THAT(runs_of(*w, a), ElementsAre("#:3"));
    w->finished(a, 1);
    return runs_of(*w, w->pop());
  };
  EXPECT_THAT(second_runs(ids("output_tok_ids", {4, 5})), ElementsAre("#:3", "g0:1", "p1:2"));
  EXPECT_THAT(second_runs(""), ElementsAre("#:3", "p1:3")) << "of the answer nothing is known";
}

TEST(Sessions, OfATraceAreCutToNumPromptsAndScaled) {
  const std::string text = line("a", 1000, call(9, 1, 5) + "," + call(20, 1, 0)) +
                           line("b", 9000, call(8, 2, 5) + "," + call(20, 1, 0));
  WorkloadConfig c;
  c.num_prompts = 3;
  c.rate_scale = 2;
  const auto w = of_trace(text, c);
  const Request a = w->pop(), b = w->pop();
  EXPECT_EQ(a.arrival, 500'000);
  EXPECT_EQ(b.arrival, 4'500'000);
  w->finished(b, 5'000'000);
  EXPECT_TRUE(w->take_ended_session()) << "its second call is cut";
  EXPECT_EQ(w->next_arrival(), std::nullopt);
  w->finished(a, 6'000'000);
  EXPECT_EQ(w->pop().input_len, 20);
  EXPECT_EQ(w->next_arrival(), std::nullopt);
  c = {};
  c.all_at_once = true;
  const auto at_once = of_trace(text, c);
  EXPECT_EQ(at_once->pop().arrival, 0);
  EXPECT_EQ(at_once->pop().arrival, 0);
}

TEST(Sessions, FilesThatAreWrong) {
  const std::string good = line("a", 5, call(9, 1, 0));
  const auto second = [&](const std::string& bad) { return error(good + bad); };
  EXPECT_THAT(second("{\"session_id\": \"b\", \"arrival_time_ns\": 7, \"sub_requests\": [{\"input_to"),
              HasSubstr("t.jsonl:2"));
  EXPECT_THAT(second("[1]\n"), HasSubstr("t.jsonl:2: the line is not a JSON object"));
  EXPECT_THAT(second(line("b", -7, call(9, 1, 0))), HasSubstr("t.jsonl:2: arrival_time_ns is negative"));
  EXPECT_THAT(second(line("b", 7, call(-9, 1, 0))), HasSubstr("t.jsonl:2:/sub_requests/0: input_toks is -9"));
  EXPECT_THAT(second(line("b", 7, call(9, 1, 0) + "," + call(12, 1, -3))),
              HasSubstr("t.jsonl:2:/sub_requests/1: tool_duration_ns is negative (-3)"));
  EXPECT_THAT(second(line("b", 7, "{\"input_toks\": 4}")),
              HasSubstr("t.jsonl:2:/sub_requests/0: output_toks is missing"));
  EXPECT_THAT(second(line("b", 7, "3")), HasSubstr("a call is not a JSON object"));
  EXPECT_THAT(second(line("b", 7, "")), HasSubstr("sub_requests is not a list of at least one call"));
  EXPECT_THAT(second(line("b", 7, "{\"input_toks\": 4, \"output_toks\": 1, \"priority\": 1}")),
              HasSubstr("\"priority\" is not a key of LLMServingSim traces"));
  EXPECT_THAT(second("{\"arrival_time_ns\": 7, \"sub_requests\": [" + call(9, 1, 0) + "]}\n"),
              HasSubstr("t.jsonl:2: session_id is missing"));
  EXPECT_THAT(second("{\"session_id\": \"b\", \"sub_requests\": [" + call(9, 1, 0) + "]}\n"),
              HasSubstr("t.jsonl:2: arrival_time_ns is missing"));
  EXPECT_THAT(
      second(line("b", 4, call(9, 1, 0))),
      AllOf(HasSubstr("t.jsonl:2: the session arrives 1 ns before the one above it; sort the file: cat"),
            HasSubstr("sort_by(.arrival_time_ns)")));
  WorkloadConfig closed;
  closed.max_concurrency = 1;
  EXPECT_EQ(error(good + line("b", 4, call(9, 1, 0)), closed), "") << "no recorded arrival counts there";
  EXPECT_THAT(second(line("a", 7, call(9, 1, 0))), HasSubstr("session_id \"a\" is taken by a session above"));
  EXPECT_THAT(second(line("b", 7, "{\"input_toks\": 2, \"output_toks\": 1, \"input_tok_ids\": [1]}")),
              HasSubstr("input_tok_ids does not hold input_toks token ids"));
  EXPECT_THAT(second(line("b", 7, "{\"input_toks\": 1, \"output_toks\": 1, \"output_tok_ids\": [0.5]}")),
              HasSubstr("output_tok_ids holds something that is not a token id"));
  WorkloadConfig many;
  many.num_prompts = 2;
  EXPECT_THAT(error(good, many), HasSubstr("/workload/num_prompts: 2, but t.jsonl has 1 requests"));
}

TEST(Sessions, ScenariosThatContradictThemselves) {
  const auto refused = [](auto change) {
    WorkloadConfig c = agent();
    change(c);
    return error_of([&] { make(c); });
  };
  EXPECT_THAT(refused([](WorkloadConfig& c) { c.agentic->calls.reset(); }),
              HasSubstr("s.json:/workload/agentic/calls: is missing"));
  EXPECT_THAT(refused([](WorkloadConfig& c) { c.agentic->tool_tokens.reset(); }),
              HasSubstr("s.json:/workload/agentic/tool_tokens: is missing"));
  EXPECT_THAT(refused([](WorkloadConfig& c) { c.max_concurrency = 3, c.arrival = "poisson"; }),
              HasSubstr("s.json:/workload/request_rate: sessions begin at a rate or in a closed loop"));
  EXPECT_THAT(refused([](WorkloadConfig& c) { c.shared_prefix = SharedPrefix{.multi_turn = true}; }),
              HasSubstr("s.json:/workload/shared_prefix/multi_turn"));
  EXPECT_THAT(refused([](WorkloadConfig& c) { c.agentic->calls = test::lognormal(9, 90); }),
              HasSubstr("s.json:/workload/agentic/calls: is not bounded"));
  EXPECT_THAT(refused([](WorkloadConfig& c) { c.trace = "x", c.input_len.reset(), c.output_len.reset(); }),
              HasSubstr("s.json:/workload/agentic: the trace brings its own"));
  EXPECT_THAT(refused([](WorkloadConfig& c) {
                c.agentic->tool_tokens = test::fixed(1e9);
                c.agentic->calls = test::fixed(5);
              }),
              HasSubstr("grows beyond 2,147,483,647 tokens by call"));
}

TEST(Sessions, AsManyAsTheStagesLetBegin) {
  WorkloadConfig c = agent();
  c.request_rate.reset();
  c.num_prompts.reset();
  c.stages = {{2, 3}};  // constant: at 0, 0.5, ..., 2.5
  const auto w = make(c);
  EXPECT_EQ(w->total_requests(), 18);
  c.num_prompts = 19;
  EXPECT_THAT(error_of([&] { make(c); }), HasSubstr("19 requests are 7 sessions, and the stages yield 6"));
}

}  // namespace
}  // namespace foretoken
