// A request inside an engine: how far it is, which blocks it holds. Kept in recycled slots, so that memory
// follows the requests in flight.
#pragma once

#include <cstdint>
#include <vector>

#include "serving/block_hashes.h"
#include "serving/kv_block_pool.h"
#include "serving/request.h"

namespace foretoken {

struct alignas(64) Sequence {
  enum class State : std::uint8_t { kWaiting, kRunning };

  // Read for every running sequence at every decision: one cache line.
  std::int32_t computed = 0;    // tokens in the KV cache, steps in flight included
  std::int32_t num_tokens = 0;  // prompt + tokens that are out
  std::int32_t end_tokens = 0;  // finished at this many
  std::int32_t capacity = 0;    // tokens that its blocks hold
  Picoseconds last_token = 0;   // when its newest token was out
  State state = State::kWaiting;
  bool decoding = false;         // everything but the newest token is in the cache
  bool token_in_flight = false;  // sampled in a step whose tokens aren't out yet
  bool first_token_out = false;
  std::int16_t drafts = 0;          // drafted tokens that its next step verifies
  bool moves_on = false;            // another engine makes its tokens after the first
  std::uint8_t passed_over = 0;     // steps in a row that it had no place in (Splitwise's scheduler)
  std::int32_t shared_blocks = 0;   // leading blocks whose content other requests may share
  std::int32_t entered_blocks = 0;  // leading blocks that are in the prefix cache's table
  std::int32_t offered_blocks = 0;  // leading blocks that the KV tiers know of
  std::int32_t preemptions = 0;
  std::int32_t cached_tokens =
      -1;  // prompt tokens found in the cache at first admission; -1: not yet admitted

  std::int32_t uncached = 0;  // prompt tokens that its router expected to be computed
  Request request;
  Picoseconds queued = 0, scheduled = 0, prefill_start = 0, first_token = 0;
  Picoseconds loading = 0;                 // waited for KV tiers before it was first scheduled
  Picoseconds handed_over = 0, moved = 0;  // prompt computed elsewhere, its cache here; 0: not moved
  std::vector<KvBlockPool::Block> blocks;
  std::vector<KvBlockPool::Block> host_blocks;  // holds its tokens while it is swapped out
  BlockHashes hashes;
};

class SequenceTable {
 public:
  std::int32_t add(const Request& request, Picoseconds now) {
    std::int32_t slot;
    if (free_.empty()) {
      slot = static_cast<std::int32_t>(sequences_.size());
      sequences_.emplace_back();
    } else {
      slot = free_.back();
      free_.pop_back();
    }
    Sequence& s = (*this)[slot];
    std::vector<KvBlockPool::Block> blocks = std::move(s.blocks);
    BlockHashes hashes = std::move(s.hashes);
    blocks.clear();
    hashes.clear();
    s = Sequence();
    s.blocks = std::move(blocks);
    s.hashes = std::move(hashes);
    s.request = request;
    s.num_tokens = request.input_len;
    s.queued = now;
    return slot;
  }
  void remove(std::int32_t slot) { free_.push_back(slot); }
  Sequence& operator[](std::int32_t slot) { return sequences_[static_cast<std::size_t>(slot)]; }
  const Sequence& operator[](std::int32_t slot) const { return sequences_[static_cast<std::size_t>(slot)]; }

 private:
  std::vector<Sequence> sequences_;
  std::vector<std::int32_t> free_;
};

}  // namespace foretoken
