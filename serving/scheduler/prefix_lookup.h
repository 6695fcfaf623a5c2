// What a cache of hashed blocks has of a prompt that isn't here yet, for routers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "serving/block_hashes.h"
#include "serving/kv_block_pool.h"

namespace foretoken {

// Tokens of the leading full blocks in the cache, never the whole prompt, whose last token must be computed.
// Only content that others can name is looked for (Request::session, num_runs).
inline std::int64_t cached_prefix(const KvBlockPool& pool, int block_size, const Request& request,
                                  std::span<const ContentRun> runs, BlockHashes& hashes) {
  std::int64_t shared = request.input_len;
  if (request.session < 0) {
    shared = 0;
    for (const ContentRun& run : runs) shared += run.tokens;
  }
  const std::int64_t most = std::min<std::int64_t>(shared, request.input_len - 1) / block_size;
  for (std::int64_t b = 0; b < most; ++b) {
    if (hashes.size() <= b) hashes.extend(b + 1, block_size, request, runs);
    if (pool.find(hashes[b]) < 0) return b * block_size;
  }
  return most * block_size;
}

}  // namespace foretoken
