// HiCache under SGLang's scheduler (docs/policies.md), worked by hand; random workloads: kv_tiers_test.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ShadowMemory;
using Write = KvTierConfig::Write;

// Pages of 4 tokens, so many in device memory; steps of 1000 in four layers.
ServeOptions hicache(std::int64_t pages, KvTierConfig host) {
  ServeOptions o = toy::options(pages + 1, 4, 100, 16);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = SchedulerPolicy::kSglang;
  c.sglang.chunked_prefill_size = -1;
  c.sglang.overlap = false;
  c.kv_tiers.tiers = {host};
  c.kv_tiers.layers = 4;
  return o;
}

// Request 0 leaves what is shared in the tree, request 1 takes that memory, request 2 comes for it.
toy::ListWorkload comes_back(std::int32_t shared = 12, std::int32_t output = 1) {
  toy::ListWorkload w;
  w.add(0, shared + 1, output, {{1, shared}});
  w.add(3000, shared + 5, 1);
  w.add(5000, shared + 1, 1, {{1, shared}});
  return w;
}

// Three pages are loaded in 350: the step waits for their first layer, 350 / 4.
TEST(HiCacheRules, WhatLeftDeviceMemoryIsLoadedLayerByLayer) {
  toy::ListWorkload w = comes_back();
  ShadowMemory memory(w, 4);
  memory.tiers(50, 100);
  const ServeResult r = serve(w, memory, hicache(5, {.blocks = 8}));
  EXPECT_THAT(memory.batches, ElementsAre("p0:13/0", "p1:17/0", "p2:1/12"));
  const RequestRecord& last = r.records.at(2);
  EXPECT_EQ(last.scheduled, 5000);
  EXPECT_EQ(last.first_token, 6087);
  EXPECT_EQ(last.cached_tokens, 12);
  EXPECT_EQ(r.kv_stall, 87);
  EXPECT_EQ(r.kv_tiers[0].written, 3 + 4) << "what comes back is still there";
  EXPECT_EQ(r.kv_tiers[0].loaded, 3);
  EXPECT_EQ(r.kv_tiers[0].hit_tokens, 12);
  EXPECT_EQ(r.kv_tiers[0].evicted, 0);
  EXPECT_EQ(r.kv_tiers[0].reading, 350);
  EXPECT_EQ(r.kv_tiers[0].writing, 350 + 450);
  EXPECT_EQ(r.device_hit_tokens, 0);
  EXPECT_EQ(r.kv_loads, 1);
  EXPECT_EQ(r.kv_load_wait, 350);
}

// The load waits until request 1's pages are written, 450, and the step for the first layer after that.
TEST(HiCacheRules, WriteBackDelaysTheStepThatNeedsTheRoom) {
  toy::ListWorkload w = comes_back();
  ShadowMemory memory(w, 4);
  memory.tiers(50, 100);
  const ServeResult r = serve(w, memory, hicache(5, {.blocks = 8, .write = Write::kBack}));
  EXPECT_THAT(memory.batches, ElementsAre("p0:13/0", "p1:17/0", "p2:1/12"));
  EXPECT_EQ(r.records.at(1).first_token, 4000 + 350);
  EXPECT_EQ(r.records.at(2).first_token, 6000 + 450 + 87);
  EXPECT_EQ(r.kv_tiers[0].written, 3 + 4);
  EXPECT_EQ(r.kv_load_wait, 450 + 350);
}

// A prompt is used when it is computed and when its request ends, if that is later.
TEST(HiCacheRules, SelectiveWritesWithTheSecondUse) {
  for (const std::int32_t output : {1, 2}) {
    toy::ListWorkload w = comes_back(12, output);
    ShadowMemory memory(w, 4);
    memory.tiers(0, 10);
    const ServeResult r = serve(w, memory, hicache(5, {.blocks = 8, .write = Write::kSelective}));
    EXPECT_EQ(memory.batches.back(), output == 1 ? "p2:13/0" : "p2:1/12");
    EXPECT_EQ(r.kv_tiers[0].written, output == 1 ? 0 : 3);
    EXPECT_EQ(r.kv_tiers[0].loaded, output == 1 ? 0 : 3);
  }
}

