#include "deployment/capacity.h"

#include <algorithm>

namespace foretoken {

std::int64_t sequences_that_fit(const MemoryPlan& m, std::int64_t tokens) {
  const std::int64_t blocks = (std::max<std::int64_t>(tokens, 1) + m.block_size - 1) / m.block_size;
  return std::max<std::int64_t>(0, m.num_gpu_blocks - 1) / blocks;
}

std::int64_t largest_that_fits(std::int64_t least, std::int64_t most, std::int64_t start,
                               const std::function<bool(std::int64_t)>& fits) {
  std::int64_t good = least - 1, bad = most + 1, at = std::clamp(start, least, most);
  // By doubling and halving until the limit is between two, then between those.
  while (bad - good > 1) {
    if (fits(at))
      good = at;
    else
      bad = at;
    if (bad > most)
      at = std::min(most, 2 * good + 1);
    else if (good < least)
      at = std::max(least, bad / 2);
    else
      at = good + (bad - good) / 2;
  }
  return good;
}

}  // namespace foretoken
