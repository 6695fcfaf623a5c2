// One rank's KV cache below device memory: what is written to which tier and when, what is loaded from there,
// and what the engine waits for. Decides nothing but where blocks lie; whom to load for is the scheduler's.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "serving/backend.h"
#include "serving/block_hashes.h"
#include "serving/kv_block_pool.h"
#include "serving/kv_tier.h"
#include "serving/timeline.h"

namespace foretoken {

class KvTiers {
 public:
  using Block = KvBlockPool::Block;
  // Keeps references to its arguments; timeline may be null.
  KvTiers(const KvTiersConfig& config, int block_size, std::vector<std::shared_ptr<KvTier>> tiers,
          Backend& backend, TimelineWriter* timeline, std::int32_t engine, std::int32_t rank);

  const KvTiersConfig& config() const { return config_; }

  // Of a request's blocks from `first` to below `end`: how many of the first ones lie in some tier now.
  // hashes: of all of them.
  std::int64_t find(const BlockHashes& hashes, std::int64_t first, std::int64_t end, Picoseconds now);
  // How many of the blocks just found are better loaded than computed. tokens: of the whole request.
  std::int64_t worth_loading(RequestId request, std::int64_t first, std::int64_t tokens, Picoseconds now);
  // Those are going to be loaded, though device memory may have to be written back first.
  void pin(std::int64_t blocks);
  // The first of the blocks just found, which are pinned, start to move to these of device memory; when all
  // are there.
  Picoseconds load(RequestId request, std::span<const Block> to, Picoseconds now);
  // Prompt tokens of those, by tier, count as found.
  void count_hits(std::int64_t blocks);
  // A request uses its first blocks, wherever they are.
  void use(const BlockHashes& hashes, std::int64_t blocks);

  // A full block in device memory that a request uses, its `position`-th one; `known`: it was there before.
  // If it is to be written it is when the step's tokens are out: then there is something in it.
  void offer(Block block, std::uint64_t hash, std::int64_t position, bool known, bool leaves = false);
  void write_offered(Picoseconds at);
  // `leaves`: its request gives it up, so it is written before anything else happens.
  void write_leaving(Picoseconds at);
  // These blocks of device memory are about to be given away; the step waits until they are written.
  void write_back(std::span<const KvBlockPool::Evicted> leaving, Picoseconds now);

  // For a scheduler whose own tree says where blocks lie (SGLang's): copies between device memory and the
  // nearest tier. When they end: of blocks that are written; that come for the step being decided, which
  // computes layer by layer as they do, for so many requests. And of blocks whose room is given away: the
  // step waits for them.
  Picoseconds copy_out(std::span<const BlockCopy> blocks, Picoseconds at);
  Picoseconds copy_in(std::int64_t requests, std::span<const BlockCopy> blocks, Picoseconds now);
  void copy_back(std::span<const BlockCopy> blocks, Picoseconds now);
  // Of one request, in each tier.
  void count_hit_blocks(std::int64_t host, std::int64_t stored) {
    counts_.front().hit_tokens += host * block_size_;
    if (stored > 0) counts_.back().hit_tokens += stored * block_size_;
  }
  // Storage below that tier. Blocks of it with these hashes that storage lacks go there, a batch at a time;
  // when the last one is there.
  Picoseconds store(std::span<const Block> host, std::span<const std::uint64_t> hashes, Picoseconds at);
  // Where the first of these hashes lie in storage, which keeps them until they are released.
  void find_stored(std::span<const std::uint64_t> hashes, Picoseconds now, std::vector<KvTier::Slot>& slots);
  void release_stored(std::span<const KvTier::Slot> slots);
  // At most kStorageBatch of them come to the tier above; when they are there.
  Picoseconds fetch(RequestId request, std::span<const BlockCopy> blocks, Picoseconds at);
  static constexpr std::size_t kStorageBatch = 128;  // storage_batch_size
  // All so far: blocks that left the tier for others, and that found no room.
  void count_left(std::int64_t evicted, std::int64_t refused) {
    counts_.front().evicted = evicted;
    counts_.front().refused = refused;
  }

  // A step begins to be decided.
  void begin_step() { written_back_at_ = loads_start_ = loads_end_ = 0; }
  bool stalls() const { return written_back_at_ > 0 || loads_end_ > 0; }
  // By how much a step that starts now and computes for so long ends later for what it waits for.
  Picoseconds stall(Picoseconds now, Picoseconds computing) const;

  const std::vector<KvTierCounts>& counts() const { return counts_; }
  // Requests that blocks were loaded for, and how long these took from when they were asked for.
  std::int64_t loads() const { return loads_; }
  Picoseconds load_wait() const { return load_wait_; }

 private:
  struct Place {
    std::int32_t tier = 0;
    KvTier::Slot slot = 0;
  };
  struct Offer {
    std::int32_t from = 0;  // block of device memory, or slot of the tier above
    std::uint64_t hash = 0;
    std::int32_t position = 0;
  };
  struct PerBlock {  // of device memory
    std::int32_t position = 0, uses = 0;
  };
  struct Scratch {
    std::vector<BlockCopy> copies;
    std::vector<Offer> demoted, below;
  };
  PerBlock& of(Block block);
  std::int64_t run_length(std::size_t from, std::size_t end) const;
  Picoseconds put(std::size_t tier, Picoseconds at, std::span<const Offer> offers);
  Picoseconds move(RequestId request, std::int32_t from, std::int32_t to, std::span<const BlockCopy> blocks,
                   Picoseconds at, Picoseconds& end);

  const KvTiersConfig config_;
  const int block_size_;
  std::vector<std::shared_ptr<KvTier>> tiers_;
  Backend& backend_;
  TimelineWriter* timeline_;
  const std::int32_t engine_, rank_;
  std::vector<Place> found_;  // by the last find()
  std::vector<Offer> offered_, leaving_;
  std::vector<PerBlock> blocks_;
  std::vector<Scratch> scratch_;  // by tier
  std::vector<KvTierCounts> counts_;
  std::int64_t loads_ = 0;
  Picoseconds load_wait_ = 0;
  Picoseconds written_back_at_ = 0, loads_start_ = 0, loads_end_ = 0;
};

}  // namespace foretoken
