// LoongServe's iterations (docs/policies.md) against schedules worked out by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "group_log.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using toy::elastic;
using toy::GroupLog;
using toy::knobs;
using toy::ListWorkload;

std::vector<std::string> steps(ListWorkload w, const ServeOptions& o) {
  GroupLog backend;
  serve(w, backend, o);
  return backend.steps;
}

// Both instances compute the prompt, 20 tokens each; its cache stays on one, where it decodes.
TEST(Elastic, ScalesDownWhilePrefilling) {
  ListWorkload w;
  w.add(0, 40, 3);
  EXPECT_THAT(steps(w, elastic(2, 100)), ElementsAre("0 p0@0,1", "2000 0:1/41", "3000 0:1/42"));
}

// 40 and 4 tokens: together on both instances (10 + 22) x (1/40 + 1/4) = 8.8, apart (10 + 40) / 40 +
// (10 + 4) / 4 = 4.75. The short one decodes until the long one's prefill has ended, at 4000; its step goes
// on to 4400, then both decode step by step.
TEST(Elastic, BatchesByLengthAndDecodesBesideAPrefill) {
  ListWorkload w;
  w.add(0, 4, 7);
  w.add(0, 40, 3);
  EXPECT_THAT(steps(w, elastic(2, 100)),
              ElementsAre("0 p0@1", "0 p1@0", "400 1:1/5", "1400 1:1/6", "2400 1:1/7", "3400 1:1/8",
                          "4400 1:1/9 | 0:1/41", "5400 1:1/10 | 0:1/42"));
}

// Two instances gain so much that prompts share them: (10 + 0.3 x 30) x (1/20 + 1/10) is less than
// (10 + 20) / 20 + (10 + 10) / 10. Their cache of 30 tokens does not fit one instance: of the second 5 tokens
// lie on the other. Instance 0 is full, so 1 is the only master.
TEST(Elastic, KeepsACacheOfTokensOnSeveralInstances) {
  ListWorkload w;
  w.add(0, 20, 2);
  w.add(0, 10, 2);
  ServeOptions o = elastic(2, 25);
  knobs(o).prefill_model = {{10, 1, 0}, {10, 0.3, 0}};
  EXPECT_THAT(steps(w, o), ElementsAre("0 p0 p1@0,1", "1500 1:2/7 0:0/25"));
}

// After two tokens the instance is full: an idle one joins as the master.
TEST(Elastic, ScalesUpForMemory) {
  ListWorkload w;
  w.add(0, 8, 5);
  EXPECT_THAT(steps(w, elastic(2, 10)),
              ElementsAre("0 p0@0,1", "400 0:1/9", "1400 0:1/10", "2400 1:1/1 0:0/10", "3400 1:1/2 0:0/10"));
}

// Where they may not, it is computed again, over both instances, for each further token.
TEST(Elastic, DisabledScaleUpComputesAgain) {
  ListWorkload w;
  w.add(0, 8, 5);
  ServeOptions o = elastic(2, 10);
  knobs(o).disable_scale_up = true;
  EXPECT_THAT(steps(w, o), ElementsAre("0 p0@0,1", "400 0:1/9", "1400 0:1/10", "2400 p0@0,1", "3000 p0@0,1"));
}

// One sequence is enough for a master, so idle instances join until each has one.
TEST(Elastic, ScalesUpForComputation) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 4, 3);
  ServeOptions o = elastic(3, 100);
  knobs(o).prefill_model = {{10, 1, 0}, {10, 0.3, 0}, {10, 0.1, 0}};
  knobs(o).min_comp_bound_decoding_batch_size = 1;
  EXPECT_THAT(steps(w, o),
              ElementsAre("0 p0 p1 p2@0,1,2", "600 0:1/13 2:1/1 1:1/1", "1600 0:1/14 2:1/2 1:1/2"));
}

// With one instance a prompt preempts who decodes there, after max_wait_tokens steps; then they go on
// together, in the order of prefill and preempted. The arrival at 1500 is seen after the second step.
TEST(Elastic, PromptsPreemptDecodes) {
  ListWorkload w;
  w.add(0, 10, 6);
  w.add(1500, 10, 2);
  ServeOptions o = elastic(1, 100);
  knobs(o).max_wait_tokens = 2;
  EXPECT_THAT(steps(w, o), ElementsAre("0 p0@0", "1000 0:1/11", "2000 0:1/12", "3000 p1@0", "4000 0:2/24",
                                       "5000 0:1/14", "6000 0:1/15"));
}

// A decode goes on beside the prefill of another: halving 10 tokens' time gains (20 - 15) / 10 a token, while
// stopping one sequence with one token out costs 15.
TEST(Elastic, DecodesGoOnWhereStoppingThemCostsMore) {
  ListWorkload w;
  w.add(0, 10, 5);
  w.add(100, 10, 2);
  ServeOptions o = elastic(2, 100);
  knobs(o).max_wait_tokens = 0;
  EXPECT_THAT(steps(w, o), ElementsAre("0 p0@0,1", "500 0:1/11", "500 p1@1", "1500 0:1/12 | 1:1/11",
                                       "2500 0:1/13", "3500 0:1/14"));
}

