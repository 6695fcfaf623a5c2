// Speculative decoding in the serving loop: what a step takes, what it yields, and that nothing is lost when
// drafted tokens are rolled back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::BatchLog;
using toy::ListWorkload;
using toy::PoissonWorkload;
using toy::SpeculatingBackend;
using toy::ToyBackend;

ServeOptions speculating(int drafts, std::int64_t num_blocks = 200, std::int64_t budget = 64, int block = 4,
                         std::int64_t max_num_seqs = 16) {
  ServeOptions o = toy::options(num_blocks, block, budget, max_num_seqs);
  o.engines[0].scheduler.draft_tokens = o.engines[0].scheduler.lookahead = drafts;
  return o;
}

struct Logged {
  std::vector<std::string> batches;
  ServeResult result;
};
Logged log(ListWorkload workload, const ServeOptions& options, int drafts, int accepted) {
  BatchLog backend;
  backend.drafts = drafts;
  backend.accepted = accepted;
  Logged l;
  l.result = serve(workload, backend, options);
  l.batches = backend.batches;
  return l;
}

TEST(Speculation, AStepTakesTheDraftsAndYieldsOneMoreThanItAccepts) {
  ListWorkload w;
  w.add(0, 5, 8);
  // 3 drafts, 2 accepted: the prompt yields a token, then three a step; the last step's surplus is dropped.
  const Logged l = log(w, speculating(3), 3, 2);
  EXPECT_THAT(l.batches, ElementsAre("p0:5/0!", "d0@9+3", "d0@12+3", "d0@15+3"));
  EXPECT_EQ(l.result.records[0].output_len, 8);
  const SpeculationCounts& s = l.result.metrics.speculation;
  EXPECT_EQ(s.verifications, 3);
  EXPECT_EQ(s.drafted, 9);
  EXPECT_EQ(s.accepted, 6);
  EXPECT_DOUBLE_EQ(s.tokens_per_step(), 3);
  EXPECT_THAT(s.rates(), ElementsAre(1, 1));
  // 5 + 3 x 4 were computed; the last of 13 tokens need not be.
  EXPECT_EQ(l.result.scheduled_tokens, 17);
  EXPECT_EQ(l.result.unaccepted_tokens, 17 - 12);
  EXPECT_EQ(l.result.metrics.itl.count, 3) << "a gap for each step that brought tokens, as a client sees it";
}

TEST(Speculation, TheTokenBudgetCountsDraftsAndCutsThem) {
  ListWorkload w;
  w.add(0, 2, 4);
  w.add(0, 2, 4);
  EXPECT_THAT(log(w, speculating(3, 200, 6), 3, 0).batches,
              ElementsAre("p0:2/0! p1:2/0!", "d0@6+3 d1@4+1", "d0@7+3 d1@5+1", "d0@8+3 d1@6+1"));
}

TEST(Speculation, ASequenceNeverOutgrowsMaxModelLen) {
  ListWorkload w;
  w.add(0, 4, 100);
  ServeOptions o = speculating(3);
  o.engines[0].scheduler.max_model_len = 10;
  const Logged l = log(w, o, 3, 3);
  EXPECT_THAT(l.batches, ElementsAre("p0:4/0!", "d0@8+3", "d0@9"));
  EXPECT_EQ(l.result.records[0].output_len, 6);
}

TEST(Speculation, SlotsAreTakenForTheDraftsAndForTheDraftModel) {
  ListWorkload w;
  w.add(0, 4, 5);
  // 4 tokens and 3 of the draft model: 2 blocks; then 4 + 4 + 3: 3 blocks, up to the end.
  const Logged l = log(w, speculating(3, 5), 3, 0);
  EXPECT_DOUBLE_EQ(l.result.metrics.peak_kv_usage, 1.0);
  EXPECT_EQ(l.result.rejected, 0);
  EXPECT_EQ(log(w, speculating(3, 4), 3, 0).result.rejected, 1) << "one block less is too few for 8 + 6";
  ServeOptions without = speculating(3, 4);
  without.engines[0].scheduler.lookahead = 0;
  EXPECT_EQ(log(w, without, 3, 0).result.rejected, 0) << "nothing but the drafts themselves needs slots";
}