// Fewer than ten tokens are computed again.
TEST(HiCacheRules, LittleIsNotLoaded) {
  toy::ListWorkload w = comes_back(8);
  ShadowMemory memory(w, 4);
  memory.tiers(0, 10);
  const ServeResult r = serve(w, memory, hicache(4, {.blocks = 8}));
  EXPECT_THAT(memory.batches, ElementsAre("p0:9/0", "p1:13/0", "p2:9/0"));
  EXPECT_EQ(r.kv_tiers[0].written, 2 + 3) << "and are not written again";
  EXPECT_EQ(r.kv_tiers[0].loaded, 0);
}

// Five pages of host memory: request 1's four push request 0's three out, request 2's those.
TEST(HiCacheRules, HostMemoryGivesAwayWholeNodes) {
  toy::ListWorkload w = comes_back();
  ShadowMemory memory(w, 4);
  memory.tiers(0, 10);
  const ServeResult r = serve(w, memory, hicache(5, {.blocks = 5}));
  EXPECT_EQ(memory.batches.back(), "p2:13/0");
  EXPECT_EQ(r.kv_tiers[0].written, 3 + 4 + 3);
  EXPECT_EQ(r.kv_tiers[0].evicted, 3 + 4);
  EXPECT_EQ(r.kv_tiers[0].refused, 0);
}

// Host memory of two pages has no room for a node of three.
TEST(HiCacheRules, WhatFindsNoRoomIsNotWritten) {
  for (const Write write : {Write::kThrough, Write::kBack}) {
    toy::ListWorkload w = comes_back();
    ShadowMemory memory(w, 4);
    memory.tiers(0, 10);
    const ServeResult r = serve(w, memory, hicache(5, {.blocks = 2, .write = write}));
    EXPECT_EQ(memory.batches.back(), "p2:13/0");
    EXPECT_EQ(r.kv_tiers[0].written, 0);
    EXPECT_EQ(r.kv_tiers[0].refused, write == Write::kThrough ? 3 + 4 + 3 : 3 + 4);
  }
}

// Pages that are being written can't be given away: request 1, though alone, waits for them, from 1000 on.
TEST(HiCacheRules, MemoryIsHeldWhileItIsWritten) {
  toy::ListWorkload w = comes_back();
  ShadowMemory memory(w, 4);
  memory.tiers(0, 1500);
  const ServeResult r = serve(w, memory, hicache(5, {.blocks = 8}));
  EXPECT_EQ(r.records.at(1).scheduled, 1000 + 3 * 1500);
}

// Storage for a hundred pages below host memory; at most 0.8 x (40 - 20) tokens are asked for at once.
ServeOptions stored(KvTiersConfig::Prefetch prefetch, std::int64_t host = 10) {
  ServeOptions o = hicache(5, {.blocks = host});
  SchedulerConfig& c = o.engines[0].scheduler;
  c.kv_tiers.tiers.push_back({.blocks = 100});
  c.kv_tiers.prefetch = prefetch;
  c.kv_tiers.prefetch_threshold = 8;
  return o;
}

// Four requests push what request 0 shares out of both memories. What has been written is known where the
// next one is looked at: request 5's only part is that. Request 6 comes for what is shared, request 7 for
// nothing.
toy::ListWorkload pushes_out() {
  toy::ListWorkload w;
  w.add(0, 13, 1, {{1, 12}});
  for (int i = 1; i <= 4; ++i) w.add(i * 2000, 17, 1);
  w.add(10000, 4, 1);
  w.add(12000, 13, 1, {{1, 12}});
  w.add(12000, 4, 1);
  return w;
}

