// What engines tell and keep of caches on their way between them: prompts as they are computed, and prefixes
// that one engine fetches from another's cache, whose blocks are held on both sides until they are there.
#include "serving/engine.h"

namespace foretoken {

void Engine::cancel(Place at, Picoseconds now) {
  Rank& rank = *ranks_[static_cast<std::size_t>(at.rank)];
  cut(now);
  rank.scheduler->cancel(at.slot);
  rank.sequences.remove(at.slot);
  --rank.reserved;
  --between_;
  retry(now);
}

void Engine::list_chunks(std::vector<Chunk>& chunks) const {
  const InFlight& flight = flights_[(head_ + in_flight_ - 1) % flights_.size()];
  for (std::size_t r = 0; r < ranks_.size(); ++r)
    for (const PrefillPart& p : batches_[r].prefill)
      if (goes_on_elsewhere(ranks_[r]->sequences[p.slot].request))
        chunks.push_back({{static_cast<std::int32_t>(r), p.slot},
                          p.cached,
                          p.cached + p.new_tokens,
                          flight.event.start,
                          flight.end});
}

void Engine::hold_prefix(const BlockHashes& hashes, std::int64_t blocks,
                         std::vector<KvBlockPool::Block>& held, Picoseconds now) {
  cut(now);
  ranks_.front()->pool.take(hashes.first(blocks), held);
  ++between_;
  note_usage();
}

std::int64_t Engine::take_prefix_blocks(std::int64_t blocks, std::vector<KvBlockPool::Block>& held) {
  KvBlockPool& pool = ranks_.front()->pool;
  blocks = std::min(blocks, pool.free());
  pool.allocate(blocks, held);
  note_usage();
  return blocks;
}

void Engine::release_prefix(std::span<const KvBlockPool::Block> held, std::int64_t cached,
                            std::span<const std::uint64_t> hashes, Picoseconds now) {
  cut(now);
  KvBlockPool& pool = ranks_.front()->pool;
  pool.enter(held, cached, hashes);
  pool.release(held, static_cast<std::int64_t>(held.size()));
  --between_;
  retry(now);
}

}  // namespace foretoken
