// KV tiers: which blocks are written, loaded and evicted when, worked by hand; and over random workloads that
// every cached token is where a request expects it, that spans change nothing and that a recording repeats.
#include "serving/kv_tiers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>

#include "base/error.h"
#include "policies.h"
#include "seeds.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ShadowMemory;
using Write = KvTierConfig::Write;
using Eviction = KvTierConfig::Eviction;

// Blocks of 4 tokens, so many usable ones; steps of 1000.
ServeOptions with_tiers(std::int64_t usable, std::vector<KvTierConfig> tiers) {
  ServeOptions o = toy::options(usable + 1, 4, 100, 16);
  o.engines[0].scheduler.kv_tiers.tiers = std::move(tiers);
  return o;
}

// Request 0 leaves its two shared blocks in device memory, request 1 takes that whole, request 2 finds them
// in the tier and waits for them.
toy::ListWorkload comes_back() {
  toy::ListWorkload w;
  w.add(0, 9, 1, {{1, 8}});
  w.add(2000, 15, 1);
  w.add(4000, 9, 1, {{1, 8}});
  return w;
}

TEST(KvTiers, WhatWasEvictedIsLoaded) {
  toy::ListWorkload w = comes_back();
  ShadowMemory memory(w, 4);
  memory.tiers(50, 100);
  const ServeResult r = serve(w, memory, with_tiers(4, {{.blocks = 8}}));
  EXPECT_THAT(memory.batches, ElementsAre("p0:9/0", "p1:15/0", "p2:1/8"));
  const RequestRecord& last = r.records.at(2);
  EXPECT_EQ(last.scheduled, 4000 + 50 + 2 * 100);
  EXPECT_EQ(last.loading, 250);
  EXPECT_EQ(last.first_token, 5250);
  EXPECT_EQ(last.cached_tokens, 8);
  const TtftParts parts = ttft_parts(last);
  EXPECT_EQ(parts.load, 250);
  EXPECT_EQ(parts.queue, 0);
  ASSERT_EQ(r.kv_tiers.size(), 1u);
  EXPECT_EQ(r.kv_tiers[0].loaded, 2);
  EXPECT_EQ(r.kv_tiers[0].hit_tokens, 8);
  EXPECT_EQ(r.kv_tiers[0].written, 2 + 3) << "the third time they are there";
  EXPECT_EQ(r.kv_tiers[0].reading, 250);
  EXPECT_EQ(r.kv_tiers[0].writing, 2 * 50 + 5 * 100);
  EXPECT_EQ(r.device_hit_tokens, 0);
  EXPECT_EQ(r.reused_tokens, 8);
  EXPECT_EQ(r.kv_loads, 1);
  EXPECT_EQ(r.kv_load_wait, 250);
}

// A block that is not yet written is not found.
TEST(KvTiers, WritesTakeTheirTime) {
  toy::ListWorkload w;
  w.add(0, 9, 1, {{1, 8}});
  w.add(1000, 15, 1);
  w.add(2000, 9, 1, {{1, 8}});  // the write has taken the link until 1000 + 2 x 600
  ShadowMemory memory(w, 4);
  memory.tiers(0, 600);
  const ServeResult r = serve(w, memory, with_tiers(4, {{.blocks = 8}}));
  EXPECT_THAT(memory.batches, ElementsAre("p0:9/0", "p1:15/0", "p2:9/0"));
  EXPECT_EQ(r.kv_tiers[0].loaded, 0);
}

