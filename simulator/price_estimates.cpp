#include "simulator/price_estimates.h"

#include <algorithm>

namespace foretoken {

PriceEstimates::PriceEstimates(const Deployment& deployment, std::span<const CostModel> costs)
    : deployment_(deployment), backend_(deployment, costs) {}

Picoseconds PriceEstimates::prefill(std::int32_t engine, std::int64_t tokens, std::int64_t cached) {
  const auto [known, is_new] = prefills_.try_emplace({tokens, cached});
  if (!is_new) return known->second;
  const SchedulerConfig& c = deployment_.of_engine(engine).scheduler;
  Picoseconds time = 0;
  for (std::int64_t done = cached; done < tokens;) {
    const std::int64_t n =
        std::min(tokens - done, c.enable_chunked_prefill ? c.max_num_batched_tokens : tokens);
    PrefillPart part;
    part.new_tokens = static_cast<std::int32_t>(n);
    part.cached = static_cast<std::int32_t>(done);
    part.last = done + n == tokens;
    Batch batch;
    batch.prefill = {&part, 1};
    batch.sampled_rows = part.last;
    time += backend_.run({engine, time, {&batch, 1}}).tokens_out;
    done += n;
  }
  return known->second = time;
}

Picoseconds PriceEstimates::decode_step(std::int32_t engine, std::int64_t sequences, std::int64_t contexts) {
  Batch batch;
  batch.decode_sequences = batch.sampled_rows = static_cast<std::int32_t>(sequences);
  const auto windows = backend_.windows();
  for (std::size_t g = 0; g < windows.size(); ++g)
    batch.contexts[g] = windows[g] > 0 ? std::min(contexts, windows[g] * sequences) : contexts;
  return backend_.run({engine, 0, {&batch, 1}}).tokens_out;
}

Picoseconds PriceEstimates::transfer(std::int32_t from, std::int32_t to, std::int64_t done,
                                     std::int64_t tokens) {
  KvTransfer t;
  t.from = from;
  t.to = to;
  t.done = static_cast<std::int32_t>(done);
  t.tokens = static_cast<std::int32_t>(tokens);
  return backend_.transfer(t);
}

}  // namespace foretoken
