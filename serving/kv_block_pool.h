// The KV cache memory of one rank in blocks: reference counts, the LRU queue of free blocks, and the prefix
// cache that finds a block by the hash of its content. vLLM V1's block pool (serving-policies 5.1), in
// arrays.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace foretoken {

class KvBlockPool {
 public:
  using Block = std::int32_t;

  // Block 0 is the null block and never handed out.
  explicit KvBlockPool(std::int64_t num_blocks);

  std::int64_t usable() const { return num_blocks_ - 1; }
  std::int64_t free() const { return num_blocks_ - fresh_ + std::ssize(blank_) + queued_; }
  std::int64_t used() const { return usable() - free(); }

  // From the head of the free queue, with one reference each; cached blocks leave the prefix cache. Needs
  // free() >= count.
  void allocate(std::int64_t count, std::vector<Block>& blocks) {
    for (; count > 0 && fresh_ < num_blocks_; --count) blocks.push_back(static_cast<Block>(fresh_++));
    for (; count > 0 && !blank_.empty(); --count, blank_.pop_back()) blocks.push_back(blank_.back());
    for (; count > 0; --count) blocks.push_back(pop());
  }

  // Drops one reference of each, last block first; a block without references joins the tail of the free
  // queue, still cached. Of the blocks the first `entered` are in the prefix cache, the rest belong to one
  // sequence alone.
  void release(std::span<const Block> blocks, std::int64_t entered);

  // Blocks of one sequence alone that nobody will look for: they go before all that were released.
  void release_blank(std::span<const Block> blocks) {
    blank_.insert(blank_.end(), blocks.begin(), blocks.end());
  }

  // A cache hit (a block that find() gave): one more reference; a free block leaves the queue.
  void touch(Block block) {
    Cached& entry = cached_[static_cast<std::size_t>(block)];
    if (entry.references++ > 0) return;
    queue_[entry.place & (queue_.size() - 1)] = 0;
    --queued_;
  }
  // Of a block that find() gave.
  bool is_free(Block block) const { return cached_[static_cast<std::size_t>(block)].references == 0; }
  std::int32_t references(Block block) const { return cached_[static_cast<std::size_t>(block)].references; }

  // Blocks that are looked up, entered or evicted one after the other lie anywhere in the table, so their
  // lines are fetched this many ahead.
  static constexpr std::size_t kAhead = 24;
  void prefetch(std::uint64_t hash) const {
    if (!table_.empty()) fetch(hash);
  }

  // Enters a full block under its hash (not 0). Blocks of equal content are not merged.
  void cache(Block block, std::uint64_t hash);
  // The block that was entered first under this hash and is still there; -1 if none.
  Block find(std::uint64_t hash) const;
  std::int64_t cached_blocks() const { return cached_count_; }

  // Blocks that allocate() takes out of the prefix cache, of each content the last, are appended there.
  struct Evicted {
    Block block = 0;
    std::uint64_t hash = 0;
  };
  void note_evicted(std::vector<Evicted>* evicted) { evicted_ = evicted; }

 private:
  struct Cached {  // blocks of equal content form a ring in the order in which they were entered
    std::uint64_t hash = 0;
    Block previous = 0, next = 0;
    std::int32_t references = 0;
    std::size_t place = 0;  // in the free queue
  };

  struct Entry {
    std::uint32_t tag = 0;  // low half of the hash
    Block first = 0;        // of the ring; 0: hole
  };
  struct alignas(64) Line {  // of the processor's cache
    std::array<Entry, 8> entries;
  };
  std::size_t table_size() const { return 8 * table_.size(); }
  Entry& at(std::size_t place) { return table_[place / 8].entries[place % 8]; }
  const Entry& at(std::size_t place) const { return table_[place / 8].entries[place % 8]; }
  void fetch(std::uint64_t hash) const { __builtin_prefetch(&at(hash & (table_size() - 1)), 1); }
  // What evict() will want of blocks that are soon popped: their entries, then their lines of the table.
  void fetch_next() const {
    const std::size_t mask = queue_.size() - 1, left = tail_ - head_;
    if (left > 2 * kAhead)
      __builtin_prefetch(
          &cached_[static_cast<std::size_t>(std::max(0, -queue_[(head_ + 2 * kAhead) & mask]))], 1);
    if (left <= kAhead) return;
    const Block entry = queue_[(head_ + kAhead) & mask];
    if (entry < 0) fetch(cached_[static_cast<std::size_t>(-entry)].hash);
  }
  Block pop() {
    fetch_next();
    Block block;
    do {
      block = queue_[head_++ & (queue_.size() - 1)];
    } while (block == 0);
    --queued_;
    if (block < 0) evict(block = -block);
    return block;
  }
  void push(Block entry) {
    if (tail_ - head_ == queue_.size()) make_room();
    queue_[tail_++ & (queue_.size() - 1)] = entry;
    ++queued_;
  }
  void make_room();
  void evict(Block block);
  std::size_t place(std::uint64_t hash) const;  // where the hash is in table_, or the hole where it belongs
  void grow();

  std::int64_t num_blocks_;
  std::int64_t fresh_ = 1;  // blocks from here on were never handed out
  std::int64_t queued_ = 0;
  // The queue starts as 1, 2, 3, ..., so fresh blocks precede everything that was ever freed; what was freed
  // is in a ring of power-of-two size, read and written in order: block, -block if it is cached, or 0 where a
  // hit took it out.
  std::vector<Block> queue_, blank_;
  std::size_t head_ = 0, tail_ = 0;
  std::vector<Cached> cached_;
  // Open addressing, linear probing. With half of the hash beside the block a probe touches one cache line,
  // and so do blocks that BlockHashes has numbered.
  std::vector<Line> table_;
  std::size_t table_used_ = 0;
  std::int64_t cached_count_ = 0;
  std::vector<Evicted>* evicted_ = nullptr;
};

}  // namespace foretoken