// Requests 3 and 4 come together: 4 waits for the blocks that are loaded for 3, and finds them in device
// memory. Request 5 shares nothing and runs meanwhile.
TEST(KvTiers, OthersRunAndWhoSharesWaits) {
  toy::ListWorkload w;
  w.add(0, 9, 1, {{1, 8}});
  w.add(2000, 31, 1);
  w.add(4000, 9, 1, {{1, 8}});
  w.add(4000, 10, 1, {{1, 8}});
  w.add(4000, 5, 2);
  ShadowMemory memory(w, 4);
  memory.tiers(0, 600);
  const ServeResult r = serve(w, memory, with_tiers(8, {{.blocks = 20}}));
  // The third step is decided at 4000, the blocks are there at 5200, while the decode step runs.
  EXPECT_THAT(memory.batches, ElementsAre("p0:9/0", "p1:31/0", "p4:5/0", "d4@6", "p2:1/8 p3:2/8"));
  EXPECT_EQ(r.records.at(2).first_token, 7000);
  EXPECT_EQ(r.records.at(2).loading, 1200);
  EXPECT_EQ(r.records.at(3).loading, 0);
  EXPECT_EQ(r.kv_tiers[0].loaded, 2);
  EXPECT_EQ(r.device_hit_tokens, 8) << "request 3's";
}

// The host holds two blocks, storage more. Request 1's three blocks push request 0's down; request 2 finds
// its two on storage, and they come back up beside the others.
TEST(KvTiers, EvictedBlocksGoDownATier) {
  toy::ListWorkload w = comes_back();
  ShadowMemory memory(w, 4);
  memory.tiers(0, 10);
  const ServeResult r =
      serve(w, memory, with_tiers(4, {{.blocks = 3}, {.blocks = 10, .write = Write::kBack}}));
  EXPECT_THAT(memory.batches, ElementsAre("p0:9/0", "p1:15/0", "p2:1/8"));
  EXPECT_EQ(r.records.at(2).loading, 2 * 2 * 10) << "storage is half as fast";
  EXPECT_EQ(r.kv_tiers[0].written, 2 + 3 + 2);
  EXPECT_EQ(r.kv_tiers[0].evicted, 2 + 2);
  EXPECT_EQ(r.kv_tiers[0].loaded, 0);
  EXPECT_EQ(r.kv_tiers[1].written, 2 + 2);
  EXPECT_EQ(r.kv_tiers[1].hit_tokens, 8);
}

TEST(KvTiers, ALowerTierMayBeWrittenAtOnce) {
  toy::ListWorkload w = comes_back();
  ShadowMemory memory(w, 4);
  memory.tiers(0, 10);
  const ServeResult r = serve(w, memory, with_tiers(4, {{.blocks = 3}, {.blocks = 10}}));
  EXPECT_THAT(memory.batches, ElementsAre("p0:9/0", "p1:15/0", "p2:1/8"));
  EXPECT_EQ(r.kv_tiers[0].written, 2 + 3 + 2);
  EXPECT_EQ(r.kv_tiers[1].written, 2 + 3) << "what comes back is there already";
}

// write_through_selective: the first use writes nothing, so request 2 computes its prompt; request 3 uses it
// for the second time, in device memory, and then it is written.
TEST(KvTiers, SelectiveWritesWhatIsUsedTwice) {
  toy::ListWorkload w;
  w.add(0, 9, 1, {{1, 8}});
  w.add(2000, 15, 1);
  w.add(4000, 9, 1, {{1, 8}});
  w.add(6000, 9, 1, {{1, 8}});
  w.add(8000, 15, 1);
  w.add(10000, 9, 1, {{1, 8}});
  ShadowMemory memory(w, 4);
  memory.tiers(0, 10);
  const ServeResult r = serve(w, memory, with_tiers(4, {{.blocks = 8, .write = Write::kSelective}}));
  EXPECT_THAT(memory.batches, ElementsAre("p0:9/0", "p1:15/0", "p2:9/0", "p3:1/8", "p4:15/0", "p5:1/8"));
  EXPECT_EQ(r.kv_tiers[0].written, 2);
  EXPECT_EQ(r.records.at(5).loading, 20);
}

// write_back: request 1's step waits until the two blocks whose room it takes are written.
TEST(KvTiers, WriteBackDelaysTheStepThatNeedsTheRoom) {
  toy::ListWorkload w = comes_back();
  ShadowMemory memory(w, 4);
  memory.tiers(0, 10);
  const ServeResult r = serve(w, memory, with_tiers(4, {{.blocks = 8, .write = Write::kBack}}));
  EXPECT_THAT(memory.batches, ElementsAre("p0:9/0", "p1:15/0", "p2:1/8"));
  EXPECT_EQ(r.records.at(1).first_token, 3000 + 20);
  // Request 1's blocks are written back for request 2, whose load waits for that: 3 blocks' room for 3 (one
  // was not full).
  EXPECT_EQ(r.records.at(2).loading, 20 + 20);
  EXPECT_EQ(r.kv_tiers[0].written, 2 + 2);
  EXPECT_EQ(r.kv_stall, 20);
}

