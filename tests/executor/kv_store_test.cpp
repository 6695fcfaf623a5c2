// KV blocks between the kernels' memory, the host's and files: every byte where it belongs.
#include "executor/kv_store.h"

#include <gtest/gtest.h>

#include <numeric>

#include "model_support.h"

namespace foretoken::test {
namespace {

// Six blocks of two arrays in the kernels' memory. They are large: a file takes more than one turn for them.
class Cache {
 public:
  static constexpr std::size_t kBlocks = 6, kBytes[] = {std::size_t{2} << 20, (std::size_t{1} << 20) + 4};
  static constexpr std::size_t kAll = kBytes[0] + kBytes[1];
  Cache() : arena_(kBlocks * kAll + Arena::kAlignment, memory()) {
    for (const std::size_t bytes : kBytes) arrays_.push_back({arena_.bytes(kBlocks * bytes), bytes});
  }
  static const KernelMemory& memory() { return tested_kernels().memory(); }
  std::span<const KvArray> arrays() const { return arrays_; }
  // Of one block, both arrays.
  void fill(std::int32_t block, std::uint8_t with) {
    std::vector<std::uint8_t> bytes(kAll);
    std::iota(bytes.begin(), bytes.end(), with);
    std::size_t before = 0;
    for (const KvArray& a : arrays_) {
      memory().copy(a.first + static_cast<std::size_t>(block) * a.block_bytes, bytes.data() + before,
                    a.block_bytes);
      before += a.block_bytes;
    }
  }
  bool holds(std::int32_t block, std::uint8_t what) const {
    std::vector<std::uint8_t> expected(kAll), bytes(kAll);
    std::iota(expected.begin(), expected.end(), what);
    std::size_t before = 0;
    for (const KvArray& a : arrays_) {
      memory().copy(bytes.data() + before, a.first + static_cast<std::size_t>(block) * a.block_bytes,
                    a.block_bytes);
      before += a.block_bytes;
    }
    return bytes == expected;
  }

 private:
  Arena arena_;
  std::vector<KvArray> arrays_;
};

TEST(KvStores, EveryByteIsWhereItBelongs) {
  Cache cache;
  KvStoreLayout host{.blocks = 8}, file{.blocks = 8, .on_storage = true, .folder = testing::TempDir()};
  const auto store = [&](const KvStoreLayout& layout) {
    return KvStore(layout, Cache::kAll, Cache::memory());
  };
  KvStore near = store(host), other = store(host), stored = store(file), below = store(file);
  for (std::int32_t b = 0; b < 6; ++b) cache.fill(b, static_cast<std::uint8_t>(10 + b));
  // Device to each kind, between any two kinds, and back to other blocks.
  near.write(std::vector<BlockCopy>{{0, 7}, {1, 3}}, cache.arrays());
  stored.write(std::vector<BlockCopy>{{2, 0}, {3, 6}, {4, 5}, {5, 1}}, cache.arrays());
  Cache::memory().wait();
  near.copy(std::vector<BlockCopy>{{7, 2}}, other);
  near.copy(std::vector<BlockCopy>{{3, 7}}, stored);
  stored.copy(std::vector<BlockCopy>{{6, 4}, {5, 0}}, other);
  stored.copy(std::vector<BlockCopy>{{0, 3}, {1, 2}}, below);
  for (std::int32_t b = 0; b < 6; ++b) cache.fill(b, 0);
  other.read(std::vector<BlockCopy>{{2, 5}, {4, 4}}, cache.arrays());
  stored.read(std::vector<BlockCopy>{{7, 0}}, cache.arrays());
  below.read(std::vector<BlockCopy>{{3, 1}, {2, 3}}, cache.arrays());
  Cache::memory().wait();
  EXPECT_TRUE(cache.holds(5, 10));
  EXPECT_TRUE(cache.holds(0, 11));
  EXPECT_TRUE(cache.holds(1, 12));
  EXPECT_TRUE(cache.holds(4, 13));
  EXPECT_TRUE(cache.holds(2, 0)) << "nothing was copied there";
  EXPECT_TRUE(cache.holds(3, 15));
  stored.read(std::vector<BlockCopy>{{0, 0}, {6, 1}, {5, 2}, {1, 3}, {7, 4}}, cache.arrays());
  Cache::memory().wait();
  const std::uint8_t written[] = {12, 13, 14, 15, 11};
  for (std::int32_t b = 0; b < 5; ++b) EXPECT_TRUE(cache.holds(b, written[b])) << b;
}

}  // namespace
}  // namespace foretoken::test
