// The KV cache memory of one rank in blocks: reference counts, the LRU queue of free blocks, and the prefix
// cache that finds a block by the hash of its content. vLLM V1's block pool (serving-policies 5.1), in
// arrays.
#pragma once

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
  std::int64_t free() const { return num_blocks_ - fresh_ + queued_; }
  std::int64_t used() const { return usable() - free(); }

  // From the head of the free queue, with one reference each; cached blocks leave the prefix cache. Needs
  // free() >= count.
  void allocate(std::int64_t count, std::vector<Block>& blocks) {
    for (; count > 0 && fresh_ < num_blocks_; --count) blocks.push_back(static_cast<Block>(fresh_++));
    for (; count > 0; --count) blocks.push_back(pop());
  }

  // Drops one reference of each, last block first; a block without references joins the tail of the free
  // queue, still cached. Of the blocks the first `entered` are in the prefix cache, the rest belong to one
  // sequence alone.
  void release(std::span<const Block> blocks, std::int64_t entered);

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

  // Enters a full block under its hash (not 0). Blocks of equal content are not merged.
  void cache(Block block, std::uint64_t hash);
  // The block that was entered first under this hash and is still there; -1 if none.
  Block find(std::uint64_t hash) const;
  std::int64_t cached_blocks() const { return cached_count_; }

 private:
  struct Cached {  // blocks of equal content form a ring in the order in which they were entered
    std::uint64_t hash = 0;
    Block previous = 0, next = 0;
    std::int32_t references = 0;
    std::size_t place = 0;  // in the free queue
  };

  Block pop() {
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
  std::vector<Block> queue_;
  std::size_t head_ = 0, tail_ = 0;
  std::vector<Cached> cached_;
  std::vector<Block> table_;  // open addressing, linear probing; the first block of each ring; 0: hole
  std::size_t table_used_ = 0;
  std::int64_t cached_count_ = 0;
};

}  // namespace foretoken