// Loads of 2 blocks take 400, in 4 layers of 100; the step computes for 1000 in 4 layers of 250: it waits for
// the first layer alone. If it computed for 40, the last layer would come at 400 and take 10.
TEST(KvTiers, LayersAreComputedWhileTheyCome) {
  for (const Picoseconds step : {1000, 40}) {
    toy::ListWorkload w = comes_back();
    ShadowMemory memory(w, 4, step);
    memory.tiers(0, 200);
    ServeOptions o = with_tiers(4, {{.blocks = 8}});
    o.engines[0].scheduler.kv_tiers.layers = 4;
    const ServeResult r = serve(w, memory, o);
    EXPECT_THAT(memory.batches, ElementsAre("p0:9/0", "p1:15/0", "p2:1/8"));
    EXPECT_EQ(r.records.at(2).scheduled, 4000);
    EXPECT_EQ(r.records.at(2).loading, 0);
    EXPECT_EQ(r.records.at(2).first_token, 4000 + (step == 1000 ? 100 + 1000 : 400 + 10));
    EXPECT_EQ(r.kv_stall, step == 1000 ? 100 : 370);
    EXPECT_EQ(r.kv_tiers[0].hit_tokens, 8);
  }
}

// Says what computing a token takes.
class Priced : public ShadowMemory {
 public:
  Priced(const Workload& workload, Picoseconds per_token)
      : ShadowMemory(workload, 4), per_token_(per_token) {}
  bool worth_loading(const TierLoad& load) override {
    asked.push_back({load.tier, load.blocks, load.cached, load.rest, load.wait});
    return load.wait + (load.tier + 1) * 100 * load.blocks < per_token_ * load.tokens;
  }
  std::vector<std::array<std::int64_t, 5>> asked;

 private:
  Picoseconds per_token_;
};

TEST(KvTiers, LoadedIfThatIsFaster) {
  for (const Picoseconds per_token : {26, 24}) {  // a block of 4 tokens is loaded in 100
    toy::ListWorkload w = comes_back();
    Priced memory(w, per_token);
    memory.tiers(0, 100);
    ServeOptions o = with_tiers(4, {{.blocks = 8}});
    o.engines[0].scheduler.kv_tiers.by_cost = true;
    const ServeResult r = serve(w, memory, o);
    EXPECT_EQ(memory.batches.back(), per_token == 26 ? "p2:1/8" : "p2:9/0");
    EXPECT_THAT(memory.asked, ElementsAre(std::array<std::int64_t, 5>{0, 2, 0, 1, 0}));
    EXPECT_EQ(r.kv_tiers[0].loaded, per_token == 26 ? 2 : 0);
  }
}

// A preempted request finds its prompt, and what it had generated, in the tier again.
TEST(KvTiers, PreemptionLosesLittle) {
  toy::ListWorkload w;
  w.add(0, 8, 9);
  w.add(0, 8, 9);
  ShadowMemory memory(w, 4);
  memory.tiers(0, 10);
  const ServeResult r = serve(w, memory, with_tiers(6, {{.blocks = 20}}));
  // Either takes 4 blocks in the end. At 13 tokens request 0 takes request 1's, which has 12 in the cache.
  EXPECT_EQ(r.metrics.preemptions, 1);
  EXPECT_EQ(r.discarded_tokens, 12);
  EXPECT_EQ(r.scheduled_tokens + r.reused_tokens, 2 * 16 + 12);
  EXPECT_EQ(r.reused_tokens, 12);
}

