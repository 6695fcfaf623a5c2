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

struct PlainPool {
  std::list<int> free;
  std::map<int, int> references;
  std::map<std::uint64_t, std::list<int>> cache;
  std::map<int, std::uint64_t> hash;
  int allocate() {
    const int block = free.front();
    free.pop_front();
    references[block] = 1;
    if (hash.contains(block)) {
      cache[hash[block]].remove(block);
      if (cache[hash[block]].empty()) cache.erase(hash[block]);
      hash.erase(block);
    }
    return block;
  }
};

TEST(KvBlockPool, BehavesAsThePlainModel) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CounterRandom random(seed, 3);
    const int size = static_cast<int>(random.uniform_int(4, 200));
    KvBlockPool pool(size + 1);
    PlainPool plain;
    for (int b = 1; b <= size; ++b) plain.free.push_back(b);
    struct Holder {
      std::vector<KvBlockPool::Block> blocks;
      std::int64_t entered = 0;
    };
    std::vector<Holder> holders;
    for (int i = 0; i < 3000; ++i) {
      const std::int64_t action = random.uniform_int(0, 9);
      if (action < 5) {  // a sequence: some hits, then new blocks, some of them entered
        Holder h;
        for (std::int64_t n = random.uniform_int(0, 6); n > 0; --n) {
          const auto hash = static_cast<std::uint64_t>(random.uniform_int(1, 40))
                            << 32;  // clusters in the table
          const KvBlockPool::Block found = pool.find(hash);
          const int expected = plain.cache.contains(hash) ? plain.cache[hash].front() : -1;
          ASSERT_EQ(found, expected);
          if (found < 0 || std::find(h.blocks.begin(), h.blocks.end(), found) != h.blocks.end()) continue;
          ASSERT_EQ(pool.is_free(found), plain.references[found] == 0);
          pool.touch(found);
          if (plain.references[found]++ == 0) plain.free.remove(found);
          h.blocks.push_back(found);
        }
        h.entered = static_cast<std::int64_t>(h.blocks.size());
        const std::int64_t count = std::min(random.uniform_int(0, 8), pool.free());
        pool.allocate(count, h.blocks);
        for (std::int64_t n = 0; n < count; ++n) {
          ASSERT_EQ(h.blocks[static_cast<std::size_t>(h.entered + n)], plain.allocate());
        }
        for (std::int64_t n = random.uniform_int(0, count); n > 0; --n) {
          const KvBlockPool::Block block = h.blocks[static_cast<std::size_t>(h.entered++)];
          const auto hash = static_cast<std::uint64_t>(random.uniform_int(1, 40)) << 32;
          pool.cache(block, hash);
          plain.cache[hash].push_back(block);
          plain.hash[block] = hash;
        }
        if (!h.blocks.empty()) holders.push_back(std::move(h));
      } else if (!holders.empty()) {
        const auto which =
            static_cast<std::size_t>(random.uniform_int(0, static_cast<std::int64_t>(holders.size()) - 1));
        pool.release(holders[which].blocks, holders[which].entered);
        for (std::size_t b = holders[which].blocks.size(); b-- > 0;) {
          if (--plain.references[holders[which].blocks[b]] == 0)
            plain.free.push_back(holders[which].blocks[b]);
        }
        holders.erase(holders.begin() + static_cast<std::ptrdiff_t>(which));
      }
      ASSERT_EQ(pool.free(), static_cast<std::int64_t>(plain.free.size()));
      ASSERT_EQ(pool.free() + pool.used(), pool.usable());
      ASSERT_EQ(pool.cached_blocks(), static_cast<std::int64_t>(plain.hash.size()));
    }
    for (const Holder& h : holders) pool.release(h.blocks, h.entered);
    EXPECT_EQ(pool.used(), 0);
    for (const auto& [block, hash] : plain.hash) EXPECT_EQ(pool.references(block), 0);
  }
}

}  // namespace
}  // namespace foretoken
