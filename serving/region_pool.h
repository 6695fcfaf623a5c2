// KV memory in contiguous regions: runs of blocks that are handed out first-fit and join again when they are
// given back. Block 0 is never handed out, as in KvBlockPool. As a buddy allocator, which Kwon et al. 2023
// suppose, every region is rounded up to a power of two of blocks and begins at a multiple of its length.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>

namespace foretoken {

class RegionPool {
 public:
  using Block = std::int32_t;

  explicit RegionPool(std::int64_t num_blocks, bool buddy = false)
      : usable_(std::max<std::int64_t>(num_blocks - 1, 0)), buddy_(buddy) {
    if (usable_ > 0) holes_[1] = usable_;
  }

  std::int64_t usable() const { return usable_; }
  std::int64_t used() const { return used_; }

  // What a region of `count` blocks takes.
  std::int64_t taken(std::int64_t count) const {
    return buddy_ ? static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(count))) : count;
  }

  // First block of a region of `count`; -1 where no hole has room for it.
  Block allocate(std::int64_t count) {
    count = taken(count);
    for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
      const auto [begin, length] = *hole;
      const std::int64_t first = buddy_ ? (begin - 1 + count - 1) / count * count + 1 : begin;
      const std::int64_t end = begin + length;
      if (end - first < count) continue;
      holes_.erase(hole);
      if (first > begin) holes_[begin] = first - begin;
      if (end > first + count) holes_[first + count] = end - first - count;
      used_ += count;
      return static_cast<Block>(first);
    }
    return -1;
  }

  void release(Block first, std::int64_t count) {
    count = taken(count);
    used_ -= count;
    auto [hole, added] = holes_.emplace(first, count);
    if (const auto next = std::next(hole); next != holes_.end() && first + count == next->first) {
      hole->second += next->second;
      holes_.erase(next);
    }
    if (hole == holes_.begin()) return;
    const auto before = std::prev(hole);
    if (before->first + before->second != first) return;
    before->second += hole->second;
    holes_.erase(hole);
  }

 private:
  std::int64_t usable_, used_ = 0;
  bool buddy_;
  std::map<std::int64_t, std::int64_t> holes_;  // first block -> length
};

}  // namespace foretoken