std::pair<ServeResult, std::vector<std::string>> stored_run(KvTiersConfig::Prefetch prefetch,
                                                            Picoseconds per_block) {
  toy::ListWorkload w = pushes_out();
  ShadowMemory memory(w, 4);
  memory.tiers(0, per_block);
  ServeResult r = serve(w, memory, stored(prefetch));
  return {std::move(r), memory.batches};
}

using Prefetch = KvTiersConfig::Prefetch;

// Its three pages take 600 from storage. Who looks at once finds nothing.
TEST(HiCacheStorage, BestEffortEndsWhereTheBatchLooks) {
  const auto [r, batches] = stored_run(Prefetch::kBestEffort, 100);
  EXPECT_EQ(r.records.at(6).scheduled, 12000);
  EXPECT_EQ(r.records.at(6).cached_tokens, 0);
  EXPECT_EQ(r.kv_tiers[1].loaded, 3) << "read in vain";
  EXPECT_EQ(r.kv_tiers[1].hit_tokens, 0);
  EXPECT_EQ(r.kv_tiers[1].written, 3 + 4 * 4 + 1) << "the last two are still to be looked at";
}

// Request 7 goes on meanwhile, until 13000; then the pages are there and are loaded, 300 in four layers.
TEST(HiCacheStorage, WaitCompletePassesOverIt) {
  const auto [r, batches] = stored_run(Prefetch::kWaitComplete, 100);
  EXPECT_EQ(r.records.at(7).scheduled, 12000);
  EXPECT_EQ(r.records.at(6).scheduled, 13000);
  EXPECT_EQ(r.records.at(6).first_token, 13000 + 75 + 1000);
  EXPECT_EQ(r.records.at(6).cached_tokens, 12);
  EXPECT_EQ(batches.back(), "p6:1/12");
  EXPECT_EQ(r.kv_tiers[0].hit_tokens, 0);
  EXPECT_EQ(r.kv_tiers[1].hit_tokens, 12);
  EXPECT_EQ(r.kv_tiers[1].reading, 600);
}

// Three pages that take 0.2 s or 0.5 s each, and 1 s + 0.25 s x 12 / 1024 to wait.
TEST(HiCacheStorage, TimeoutGivesUp) {
  constexpr Picoseconds kSecond = 1'000'000'000'000;
  for (const Picoseconds per_block : {kSecond / 10, kSecond / 4}) {
    toy::ListWorkload w;
    w.add(0, 13, 1, {{1, 12}});
    for (int i = 1; i <= 4; ++i) w.add(i * 10 * kSecond, 17, 1);
    w.add(50 * kSecond, 4, 1);
    w.add(60 * kSecond, 13, 1, {{1, 12}});
    ShadowMemory memory(w, 4);
    memory.tiers(0, per_block);
    const ServeResult r = serve(w, memory, stored(Prefetch::kTimeout));
    const bool late = per_block == kSecond / 4;  // 1.5 s
    EXPECT_EQ(r.records.at(6).scheduled - 60 * kSecond,
              late ? kSecond + 12 * (kSecond / 4) / 1024 : 3 * 2 * kSecond / 10);
    EXPECT_EQ(r.records.at(6).cached_tokens, late ? 0 : 12);
  }
}

// Twelve tokens are too few, or host memory no larger than the device's.
TEST(HiCacheStorage, NothingIsAskedForBelowTheThresholdOrBeyondTheLimit) {
  for (const bool threshold : {false, true}) {
    toy::ListWorkload w = pushes_out();
    ShadowMemory memory(w, 4);
    memory.tiers(0, 100);
    ServeOptions o = stored(Prefetch::kWaitComplete, threshold ? 10 : 5);
    if (threshold) o.engines[0].scheduler.kv_tiers.prefetch_threshold = 13;
    const ServeResult r = serve(w, memory, o);
    EXPECT_EQ(r.records.at(6).cached_tokens, 0);
    EXPECT_EQ(r.kv_tiers[1].loaded, 0);
  }
}

}  // namespace
}  // namespace foretoken
