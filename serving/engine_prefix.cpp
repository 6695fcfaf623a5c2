// Prefixes that one engine fetches from the cache of another: blocks held on both sides until they are there.
#include "serving/engine.h"

namespace foretoken {

void Engine::hold_prefix(const BlockHashes& hashes, std::int64_t blocks,
                         std::vector<KvBlockPool::Block>& held, Picoseconds now) {
  cut(now);
  KvBlockPool& pool = ranks_.front()->pool;
  for (std::int64_t b = 0; b < blocks; ++b) {
    held.push_back(pool.find(hashes[b]));
    pool.touch(held.back());
  }
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
  for (auto b = static_cast<std::size_t>(cached); b < held.size(); ++b) pool.cache(held[b], hashes[b]);
  pool.release(held, static_cast<std::int64_t>(held.size()));
  --between_;
  retry(now);
}

}  // namespace foretoken
