// The block pool against a plain model of it (a list as free queue, a map as prefix cache), and its
// conservation laws.
#include "serving/kv_block_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>

#include "base/random.h"

namespace foretoken {
namespace {

using testing::ElementsAre;

TEST(KvBlockPool, TheNullBlockIsNeverHandedOut) {
  KvBlockPool pool(4);
  EXPECT_EQ(pool.usable(), 3);
  std::vector<KvBlockPool::Block> blocks;
  pool.allocate(3, blocks);
  EXPECT_THAT(blocks, ElementsAre(1, 2, 3));
  EXPECT_EQ(pool.free(), 0);
  EXPECT_EQ(pool.used(), 3);
  pool.release(blocks, 0);
  EXPECT_EQ(pool.used(), 0);
  std::vector<KvBlockPool::Block> again;
  pool.allocate(2, again);
  EXPECT_THAT(again, ElementsAre(3, 2)) << "last block first";
}

// Longer than what is fetched ahead, before anything was entered.
TEST(KvBlockPool, TheFirstSequenceOfAllMayBeLong) {
  KvBlockPool pool(101);
  std::vector<KvBlockPool::Block> blocks, hits;
  pool.allocate(100, blocks);
  std::vector<std::uint64_t> hashes(blocks.size());
  for (std::size_t i = 0; i < hashes.size(); ++i) hashes[i] = 0xf000000000000000u + i;
  pool.enter(blocks, 0, hashes);
  EXPECT_EQ(pool.find(hashes).blocks, 100);
  pool.take(hashes, hits);
  EXPECT_EQ(hits, blocks);
}

// Block by block, as vLLM does it.
struct PlainPool {
  std::list<int> free;
  std::map<int, int> references;
  std::map<std::uint64_t, std::list<int>> cache;
  std::map<int, std::uint64_t> hash;
  std::vector<std::pair<int, std::uint64_t>> evicted;
  int allocate() {
    const int block = free.front();
    free.pop_front();
    references[block] = 1;
    if (hash.contains(block)) {
      cache[hash[block]].remove(block);
      if (cache[hash[block]].empty()) {
        cache.erase(hash[block]);
        evicted.emplace_back(block, hash[block]);
      }
      hash.erase(block);
    }
    return block;
  }
  void touch(int block) {
    if (references[block]++ == 0) free.remove(block);
  }
  void enter(int block, std::uint64_t of) {
    cache[of].push_back(block);
    hash[block] = of;
  }
  void release(const std::vector<KvBlockPool::Block>& blocks) {
    for (std::size_t b = blocks.size(); b-- > 0;)
      if (--references[blocks[b]] == 0) free.push_back(blocks[b]);
  }
};

// Sequences of a few documents, each from some block on to some other: hits on parts of what others hold, or
// held, and blocks of equal content that were computed side by side. Blocks are entered in several goes.
TEST(KvBlockPool, BehavesAsThePlainModel) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    CounterRandom random(seed, 3);
    const int size = static_cast<int>(random.uniform_int(4, 200));
    KvBlockPool pool(size + 1);
    std::vector<KvBlockPool::Evicted> evicted;
    pool.note_evicted(&evicted);
    PlainPool plain;
    for (int b = 1; b <= size; ++b) plain.free.push_back(b);
    struct Holder {
      std::vector<KvBlockPool::Block> blocks;
      std::vector<std::uint64_t> hashes;
      std::size_t entered = 0;
    };
    std::vector<Holder> holders;
    const auto enter = [&](Holder& h) {
      const auto all = static_cast<std::int64_t>(std::min(h.blocks.size(), h.hashes.size()));
      const auto end =
          static_cast<std::size_t>(random.uniform_int(static_cast<std::int64_t>(h.entered), all));
      pool.enter(std::span(h.blocks).first(end), static_cast<std::int64_t>(h.entered), h.hashes);
      for (; h.entered < end; ++h.entered) plain.enter(h.blocks[h.entered], h.hashes[h.entered]);
    };
    for (int i = 0; i < 2000; ++i) {
      const std::int64_t action = random.uniform_int(0, 9);
      if (action < 4) {
        Holder h;
        const auto document = static_cast<std::uint64_t>(random.uniform_int(1, 3));
        const auto begin = static_cast<std::uint64_t>(random.uniform_int(0, 3) * random.uniform_int(0, 7));
        for (auto n = static_cast<std::uint64_t>(random.uniform_int(0, 40)); n > 0; --n)
          h.hashes.push_back((document << 8) + begin + h.hashes.size());
        const auto found = pool.find(h.hashes);
        std::int64_t blocks = 0, free = 0;
        for (const std::uint64_t hash : h.hashes) {
          if (!plain.cache.contains(hash)) break;
          ++blocks;
          free += plain.references[plain.cache[hash].front()] == 0;
        }
        ASSERT_EQ(found.blocks, blocks);
        ASSERT_EQ(found.free, free);
        h.entered = static_cast<std::size_t>(random.uniform_int(blocks / 2, blocks));
        pool.take(std::span(h.hashes).first(h.entered), h.blocks);
        for (std::size_t b = 0; b < h.entered; ++b) {
          ASSERT_EQ(h.blocks[b], plain.cache[h.hashes[b]].front());
          plain.touch(h.blocks[b]);
        }
        holders.push_back(std::move(h));
      } else if (holders.empty()) {
        continue;
      }
      const auto which =
          static_cast<std::size_t>(random.uniform_int(0, static_cast<std::int64_t>(holders.size()) - 1));
      Holder& h = holders[which];
      if (action < 7) {
        const std::size_t before = h.blocks.size();
        const std::int64_t count = std::min(random.uniform_int(0, 12), pool.free());
        pool.allocate(count, h.blocks);
        for (std::size_t b = before; b < h.blocks.size(); ++b) ASSERT_EQ(h.blocks[b], plain.allocate());
        ASSERT_EQ(evicted.size(), plain.evicted.size());
        for (std::size_t e = 0; e < evicted.size(); ++e)
          ASSERT_EQ(std::pair(evicted[e].block, evicted[e].hash), plain.evicted[e]);
        evicted.clear();
        plain.evicted.clear();
        enter(h);
      } else {
        pool.release(h.blocks, static_cast<std::int64_t>(h.entered));
        plain.release(h.blocks);
        holders.erase(holders.begin() + static_cast<std::ptrdiff_t>(which));
      }
      ASSERT_EQ(pool.free(), static_cast<std::int64_t>(plain.free.size()));
      ASSERT_EQ(pool.free() + pool.used(), pool.usable());
      ASSERT_EQ(pool.cached_blocks(), static_cast<std::int64_t>(plain.hash.size()));
    }
    for (const Holder& h : holders) pool.release(h.blocks, static_cast<std::int64_t>(h.entered));
    EXPECT_EQ(pool.used(), 0);
  }
}

// A free segment of which the middle is taken is evicted as its blocks would be, the last one first.
TEST(KvBlockPool, WhatIsLeftOfASegmentKeepsItsPlaceInTheQueue) {
  KvBlockPool pool(11);
  const std::vector<std::uint64_t> hashes{16, 17, 18, 19, 20, 21, 22, 23};
  std::vector<KvBlockPool::Block> first, hit, rest;
  pool.allocate(8, first);
  pool.enter(first, 0, hashes);
  pool.release(first, 8);
  pool.take(std::span(hashes).subspan(2, 3), hit);
  EXPECT_THAT(hit, ElementsAre(3, 4, 5));
  EXPECT_EQ(pool.find(hashes).blocks, 8);
  EXPECT_EQ(pool.find(hashes).free, 5);
  pool.allocate(pool.free(), rest);
  EXPECT_THAT(rest, ElementsAre(9, 10, 8, 7, 6, 2, 1));
  EXPECT_EQ(pool.find(hashes).blocks, 0);
  EXPECT_EQ(pool.find(std::span(hashes).subspan(2)).blocks, 3);
}

}  // namespace
}  // namespace foretoken
