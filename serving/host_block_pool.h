// KV blocks in host memory that preempted sequences are swapped to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace foretoken {

class HostBlockPool {
 public:
  using Block = std::int32_t;

  explicit HostBlockPool(std::int64_t blocks) : blocks_(blocks) {}

  std::int64_t usable() const { return blocks_; }
  std::int64_t used() const { return fresh_ - static_cast<std::int64_t>(returned_.size()); }
  std::int64_t free() const { return blocks_ - used(); }
  std::int64_t peak() const { return peak_; }

  // Appends `count` blocks. Needs free() >= count.
  void allocate(std::int64_t count, std::vector<Block>& blocks) {
    const std::int64_t again = std::min(count, std::ssize(returned_));
    blocks.insert(blocks.end(), returned_.rbegin(), returned_.rbegin() + again);
    returned_.resize(returned_.size() - static_cast<std::size_t>(again));
    count -= again;
    for (; count > 0; --count) blocks.push_back(static_cast<Block>(fresh_++));
    peak_ = std::max(peak_, used());
  }
  void release(std::span<const Block> blocks) {
    returned_.insert(returned_.end(), blocks.begin(), blocks.end());
  }

 private:
  std::int64_t blocks_, fresh_ = 0, peak_ = 0;
  std::vector<Block> returned_;
};

}  // namespace foretoken
