// Dense feed-forward parts and mixtures of experts with their exchange of tokens.
#include <algorithm>
#include <cmath>

#include "model/op_builder.h"

namespace foretoken {
namespace {

double d(std::int64_t n) { return static_cast<double>(n); }

}  // namespace

void OpBuilder::mlp(const DenseMlp& m) {
  const WeightFormat w = format(Component::kMlp);
  const std::int64_t inter = split(m.inter);
  if (m.gated && fusion_.gate_up) {
    of_normed("gate_up_proj", 2 * inter, w);
  } else {
    if (m.gated) of_normed("gate_proj", inter, w);
    of_normed("up_proj", inter, w);
  }
  lora(LoraModule::kGateUp);
  const bool pair =
      fusion_.composed && m.gated && m.activation_kernels == 1;  // the function, then the product
  if (!pair && (fusion_.activation || m.activation_kernels == 1)) {
    gate("activation", inter, m.gated, w);
    of_gate("down_proj", inter, w);
  } else {
    if (pair)
      elementwise("activation", rows_, 2.5 * d(inter), 2.5 * d(inter), 2);
    else
      elementwise("activation", rows_, d(inter) * m.activation_passes / m.activation_kernels, d(inter),
                  m.activation_kernels);
    gemm("down_proj", rows_, model_.hidden, inter, w);
  }
  lora(LoraModule::kDown);
}

void OpBuilder::gate(std::string_view name, std::int64_t width, bool gated, WeightFormat w) {
  const double values = d(width), read = gated ? 2 : 1;
  if (quantises(w))
    add(name, ElementwiseShape{rows_, read * values * element_ + quantised_row_bytes(w, width), 8 * values});
  else
    elementwise(name, rows_, (read + 1) * values, 5 * values);
}

void OpBuilder::experts(const MoeMlp& m) {
  const bool group = shard_.data_parallel > 1;
  std::int64_t tokens = rows_;
  if (group) tokens = work_.group_tokens > 0 ? work_.group_tokens : rows_ * shard_.data_parallel;
  const std::int64_t local =
      (m.experts + shard_.redundant_experts + shard_.expert_parallel - 1) / shard_.expert_parallel;
  const double share = d(local) / d(m.experts + shard_.redundant_experts);
  // Everyone waits for the fullest rank, which computes and exchanges as in a group with more tokens.
  const double fullest = shard_.expert_load ? shard_.expert_load->fullest_rank() : 1;
  const std::int64_t width = m.latent > 0 ? m.latent : model_.hidden;
  const WeightFormat w = format(Component::kExperts);
  const int ranks = shard_.expert_parallel * shard_.moe_tensor_parallel;
  // Tokens that this rank itself hands over: ranks of one tensor-parallel group share theirs.
  const double own = d(rows_) / shard_.tensor_parallel;
  const double scales = 4.0 * std::ceil(d(width) / 128);
  const double sent = w == WeightFormat::kFp8Block ? d(width) + scales : d(width) * element_;
  const bool all_to_all = group && shard_.expert_parallel > 1 && shard_.expert_all_to_all;
  if (all_to_all)
    exchange("moe_dispatch", m, own * fullest, sent, ranks);
  else if (group)
    collective("moe_dispatch", Collective::kAllGather, d(tokens) * d(width) * element_, shard_.data_parallel,
               OpScope::kGroupTokens);

  MoeShape s;
  s.tokens = std::llround(d(tokens) * fullest);
  s.hidden = width;
  s.inter = (m.inter + shard_.moe_tensor_parallel - 1) / shard_.moe_tensor_parallel;
  // Slices are padded to what the kernels take (vLLM's mxfp4 experts: 128).
  constexpr std::int64_t kMxfp4Slice = 128;
  if (w == WeightFormat::kMxfp4 && shard_.moe_tensor_parallel > 1)
    s.inter = (s.inter + kMxfp4Slice - 1) / kMxfp4Slice * kMxfp4Slice;
  s.num_experts = m.experts;
  s.local_experts = local;
  s.top_k = m.top_k;
  s.gated = m.gated;
  s.weight = w;
  s.activation = precision_.activation;
  s.distinct_experts = expected_experts(d(m.experts), d(m.top_k), d(tokens)) * share;
  s.local_rows = d(tokens) * d(m.top_k) * share * fullest;
  s.imbalance = std::max(1.0, work_.expert_imbalance);
  if (shard_.expert_load) {
    s.distinct_experts = shard_.expert_load->distinct(d(tokens));
    // Rows of a power law on several ranks are of a fuller rank already.
    s.dealt = shard_.expert_parallel > 1;
  }
  if (fusion_.fused_moe) {
    add("experts", s, OpScope::kGroupTokens);
  } else {
    Op whole;
    whole.scope = OpScope::kGroupTokens;
    whole.shape = s;
    for (const Op& part : expand(whole)) add(part.name, part.shape, OpScope::kGroupTokens);
  }
  if (all_to_all)
    exchange("moe_combine", m, own * fullest, d(width) * element_, ranks);
  else if (group)
    collective("moe_combine", Collective::kReduceScatter, d(tokens) * d(width) * element_,
               shard_.data_parallel, OpScope::kGroupTokens);
}

// All-to-all of `tokens` own tokens with the ranks that hold their experts.
void OpBuilder::exchange(std::string_view name, const MoeMlp& m, double tokens, double bytes, int ranks) {
  CollectiveShape c{.kind = Collective::kAllToAll,
                    .message_bytes = tokens * d(m.top_k) * bytes,
                    .ranks = ranks,
                    .ranks_per_node = shard_.devices_per_node,
                    .element = precision_.activation};
  if (ranks > shard_.devices_per_node) {
    const double nodes = std::ceil(d(ranks) / shard_.devices_per_node);
    c.network_bytes = tokens * bytes * expected_other_nodes(d(m.experts), d(m.top_k), nodes);
  }
  add(name, c);
}

void OpBuilder::mlp(const MoeMlp& m) {
  gemm("router", rows_, m.experts, model_.hidden, WeightFormat::kPlain);
  if (m.latent > 0) gemm("latent_down_proj", rows_, m.latent, model_.hidden, format(Component::kMlp));
  experts(m);
  if (m.latent > 0) gemm("latent_up_proj", rows_, model_.hidden, m.latent, format(Component::kMlp));
  if (m.shared_inter <= 0) return;
  const WeightFormat w = format(Component::kSharedExperts);
  const std::int64_t inter = split(m.shared_inter);
  gemm("shared_gate_up", rows_, (m.gated ? 2 : 1) * inter, model_.hidden, w);
  gate("shared_activation", inter, m.gated, w);
  of_gate("shared_down", inter, w);
  if (m.shared_gate) gemm("shared_gate", rows_, 1, model_.hidden, WeightFormat::kPlain);
}

}  // namespace foretoken