TEST(KvTier, LeastRecentlyUsedLeavesFirst) {
  KvTier tier({.blocks = 3});
  KvTier::Evicted gone;
  tier.next_use(3);
  for (int i = 0; i < 3; ++i) {
    const KvTier::Slot slot = tier.place(static_cast<std::uint64_t>(10 + i), i, i, 0, gone);
    EXPECT_EQ(slot, i);
    EXPECT_FALSE(tier.ready(slot, 5));
    tier.written(slot, 7);
    EXPECT_TRUE(tier.ready(slot, 7));
  }
  EXPECT_EQ(tier.place(20, 0, 0, 6, gone), -1) << "all are being written";
  tier.next_use(1);
  tier.use(tier.find(12), 0);
  tier.next_use(1);
  EXPECT_EQ(tier.place(20, 0, 0, 8, gone), 1) << "of one prompt the last block leaves first, and 12 was used";
  EXPECT_EQ(gone.hash, 11u);
  EXPECT_EQ(gone.position, 1);
  EXPECT_EQ(tier.find(11), -1);
  EXPECT_EQ(tier.find(20), 1);
  tier.written(1, 8);
  tier.pin(0);
  EXPECT_EQ(tier.place(21, 0, 0, 9, gone), -1);
  tier.unpin(0);
  EXPECT_EQ(tier.place(21, 0, 0, 9, gone), 0);
}

// Blocks 1 (position 0), 2 and 3 (positions 1 and 2); 1 and 2 are used again, 2 last.
TEST(KvTier, OtherEvictionRules) {
  const std::tuple<Eviction, std::uint64_t> cases[] = {
      {Eviction::kLru, 3}, {Eviction::kLfu, 3}, {Eviction::kLengthAware, 3}};
  for (const auto& [eviction, first] : cases) {
    KvTier tier({.blocks = 3, .eviction = eviction});
    KvTier::Evicted gone;
    for (std::int32_t i = 0; i < 3; ++i) {
      tier.next_use(1);
      tier.written(tier.place(static_cast<std::uint64_t>(i + 1), i, 0, 0, gone), 0);
    }
    for (const std::uint64_t hash : {2, 1, 2}) tier.next_use(1), tier.use(tier.find(hash), 0);
    const auto leaves = [&] {
      tier.next_use(1);
      tier.written(tier.place(99 + static_cast<std::uint64_t>(tier.used()), 5, 0, 0, gone), 0);
      return gone.hash;
    };
    EXPECT_EQ(leaves(), first);
  }
  // Once each is left with one use more than the newcomer, frequency keeps them and recency does not.
  for (const Eviction eviction : {Eviction::kLru, Eviction::kLfu, Eviction::kLengthAware}) {
    KvTier tier({.blocks = 2, .eviction = eviction});
    KvTier::Evicted gone;
    tier.next_use(2);
    tier.written(tier.place(1, 0, 0, 0, gone), 0);
    tier.use(tier.find(1), 0);
    tier.next_use(1);
    tier.written(tier.place(2, 7, 0, 0, gone), 0);
    tier.next_use(1);
    tier.place(3, 8, 0, 0, gone);
    EXPECT_EQ(gone.hash, eviction == Eviction::kLru ? 1u : 2u);
  }
  // Of equally often used ones the deepest leaves, though it is the newest.
  KvTier tier({.blocks = 2, .eviction = Eviction::kLengthAware});
  KvTier::Evicted gone;
  tier.next_use(1);
  tier.written(tier.place(1, 0, 0, 0, gone), 0);
  tier.next_use(1);
  tier.written(tier.place(2, 7, 0, 0, gone), 0);
  tier.next_use(1);
  tier.place(3, 3, 0, 0, gone);
  EXPECT_EQ(gone.hash, 2u);
}

