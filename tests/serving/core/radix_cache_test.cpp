// The radix tree against what its definition says: matches are the longest common prefixes, leaves go least
// recently used first, and nothing that is held goes.
#include "serving/scheduler/radix_cache.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.h"

namespace foretoken {
namespace {

using Key = std::vector<TokenRun>;

std::int64_t length(const Key& key) {
  std::int64_t n = 0;
  for (const TokenRun& run : key) n += run.tokens;
  return n;
}
std::vector<std::pair<std::uint64_t, std::int64_t>> spelled(const Key& key) {
  std::vector<std::pair<std::uint64_t, std::int64_t>> tokens;
  for (const TokenRun& run : key)
    for (std::int64_t i = 0; i < run.tokens; ++i) tokens.emplace_back(run.content, run.offset + i);
  return tokens;
}

TEST(RadixCache, MatchesAreLongestCommonPrefixes) {
  for (const std::int64_t page : {1, 4}) {
    CounterRandom random(5, static_cast<std::uint64_t>(page));
    RadixCache tree(page);
    std::vector<Key> inserted;
    std::int64_t in_tree = 0;
    for (int i = 0; i < 500; ++i) {
      Key key;
      for (std::int64_t runs = random.uniform_int(1, 4); runs > 0; --runs)
        key.push_back({static_cast<std::uint64_t>(random.uniform_int(1, 3)), 0, random.uniform_int(1, 9)});
      const auto tokens = spelled(key);
      std::int64_t longest = 0;
      for (const Key& other : inserted) {
        const auto theirs = spelled(other);
        const auto [a, b] = std::mismatch(tokens.begin(), tokens.end(), theirs.begin(), theirs.end());
        const std::int64_t whole = static_cast<std::int64_t>(theirs.size()) / page * page;
        longest =
            std::max(longest, std::min(static_cast<std::int64_t>(a - tokens.begin()), whole) / page * page);
      }
      EXPECT_EQ(tree.match(key, length(key)).tokens, longest);
      const RadixCache::Inserted in = tree.insert(key, length(key));
      EXPECT_EQ(in.existing, longest);
      EXPECT_EQ(in.tokens, length(key) / page * page);
      in_tree += in.tokens - in.existing;
      EXPECT_EQ(tree.evictable(), in_tree);
      inserted.push_back(key);
    }
    EXPECT_EQ(tree.evict(in_tree), in_tree);
    EXPECT_EQ(tree.evictable(), 0);
    EXPECT_EQ(tree.match(inserted[0], length(inserted[0])).tokens, 0);
  }
}

TEST(RadixCache, LeavesGoLeastRecentlyUsedFirstAndWhole) {
  RadixCache tree(1);
  const Key a{{1, 0, 10}, {2, 0, 5}}, b{{1, 0, 10}, {3, 0, 7}}, c{{4, 0, 20}};
  tree.insert(a, 15);
  tree.insert(b, 17);
  tree.insert(c, 20);
  tree.match(a, 15);
  EXPECT_EQ(tree.evict(1), 7) << "the rest of b";
  EXPECT_EQ(tree.match(b, 17).tokens, 10);
  EXPECT_EQ(tree.evict(1), 20) << "c; what a and b share is no leaf";
  EXPECT_EQ(tree.evict(1), 5);
  EXPECT_EQ(tree.evict(1), 10);
  EXPECT_EQ(tree.evict(1), 0);
}

TEST(RadixCache, WhatIsHeldStays) {
  RadixCache tree(1);
  const Key a{{1, 0, 10}, {2, 0, 5}}, b{{1, 0, 10}, {3, 0, 7}};
  const auto held = tree.insert(a, 15);
  tree.lock(held.node);
  tree.insert(b, 17);  // splits the held node: its upper part is held too
  EXPECT_EQ(tree.held(), 15);
  EXPECT_EQ(tree.evictable(), 7);
  EXPECT_EQ(tree.evict(100), 7);
  EXPECT_EQ(tree.match(a, 15).tokens, 15);
  tree.unlock(held.node);
  EXPECT_EQ(tree.held(), 0);
  EXPECT_EQ(tree.evict(100), 15);
}

TEST(RadixCache, KeysOfRequests) {
  Request r;
  r.id = 3;
  r.input_len = 10;
  Key key;
  const std::vector<ContentRun> runs{{7, 4}, {8, 20}};
  token_key(r, runs, 13, key);
  ASSERT_EQ(key.size(), 3u);
  EXPECT_EQ(key[0].tokens, 4);
  EXPECT_EQ(key[1].tokens, 6) << "cut at the end of the prompt";
  EXPECT_EQ(key[2].tokens, 3) << "generated";
  token_key(r, {}, 5, key);
  ASSERT_EQ(key.size(), 1u);
  EXPECT_EQ(key[0].tokens, 5);
}

}  // namespace
}  // namespace foretoken
