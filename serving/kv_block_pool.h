// The KV cache memory of one rank in blocks: reference counts, the LRU queue of free blocks, and the prefix
// cache that finds a block by the hash of its content. vLLM V1's block pool (serving-policies 5.1), which
// counts, queues and evicts single blocks; here blocks that are entered together are kept as one segment, and
// are so until something happens to a part of them, with the same outcome for each block.
#pragma once

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
  std::int64_t free() const { return blank() - lent_ + queued_; }
  std::int64_t used() const { return usable() - free(); }
  // Free ones that go before all that were released with something in them.
  std::int64_t blank() const { return num_blocks_ - fresh_ + std::ssize(blank_); }

  // Blocks that nobody calls by name, of a pool that hands out no others: they only become fewer. Needs
  // free() >= count.
  void lend(std::int64_t count) { lent_ += count; }
  void give_back(std::int64_t count) { lent_ -= count; }

  // From the head of the free queue, with one reference each; cached blocks leave the prefix cache. Needs
  // free() >= count.
  void allocate(std::int64_t count, std::vector<Block>& blocks) {
    for (; count > 0 && fresh_ < num_blocks_; --count) blocks.push_back(static_cast<Block>(fresh_++));
    for (; count > 0 && !blank_.empty(); --count, blank_.pop_back()) blocks.push_back(blank_.back());
    if (count == 1 && marked_ == 0) {
      blocks.push_back(queue_[head_++ & (queue_.size() - 1)]);
      --queued_;
    } else if (count > 0) {
      pop(count, blocks);
    }
  }

  // Drops one reference of each, last block first; a block without references joins the tail of the free
  // queue, still cached. Of the blocks the first `entered` are in the prefix cache, the rest belong to one
  // sequence alone. Whoever releases does so with all blocks that it has taken.
  void release(std::span<const Block> blocks, std::int64_t entered);

  // Blocks of one sequence alone that nobody will look for: they go before all that were released.
  void release_blank(std::span<const Block> blocks) {
    blank_.insert(blank_.end(), blocks.begin(), blocks.end());
  }

  // How many of a sequence's blocks, the first `entered` of which are in the prefix cache, others hold too.
  std::int64_t shared(std::span<const Block> blocks, std::int64_t entered) const;

  // Hashes that are one more than the one before them, up to a multiple of this, share a segment.
  static constexpr std::size_t kSegment = 8;

  // Enters full blocks of a sequence, from the first that isn't on, under the hashes (not 0) of all its
  // blocks. Blocks of equal content are not merged.
  void enter(std::span<const Block> blocks, std::int64_t entered, std::span<const std::uint64_t> hashes);

  // Of the hashes as many as are cached in a row from the first on, each found in the block that was entered
  // first under it and is still there, and how many of these are free.
  struct Found {
    std::int64_t blocks = 0, free = 0;
  };
  Found find(std::span<const std::uint64_t> hashes) const;
  // A cache hit, of hashes that find() has found: one more reference of each block; free ones leave the
  // queue.
  void take(std::span<const std::uint64_t> hashes, std::vector<Block>& blocks);
  std::int64_t cached_blocks() const { return cached_count_; }

  // Blocks that allocate() takes out of the prefix cache, of each content the last, are appended there.
  struct Evicted {
    Block block = 0;
    std::uint64_t hash = 0;
  };
  void note_evicted(std::vector<Evicted>* evicted) { evicted_ = evicted; }

 private:
  using Index = std::int32_t;  // of a segment, 0: none

  // Blocks of consecutive hashes that the same sequences hold, or that are free one behind the other, the
  // last block first. One line of the processor's cache.
  struct alignas(64) Segment {
    std::uint64_t hash = 0;        // of the first block
    Index previous = 0, next = 0;  // in the ring of those of the same group, in the order of their entering
    Index behind = 0;              // free, it shares its place in the queue with this one, which comes later
    std::uint32_t place = 0;       // in the free queue
    std::int32_t references = 0, count = 0;
    std::array<Block, kSegment> blocks{};
    std::uint64_t end() const { return hash + static_cast<std::uint64_t>(count); }
    bool covers(std::uint64_t of) const { return of >= hash && of < end(); }
  };
  struct Entry {            // of a group: hashes that differ in their last digit (of base kSegment) alone
    std::uint32_t tag = 0;  // low half of the group's number
    Index first = 0;        // of the ring; 0: hole
  };
  // Where a hash is found: in so many blocks of a segment from `from` on, and so are as many hashes after it.
  struct Place {
    Index segment = 0;  // 0: nowhere
    std::int32_t from = 0, count = 0;
  };

  static std::uint64_t group(std::uint64_t hash) { return hash / kSegment; }
  Segment& at(Index segment) { return segments_[static_cast<std::size_t>(segment)]; }
  const Segment& at(Index segment) const { return segments_[static_cast<std::size_t>(segment)]; }
  Place place(std::span<const std::uint64_t> hashes) const;
  Block& queued(std::uint32_t place) { return queue_[place & (queue_.size() - 1)]; }

  // Segments and their entries in the table lie anywhere in memory, so what is wanted soon is fetched.
  static constexpr std::size_t kAhead = 4;  // segments
  void fetch(std::uint64_t hash) const { __builtin_prefetch(&table_[group(hash) & (table_.size() - 1)], 1); }
  void fetch(Index segment) const { __builtin_prefetch(segments_.data() + segment, 1); }
  void fetch_next() const;

  void pop(std::int64_t count, std::vector<Block>& blocks);
  void push(Index segment);
  void make_room();
  void unqueue(Index segment);
  void note(const Segment& s, std::int32_t count);

  Index add(std::uint64_t hash);  // a segment of no blocks behind all of its group
  void remove(Index segment);
  Index new_segment();
  void split(Index segment, std::int32_t count);  // what is beyond so many blocks becomes another one

  std::size_t slot(std::uint64_t group) const;  // of table_: where the group is, or the hole where it belongs
  void grow();

  std::int64_t num_blocks_;
  std::int64_t fresh_ = 1;   // blocks from here on were never handed out
  std::int64_t queued_ = 0;  // blocks in the queue
  std::int64_t lent_ = 0;
  // The queue starts as 1, 2, 3, ..., so fresh blocks precede everything that was ever freed; what was freed
  // is in a ring of power-of-two size, read and written in order: a block, a segment as -segment, or 0 where
  // a hit took it out.
  std::vector<Block> queue_, blank_;
  std::size_t head_ = 0, tail_ = 0;
  std::size_t marked_ = 0;  // entries of the queue that are no blocks
  std::vector<Segment> segments_{1};
  Index unused_ = 0;               // segments, by `next`
  std::vector<Index> segment_of_;  // by block, of the last block of each segment that is held
  std::vector<Entry> table_;       // open addressing, linear probing
  std::size_t table_used_ = 0;
  std::int64_t cached_count_ = 0;
  std::vector<Evicted>* evicted_ = nullptr;
};

}  // namespace foretoken
