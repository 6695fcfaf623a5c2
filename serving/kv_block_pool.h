// The KV cache memory of one rank in blocks: reference counts, the LRU queue of free blocks, and the prefix
// cache that finds a block by the hash of its content. vLLM V1's block pool (serving-policies 5.1), in
// arrays.
#pragma once

#include <cstdint>
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

  // Head of the free queue, with one reference; a block that was cached leaves the prefix cache. Needs free()
  // > 0.
  Block allocate() {
    if (fresh_ <
        num_blocks_) {  // the queue starts as 1, 2, 3, ...: these precede everything that was ever freed
      blocks_.push_back({0, 0, 1});
      return static_cast<Block>(fresh_++);
    }
    const Block block = blocks_[0].next;
    unlink(block);
    blocks_[static_cast<std::size_t>(block)].references = 1;
    if (static_cast<std::size_t>(block) < cached_.size() &&
        cached_[static_cast<std::size_t>(block)].hash != 0) {
      evict(block);
    }
    return block;
  }

  // Drops one reference; with the last one the block joins the tail of the free queue, still cached.
  void release(Block block) {
    Entry& entry = blocks_[static_cast<std::size_t>(block)];
    if (--entry.references > 0) return;
    Entry& end = blocks_[0];
    entry.previous = end.previous;
    entry.next = 0;
    blocks_[static_cast<std::size_t>(end.previous)].next = block;
    end.previous = block;
    ++queued_;
  }

  // A cache hit: one more reference; a free block leaves the queue.
  void touch(Block block) {
    if (blocks_[static_cast<std::size_t>(block)].references == 0) unlink(block);
    ++blocks_[static_cast<std::size_t>(block)].references;
  }

  bool is_free(Block block) const { return blocks_[static_cast<std::size_t>(block)].references == 0; }
  std::int32_t references(Block block) const { return blocks_[static_cast<std::size_t>(block)].references; }

  // Enters a full block under its hash (not 0). Blocks of equal content are not merged.
  void cache(Block block, std::uint64_t hash);
  // The block that was entered first under this hash and is still there; -1 if none.
  Block find(std::uint64_t hash) const;
  std::int64_t cached_blocks() const { return cached_count_; }

 private:
  struct Entry {  // the free queue is a ring through blocks_[0]
    Block previous = 0, next = 0;
    std::int32_t references = 0;
  };
  struct Cached {  // blocks of equal content form a ring in the order in which they were entered
    std::uint64_t hash = 0;
    Block previous = 0, next = 0;
  };

  void unlink(Block block) {
    const Entry& entry = blocks_[static_cast<std::size_t>(block)];
    blocks_[static_cast<std::size_t>(entry.previous)].next = entry.next;
    blocks_[static_cast<std::size_t>(entry.next)].previous = entry.previous;
    --queued_;
  }
  void evict(Block block);
  std::size_t place(std::uint64_t hash) const;  // where the hash is in table_, or the hole where it belongs
  void grow();

  std::int64_t num_blocks_;
  std::int64_t fresh_ = 1;  // blocks from here on were never handed out
  std::int64_t queued_ = 0;
  std::vector<Entry> blocks_;
  std::vector<Cached> cached_;
  std::vector<Block> table_;  // open addressing, linear probing; the first block of each ring; 0: hole
  std::size_t table_used_ = 0;
  std::int64_t cached_count_ = 0;
};

}  // namespace foretoken
