// Agents' sessions served: what the prefix cache keeps of the growth, and the times of sessions against those
// of their requests.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "toy.h"

namespace foretoken {
namespace {

LengthDistribution uniform(double low, double high) {
  LengthDistribution d;
  d.distribution = "uniform";
  d.min = low, d.max = high;
  return d;
}

WorkloadConfig agents(std::uint64_t seed) {
  WorkloadConfig c;
  c.input_len = uniform(5, 60);
  c.output_len = uniform(1, 20);
  c.agentic.emplace();
  c.agentic->calls = uniform(1, 6);
  c.agentic->tool_tokens = uniform(1, 30);
  c.agentic->tool_ms = uniform(1, 3);
  c.request_rate = 400;
  c.num_prompts = 120;
  c.seed = static_cast<std::int64_t>(seed);
  return c;
}

// With memory for all, a call finds whole blocks of the prompt before and of its answer but for the last
// token, which nobody has computed.
TEST(SessionsServed, HitsAreWhatTheGrowthSays) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto workload = make_workload(agents(seed), ".", "s.json:/workload");
    ServeOptions o = toy::options(20000, 4, 64, 32);
    o.ingress = 300, o.egress = 70;
    toy::ToyBackend backend(100'000'000, 3'000'000);
    const ServeResult r = serve(*workload, backend, o);
    ASSERT_EQ(r.metrics.completed, 120);
    std::map<std::int32_t, std::vector<RequestRecord>> sessions;
    for (const RequestRecord& x : r.records) sessions[x.session].push_back(x);
    ASSERT_EQ(r.metrics.sessions.completed, std::ssize(sessions));
    EXPECT_EQ(r.metrics.sessions.broken, 0);
    double e2el = 0, pauses = 0;
    std::int64_t hits = 0;
    for (auto& [number, calls] : sessions) {
      std::sort(calls.begin(), calls.end(),
                [](const RequestRecord& a, const RequestRecord& b) { return a.arrival < b.arrival; });
      EXPECT_EQ(calls.front().cached_tokens, 0);
      for (std::size_t i = 1; i < calls.size(); ++i) {
        const RequestRecord& before = calls[i - 1];
        EXPECT_EQ(calls[i].cached_tokens, (before.input_len + before.output_len - 1) / 4 * 4);
        hits += calls[i].cached_tokens;
        EXPECT_GE(calls[i].arrival, before.finish + 1'000'000'000) << "a tool takes at least a millisecond";
        pauses += static_cast<double>(calls[i].arrival - before.finish);
      }
      e2el += static_cast<double>(calls.back().finish - calls.front().arrival);
    }
    EXPECT_EQ(r.reused_tokens, hits);
    const auto n = static_cast<double>(sessions.size());
    EXPECT_NEAR(r.metrics.sessions.e2el.mean, e2el / n / 1e9, 1e-9);
    EXPECT_NEAR(r.metrics.sessions.pauses.mean, pauses / n / 1e9, 1e-9);
    EXPECT_DOUBLE_EQ(r.metrics.sessions.mean_calls, 120 / n);
  }
}

// By hand: prompts of 8 in one step of 1000 each, 2 tokens an answer, a tool of 1 ms: 0 to 2000 and then
// again.
TEST(SessionsServed, TimesByHand) {
  WorkloadConfig c;
  const auto fixed = [](double n) {
    LengthDistribution d;
    d.value = n;
    return d;
  };
  c.input_len = fixed(8), c.output_len = fixed(2);
  c.agentic.emplace();
  c.agentic->calls = fixed(2), c.agentic->tool_tokens = fixed(3), c.agentic->tool_ms = fixed(1);
  c.max_concurrency = 1;
  c.num_prompts = 4;
  const auto workload = make_workload(c, ".", "s.json:/workload");
  ServeOptions o = toy::options(50, 4, 64, 4);
  o.egress = 50;
  toy::BatchLog log;
  const ServeResult r = serve(*workload, log, o);
  // The second call's prompt of 13 finds 8 tokens of the first's 9 in the cache.
  EXPECT_THAT(log.batches, testing::ElementsAre("p0:8/0!", "d0@9", "p1:5/8!", "d1@14", "p2:8/0!", "d2@9",
                                                "p3:5/8!", "d3@14"));
  constexpr Picoseconds kTool = 1'000'000'000, kAnswer = 2050;
  EXPECT_THAT(log.starts, testing::ElementsAre(0, 1000, kAnswer + kTool, kAnswer + kTool + 1000,
                                               2 * kAnswer + kTool, 2 * kAnswer + kTool + 1000,
                                               3 * kAnswer + 2 * kTool, 3 * kAnswer + 2 * kTool + 1000));
  EXPECT_EQ(r.metrics.sessions.completed, 2);
  EXPECT_DOUBLE_EQ(r.metrics.sessions.e2el.mean, (2 * kAnswer + kTool) / 1e9);
  EXPECT_DOUBLE_EQ(r.metrics.sessions.pauses.max, 1);
}

// A session that is too long for the engine is broken, and not counted among the others.
TEST(SessionsServed, WhoWasRefusedIsLeftOut) {
  const auto workload = make_workload(agents(1), ".", "s.json:/workload");
  ServeOptions o = toy::options(20000, 4, 64, 32);
  o.engines.front().scheduler.max_model_len = 100;
  toy::ToyBackend backend(1'000'000, 30'000);
  const ServeResult r = serve(*workload, backend, o);
  EXPECT_GT(r.rejected, 0);
  EXPECT_GT(r.metrics.sessions.broken, 0);
  EXPECT_GT(r.metrics.sessions.completed, 0);
  EXPECT_LT(r.metrics.sessions.broken, r.rejected + 1);
}

}  // namespace
}  // namespace foretoken