// Leviathan et al. 2023, eq. 1.
TEST(Speculation, YieldsTheExpectedNumberOfTokens) {
  for (const double a : {0.0, 0.3, 0.8, 1.0}) {
    PoissonWorkload w(400, 1000, 10, 400, 5);
    SpeculatingBackend backend(ToyBackend(1000), 4, a);
    const ServeResult r = serve(w, backend, speculating(4, 100'000, 8192, 16, 256));
    const double expected = a == 1 ? 5 : (1 - std::pow(a, 5)) / (1 - a);
    EXPECT_NEAR(r.metrics.speculation.tokens_per_step() / expected, 1, 0.01) << a;
    const auto rates = r.metrics.speculation.rates();
    for (std::size_t i = 0; i < rates.size(); ++i)
      EXPECT_NEAR(rates[i], std::pow(a, static_cast<double>(i + 1)), 0.01) << a;
  }
}

TEST(Speculation, AcceptingNothingIsPlainDecoding) {
  const auto serve_with = [](int drafts, ServeOptions o) {
    PoissonWorkload w(300, 2e8, 30, 20, 9, true);
    SpeculatingBackend backend(ToyBackend(5000), drafts, 0.0);
    return serve(w, backend, o);
  };
  const ServeResult plain = serve_with(0, toy::options(4000, 4, 2000, 64)),
                    drafting = serve_with(3, speculating(3, 4000, 2000, 4, 64));
  ASSERT_EQ(plain.records.size(), drafting.records.size());
  for (std::size_t i = 0; i < plain.records.size(); ++i) {
    EXPECT_EQ(plain.records[i].first_token, drafting.records[i].first_token);
    EXPECT_EQ(plain.records[i].finish, drafting.records[i].finish);
  }
  EXPECT_EQ(plain.metrics.num_steps, drafting.metrics.num_steps);
  EXPECT_EQ(plain.metrics.speculation.verifications, 0);
}

TEST(Speculation, MoreAcceptanceIsNeverSlower) {
  std::vector<Picoseconds> last;
  for (const double a : {0.0, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0}) {
    ListWorkload w;
    for (int i = 0; i < 40; ++i) w.add(0, 5 + i, 30 + i);
    SpeculatingBackend backend(ToyBackend(1000, 10, 5), 3, a);
    const ServeResult r = serve(w, backend, speculating(3, 100'000, 8192, 4, 64));
    for (std::size_t i = 0; i < r.records.size(); ++i) {
      if (last.size() <= i) last.push_back(r.records[i].finish);
      EXPECT_LE(r.records[i].finish, last[i]) << a;
      last[i] = r.records[i].finish;
    }
  }
}

// A request that fills the memory exactly fits, whatever it may draft beyond its end.
TEST(Speculation, WhatFitsPlainlyFitsWithDrafts) {
  for (const SchedulerPolicy policy : {SchedulerPolicy::kVllmV1, SchedulerPolicy::kTrtllm}) {
    ServeOptions o = speculating(4, 9, 32, 16, 64);
    SchedulerConfig& c = o.engines[0].scheduler;
    c.policy = policy, c.block_size = 4, c.max_model_len = 32, c.lookahead = 4;
    ListWorkload w;
    w.add(0, 20, 12);
    SpeculatingBackend backend(ToyBackend(1000), 4, 0.5);
    const ServeResult r = serve(w, backend, o);
    EXPECT_EQ(r.rejected, 0) << static_cast<int>(policy) << " " << r.rejected_reason;
    EXPECT_EQ(r.metrics.completed, 1);
  }
}

ServeOptions vllm_v0(int drafts, std::int64_t usable_blocks = 199) {
  ServeOptions o = speculating(drafts, usable_blocks + 1, 100);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = SchedulerPolicy::kVllmV0;
  c.enable_chunked_prefill = c.enable_prefix_caching = false;
  c.max_model_len = 100;
  c.lookahead = 0;
  return o;
}

// Prompts go by themselves, and nobody speculates beside them.
TEST(SpeculationOfVllmV0, DecodesAlone) {
  ListWorkload w;
  w.add(0, 5, 8);
  w.add(500, 4, 3);
  EXPECT_THAT(log(w, vllm_v0(3), 3, 2).batches,
              ElementsAre("p0:5/0!", "p1:4/0!", "d0@9+3 d1@8+3", "d0@12+3", "d0@15+3"));
}

// In chunks who decodes speculates beside prompts; of the step's 6 tokens it takes one.
TEST(SpeculationOfVllmV0, BesideChunks) {
  ServeOptions o = vllm_v0(3);
  o.engines[0].scheduler.enable_chunked_prefill = true;
  o.engines[0].scheduler.max_num_batched_tokens = 6;
  o.engines[0].scheduler.max_num_seqs = 4;
  ListWorkload w;
  w.add(0, 5, 4);
  w.add(500, 7, 1);
  EXPECT_THAT(log(w, o, 3, 0).batches, ElementsAre("p0:5/0!", "p1:5/0 d0@9+3", "p1:2/5! d0@10+3", "d0@11+3"));
}

// 7 + 3 is not below 10: all are drafted or none.
TEST(SpeculationOfVllmV0, NothingIsDraftedNearMaxModelLen) {
  ListWorkload w;
  w.add(0, 4, 100);
  ServeOptions o = vllm_v0(3);
  o.engines[0].scheduler.max_model_len = 10;
  EXPECT_THAT(log(w, o, 3, 1).batches, ElementsAre("p0:4/0!", "d0@8+3", "d0@7", "d0@8", "d0@9"));
}

TEST(SpeculationOfVllmV0, IsOffWhileTooManyRun) {
  ListWorkload w;
  w.add(0, 4, 4);
  w.add(0, 4, 2);
  ServeOptions o = vllm_v0(3);
  o.engines[0].scheduler.disable_by_batch_size = 2;
  EXPECT_THAT(log(w, o, 3, 0).batches, ElementsAre("p0:4/0! p1:4/0!", "d0@5 d1@5", "d0@9+3", "d0@10+3"));
}

// The second decode's tokens 5 to 9 lie in blocks 1 and 2, which the request has; two must be free all the
// same.
TEST(SpeculationOfVllmV0, WantsFreeBlocksForAllThatItTouches) {
  ListWorkload w;
  w.add(0, 4, 3);
  EXPECT_THAT(log(w, vllm_v0(4, 5), 4, 0).batches, ElementsAre("p0:4/0!", "d0@9+4", "d0@10+4"));
  EXPECT_THAT(log(w, vllm_v0(4, 4), 4, 0).batches, ElementsAre("p0:4/0!", "d0@9+4", "p0:6/0!"));
}

// Small pools and budgets, so that preemption, eviction and cut drafts are common.
struct Random {
  ListWorkload workload;
  ServeOptions options;
  SpeculatingBackend backend{ToyBackend(0), 0, 0};
};
Random random_scenario(std::uint64_t seed, SchedulerPolicy policy) {
  CounterRandom random(seed, 21);
  const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
  const auto chance = [&](double p) { return random.uniform() < p; };
  Random s;
  SchedulerConfig c;
  c.draft_tokens = static_cast<int>(pick(1, 6));
  c.lookahead = chance(0.7) ? c.draft_tokens : 0;
  c.block_size = static_cast<int>(pick(1, 6));
  c.max_model_len = pick(30, 150);
  c.num_blocks = 1 + (c.max_model_len + c.block_size - 1) / c.block_size + pick(0, 60) / c.block_size;
  c.max_num_seqs = pick(1, 30);
  c.max_num_batched_tokens = c.draft_tokens + (chance(0.3) ? pick(1, 10) : pick(20, 100));
  c.enable_prefix_caching = chance(0.8);
  c.reserve_full_prompt = chance(0.5);
  c.long_prefill_token_threshold = chance(0.2) ? pick(1, 10) : 0;
  c.schedules_ahead = policy == SchedulerPolicy::kVllmV1 && chance(0.3);
  c.policy = policy;
  if (policy == SchedulerPolicy::kSglang) {
    c.num_blocks += (c.draft_tokens + c.lookahead) / c.block_size + 2;
    c.sglang.overlap = false;
    c.sglang.chunked_prefill_size = chance(0.3) ? -1 : c.block_size * pick(1, 20);
    c.sglang.max_prefill_tokens = chance(0.3) ? pick(1, 50) : 16384;
    c.sglang.schedule_policy = chance(0.5) ? SglangConfig::Order::kLpm : SglangConfig::Order::kFcfs;
    c.sglang.schedule_conservativeness = chance(0.3) ? 0.1 : 1;
    c.sglang.scheduler_recv_interval = chance(0.2) ? 5 : 1;
  } else if (policy == SchedulerPolicy::kVllmV0) {
    c.lookahead = 0;
    c.disable_by_batch_size = chance(0.3) ? pick(2, 10) : 0;
    c.enable_chunked_prefill = chance(0.4);
    c.watermark = chance(0.3) ? 0.05 : 0;
    c.by_priority = !c.enable_chunked_prefill && chance(0.2);
    c.max_num_batched_tokens = c.enable_chunked_prefill ? c.max_num_batched_tokens + c.max_num_seqs
                                                        : std::max(c.max_num_batched_tokens, c.max_model_len);
    c.max_num_batched_tokens = (c.max_num_batched_tokens + c.block_size - 1) / c.block_size * c.block_size;
  } else if (policy == SchedulerPolicy::kTrtllm) {
    c.max_num_batched_tokens += c.block_size + c.draft_tokens;
    c.trtllm.capacity_scheduler_policy = chance(0.6)   ? TrtllmConfig::Capacity::kMaxUtilization
                                         : chance(0.8) ? TrtllmConfig::Capacity::kGuaranteedNoEvict
                                                       : TrtllmConfig::Capacity::kStaticBatch;
    c.trtllm.context_chunking_policy =
        chance(0.5) ? TrtllmConfig::Chunking::kFirstComeFirstServed : TrtllmConfig::Chunking::kEqualProgress;
  }
  s.options.engines = {EngineConfig{c, chance(0.3) ? 2 : 1}};
  s.options.replicas = chance(0.2) ? 2 : 1;
  s.options.keep_records = true;
  s.backend = SpeculatingBackend(ToyBackend(pick(1, 50) * 100, pick(0, 20), pick(0, 50)), c.draft_tokens,
                                 random.uniform(), seed);
  Picoseconds clock = 0;
  for (std::int64_t i = pick(1, 60); i > 0; --i) {
    clock += chance(0.5) ? 0 : pick(0, 4000);
    std::vector<ContentRun> runs;
    if (chance(0.5)) runs.push_back({static_cast<std::uint64_t>(pick(1, 3)), pick(1, 40)});
    s.workload.add(clock, static_cast<std::int32_t>(pick(1, c.max_model_len / 2)),
                   static_cast<std::int32_t>(pick(1, c.max_model_len)), runs,
                   chance(0.3) ? static_cast<std::int32_t>(i) : -1);
  }
  if (chance(0.4)) s.workload.converse(static_cast<std::int32_t>(pick(2, 3)), 5, pick(0, 2000));
  return s;
}

// serve() itself throws when a block is still held at the end.
class EveryPolicy : public testing::TestWithParam<SchedulerPolicy> {};
INSTANTIATE_TEST_SUITE_P(Schedulers, EveryPolicy,
                         testing::Values(SchedulerPolicy::kVllmV1, SchedulerPolicy::kSglang,
                                         SchedulerPolicy::kTrtllm, SchedulerPolicy::kVllmV0),
                         [](const auto& policy) {
                           return std::string(policy.param == SchedulerPolicy::kVllmV1   ? "Vllm"
                                              : policy.param == SchedulerPolicy::kSglang ? "Sglang"
                                              : policy.param == SchedulerPolicy::kVllmV0 ? "VllmV0"
                                                                                         : "Trtllm");
                         });

TEST_P(EveryPolicy, ConservesTokensAndBlocksAndReplaysExactly) {
  std::int64_t preemptions = 0, reused = 0, unaccepted = 0, accepted = 0, cut = 0;
  for (std::uint64_t seed = 0; seed < 1500; ++seed) {
    Random s = random_scenario(seed, GetParam()), again = random_scenario(seed, GetParam());
    Recording recording;
    s.options.timeline = &recording;
    const ServeResult r = serve(s.workload, s.backend, s.options);
    ASSERT_FALSE(r.aborted) << seed << " " << r.abort_reason;
    std::int64_t needed = 0;
    for (const RequestRecord& record : r.records) needed += record.input_len + record.output_len - 1;
    ASSERT_EQ(r.scheduled_tokens + r.reused_tokens - r.discarded_tokens - r.unaccepted_tokens, needed)
        << seed;
    const SpeculationCounts& n = r.metrics.speculation;
    ASSERT_LE(n.drafted - n.accepted, r.unaccepted_tokens) << seed;
    cut += n.drafted < n.verifications * s.options.engines[0].scheduler.draft_tokens;

    ReplayBackend replay(recording);
    const ServeResult same = serve(again.workload, replay, again.options);
    ASSERT_EQ(same.records.size(), r.records.size()) << seed;
    for (std::size_t i = 0; i < r.records.size(); ++i) {
      ASSERT_EQ(same.records[i].first_token, r.records[i].first_token) << seed;
      ASSERT_EQ(same.records[i].finish, r.records[i].finish) << seed;
    }
    ASSERT_EQ(same.metrics.speculation.accepted, n.accepted) << seed;
    preemptions += r.metrics.preemptions;
    reused += r.reused_tokens;
    unaccepted += r.unaccepted_tokens;
    accepted += n.accepted;
  }
  EXPECT_GT(preemptions, 1000);
  EXPECT_GT(reused, 10000);
  EXPECT_GT(unaccepted, 10000);
  EXPECT_GT(accepted, 10000);
  if (GetParam() == SchedulerPolicy::kVllmV1) {
    EXPECT_GT(cut, 100) << "by the token budget";
  }
}

}  // namespace
}  // namespace foretoken
