#include "serving/kv_block_pool.h"

#include <algorithm>

namespace foretoken {

KvBlockPool::KvBlockPool(std::int64_t num_blocks)
    : num_blocks_(std::max<std::int64_t>(num_blocks, 1)), blocks_(1) {}

std::size_t KvBlockPool::place(std::uint64_t hash) const {
  const std::size_t mask = table_.size() - 1;
  std::size_t at = static_cast<std::size_t>(hash) & mask;
  while (table_[at] != 0 && cached_[static_cast<std::size_t>(table_[at])].hash != hash) at = (at + 1) & mask;
  return at;
}

void KvBlockPool::grow() {
  const std::vector<Block> old = std::move(table_);
  table_.assign(std::max<std::size_t>(64, old.size() * 2), 0);
  for (const Block block : old) {
    if (block != 0) table_[place(cached_[static_cast<std::size_t>(block)].hash)] = block;
  }
}

void KvBlockPool::cache(Block block, std::uint64_t hash) {
  if (table_.size() < 2 * (table_used_ + 1)) grow();
  if (cached_.size() <= static_cast<std::size_t>(block)) cached_.resize(blocks_.size());
  Cached& entry = cached_[static_cast<std::size_t>(block)];
  const std::size_t at = place(hash);
  entry.hash = hash;
  if (table_[at] == 0) {
    table_[at] = entry.previous = entry.next = block;
    ++table_used_;
  } else {
    Cached& first = cached_[static_cast<std::size_t>(table_[at])];
    entry.previous = first.previous;
    entry.next = table_[at];
    cached_[static_cast<std::size_t>(first.previous)].next = block;
    first.previous = block;
  }
  ++cached_count_;
}

KvBlockPool::Block KvBlockPool::find(std::uint64_t hash) const {
  if (table_.empty()) return -1;
  const Block block = table_[place(hash)];
  return block == 0 ? -1 : block;
}

void KvBlockPool::evict(Block block) {
  Cached& entry = cached_[static_cast<std::size_t>(block)];
  std::size_t hole = place(entry.hash);
  entry.hash = entry.next == block ? 0 : entry.hash;
  --cached_count_;
  if (entry.hash != 0) {  // others with this content stay
    cached_[static_cast<std::size_t>(entry.previous)].next = entry.next;
    cached_[static_cast<std::size_t>(entry.next)].previous = entry.previous;
    if (table_[hole] == block) table_[hole] = entry.next;
    entry.hash = 0;
    return;
  }
  // Backward-shift deletion: later members of the cluster move up if the hole lies on their probe path.
  --table_used_;
  const std::size_t mask = table_.size() - 1;
  table_[hole] = 0;
  for (std::size_t at = (hole + 1) & mask; table_[at] != 0; at = (at + 1) & mask) {
    const std::size_t home =
        static_cast<std::size_t>(cached_[static_cast<std::size_t>(table_[at])].hash) & mask;
    if (((at - home) & mask) >= ((at - hole) & mask)) {
      table_[hole] = table_[at];
      table_[at] = 0;
      hole = at;
    }
  }
}

}  // namespace foretoken
