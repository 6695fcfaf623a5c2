// Prices of steps of instances that lend KV memory (Infinite-LLM): a debtor's queries go to its creditors,
// who attend to what lies there while it attends to what it has itself; their own next steps take that much
// longer. Blocks move while a step computes.
#include "simulator/lending_prices.h"

#include <algorithm>

#include "simulator/instance_links.h"
#include "simulator/predicted_backend.h"

namespace foretoken {

PricedPart PredictedBackend::lending(const Deployment& d, StageModel& stage, const Batch& batch,
                                     Picoseconds computing) {
  const auto attend = [&](std::int64_t sequences, std::int64_t tokens) {
    const ContextPiece& piece = stage.decode(0, sequences, tokens, false);
    PricedPart part = piece.base;
    const Picoseconds more = piece.slope * (tokens - piece.from);
    part.time += more;
    part.by_basis[part.main_basis()] += more;
    return part;
  };
  PricedPart sum;
  if (!batch.borrowed.empty()) {
    // All queries leave through one port; the creditors attend side by side.
    std::int64_t queries = 0;
    bool network = false;
    Picoseconds slowest = 0;
    for (const LentContext& c : batch.borrowed) {
      queries += c.sequences;
      network |= crosses_nodes(d, batch.instance, c.instance);
      slowest = std::max(slowest, attend(c.sequences, c.tokens).time);
    }
    const Picoseconds there = query_exchange(d, queries, network) + slowest;
    const Picoseconds here = attend(batch.decode_sequences, batch.contexts[0]).time;
    if (there > here) sum += link_part(there - here);
  }
  for (const LentContext& c : batch.served) sum += attend(c.sequences, c.tokens);
  if (!batch.moved.empty()) {
    double tokens = 0;
    bool network = false;
    for (const LentContext& c : batch.moved) {
      tokens += static_cast<double>(c.tokens);
      network |= crosses_nodes(d, batch.instance, c.instance);
    }
    const Picoseconds sending = send_time(d, tokens * kv_bytes_of_layer(d), network);
    if (sending > computing + sum.time) sum += link_part(sending - computing - sum.time);
  }
  return sum;
}

void profile_lending(const Deployment& d, const CostModel& cost, LendingConfig& config) {
  PredictedBackend backend(d, std::span(&cost, 1));
  const auto step_ms = [&](std::int32_t sequences, std::int64_t tokens) {
    Batch batch;
    batch.decode_sequences = batch.sampled_rows = batch.growing[0] = sequences;
    batch.contexts[0] = tokens;
    return to_ms(backend.run({0, 0, {&batch, 1}}).tokens_out);
  };
  config.step_ms.clear();
  for (std::int32_t batch = 1; config.step_ms.empty() || batch <= d.scheduler.max_num_seqs; batch *= 2)
    config.step_ms.push_back(step_ms(batch, batch));
  const std::int64_t most =
      std::min(d.scheduler.max_model_len, (d.scheduler.num_blocks - 1) * d.scheduler.block_size);
  config.attention_ms =
      most > 1 ? std::max(0.0, (step_ms(1, most) - step_ms(1, 1)) / static_cast<double>(most - 1)) : 0;
  // Of a token elsewhere: its query's way there and back, and one more call of attention in each layer.
  const LentContext token{0, 1, 1};
  Batch batch;
  batch.decode_sequences = batch.sampled_rows = batch.growing[0] = 1;
  batch.contexts[0] = 1;
  batch.served = {&token, 1};
  const double call = to_ms(backend.run({0, 0, {&batch, 1}}).tokens_out) - step_ms(1, 1);
  config.exchange_ms = call + to_ms(query_exchange(d, 1, crosses_nodes(d, 0, d.mapping.replicas - 1)));
}

}  // namespace foretoken
