// Linear attention by the gated delta rule (Yang et al. 2024): a short convolution over queries, keys and
// values, the recurrence on a state of each value head, a gated norm of what is read from it.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "executor/transformer_state.h"

namespace foretoken {
namespace {

// Of the squared length, as in the kernels that the models were trained with.
constexpr float kLengthEpsilon = 1e-6f;

float softplus(float x) { return x > 20 ? x : std::log1p(std::exp(x)); }
float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

// x / |x| x scale.
void normalise(const float* x, std::int64_t n, float scale, float* out) {
  float sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const float by = scale / std::sqrt(sum + kLengthEpsilon);
  for (std::int64_t i = 0; i < n; ++i) out[i] = by * x[i];
}

}  // namespace

std::span<float* const> Transformer::State::states_of(std::span<const SequenceRows> chunk, float* first,
                                                      std::int64_t values) {
  states.clear();
  const auto begin = static_cast<std::size_t>(chunk.data() - sequences.data());
  for (std::size_t i = 0; i < chunk.size(); ++i) {
    float* state = first + values * state_of[begin + i];
    if (chunk[i].cached == 0) std::fill_n(state, values, 0.0f);
    states.push_back(state);
  }
  return states;
}

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
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* gate = w.linear + row * width + channels;
      float* out = w.heads_out + row * heads * m.v_dim;
      for (std::int64_t i = 0; i < heads * m.v_dim; ++i) out[i] *= gate[i] * sigmoid(gate[i]);
    }
    return;
  }
  if (name == "out_proj") return gemm(weights.linear_out, w.heads_out, rows, w.partial);
  throw Error(std::string(name), "the executor has no such operator in linear attention");
}

// Value heads of a group share its queries and keys, which have length 1 (queries over the root of k_dim).
void Transformer::State::recur(const RecurrentMixer& m, int layer, std::size_t r,
                               std::span<const SequenceRows> chunk) {
  if (chunk.empty()) return;
  const Rank& rank = ranks[r];
  PerRank& w = work[r];
  const LayerWeights& weights = rank.layer(layer);
  const std::int64_t groups = rank.heads(m.k_heads).count, each = m.v_heads / m.k_heads,
                     heads = groups * each;
  const std::int64_t channels = 2 * groups * m.k_dim + heads * m.v_dim;
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(m.k_dim)));
  const std::int64_t first = chunk.front().first_row, end = chunk.back().first_row + chunk.back().new_tokens;
  for (std::int64_t row = first; row < end; ++row) {
    const float *q = w.convolved + row * channels, *k = q + groups * m.k_dim;
    const float* gates = w.linear_gates + row * 2 * heads;
    for (std::int64_t h = 0; h < heads; ++h) {
      const std::int64_t at = row * heads + h;
      normalise(q + h / each * m.k_dim, m.k_dim, scale, linear_q + at * m.k_dim);
      normalise(k + h / each * m.k_dim, m.k_dim, 1, linear_k + at * m.k_dim);
      linear_beta[at] = sigmoid(gates[h]);
      linear_decay[at] = -std::exp(weights.decay[h]) * softplus(gates[heads + h] + weights.step[h]);
    }
    std::memcpy(linear_v + row * heads * m.v_dim, k + groups * m.k_dim,
                count_of(heads, m.v_dim) * sizeof(float));
  }
  const RecurrentState& s = rank.recurrent(layer);
  kernels.recurrence({heads, m.k_dim, m.v_dim, true}, chunk, states_of(chunk, s.state, s.state_values),
                     linear_q, linear_k, linear_v, linear_decay, linear_beta, w.heads_out, threads);
}

}  // namespace foretoken
