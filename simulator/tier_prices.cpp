// What copies between tiers of the KV cache take, and what computing the same tokens again would take.
#include <algorithm>

#include "simulator/predicted_backend.h"

namespace foretoken {

Picoseconds PredictedBackend::copy_price(std::int32_t from, std::int32_t to, std::int64_t blocks) {
  const auto t = static_cast<std::size_t>(std::max(from, to));  // the lower tier's link carries it
  const KvTierLink& tier = deployment_->kv_tiers[t];
  if (!tier.is_host_link) return scaled(to_picoseconds(copy_time(tier, blocks)));
  const std::int64_t tokens = blocks * deployment_->memory.block_size;
  const StageModel& stage = pools_.front().stages.front();
  return scaled(to < 0 ? stage.swap(0, tokens).time : stage.swap(tokens, 0).time);
}

// Of a prompt's tokens computed alone, in as many steps as they take.
Picoseconds PredictedBackend::prompt_price(std::int32_t engine, std::int64_t cached, std::int64_t tokens) {
  Pool& pool = pools_.front();
  const std::int64_t most = deployment_->scheduler.max_num_batched_tokens;
  Picoseconds sum = 0;
  while (tokens > 0) {
    const std::int64_t n = std::min(tokens, most);
    const PrefillPart part{0,           0, static_cast<std::int32_t>(n), static_cast<std::int32_t>(cached),
                           n == tokens, 0};
    Batch batch;
    batch.prefill = {&part, 1};
    batch.sampled_rows = part.last ? 1 : 0;
    const Step step{engine, 0, {&batch, 1}};
    const StagePrice price = price_stage(*pool.deployment, pool.stages.front(), step, false, 1);
    sum += price.first.time + host_time(pool, step, price.first.time, price.excess);
    cached += n;
    tokens -= n;
  }
  return scaled(sum);
}

Picoseconds PredictedBackend::move_blocks(const TierMove& move) {
  return copy_price(move.from, move.to, static_cast<std::int64_t>(move.blocks.size()));
}

// Mooncake's equation 2 (Qin et al., FAST '25) with our prices: what is saved is the difference that the
// tokens make to the prompt, whose rest is computed in any case.
bool PredictedBackend::worth_loading(const TierLoad& load) {
  const Picoseconds recomputing = prompt_price(load.engine, load.cached, load.tokens + load.rest) -
                                  prompt_price(load.engine, load.cached + load.tokens, load.rest);
  return load.wait + copy_price(load.tier, -1, load.blocks) < recomputing;
}

}  // namespace foretoken
