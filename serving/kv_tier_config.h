// Tiers of the KV cache below device memory: what a scheduler is told of them (docs/policies.md, "KV tiers"),
// and what is counted.
#pragma once

#include <cstdint>
#include <vector>

#include "base/units.h"

namespace foretoken {

struct KvTierConfig {
  // When a block comes here: with the step that computes it (of a lower tier: when the tier above gets it);
  // when it is used for the second time; or when the memory above needs its room.
  enum class Write : std::uint8_t { kThrough, kSelective, kBack };
  enum class Eviction : std::uint8_t { kLru, kLfu, kLengthAware };
  std::int64_t blocks = 0;  // capacity
  Write write = Write::kThrough;
  Eviction eviction = Eviction::kLru;
  bool shared = false;  // one for all engines, with one link; else each rank has its own
};

struct KvTiersConfig {
  std::vector<KvTierConfig> tiers;  // the one next to device memory first; none: blocks live there alone
  bool by_cost = false;             // a block is loaded where that is faster than computing it again
  // Above 0: a request is computed while its blocks come, layer by layer of so many; else it waits for them
  // while others run.
  int layers = 0;
  // Storage below SGLang's host memory (docs/policies.md, "HiCache's storage"): until when a waiting request
  // waits for what comes from there, and from how many tokens on it is asked for.
  enum class Prefetch : std::uint8_t { kBestEffort, kWaitComplete, kTimeout };
  Prefetch prefetch = Prefetch::kBestEffort;
  std::int64_t prefetch_threshold = 256;
  bool writes_back() const { return !tiers.empty() && tiers.front().write == KvTierConfig::Write::kBack; }
};

// Of one tier, over a run. Blocks but for `hit_tokens`, prompt tokens found there when a request was first
// admitted.
struct KvTierCounts {
  std::int64_t hit_tokens = 0, loaded = 0, written = 0, evicted = 0;
  std::int64_t refused = 0;              // found no room that could be given away, and were not written
  Picoseconds reading = 0, writing = 0;  // its link in use
  KvTierCounts& operator+=(const KvTierCounts& o);
};

}  // namespace foretoken
