// Prefix caching against hand-computed hits: blocks of 4 tokens, steps of 1000 ps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "serving/block_hashes.h"
#include "serving/content.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::BatchLog;
using toy::ListWorkload;

std::vector<std::string> batches(ListWorkload workload, const ServeOptions& options) {
  BatchLog log;
  serve(workload, log, options);
  return log.batches;
}

TEST(PrefixCache, WholeBlocksNeverTheWholePrompt) {
  ListWorkload w;
  w.add(0, 12, 1, {{1, 12}});
  w.add(2000, 12, 1, {{1, 12}});           // the last token must be computed: 2 of 3 blocks
  w.add(4000, 13, 1, {{1, 12}});           // 3 blocks, then a private token
  w.add(6000, 20, 1, {{1, 10}, {2, 10}});  // the third block differs
  w.add(8000, 20, 1, {{1, 7}, {2, 13}});
  w.add(10000, 12, 1, {{2, 12}});
  BatchLog log;
  ListWorkload copy = w;
  const ServeResult r = serve(copy, log, toy::options(100, 4, 100, 16));
  EXPECT_THAT(log.batches,
              ElementsAre("p0:12/0!", "p1:4/8!", "p2:1/12!", "p3:12/8!", "p4:16/4!", "p5:12/0!"));
  EXPECT_EQ(r.records[2].cached_tokens, 12);
  EXPECT_DOUBLE_EQ(r.metrics.prefix_cache_hit_rate, (8 + 12 + 8 + 4) / (12 + 12 + 13 + 20 + 20 + 12.0));
  ServeOptions off = toy::options(100, 4, 100, 16);
  off.engines[0].scheduler.enable_prefix_caching = false;
  EXPECT_EQ(batches(w, off)[1], "p1:12/0!");
}

TEST(PrefixCache, BlocksAreFoundInTheStepThatComputesThem) {
  ListWorkload w;
  w.add(0, 12, 1, {{1, 12}});
  w.add(0, 12, 1, {{1, 12}});
  EXPECT_THAT(batches(w, toy::options(100, 4, 100, 16)), ElementsAre("p0:12/0! p1:4/8!"));
}

// 6 prompt and 4 generated tokens, the last of which is never computed: 9 tokens, 2 full blocks.
TEST(PrefixCache, TheNextTurnFindsTheAnswer) {
  ListWorkload w;
  w.add(0, 6, 4, {}, 0);
  w.converse(2, 3, 500);
  EXPECT_THAT(batches(w, toy::options(100, 4, 100, 16)),
              ElementsAre("p0:6/0!", "d0@7", "d0@8", "d0@9", "p1:5/8!", "d1@14", "d1@15", "d1@16"));
}

// 4 usable blocks. Request 0 leaves [3, 4 | 2, 1] in the free queue (its tail before its head), so request 1,
// which takes three, evicts its second block.
TEST(PrefixCache, TailsAreEvictedFirst) {
  ListWorkload w;
  w.add(0, 8, 1, {{1, 8}});
  w.add(2000, 12, 1);
  w.add(4000, 9, 1, {{1, 8}});
  EXPECT_THAT(batches(w, toy::options(5, 4, 100, 16)), ElementsAre("p0:8/0!", "p1:12/0!", "p2:5/4!"));
}

// At 3000 two blocks are free, and the two blocks that request 2 hits are these.
TEST(PrefixCache, HitsOnFreeBlocksCountAgainstFree) {
  ListWorkload w;
  w.add(0, 8, 1, {{1, 8}});
  w.add(2000, 4, 3);
  w.add(2500, 16, 1, {{1, 8}});  // 2 hits and 2 new blocks: not until request 1 is done
  EXPECT_THAT(batches(w, toy::options(5, 4, 100, 16)),
              ElementsAre("p0:8/0!", "p1:4/0!", "d1@5", "d1@6", "p2:8/8!"));
}

TEST(PrefixCache, HitsOnBlocksInUseAreFree) {
  ListWorkload w;
  w.add(0, 9, 3, {{1, 8}});
  w.add(500, 9, 1, {{1, 8}});  // one block of its own
  EXPECT_THAT(batches(w, toy::options(5, 4, 100, 16)), ElementsAre("p0:9/0!", "p1:1/8! d0@10", "d0@11"));
}

TEST(BlockHashes, DependOnContentNotOnHowItIsCut) {
  Request first;
  first.id = 5;
  first.input_len = 10;
  BlockHashes a, b, c;
  const std::vector<ContentRun> prefix{{1, 6}};
  a.extend(4, 4, first, prefix);  // 6 shared, 4 private, 6 generated tokens
  Request next;
  next.id = 9;
  next.input_len = 20;
  const std::vector<ContentRun> repeated{{1, 6}, {private_prompt_content(5), 4}, {generated_content(5), 6}};
  b.extend(2, 4, next, repeated);
  b.extend(4, 4, next, repeated);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(a[i], b[i]) << i;
  const std::vector<ContentRun> other{{1, 5}, {private_prompt_content(5), 4}, {generated_content(5), 7}};
  c.extend(4, 4, next, other);
  EXPECT_EQ(a[0], c[0]);
  for (int i = 1; i < 4; ++i) EXPECT_NE(a[i], c[i]) << "chained: a difference never heals";
}

TEST(BlockHashes, InsideARunAreNumbered) {
  Request r;
  r.input_len = 80;
  BlockHashes one, two;
  one.extend(20, 4, r, std::vector<ContentRun>{{1, 80}});
  two.extend(20, 4, r, std::vector<ContentRun>{{1, 42}, {2, 38}});  // the second begins inside block 10
  for (int i = 0; i < 20; ++i) {
    const auto numbered = static_cast<std::uint64_t>(i) % BlockHashes::kNumbered;
    EXPECT_EQ(one[i] % BlockHashes::kNumbered, numbered);
    EXPECT_TRUE(numbered == 0 || one[i] == one[i - 1] + 1);
    EXPECT_EQ(one[i] == two[i], i < 10) << i;
  }
  EXPECT_EQ(two[10] % BlockHashes::kNumbered, 0u);
  EXPECT_EQ(two[11], two[10] + 1);
}

TEST(BlockHashes, NeighboursDoNotCancelOut) {
  std::set<std::uint64_t> all;
  for (RequestId id = 0; id < 64; ++id) {
    Request r;
    r.id = id;
    r.input_len = static_cast<std::int32_t>(4 * (1 + id % 16));
    BlockHashes h;
    h.extend(30, 4, r, {});
    for (int i = 0; i < 30; ++i) EXPECT_TRUE(all.insert(h[i]).second) << id << " " << i;
  }
}

TEST(BlockHashes, RunsBeyondThePromptAreCut) {
  Request r;
  r.input_len = 6;
  BlockHashes a, b;
  a.extend(3, 4, r, std::vector<ContentRun>{{1, 100}});
  b.extend(3, 4, r, std::vector<ContentRun>{{1, 6}});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(a[i], b[i]);
}

}  // namespace
}  // namespace foretoken
