// Request priorities of vLLM V1 and V0, against schedules worked by hand and a search over who waits. Every
// step takes 1000 ps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "base/error.h"
#include "seeds.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ListWorkload;
using toy::run;

ServeOptions by_priority(std::int64_t blocks, std::int64_t max_num_seqs,
                         SchedulerPolicy policy = SchedulerPolicy::kVllmV1) {
  ServeOptions o = toy::options(blocks, 4, 8192, max_num_seqs);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = policy;
  c.max_model_len = 1024;
  c.enable_prefix_caching = false;
  c.enable_chunked_prefill = policy != SchedulerPolicy::kVllmV0;
  c.by_priority = true;
  return o;
}
void add(ListWorkload& w, Picoseconds arrival, std::int32_t input, std::int32_t output,
         std::int32_t priority) {
  w.add(arrival, input, output);
  w.prioritize(priority);
}

TEST(Priority, LowerValuesAreAdmittedFirstAndNobodyIsInterrupted) {
  ListWorkload w;
  add(w, 0, 4, 2, 5);
  add(w, 100, 3, 1, 1);
  add(w, 200, 3, 1, 0);
  add(w, 300, 3, 1, 1);
  add(w, 400, 3, 1, -2);
  ServeOptions o = by_priority(100, 1);
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0!", "d0@5", "p4:3/0!", "p2:3/0!", "p1:3/0!", "p3:3/0!"));
  o.engines[0].scheduler.by_priority = false;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0!", "d0@5", "p1:3/0!", "p2:3/0!", "p3:3/0!", "p4:3/0!"));
}

// Three blocks of four. Request 1's fifth token finds none: request 0 comes after it by priority and gives
// its two up, though its own token of the step was planned already.
TEST(Priority, TheLastByPriorityGivesItsBlocksUp) {
  ListWorkload w;
  add(w, 0, 4, 6, 5);
  add(w, 500, 4, 6, 0);
  ServeOptions o = by_priority(4, 16);
  const toy::Served r = run(w, o);
  EXPECT_THAT(r.batches, ElementsAre("p0:4/0!", "p1:4/0! d0@5", "d1@5", "d1@6", "d1@7", "d1@8", "d1@9",
                                     "p0:6/0!", "d0@7", "d0@8", "d0@9"));
  EXPECT_EQ(r.result.discarded_tokens, 5);
  o.engines[0].scheduler.by_priority = false;
  EXPECT_THAT(run(w, o).batches[2], "d0@6") << "first come first served, the later one gives way";
}

// A budget of 5 tokens: what the preempted request was to compute is left to who comes behind it.
TEST(Priority, TheTokensOfWhoGaveWayGoBackToTheBudget) {
  ListWorkload w;
  add(w, 0, 4, 8, 9);
  add(w, 0, 4, 8, 0);
  add(w, 0, 4, 8, 0);
  ServeOptions o = by_priority(6, 16);  // five blocks
  o.engines[0].scheduler.max_num_batched_tokens = 12;
  const toy::Served r = run(w, o);
  EXPECT_THAT(r.batches[0], "p1:4/0! p2:4/0! p0:4/0!");
  EXPECT_THAT(r.batches[1], "d1@5 d2@5") << "two blocks are left for three; request 0 wants the third";
  EXPECT_EQ(r.result.records[0].preemptions, 1);
}

TEST(Priority, V0PreemptsWhoComesLaterByPriorityForWhoWaits) {
  ListWorkload w;
  add(w, 0, 4, 4, 5);
  add(w, 500, 3, 1, 0);
  ServeOptions o = by_priority(100, 1, SchedulerPolicy::kVllmV0);
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0!", "p1:3/0!", "p0:5/0!", "d0@6", "d0@7"));
  o.engines[0].scheduler.by_priority = false;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0!", "d0@5", "d0@6", "d0@7", "p1:3/0!"));
}

