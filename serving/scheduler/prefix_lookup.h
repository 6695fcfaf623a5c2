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

// Tokens of the leading full blocks in the cache, never the whole prompt, whose last token must be computed.
inline std::int64_t cached_prefix(const KvBlockPool& pool, int block_size, const Request& request,
                                  std::span<const ContentRun> runs, BlockHashes& hashes) {
  const std::int64_t shared = shared_tokens(request, runs);
  const std::int64_t most = std::min<std::int64_t>(shared, request.input_len - 1) / block_size;
  for (std::int64_t b = 0; b < most; ++b) {
    if (hashes.size() <= b) hashes.extend(b + 1, block_size, request, runs);
    if (pool.find(hashes[b]) < 0) return b * block_size;
  }
  return most * block_size;
}

}  // namespace foretoken