TEST(KvTiers, RefusesWhatIsNotModelled) {
  const auto message = [](auto change) {
    ServeOptions o = with_tiers(20, {{.blocks = 8}});
    change(o.engines[0].scheduler);
    toy::ListWorkload w;
    toy::ToyBackend backend(100);
    try {
      serve(w, backend, o);
    } catch (const Error& e) {
      return e.where();
    }
    return std::string();
  };
  EXPECT_EQ(message([](SchedulerConfig&) {}), "");
  EXPECT_EQ(message([](SchedulerConfig& c) { c.policy = SchedulerPolicy::kTrtllm; }), "kv_tiers");
  EXPECT_EQ(message([](SchedulerConfig& c) { c.policy = SchedulerPolicy::kSglang; }), "kv_tiers")
      << "not layer by layer";
  EXPECT_EQ(message([](SchedulerConfig& c) { c.enable_prefix_caching = false; }), "kv_tiers");
  EXPECT_EQ(message([](SchedulerConfig& c) { c.pipeline_depth = 2; }), "kv_tiers");
  EXPECT_EQ(message([](SchedulerConfig& c) { c.draft_tokens = 2; }), "kv_tiers");
  EXPECT_EQ(message([](SchedulerConfig& c) { c.beam_width = 2; }), "kv_tiers");
  EXPECT_EQ(message([](SchedulerConfig& c) { c.lora.max_loras = 2; }), "kv_tiers");
  EXPECT_EQ(message([](SchedulerConfig& c) { c.num_host_blocks = 2; }), "preemption_mode");
  EXPECT_EQ(message([](SchedulerConfig& c) { c.kv_tiers.tiers[0].blocks = 0; }), "capacity_gib");
}

// ---- random workloads

struct Random {
  toy::ListWorkload workload;
  ServeOptions options;
  Picoseconds latency = 0, per_block = 0;
  std::uint64_t prices = 0;  // of the toy backend
};

// Small memories everywhere, prompts that share, conversations, requests that only they know; slow links and
// fast ones.
Random random_case(std::uint64_t seed, bool alone) {
  CounterRandom random(seed, 21);
  const auto pick = [&](std::int64_t low, std::int64_t high) { return random.uniform_int(low, high); };
  const auto chance = [&](double p) { return random.uniform() < p; };
  Random c;
  SchedulerConfig s;
  s.block_size = static_cast<int>(pick(1, 5));
  s.max_model_len = pick(40, 160);
  s.num_blocks = 1 + (s.max_model_len + s.block_size - 1) / s.block_size + pick(0, 60) / s.block_size;
  s.max_num_seqs = chance(0.3) ? pick(1, 4) : pick(5, 40);
  s.max_num_batched_tokens = chance(0.2) ? pick(1, 8) : pick(9, 120);
  s.enable_chunked_prefill = chance(0.8);
  if (!s.enable_chunked_prefill) s.max_num_batched_tokens = s.max_model_len + pick(0, 50);
  s.reserve_full_prompt = chance(0.6);
  s.watermark = chance(0.3) ? 0.1 : 0.0;
  s.long_prefill_token_threshold = chance(0.3) ? pick(1, 20) : 0;
  s.schedules_ahead = chance(0.4);
  const std::int64_t tiers = pick(1, 3);
  bool shared = false;
  for (std::int64_t t = 0; t < tiers; ++t) {
    KvTierConfig tier;
    tier.blocks = chance(0.5) ? pick(1, 30) : pick(30, 400);
    tier.write = static_cast<Write>(t == 0 ? pick(0, 2) : 2 * pick(0, 1));
    tier.eviction = static_cast<Eviction>(pick(0, 2));
    tier.shared = shared = !alone && (shared || chance(0.3));
    s.kv_tiers.tiers.push_back(tier);
  }
  s.kv_tiers.by_cost = chance(0.3);
  s.kv_tiers.layers = chance(0.3) ? static_cast<int>(pick(1, 8)) : 0;
  c.options.engines = {{s, !alone && chance(0.3) ? 2 : 1}};
  c.options.replicas = !alone && chance(0.3) ? static_cast<int>(pick(2, 3)) : 1;
  c.options.keep_records = true;
  c.latency = chance(0.5) ? 0 : pick(0, 3000);
  c.per_block = chance(0.2) ? 0 : pick(0, chance(0.5) ? 2000 : 100);
  c.prices = static_cast<std::uint64_t>(pick(0, 1 << 20));
  const std::int64_t requests = pick(1, 90);
  const bool sessions = chance(0.4);
  Picoseconds clock = 0;
  const Picoseconds unit = chance(0.5) ? 100 : 1, gap = pick(0, 60) * 100;
  for (std::int64_t i = 0; i < requests; ++i) {
    clock += chance(0.3) ? 0 : pick(0, gap) * unit;
    std::vector<ContentRun> runs;
    if (chance(0.7)) {
      runs.push_back({static_cast<std::uint64_t>(pick(1, 4)), pick(1, 60)});
      if (chance(0.4)) runs.push_back({static_cast<std::uint64_t>(pick(5, 9)), pick(1, 40)});
    }
    const bool in_session = sessions && chance(0.5);
    c.workload.add(clock, static_cast<std::int32_t>(pick(1, s.max_model_len / 2)),
                   static_cast<std::int32_t>(pick(1, chance(0.5) ? s.max_model_len : 8)), runs,
                   in_session ? static_cast<std::int32_t>(i) : -1);
  }
  if (chance(0.3)) c.workload.close_loop(pick(1, 20));
  if (sessions)
    c.workload.converse(static_cast<std::int32_t>(pick(2, 4)), 5, chance(0.5) ? 0 : pick(0, 5000));
  return c;
}

