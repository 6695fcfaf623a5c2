// Where a deployment stops fitting: how many sequences its KV cache holds, and how far single keys go before
// the memory plan refuses them.
#pragma once

#include <cstdint>
#include <functional>

#include "deployment/deployment.h"

namespace foretoken {

// Sequences of so many tokens (prompt and output) that one rank's KV cache holds at once, as the schedulers
// count: in whole blocks, one block being the null block. Not limited by max_num_seqs.
std::int64_t sequences_that_fit(const MemoryPlan& memory, std::int64_t tokens);

// The largest n of [least, most] with fits(n), where what fits has no gaps; least - 1: none of them. Asks
// near `start` first.
std::int64_t largest_that_fits(std::int64_t least, std::int64_t most, std::int64_t start,
                               const std::function<bool(std::int64_t)>& fits);

}  // namespace foretoken
