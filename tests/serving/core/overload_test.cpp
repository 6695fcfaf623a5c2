// Every policy where it is asked for more than it has: all requests at once, requests that can never fit, and
// requests of a single token.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "policies.h"
#include "toy.h"

namespace foretoken {
namespace {

ServeOptions engine_of(SchedulerPolicy policy) {
  ServeOptions o = toy::options(401, 4, 512, 32);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = policy;
  c.max_model_len = 400;
  c.enable_prefix_caching = false;
  if (toy::is_block_policy(policy)) toy::choose_block_policy(c, policy, CounterRandom(1, 1));
  o.keep_records = false;
  return o;
}

class Overload : public testing::TestWithParam<SchedulerPolicy> {};
INSTANTIATE_TEST_SUITE_P(Policies, Overload,
                         testing::Values(SchedulerPolicy::kVllmV1, SchedulerPolicy::kSglang,
                                         SchedulerPolicy::kTrtllm));
INSTANTIATE_TEST_SUITE_P(BlockPolicies, Overload, testing::ValuesIn(toy::kBlockPolicies), toy::name_of);

TEST_P(Overload, WhoeverArrivesAtOnceIsServed) {
  constexpr int kRequests = 20000;
  toy::ListWorkload w;
  for (int i = 0; i < kRequests; ++i) w.add(0, 5, 3);
  toy::ToyBackend backend(100, 1, 1);
  const ServeResult r = serve(w, backend, engine_of(GetParam()));
  EXPECT_FALSE(r.aborted) << r.abort_reason;
  EXPECT_EQ(r.metrics.completed, kRequests);
  EXPECT_EQ(r.metrics.total_output_tokens, 3 * kRequests);
  EXPECT_GT(r.metrics.mean_waiting, 0.3 * kRequests);  // half of them on average, less who runs
}

TEST_P(Overload, WhatCanNeverFitIsRefusedAndTheRestIsServed) {
  toy::ListWorkload w;
  w.add(0, 5, 3);
  w.add(0, 400, 3);      // a prompt as long as the longest sequence
  w.add(10, 100000, 3);  // and one larger than the whole pool
  w.add(20, 5, 3);
  toy::ToyBackend backend(100, 1, 1);
  const ServeResult r = serve(w, backend, engine_of(GetParam()));
  EXPECT_EQ(r.metrics.completed, 2);
  EXPECT_EQ(r.rejected, 2);
  EXPECT_THAT(r.rejected_reason, testing::HasSubstr("max_model_len is 400"));
}

TEST_P(Overload, ASingleTokenIsThePromptsOwn) {
  toy::ListWorkload w;
  for (int i = 0; i < 40; ++i) w.add(i * 7, 5, 1);
  toy::ToyBackend backend(100, 1, 1);
  ServeOptions o = engine_of(GetParam());
  o.keep_records = true;
  const ServeResult r = serve(w, backend, o);
  ASSERT_EQ(r.records.size(), 40u);
  for (const RequestRecord& q : r.records) EXPECT_EQ(q.first_token, q.finish);
  EXPECT_EQ(r.metrics.tpot.count, 0);
  EXPECT_EQ(r.metrics.itl.count, 0);
}

TEST(Overload, AMillionAtOnce) {
  toy::ListWorkload w;
  for (int i = 0; i < 1'000'000; ++i) w.add(0, 5, 2);
  toy::ToyBackend backend(100, 1, 1);
  const ServeResult r = serve(w, backend, engine_of(SchedulerPolicy::kVllmV1));
  EXPECT_EQ(r.metrics.completed, 1'000'000);
}

// What the planner relies on: it need not see an overload out.
TEST_P(Overload, ItsEndNeedNotBeSeen) {
  toy::ListWorkload w;
  for (int i = 0; i < 20000; ++i) w.add(i, 50, 20);
  toy::ToyBackend backend(100, 1, 1);
  ServeOptions o = engine_of(GetParam());
  o.abort_backlog = 500;
  const ServeResult r = serve(w, backend, o);
  EXPECT_TRUE(r.aborted);
  EXPECT_THAT(r.abort_reason, testing::HasSubstr("overloaded: 501 requests waiting"));
}

}  // namespace
}  // namespace foretoken
