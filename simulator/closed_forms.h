// Textbook results that need no simulation: wave quantisation, ring collectives, speculative decoding,
// pipeline bubbles, queues, prices. Used by the cost model where it fits and as the limits that simulations
// are tested against.
#pragma once

#include <cstdint>

#include "base/units.h"

namespace foretoken {

// Output tiles of a matrix product over `units` processors that take one tile each. formulas.md 2.10.
struct Waves {
  std::int64_t tiles = 0, waves = 0;
  double wave_efficiency = 0;  // tiles over the places in all waves
  double tile_efficiency = 0;  // useful outputs over computed ones
};
Waves wave_quantization(std::int64_t m, std::int64_t n, std::int64_t tile_m, std::int64_t tile_n, int units);

// Ring: 2(n-1) alpha + 2(n-1)/n S/beta.
Seconds ring_all_reduce(Bytes message, int ranks, BytesPerSecond bandwidth, Seconds alpha = Seconds(0));

// Parts into which flash-decoding splits the KV blocks: the smallest whose occupancy is within 85 % of the
// best; only splits that change the blocks a part holds, at most 128. `tiles`: batch x KV heads x query
// blocks.
int flash_decoding_splits(std::int64_t tiles, std::int64_t kv_blocks, int units);

// Leviathan et al. 2023: tokens a verification step yields with acceptance a and g drafted tokens, and the
// speed-up when one draft step costs c target steps.
double speculative_tokens(double acceptance, int drafted);
double speculative_speedup(double acceptance, int drafted, double draft_cost);

// Share of a pipeline's time that is idle with p stages, m micro-batches, v interleaved chunks a stage: of
// the total, and over the ideal.
double pipeline_bubble(int stages, int micro_batches);
double pipeline_bubble_over_ideal(int stages, int micro_batches, int interleave = 1);

// Least time of one layer's expert dispatch (fp8) and combine (bf16) for `tokens` tokens that visit `experts`
// experts each (routed and shared), at `bandwidth` a device. DeepSeek-V3 hardware paper.
Seconds expert_exchange_limit(std::int64_t tokens, std::int64_t hidden, int experts,
                              BytesPerSecond bandwidth);

// Mean waiting time of an M/D/1 queue: utilisation x service / (2 (1 - utilisation)).
Seconds md1_wait(double arrivals_per_s, Seconds service);

// Money. Output tokens only.
double usd_per_million_tokens(double usd_per_hour, double output_tokens_per_s);
double usd_per_day(double devices, double usd_per_device_hour);
struct TokenPrices {
  double input_hit, input_miss, output;  // $ per million tokens
};
double revenue_usd(double input_hit_tokens, double input_miss_tokens, double output_tokens,
                   const TokenPrices& prices);
double profit_margin(double revenue, double cost);  // (revenue - cost) / cost

}  // namespace foretoken