// The same under SGLang's scheduler, with one tier that is loaded from layer by layer.
Random hicache_case(std::uint64_t seed, bool alone) {
  Random c = random_case(seed, alone);
  SchedulerConfig& s = c.options.engines[0].scheduler;
  CounterRandom random(seed, 22);
  s.policy = SchedulerPolicy::kSglang;
  s.sglang.chunked_prefill_size = random.uniform() < 0.2 ? -1 : random.uniform_int(1, 25) * s.block_size;
  s.sglang.max_prefill_tokens = random.uniform_int(1, 120);
  s.sglang.schedule_conservativeness = random.uniform() < 0.5 ? 1.0 : 0.1;
  s.sglang.enable_mixed_chunk = random.uniform() < 0.3;
  s.sglang.overlap = random.uniform() < 0.6;
  s.sglang.scheduler_recv_interval = random.uniform() < 0.7 ? 1 : random.uniform_int(2, 12);
  toy::choose_sglang_order(s, random);
  s.kv_tiers.tiers.resize(1);
  s.kv_tiers.tiers[0].eviction = Eviction::kLru;
  s.kv_tiers.tiers[0].shared = s.kv_tiers.by_cost = false;
  s.kv_tiers.layers = std::max(s.kv_tiers.layers, 1);
  return c;
}
// With storage below that: host memory beyond the device's, prompts that come back, every policy.
Random storage_case(std::uint64_t seed, bool alone) {
  Random c = hicache_case(seed, alone);
  SchedulerConfig& s = c.options.engines[0].scheduler;
  CounterRandom random(seed, 23);
  s.kv_tiers.tiers[0].blocks = s.num_blocks + random.uniform_int(1, 60);
  s.kv_tiers.tiers.push_back({.blocks = random.uniform() < 0.3 ? random.uniform_int(1, 30) : 1000});
  if (random.uniform() < 0.8) s.kv_tiers.tiers[0].write = Write::kThrough;
  s.kv_tiers.prefetch = static_cast<KvTiersConfig::Prefetch>(random.uniform_int(0, 2));
  s.kv_tiers.prefetch_threshold = random.uniform_int(1, 20);
  return c;
}
using Case = Random (*)(std::uint64_t, bool);

// Loads are worth it by a draw of their own.
bool drawn_worth(const TierLoad& load) { return (load.request + load.blocks) % 3 != 0; }

class Shadow : public ShadowMemory {
 public:
  using ShadowMemory::ShadowMemory;
  bool worth_loading(const TierLoad& load) override { return drawn_worth(load); }
};

