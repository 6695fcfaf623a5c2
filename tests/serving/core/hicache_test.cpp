// HiCache under SGLang's scheduler (docs/policies.md), worked by hand; random workloads: kv_tiers_test.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace foretoken