// Its queue is put in order only when a step has no prompt: who came first goes first until then.
TEST(Priority, V0OrdersItsQueueInDecodeSteps) {
  ListWorkload w;
  add(w, 0, 4, 3, 0);
  add(w, 500, 3, 1, 9);
  add(w, 600, 3, 1, 1);
  EXPECT_THAT(run(w, by_priority(100, 2, SchedulerPolicy::kVllmV0)).batches,
              ElementsAre("p0:4/0!", "p1:3/0!", "p2:3/0!", "d0@5", "d0@6"));
  ListWorkload later;
  add(later, 0, 4, 4, 0);
  add(later, 0, 4, 4, 0);
  add(later, 500, 3, 1, 9);
  add(later, 600, 3, 1, 1);
  EXPECT_THAT(run(later, by_priority(100, 2, SchedulerPolicy::kVllmV0)).batches,
              ElementsAre("p0:4/0! p1:4/0!", "d0@5 d1@5", "d0@6 d1@6", "d0@7 d1@7", "p3:3/0! p2:3/0!"));
}

// One request at a time: whoever starts is the best of those that wait, found by looking at all of them.
TEST(Priority, WhoStartsIsTheBestOfThoseThatWait) {
  std::int64_t overtaken = 0;
  for (std::uint64_t seed = 0; seed < toy::seeds(1000); ++seed) {
    CounterRandom random(seed, 50);
    ListWorkload w;
    Picoseconds clock = 0;
    for (int i = 0; i < 30; ++i) {
      clock += random.uniform_int(0, 5000);
      w.add(clock, static_cast<std::int32_t>(random.uniform_int(1, 30)),
            static_cast<std::int32_t>(random.uniform_int(1, 8)));
    }
    w.draw_priorities(CounterRandom(seed, 51), 3);
    toy::ToyBackend backend(1000, 30, 20);
    const ServeResult r = serve(w, backend, by_priority(40, 1));
    ASSERT_EQ(r.metrics.completed, 30);
    std::vector<RequestRecord> order = r.records;
    std::sort(order.begin(), order.end(),
              [](const auto& a, const auto& b) { return a.scheduled < b.scheduled; });
    for (std::size_t i = 0; i < order.size(); ++i) {
      for (std::size_t j = i + 1; j < order.size(); ++j) {
        if (order[j].queued > order[i].scheduled) continue;
        const auto key = [](const RequestRecord& x) { return std::tuple(x.priority, x.queued, x.id); };
        ASSERT_LT(key(order[i]), key(order[j])) << "seed " << seed;
        overtaken += order[j].id < order[i].id;
      }
    }
  }
  EXPECT_GT(overtaken, 1000);
}

// Small pools, all policies that know priorities: everybody ends once and tokens are conserved.
TEST(Priority, SmallPoolsServeEveryoneAndConserveTokens) {
  std::int64_t preemptions = 0;
  for (std::uint64_t seed = 0; seed < toy::seeds(1500); ++seed) {
    CounterRandom random(seed, 52);
    const SchedulerPolicy policies[] = {SchedulerPolicy::kVllmV1, SchedulerPolicy::kVllmV0,
                                        SchedulerPolicy::kSglang};
    const SchedulerPolicy policy = policies[seed % 3];
    ListWorkload w;
    Picoseconds clock = 0;
    const std::int64_t requests = random.uniform_int(1, 50);
    for (std::int64_t i = 0; i < requests; ++i) {
      clock += random.uniform_int(0, 3000);
      w.add(clock, static_cast<std::int32_t>(random.uniform_int(1, 40)),
            static_cast<std::int32_t>(random.uniform_int(1, 30)));
    }
    w.draw_priorities(CounterRandom(seed, 53), 2);
    ServeOptions o = by_priority(random.uniform_int(22, 45), random.uniform_int(1, 12), policy);
    SchedulerConfig& c = o.engines[0].scheduler;
    c.max_model_len = 72;
    c.by_priority = policy != SchedulerPolicy::kSglang;
    if (policy == SchedulerPolicy::kVllmV1) {
      c.max_num_batched_tokens = random.uniform_int(2, 60);
      c.enable_prefix_caching = random.uniform() < 0.5;
      c.pipeline_depth = static_cast<int>(random.uniform_int(1, 3));
    } else if (policy == SchedulerPolicy::kSglang) {
      c.enable_prefix_caching = random.uniform() < 0.5;
      c.sglang.overlap = random.uniform() < 0.5;
      c.sglang.chunked_prefill_size = c.block_size * random.uniform_int(1, 10);
      c.sglang.enable_priority_scheduling = true;
      c.sglang.priority_scheduling_preemption_threshold = random.uniform_int(0, 1);
      c.sglang.schedule_low_priority_values_first = random.uniform() < 0.5;
      c.sglang.schedule_conservativeness = 0.3;
    }
    toy::ToyBackend backend(random.uniform_int(100, 2000), 30, 20, {1});
    backend.pipeline(1.0 / c.pipeline_depth);
    const ServeResult r = serve(w, backend, o);
    ASSERT_FALSE(r.aborted) << seed << " " << r.abort_reason;
    ASSERT_EQ(r.metrics.completed + r.rejected, requests) << seed;
    std::int64_t needed = 0;
    std::set<RequestId> ids;
    for (const RequestRecord& x : r.records) {
      ASSERT_TRUE(ids.insert(x.id).second);
      needed += x.input_len + x.output_len - 1;
    }
    ASSERT_EQ(r.scheduled_tokens + r.reused_tokens - r.discarded_tokens, needed) << seed;
    preemptions += r.metrics.preemptions;
  }
  EXPECT_GT(preemptions, 2000);
}

