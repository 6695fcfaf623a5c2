#include "serving/kv_block_pool.h"

#include <algorithm>

namespace foretoken {

KvBlockPool::KvBlockPool(std::int64_t num_blocks) : num_blocks_(std::max<std::int64_t>(num_blocks, 1)) {}

void KvBlockPool::release(std::span<const Block> blocks, std::int64_t entered) {
  std::int64_t i = static_cast<std::int64_t>(blocks.size()) - 1;
  for (; i >= entered; --i) push(blocks[static_cast<std::size_t>(i)]);
  for (; i >= 0; --i) {
    const Block block = blocks[static_cast<std::size_t>(i)];
    Cached& entry = cached_[static_cast<std::size_t>(block)];
    if (--entry.references > 0) continue;
    push(-block);
    entry.place = tail_ - 1;
  }
}

// Drops the gaps that hits left, and grows when the queue is more than half full.
void KvBlockPool::make_room() {
  std::size_t size = 64;
  while (size < 2 * static_cast<std::size_t>(queued_ + 1)) size *= 2;
  std::vector<Block> queue(size);
  std::size_t tail = 0;
  for (; head_ != tail_; ++head_) {
    const Block entry = queue_[head_ & (queue_.size() - 1)];
    if (entry == 0) continue;
    if (entry < 0) cached_[static_cast<std::size_t>(-entry)].place = tail;
    queue[tail++] = entry;
  }
  queue_ = std::move(queue);
  head_ = 0;
  tail_ = tail;
}

std::size_t KvBlockPool::place(std::uint64_t hash) const {
  const std::size_t mask = table_.size() - 1;
  std::size_t at = static_cast<std::size_t>(hash) & mask;
  const auto tag = static_cast<std::uint32_t>(hash);
  while (table_[at].first != 0 &&
         (table_[at].tag != tag || cached_[static_cast<std::size_t>(table_[at].first)].hash != hash))
    at = (at + 1) & mask;
  return at;
}

void KvBlockPool::grow() {
  const std::vector<Entry> old = std::move(table_);
  table_.assign(std::max<std::size_t>(64, old.size() * 2), {});
  for (const Entry& entry : old)
    if (entry.first != 0) table_[place(cached_[static_cast<std::size_t>(entry.first)].hash)] = entry;
}

void KvBlockPool::cache(Block block, std::uint64_t hash) {
  if (table_.size() < 2 * (table_used_ + 1)) grow();
  if (cached_.size() <= static_cast<std::size_t>(block)) cached_.resize(static_cast<std::size_t>(fresh_));
  Cached& entry = cached_[static_cast<std::size_t>(block)];
  const std::size_t at = place(hash);
  entry.hash = hash;
  entry.references = 1;
  if (table_[at].first == 0) {
    table_[at] = {static_cast<std::uint32_t>(hash), block};
    entry.previous = entry.next = block;
    ++table_used_;
  } else {
    Cached& first = cached_[static_cast<std::size_t>(table_[at].first)];
    entry.previous = first.previous;
    entry.next = table_[at].first;
    cached_[static_cast<std::size_t>(first.previous)].next = block;
    first.previous = block;
  }
  ++cached_count_;
}

KvBlockPool::Block KvBlockPool::find(std::uint64_t hash) const {
  if (table_.empty()) return -1;
  const Block block = table_[place(hash)].first;
  return block == 0 ? -1 : block;
}

void KvBlockPool::evict(Block block) {
  Cached& entry = cached_[static_cast<std::size_t>(block)];
  const std::uint64_t hash = entry.hash;
  std::size_t hole = place(hash);
  entry.hash = entry.next == block ? 0 : entry.hash;
  --cached_count_;
  if (entry.hash != 0) {  // others with this content stay
    cached_[static_cast<std::size_t>(entry.previous)].next = entry.next;
    cached_[static_cast<std::size_t>(entry.next)].previous = entry.previous;
    if (table_[hole].first == block) table_[hole].first = entry.next;
    entry.hash = 0;
    return;
  }
  if (evicted_ != nullptr) evicted_->push_back({block, hash});
  // Backward-shift deletion: later members of the cluster move up if the hole lies on their probe path.
  --table_used_;
  const std::size_t mask = table_.size() - 1;
  table_[hole] = {};
  for (std::size_t at = (hole + 1) & mask; table_[at].first != 0; at = (at + 1) & mask) {
    const std::size_t home = table_[at].tag & mask;
    if (((at - home) & mask) >= ((at - hole) & mask)) {
      table_[hole] = table_[at];
      table_[at] = {};
      hole = at;
    }
  }
}

}  // namespace foretoken
