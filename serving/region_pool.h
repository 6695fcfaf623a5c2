// KV memory in contiguous regions: runs of blocks that are handed out first-fit and join again when they are
// given back. Block 0 is never handed out, as in KvBlockPool. (Kwon et al. suppose a buddy allocator, which
// would round every region up to a power of two.)
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>

namespace foretoken {

class RegionPool {
 public:
  using Block = std::int32_t;

  explicit RegionPool(std::int64_t num_blocks) : usable_(std::max<std::int64_t>(num_blocks - 1, 0)) {
    if (usable_ > 0) holes_[1] = usable_;
  }

  std::int64_t usable() const { return usable_; }
  std::int64_t used() const { return used_; }

  // First block of a region of `count`; -1 where no hole is that long.
  Block allocate(std::int64_t count) {
    for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
      if (hole->second < count) continue;
      const auto [first, length] = *hole;
      holes_.erase(hole);
      if (length > count) holes_[first + count] = length - count;
      used_ += count;
      return static_cast<Block>(first);
    }
    return -1;
  }

  void release(Block first, std::int64_t count) {
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
  std::map<std::int64_t, std::int64_t> holes_;  // first block -> length
};

}  // namespace foretoken