// Every cached token is where its request looks for it, through any number of tiers; tokens are conserved and
// every request ends once.
struct Seen {
  std::int64_t fetched = 0;  // by the lowest tier
  std::int64_t loaded = 0, demoted = 0, stalls = 0, preempted = 0, device = 0, refused = 0, evicted = 0;
};
void run_shadowed(std::uint64_t seeds, Case make, Seen& seen) {
  for (std::uint64_t seed = 0; seed < toy::seeds(seeds); ++seed) {
    Random c = make(seed, true);
    Shadow memory(c.workload, c.options.engines[0].scheduler.block_size);
    memory.tiers(c.latency, c.per_block);
    ServeResult r;
    try {
      r = serve(c.workload, memory, c.options);
    } catch (const std::exception& e) {
      FAIL() << "seed " << seed << ": " << e.what();
    }
    ASSERT_FALSE(r.aborted) << seed << " " << r.abort_reason;
    ASSERT_EQ(r.metrics.completed + r.rejected, c.workload.popped()) << seed;
    std::int64_t needed = 0;
    for (std::size_t i = 0; i < r.records.size(); ++i) {
      const RequestRecord& record = r.records[i];
      needed += record.input_len + record.output_len - 1;
      const TtftParts p = ttft_parts(record);
      ASSERT_EQ(p.ingress + p.queue + p.load + p.prefill + p.transfer + p.first_step,
                record.first_token - record.arrival);
      ASSERT_GE(std::min({p.queue, p.load, p.prefill, p.first_step}), 0) << seed;
      ASSERT_TRUE(i == 0 || r.records[i - 1].id < record.id);
    }
    ASSERT_EQ(r.scheduled_tokens + r.reused_tokens - r.discarded_tokens, needed) << seed;
    std::int64_t hits = r.device_hit_tokens;
    for (const KvTierCounts& t : r.kv_tiers) {
      hits += t.hit_tokens, seen.loaded += t.loaded, seen.refused += t.refused;
      seen.evicted += t.evicted;
      ASSERT_LE(t.written,
                t.evicted + c.options.engines[0]
                                .scheduler.kv_tiers.tiers[static_cast<std::size_t>(&t - r.kv_tiers.data())]
                                .blocks);
    }
    std::int64_t cached = 0;
    for (const RequestRecord& record : r.records) cached += record.cached_tokens;
    ASSERT_EQ(hits, cached) << seed;
    ASSERT_GE(r.device_hit_tokens, 0);
    seen.device += r.device_hit_tokens;
    seen.fetched += r.kv_tiers.back().hit_tokens;
    for (std::size_t t = 1; t < r.kv_tiers.size(); ++t) seen.demoted += r.kv_tiers[t].written;
    seen.stalls += r.kv_stall > 0;
    seen.preempted += r.metrics.preemptions;
  }
}

TEST(KvTiers, TokensAreConservedAndWhereTheyShouldBe) {
  Seen seen;
  run_shadowed(2000, random_case, seen);
  EXPECT_GT(seen.loaded, 10000);
  EXPECT_GT(seen.device, 10000);
  EXPECT_GT(seen.demoted, 10000);
  EXPECT_GT(seen.stalls, 300);
  EXPECT_GT(seen.preempted, 1000);
  EXPECT_GT(seen.refused, 100);
}

TEST(HiCache, TokensAreConservedAndWhereTheyShouldBe) {
  Seen seen;
  run_shadowed(1000, hicache_case, seen);
  EXPECT_GT(seen.loaded, 10000);
  EXPECT_GT(seen.device, 10000);
  EXPECT_GT(seen.stalls, 100);
  EXPECT_GT(seen.preempted, 300);
  EXPECT_GT(seen.refused, 100);
  EXPECT_GT(seen.evicted, 1000);
}

TEST(HiCacheStorage, TokensAreConservedAndWhereTheyShouldBe) {
  Seen seen;
  run_shadowed(500, storage_case, seen);
  EXPECT_GT(seen.demoted, 1000) << "stored";
  EXPECT_GT(seen.fetched, 1000);
}

// Prices copies, and steps as ToyBackend does.
class Toy : public toy::ToyBackend {
 public:
  explicit Toy(const Random& c)
      : ToyBackend(static_cast<Picoseconds>(c.prices % 50) * 100 + 100,
                   static_cast<Picoseconds>(c.prices % 19) * 10, static_cast<Picoseconds>(c.prices % 7),
                   {static_cast<Picoseconds>(c.prices % 3)}),
        latency_(c.latency),
        per_block_(c.per_block) {}
  Picoseconds move_blocks(const TierMove& m) override {
    return (std::max(m.from, m.to) + 1) * (latency_ + per_block_ * static_cast<Picoseconds>(m.blocks.size()));
  }
  bool worth_loading(const TierLoad& load) override { return drawn_worth(load); }

