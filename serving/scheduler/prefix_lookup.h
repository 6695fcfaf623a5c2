// What a cache of hashed blocks can have of a prompt, and has, for schedulers and for routers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "serving/block_hashes.h"
#include "serving/kv_block_pool.h"

namespace foretoken {

// Leading tokens of a prompt that others, or a later turn of its own conversation, can name. Content that
// nobody can name need neither be looked for nor be entered: no lookup can hit it.
inline std::int64_t shared_tokens(const Request& request, std::span<const ContentRun> runs) {
  if (request.session >= 0) return request.input_len;
  std::int64_t shared = 0;
  for (const ContentRun& run : runs) shared += run.tokens;
  return std::min<std::int64_t>(shared, request.input_len);
}

// Leading full blocks of a request that others, or a later turn, can name, those that it generates included.
inline std::int32_t nameable_blocks(const Request& request, std::span<const ContentRun> runs,
                                    int block_size) {
  if (request.session >= 0) return std::numeric_limits<std::int32_t>::max();
  return request.num_runs > 0 ? static_cast<std::int32_t>(shared_tokens(request, runs) / block_size) : 0;
}

// Of the first `most` blocks of a request those that are in the cache from the first on. Hashes are computed
// as far as it takes: where some were found more will be.
inline KvBlockPool::Found find_prefix(const KvBlockPool& pool, int block_size, const Request& request,
                                      std::span<const ContentRun> runs, std::int64_t most,
                                      BlockHashes& hashes) {
  KvBlockPool::Found found;
  while (found.blocks < most) {
    const std::int64_t end = std::min<std::int64_t>(most, 4 * found.blocks + 1);
    hashes.extend(end, block_size, request, runs);
    const auto more = pool.find(hashes.first(end).subspan(static_cast<std::size_t>(found.blocks)));
    found.blocks += more.blocks;
    found.free += more.free;
    if (found.blocks < end) break;
  }
  return found;
}

// Tokens of the leading full blocks in the cache, never the whole prompt, whose last token must be computed.
inline std::int64_t cached_prefix(const KvBlockPool& pool, int block_size, const Request& request,
                                  std::span<const ContentRun> runs, BlockHashes& hashes) {
  const std::int64_t shared = shared_tokens(request, runs);
  const std::int64_t most = std::min<std::int64_t>(shared, request.input_len - 1) / block_size;
  return find_prefix(pool, block_size, request, runs, most, hashes).blocks * block_size;
}

}  // namespace foretoken