TEST(Priority, MetricsOfEachClassAreThoseOfItsRequests) {
  ListWorkload w;
  for (int i = 0; i < 40; ++i) add(w, i * 700, 4, 1 + i % 3, i % 4 == 0 ? -1 : 7);
  const ServeResult r = run(w, by_priority(100, 2)).result;
  ASSERT_EQ(r.metrics.priority_classes.size(), 2u);
  for (const ServingMetrics::PriorityClass& c : r.metrics.priority_classes) {
    double ttft = 0, queue = 0;
    std::int64_t count = 0, spoken = 0;
    for (const RequestRecord& x : r.records) {
      if (x.priority != c.priority) continue;
      ttft += to_ms(x.first_token - x.arrival);
      queue += to_ms(x.scheduled - x.queued);
      spoken += x.output_len > 1;
      ++count;
    }
    EXPECT_EQ(c.ttft.count, count);
    EXPECT_EQ(c.e2el.count, count);
    EXPECT_EQ(c.tpot.count, spoken);
    EXPECT_NEAR(c.ttft.mean, ttft / static_cast<double>(count), 1e-12);
    EXPECT_NEAR(c.mean_queue, queue / static_cast<double>(count), 1e-12);
  }
  EXPECT_LT(r.metrics.priority_classes[0].ttft.mean, r.metrics.priority_classes[1].ttft.mean);
  ListWorkload alike;
  for (int i = 0; i < 5; ++i) add(alike, 0, 4, 2, 3);
  EXPECT_TRUE(run(alike, by_priority(100, 2)).result.metrics.priority_classes.empty());
}

TEST(Priority, RefusedByNameWhereItIsNotModelled) {
  ListWorkload w;
  add(w, 0, 4, 2, 0);
  const auto refused = [&](auto change) {
    ServeOptions o = by_priority(100, 4);
    change(o.engines[0].scheduler);
    try {
      run(w, o);
    } catch (const Error& e) {
      return e.where() == "scheduling_policy";
    }
    return false;
  };
  EXPECT_TRUE(refused([](SchedulerConfig& c) { c.num_host_blocks = 4; }));
  EXPECT_TRUE(refused([](SchedulerConfig& c) { c.beam_width = 2; }));
  EXPECT_TRUE(refused([](SchedulerConfig& c) { c.policy = SchedulerPolicy::kSglang; }));
  EXPECT_TRUE(refused([](SchedulerConfig& c) { c.policy = SchedulerPolicy::kOrca; }));
  EXPECT_FALSE(refused([](SchedulerConfig&) {}));
}

}  // namespace
}  // namespace foretoken