 private:
  Picoseconds latency_, per_block_;
};

auto key(const RequestRecord& r) {
  return std::tuple(r.id, r.engine, r.queued, r.scheduled, r.prefill_done, r.first_token, r.finish, r.loading,
                    r.preemptions, r.cached_tokens);
}
auto key(const TimelineWriter::TierEvent& e) {
  return std::tuple(e.engine, e.rank, e.request, e.from, e.to, e.blocks, e.asked, e.start, e.duration,
                    e.declined);
}

// Spans change nothing, not even the order of copies; and a recording with spans gives both again.
struct Repeated {
  std::int64_t steps = 0, events = 0, loads = 0, declined = 0;
};
void repeat(std::uint64_t seeds, Case make, Repeated& sum) {
  for (std::uint64_t seed = 0; seed < toy::seeds(seeds); ++seed) {
    Recording recordings[4];
    ServeResult results[4];
    for (int i = 0; i < 4; ++i) {
      Random c = make(seed, false);
      c.options.use_spans = i % 2 == 0;
      c.options.timeline = &recordings[i];
      Toy toy(c);
      ReplayBackend replay(recordings[0]);
      Backend& backend = i < 2 ? static_cast<Backend&>(toy) : replay;
      try {
        results[i] = serve(c.workload, backend, c.options);
      } catch (const std::exception& e) {
        FAIL() << "seed " << seed << " run " << i << ": " << e.what();
      }
      ASSERT_FALSE(results[i].aborted) << seed << results[i].abort_reason;
      ASSERT_EQ(results[i].metrics.completed + results[i].rejected, c.workload.popped());
    }
    for (int i = 1; i < 4; ++i) {
      ASSERT_EQ(results[0].records.size(), results[i].records.size()) << seed;
      for (std::size_t k = 0; k < results[0].records.size(); ++k)
        ASSERT_EQ(key(results[0].records[k]), key(results[i].records[k])) << "seed " << seed << " run " << i;
      ASSERT_EQ(recordings[0].tiers.size(), recordings[i].tiers.size()) << seed;
      for (std::size_t k = 0; k < recordings[0].tiers.size(); ++k)
        ASSERT_EQ(key(recordings[0].tiers[k]), key(recordings[i].tiers[k]))
            << "seed " << seed << " run " << i;
      ASSERT_EQ(results[0].metrics.num_steps, results[i].metrics.num_steps) << seed;
      ASSERT_EQ(results[0].metrics.itl.mean, results[i].metrics.itl.mean) << seed;
      ASSERT_EQ(results[0].kv_stall, results[i].kv_stall) << seed;
      ASSERT_EQ(results[0].scheduled_tokens, results[i].scheduled_tokens) << seed;
    }
    sum.steps += results[0].metrics.num_steps;
    sum.events += static_cast<std::int64_t>(recordings[0].steps.size());
    sum.loads += results[0].kv_loads;
    for (const auto& e : recordings[0].tiers) sum.declined += e.declined;
  }
  EXPECT_LT(sum.events, sum.steps) << "some were spans";
}

TEST(KvTiers, SpansAndRecordingsGiveTheSameTimes) {
  Repeated sum;
  repeat(2000, random_case, sum);
  EXPECT_GT(sum.loads, 3000);
  EXPECT_GT(sum.declined, 500);
  // A load that is worth it waits for something else, and is declined when more of it lies there.
  repeat(
      1, [](std::uint64_t seed, bool alone) { return random_case(2351 + seed, alone); }, sum);
}

TEST(HiCache, SpansAndRecordingsGiveTheSameTimes) {
  Repeated sum, stored;
  repeat(1000, hicache_case, sum);
  repeat(500, storage_case, stored);
  EXPECT_GT(sum.loads, 1000);
  EXPECT_GT(stored.loads, 1000) << "with storage below it";
}

}  // namespace
}  // namespace foretoken
