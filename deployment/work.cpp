// A batch of the scheduler as the work that the operators see.
#include <algorithm>
#include <tuple>

#include "deployment/deployment.h"

namespace foretoken {

std::int64_t padded_rows(std::int64_t tokens, bool decode_only, const Deployment& deployment) {
  const auto& sizes = deployment.graph_sizes;
  if (!decode_only || tokens <= 0 || sizes.empty() || tokens > sizes.back()) return tokens;
  return *std::lower_bound(sizes.begin(), sizes.end(), tokens);
}

Work work(const Batch& batch, const Deployment& deployment, std::int64_t group_tokens) {
  Work w;
  w.prefill.reserve(batch.prefill.size());
  for (const PrefillPart& part : batch.prefill) w.prefill.push_back({part.new_tokens, part.cached, 1});
  // Canonical order, so that equal batches give equal work; then equal chunks become one.
  const auto key = [](const PrefillChunk& c) { return std::tuple(c.new_tokens, c.cached); };
  std::sort(w.prefill.begin(), w.prefill.end(),
            [&](const PrefillChunk& a, const PrefillChunk& b) { return key(a) < key(b); });
  std::size_t kept = 0;
  for (std::size_t i = 0; i < w.prefill.size(); ++i) {
    if (kept > 0 && key(w.prefill[kept - 1]) == key(w.prefill[i]))
      ++w.prefill[kept - 1].count;
    else
      w.prefill[kept++] = w.prefill[i];
  }
  w.prefill.resize(kept);

  w.decode_sequences = batch.decode_sequences;
  w.decode_queries = batch.decode_queries();
  if (batch.decode_sequences > 0) {
    const std::size_t groups =
        std::clamp<std::size_t>(deployment.model.attention_windows().size(), 1, kMaxAttentionGroups);
    for (std::size_t g = 0; g < groups; ++g) w.contexts.push_back(static_cast<double>(batch.contexts[g]));
  }
  w.sampled_rows = batch.sampled_rows;
  w.adapters = batch.adapters;
  w.adapter_loads = static_cast<std::int64_t>(batch.adapter_loads.size());
  w.padded_tokens = padded_rows(batch.tokens(), batch.prefill.empty(), deployment);
  w.group_tokens = group_tokens;
  w.one_attention_call =
      deployment.one_attention_call && !batch.prefill.empty() && batch.decode_sequences > 0;
  const std::int64_t block = deployment.memory.block_size;
  w.swap_out_tokens = static_cast<std::int64_t>(batch.swap_out.size()) * block;
  w.swap_in_tokens = static_cast<std::int64_t>(batch.swap_in.size()) * block;
  w.shifted_tokens = batch.shifted_tokens();
  return w;
}

}  // namespace foretoken
