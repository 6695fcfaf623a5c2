// What schedulers share whose prefix cache is a radix tree of tokens beside the free blocks (Text Generation
// Inference 3, LightLLM 1): what is in the tree is found, and held while somebody uses it; the rest of it
// goes least recently used first where blocks are missing.
#pragma once

#include "serving/scheduler/block_scheduler.h"
#include "serving/scheduler/radix_cache.h"

namespace foretoken {

class RadixScheduler : public BlockScheduler {
 public:
  void enqueue(std::int32_t slot) override;
  std::int64_t cached_tokens(const Request& request, BlockHashes& hashes) const override;
  std::int64_t kv_used() const override { return pool_.used() - tree_.evictable() / config_.block_size; }

 protected:
  // Whether a leaf goes as a whole, and whether a lookup that ends in one counts as a use of all of it
  // (RadixCache).
  RadixScheduler(const SchedulerParts& parts, bool whole_leaves, bool touches_rest);

  // The leading tokens of the sequence, of the first `most`, that are in the tree; nothing is held yet.
  RadixCache::Match find(const Sequence& s, std::int64_t most);
  // Takes what was found: a sequence without blocks shares the tree's until it gives them back.
  void hold(std::int32_t slot, const RadixCache::Match& hit);
  void let_go(std::int32_t slot);
  // So many blocks are free, after leaves went for it where need be. False: all that nobody holds went, and
  // it was not enough.
  bool make_room(std::int64_t blocks);
  void take(Sequence& s, std::int64_t blocks);
  std::int64_t spare_blocks() const final;
  void make_room_for(std::int64_t steps) final;
  // Puts the first `tokens` tokens of the sequence into the tree, with their blocks, unless there is nothing
  // to add, and frees its other ones.
  void give_back(std::int32_t slot, std::int64_t tokens);
  std::int64_t blocks_of(const Sequence& s) const { return s.capacity / config_.block_size; }
  std::int32_t slot_of(const Sequence& s) const { return static_cast<std::int32_t>(&s - &sequences_[0]); }

 private:
  struct Held {
    RadixCache::Node node = RadixCache::kRoot;
    std::int64_t tokens = 0;  // of the tree, up to the end of the node
  };
  void give_back(std::span<const KvBlockPool::Block> named, std::int64_t count);
  bool searches() const { return config_.enable_prefix_caching && config_.caches_tokens; }

  RadixCache tree_;
  const bool whole_leaves_;
  std::vector<Held> held_;  // by slot
  mutable std::vector<TokenRun> key_;
  std::vector<RadixCache::Page> pages_;
};

}  // namespace foretoken