// Two decodes on an instance each, 11 tokens on both at 2900: moving one to the other frees an instance, on
// which the prompt gains 46 - 34.5 ms. It starts when they have moved; the decodes go on as one group.
TEST(Elastic, MovesDecodesTogetherWhereThePromptGains) {
  ListWorkload w;
  w.add(0, 10, 30);
  w.add(0, 9, 30);
  w.add(1000, 45, 1);
  ServeOptions o = elastic(3, 50);
  knobs(o).prefill_model = {{1, 1, 0}, {30, 0.1, 0}, {40, 0.05, 0}};
  knobs(o).max_wait_tokens = 1;
  knobs(o).move_per_token = 100;
  const auto s = steps(w, o);
  EXPECT_THAT(std::vector(s.begin(), s.begin() + 8),
              ElementsAre("0 p1@1", "0 p0@0", "900 1:1/10", "1900 1:1/11 | 0:1/11", "4000 1:2/24",
                          "4000 p2@0,2", "5000 1:2/26", "6000 1:2/28"));
}

// Static sequence parallelism: everybody on all instances, each token's cache where it was computed, one
// master, the emptiest.
TEST(Elastic, FixedSequenceParallelism) {
  ListWorkload w;
  w.add(0, 5, 4);
  ServeOptions o = elastic(2, 100);
  knobs(o).use_fixed_sp = true;
  EXPECT_THAT(steps(w, o),
              ElementsAre("0 p0@0,1", "300 1:1/3 0:0/3", "1300 1:1/4 0:0/3", "2300 0:1/4 1:0/4"));
}

TEST(Elastic, RefusesWhatItCantServe) {
  ListWorkload w;
  w.add(0, 150, 100);
  w.add(0, 150, 10);
  w.add(0, 300, 1);
  GroupLog backend;
  ServeOptions o = elastic(2, 100);
  o.engines[0].scheduler.max_model_len = 300;
  const ServeResult r = serve(w, backend, o);
  EXPECT_EQ(r.rejected, 2);
  EXPECT_THAT(r.rejected_reason, HasSubstr("longer than what 2 instances of 100 tokens hold"));
  EXPECT_EQ(r.metrics.completed, 1);

  const auto error = [&](auto change) -> std::string {
    ServeOptions wrong = elastic(2, 100);
    change(wrong);
    try {
      serve(w, backend, wrong);
    } catch (const Error& e) {
      return e.where() + ": " + e.message();
    }
    return "";
  };
  EXPECT_THAT(error([](ServeOptions& x) { knobs(x).prefill_model.clear(); }), HasSubstr("which are missing"));
  EXPECT_THAT(error([](ServeOptions& x) { x.router.kind = RouterKind::kRandom; }), HasSubstr("one queue"));
  EXPECT_THAT(error([](ServeOptions& x) { x.autoscale.on = true; }), HasSubstr("autoscale"));
  EXPECT_THAT(error([](ServeOptions& x) { x.engines.push_back(x.engines[0]); }), HasSubstr("all alike"));
  EXPECT_THAT(error([](ServeOptions& x) { x.engines[0].scheduler.enable_prefix_caching = true; }),
              HasSubstr("turn it off"));
}

// What a backend that executes is told: of each batch's rows all cached tokens and where they lie.
TEST(Elastic, ListsWhereCachedTokensLie) {
  struct Lists : toy::BatchLog {
    StepTime run(const Step& step) override {
      for (const Batch& b : step.ranks) {
        std::int64_t here = 0;
        for (const CachedPart& p : b.held) here += p.instance == b.instance ? p.tokens : 0;
        if (b.prefill.empty()) {
          EXPECT_EQ(here, b.contexts[0]);
        }
        EXPECT_EQ(std::ssize(b.decode), b.decode_sequences);
        for (const DecodePart& d : b.decode) {
          std::int64_t all = 0;
          for (const CachedPart& p : b.held) all += p.request == d.request ? p.tokens : 0;
          EXPECT_EQ(all, d.context);
          EXPECT_EQ((*b.sequences)[d.slot].request.id, d.request);
          spread |= all != here;
        }
      }
      return {1000, 1000};
    }
    bool spread = false;
  };
  ListWorkload w;
  for (int i = 0; i < 12; ++i) w.add(i * 700, 5 + 3 * i, 9);
  Lists lists;
  ServeOptions o = elastic(3, 30);
  o.use_spans = false;
  EXPECT_EQ(serve(w, lists, o).metrics.completed, 12);
  EXPECT_TRUE(lists.spread);
}

}  // namespace
}  // namespace foretoken
