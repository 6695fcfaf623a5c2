// Linear attention by the gated delta rule (Yang et al. 2024): a short convolution over queries, keys and
// values, the recurrence on a state of each value head, a gated norm of what is read from it.
#include "base/error.h"
#include "executor/transformer_state.h"

namespace foretoken {
void Transformer::State::recurrent_operator(const Op& op, int layer, std::size_t r, const RecurrentMixer& m) {
  const std::string_view name = op.name;
  const Rank& rank = ranks[r];
  PerRank& w = work[r];
  const LayerWeights& weights = rank.layer(layer);
  const std::int64_t groups = rank.heads(m.k_heads).count, heads = groups * (m.v_heads / m.k_heads);
  const std::int64_t channels = 2 * groups * m.k_dim + heads * m.v_dim, width = channels + heads * m.v_dim;
  if (name == "gate_proj") return gemm(weights.linear_gates, normed, rows, w.linear_gates);
  if (name == "in_proj") return gemm(weights.linear_in, normed, rows, w.linear);
  if (name == "conv" || name == "recurrence") {
    const auto chunk = sequences_of(std::get<RecurrentShape>(op.shape).decode, next_chunk);
    if (name == "recurrence") return recur(m, layer, r, chunk);
    const RecurrentState& s = rank.recurrent(layer);
    return kernels.causal_conv(chunk, states_of(chunk, s.conv, s.conv_values), w.linear, width, channels,
                               m.conv_kernel, weights.conv, nullptr, true, w.convolved, channels);
  }
  if (name == "output_gate") {
    const NormArgs norm{NormKind::kRms, numerics.norm_epsilon, 0, weights.linear_norm, nullptr};
    kernels.norm(norm, w.heads_out, m.v_dim, rows * heads, m.v_dim, w.heads_out, m.v_dim);
    const std::int64_t out = heads * m.v_dim;
    return kernels.sigmoid_gate(w.linear + channels, width, out, rows, out, true, w.heads_out);
  }
  if (name == "out_proj") return gemm(weights.linear_out, w.heads_out, rows, w.partial);
  throw Error(std::string(name), "the executor has no such operator in linear attention");
}

void Transformer::State::recur(const RecurrentMixer& m, int layer, std::size_t r, const Sequences& chunk) {
  if (chunk.empty()) return;
  const Rank& rank = ranks[r];
  PerRank& w = work[r];
  const LayerWeights& weights = rank.layer(layer);
  const std::int64_t groups = rank.heads(m.k_heads).count, heads = groups * (m.v_heads / m.k_heads);
  const SequenceRows& last = chunk.host.back();
  const std::int64_t first = chunk.host.front().first_row, count = last.first_row + last.new_tokens - first;
  kernels.delta_inputs({groups, heads, m.k_dim, m.v_dim, weights.decay, weights.step}, w.convolved,
                       w.linear_gates, first, count, linear_q, linear_k, linear_v, linear_decay, linear_beta);
  const RecurrentState& s = rank.recurrent(layer);
  kernels.recurrence({heads, m.k_dim, m.v_dim, true}, chunk, states_of(chunk, s.state, s.state_values),
                     linear_q, linear_k, linear_v, linear_decay, linear_beta, w.heads_out, threads);
}

}  // namespace foretoken
