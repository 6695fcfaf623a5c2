#include "serving/kv_block_pool.h"

#include <algorithm>

namespace foretoken {

KvBlockPool::KvBlockPool(std::int64_t num_blocks) : num_blocks_(std::max<std::int64_t>(num_blocks, 1)) {}

void KvBlockPool::release(std::span<const Block> blocks, std::int64_t entered) {
  entered = std::min<std::int64_t>(entered, std::ssize(blocks));
  for (std::span<const Block> own = blocks.subspan(static_cast<std::size_t>(entered)); !own.empty();) {
    const std::size_t at = queue_.empty() ? 0 : tail_ & (queue_.size() - 1);
    const std::size_t room = std::min(queue_.size() - (tail_ - head_), queue_.size() - at);
    if (room == 0) {
      make_room();
      continue;
    }
    const auto last = own.last(std::min(own.size(), room));
    std::reverse_copy(last.begin(), last.end(), queue_.begin() + static_cast<std::ptrdiff_t>(at));
    tail_ += last.size();
    queued_ += std::ssize(last);
    own = own.first(own.size() - last.size());
  }
  for (std::int64_t i = entered - 1; i >= 0; --i) {
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
  const std::size_t mask = table_size() - 1;
  std::size_t place = static_cast<std::size_t>(hash) & mask;
  const auto tag = static_cast<std::uint32_t>(hash);
  while (at(place).first != 0 &&
         (at(place).tag != tag || cached_[static_cast<std::size_t>(at(place).first)].hash != hash))
    place = (place + 1) & mask;
  return place;
}

void KvBlockPool::grow() {
  const std::vector<Line> old = std::move(table_);
  table_.assign(std::max<std::size_t>(8, old.size() * 2), {});
  for (const Line& line : old)
    for (const Entry& entry : line.entries)
      if (entry.first != 0) at(place(cached_[static_cast<std::size_t>(entry.first)].hash)) = entry;
}

void KvBlockPool::cache(Block block, std::uint64_t hash) {
  if (table_size() < 2 * (table_used_ + 1)) grow();
  if (cached_.size() <= static_cast<std::size_t>(block)) cached_.resize(static_cast<std::size_t>(fresh_));
  Cached& entry = cached_[static_cast<std::size_t>(block)];
  Entry& known = at(place(hash));
  entry.hash = hash;
  entry.references = 1;
  if (known.first == 0) {
    known = {static_cast<std::uint32_t>(hash), block};
    entry.previous = entry.next = block;
    ++table_used_;
  } else {
    Cached& first = cached_[static_cast<std::size_t>(known.first)];
    entry.previous = first.previous;
    entry.next = known.first;
    cached_[static_cast<std::size_t>(first.previous)].next = block;
    first.previous = block;
  }
  ++cached_count_;
}

KvBlockPool::Block KvBlockPool::find(std::uint64_t hash) const {
  if (table_.empty()) return -1;
  const Block block = at(place(hash)).first;
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
    if (at(hole).first == block) at(hole).first = entry.next;
    entry.hash = 0;
    return;
  }
  if (evicted_ != nullptr) evicted_->push_back({block, hash});
  // Backward-shift deletion: later members of the cluster move up if the hole lies on their probe path.
  --table_used_;
  const std::size_t mask = table_size() - 1;
  at(hole) = {};
  for (std::size_t next = (hole + 1) & mask; at(next).first != 0; next = (next + 1) & mask) {
    const std::size_t home = at(next).tag & mask;
    if (((next - home) & mask) >= ((next - hole) & mask)) {
      at(hole) = at(next);
      at(next) = {};
      hole = next;
    }
  }
}

}  // namespace foretoken
