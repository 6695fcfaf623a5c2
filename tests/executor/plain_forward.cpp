// Loops over Checkpoint, Numerics and ModelConfig; no kernels.
#include "plain_forward.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <utility>

namespace foretoken {
namespace {

using Row = std::vector<double>;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

class Forward {
 public:
  Forward(const ModelConfig& model, const Numerics& numerics, const Checkpoint& weights)
      : m_(model), n_(numerics), w_(weights) {}

  Rows run(std::span<const std::int32_t> tokens) {
    Rows x;
    const Rows embedding = matrix(Role::kEmbedding), positions = matrix(Role::kPositions);
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      Row row = embedding.at(static_cast<std::size_t>(tokens[t]));
      for (double& v : row) v *= n_.embedding_scale;
      if (!positions.empty()) add(positions.at(t + static_cast<std::size_t>(n_.position_offset)), row);
      x.push_back(row);
    }
    for (layer_ = 0; layer_ < static_cast<std::int64_t>(m_.layers.size()); ++layer_) {
      const LayerKind& kind = m_.kinds[m_.layers[static_cast<std::size_t>(layer_)]];
      Rows y = norm(x, Role::kInputNorm, Role::kInputNormBias);
      if (const auto* a = std::get_if<GqaAttention>(&kind.mixer))
        y = attention(*a, y);
      else if (const auto* r = std::get_if<RecurrentMixer>(&kind.mixer))
        y = gated_delta(*r, y);
      else
        y = latent_attention(std::get<MlaAttention>(kind.mixer), y);
      if (n_.sandwich_norms) y = norm(y, Role::kAttnOutputNorm);
      add(y, x);
      y = norm(x, Role::kPostNorm, Role::kPostNormBias);
      if (const auto* moe = std::get_if<MoeMlp>(&kind.mlp))
        y = mixture(*moe, y);
      else
        y = feed_forward(y, Role::kGate, Role::kUp, Role::kDown, Role::kGateBias, Role::kUpBias,
                         Role::kDownBias);
      if (n_.sandwich_norms) y = norm(y, Role::kMlpOutputNorm);
      add(y, x);
    }
    layer_ = 0;
    Rows logits = linear(norm(x, Role::kFinalNorm, Role::kFinalNormBias), Role::kLmHead);
    if (n_.final_softcap > 0)
      for (Row& row : logits)
        for (double& v : row) v = n_.final_softcap * std::tanh(v / n_.final_softcap);
    return logits;
  }

 private:
  static void add(const Row& from, Row& to) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] += from.at(i);
  }
  static void add(const Rows& from, Rows& to) {
    for (std::size_t i = 0; i < to.size(); ++i) add(from.at(i), to[i]);
  }

  // Empty where the model has no such weight.
  Rows matrix(Role role, std::int64_t expert = 0) const {
    const Extent e = w_.extent(role, layer_, expert);
    Rows out;
    if (e.rows == 0) return out;
    std::vector<float> values(static_cast<std::size_t>(e.rows * e.columns));
    w_.read(role, layer_, expert, 0, e.rows, values.data());
    for (std::int64_t r = 0; r < e.rows; ++r)
      out.emplace_back(values.begin() + r * e.columns, values.begin() + (r + 1) * e.columns);
    return out;
  }
  Row vector(Role role, std::int64_t expert = 0) const {
    const Rows rows = matrix(role, expert);
    return rows.empty() ? Row{} : rows.at(0);
  }

  Rows linear(const Rows& x, Role role, Role bias_role, std::int64_t expert = 0) const {
    return product(x, matrix(role, expert), vector(bias_role, expert));
  }
  Rows linear(const Rows& x, Role role, std::int64_t expert = 0) const {
    return product(x, matrix(role, expert), {});
  }
  static Rows product(const Rows& x, const Rows& w, const Row& bias) {
    Rows y;
    for (const Row& row : x) {
      Row out;
      for (std::size_t o = 0; o < w.size(); ++o) {
        if (w[o].size() != row.size()) throw std::logic_error("a matrix does not fit its input");
        out.push_back(
            std::inner_product(row.begin(), row.end(), w[o].begin(), bias.empty() ? 0.0 : bias.at(o)));
      }
      y.push_back(out);
    }
    return y;
  }

  Row norm_row(const Row& x, const Row& weight, const Row& bias, double epsilon) const {
    const auto size = static_cast<double>(x.size());
    const double mean = n_.norm == NormKind::kLayer ? std::accumulate(x.begin(), x.end(), 0.0) / size : 0.0;
    double squares = 0;
    for (const double v : x) squares += (v - mean) * (v - mean);
    Row y;
    for (std::size_t i = 0; i < x.size(); ++i)
      y.push_back((x[i] - mean) / std::sqrt(squares / size + epsilon) * (weight.at(i) + n_.norm_offset) +
                  (bias.empty() ? 0 : bias.at(i)));
    return y;
  }
  Rows norm(const Rows& x, Role weight, std::optional<Role> bias = {}, double epsilon = 0) const {
    const Row w = vector(weight), b = bias ? vector(*bias) : Row{};
    Rows y;
    for (const Row& row : x) y.push_back(norm_row(row, w, b, epsilon > 0 ? epsilon : n_.norm_epsilon));
    return y;
  }
  // Norms of each head (weight as long as a head) or of all together.
  void norm_heads(Rows& x, Role role) const {
    const Row w = vector(role);
    if (w.empty()) return;
    for (Row& row : x)
      for (std::size_t at = 0; at < row.size(); at += w.size()) {
        const Row part(row.begin() + static_cast<std::ptrdiff_t>(at),
                       row.begin() + static_cast<std::ptrdiff_t>(at + w.size()));
        const Row y = norm_row(part, w, {}, n_.norm_epsilon);
        std::copy(y.begin(), y.end(), row.begin() + static_cast<std::ptrdiff_t>(at));
      }
  }

  // Turns dims [first, ...) of each head of each row by the row's position.
  void turn(Rows& x, std::int64_t head_dim, std::int64_t first) const {
    const int which = n_.rope_of_layer.at(static_cast<std::size_t>(layer_));
    if (which < 0) return;
    const Rope& rope = n_.ropes.at(static_cast<std::size_t>(which));
    const std::size_t pairs = rope.inverse_frequencies.size();
    for (std::size_t t = 0; t < x.size(); ++t)
      for (std::size_t head = 0; head < x[t].size(); head += static_cast<std::size_t>(head_dim))
        for (std::size_t i = 0; i < pairs; ++i) {
          const double angle = static_cast<double>(t) * static_cast<double>(rope.inverse_frequencies[i]);
          const double c = std::cos(angle) * rope.scale, s = std::sin(angle) * rope.scale;
          const std::size_t start = head + static_cast<std::size_t>(first);
          double& a = x[t].at(start + (rope.interleaved ? 2 * i : i));
          double& b = x[t].at(start + (rope.interleaved ? 2 * i + 1 : i + pairs));
          const double turned = a * c - b * s;
          b = b * c + a * s;
          a = turned;
        }
  }

  // Rows of heads side by side; query head h reads key head h / (heads / kv_heads).
  Rows attend(const Rows& q, const Rows& k, const Rows& v, std::size_t heads, std::size_t kv_heads,
              std::int64_t window, bool chunked, const Row& sinks) const {
    const std::size_t d = q[0].size() / heads, dv = v[0].size() / kv_heads, shared = heads / kv_heads;
    Rows out(q.size(), Row(heads * dv, 0.0));
    for (std::size_t t = 0; t < q.size(); ++t)
      for (std::size_t h = 0; h < heads; ++h) {
        Row scores(t + 1, -std::numeric_limits<double>::infinity());
        double best = sinks.empty() ? -std::numeric_limits<double>::infinity() : sinks[h];
        for (std::size_t p = 0; p <= t; ++p) {
          const auto w = static_cast<std::size_t>(window);
          if (window > 0 && (chunked ? p / w != t / w : p + w <= t)) continue;
          double score = 0;
          for (std::size_t i = 0; i < d; ++i) score += q[t][h * d + i] * k[p][h / shared * d + i];
          score *= n_.attention_scale;
          if (n_.attention_softcap > 0)
            score = n_.attention_softcap * std::tanh(score / n_.attention_softcap);
          scores[p] = score;
          best = std::max(best, score);
        }
        double sum = sinks.empty() ? 0 : std::exp(sinks[h] - best);
        for (const double s : scores) sum += std::exp(s - best);
        for (std::size_t p = 0; p <= t; ++p)
          for (std::size_t i = 0; i < dv; ++i)
            out[t][h * dv + i] += std::exp(scores[p] - best) / sum * v[p][h / shared * dv + i];
      }
    return out;
  }

  Rows attention(const GqaAttention& a, const Rows& x) const {
    Rows q = linear(x, Role::kQ, Role::kQBias), k = linear(x, Role::kK, Role::kKBias);
    const Rows v = linear(x, Role::kV, Role::kVBias);
    Rows gates(x.size());
    if (a.output_gate)  // of each head, behind its query
      for (std::size_t t = 0; t < x.size(); ++t) {
        const Row both = std::exchange(q[t], {});
        for (auto at = both.begin(); at != both.end(); at += 2 * a.head_dim) {
          q[t].insert(q[t].end(), at, at + a.head_dim);
          gates[t].insert(gates[t].end(), at + a.head_dim, at + 2 * a.head_dim);
        }
      }
    norm_heads(q, Role::kQNorm);
    norm_heads(k, Role::kKNorm);
    turn(q, a.head_dim, 0);
    turn(k, a.head_dim, 0);
    Rows out = attend(q, k, v, static_cast<std::size_t>(a.heads), static_cast<std::size_t>(a.kv_heads),
                      a.window, a.chunked, vector(Role::kSinks));
    for (std::size_t t = 0; t < x.size(); ++t)
      for (std::size_t i = 0; i < gates[t].size(); ++i) out[t][i] *= sigmoid(gates[t][i]);
    return linear(out, Role::kO, Role::kOBias);
  }

  // Yang et al. 2024, equation 10, with the layer around it that Qwen3-Next has.
  Rows gated_delta(const RecurrentMixer& r, const Rows& x) const {
    const auto groups = static_cast<std::size_t>(r.k_heads), heads = static_cast<std::size_t>(r.v_heads),
               dk = static_cast<std::size_t>(r.k_dim), dv = static_cast<std::size_t>(r.v_dim),
               each = heads / groups, taps = static_cast<std::size_t>(r.conv_kernel);
    const Rows in = linear(x, Role::kLinearIn), gates = linear(x, Role::kLinearGates);
    const Rows filters = matrix(Role::kLinearConv);
    const Row decay = vector(Role::kLinearDecay), step = vector(Role::kLinearStep),
              weight = vector(Role::kLinearNorm);
    const std::size_t group = 2 * dk + 2 * each * dv, keys = groups * dk, channels = 2 * keys + heads * dv;
    const auto filtered = [&](std::size_t t, std::size_t channel) {
      const std::size_t part = channel < 2 * keys ? channel % keys : channel - 2 * keys;
      const std::size_t width = channel < 2 * keys ? dk : each * dv;
      const std::size_t offset = channel < keys ? 0 : channel < 2 * keys ? dk : 2 * dk;
      double sum = 0;
      for (std::size_t tap = 0; tap < taps; ++tap)
        if (t + tap + 1 >= taps)
          sum += filters[channel][tap] * in[t + tap + 1 - taps][part / width * group + offset + part % width];
      return sum * sigmoid(sum);
    };
    const auto of_length_one = [](Row v) {
      const double squares = std::inner_product(v.begin(), v.end(), v.begin(), 0.0);
      for (double& e : v) e /= std::sqrt(squares + 1e-6);
      return v;
    };
    Rows out(x.size(), Row(heads * dv));
    for (std::size_t h = 0; h < heads; ++h) {
      const std::size_t g = h / each, own = h % each;
      Rows state(dk, Row(dv, 0.0));
      for (std::size_t t = 0; t < x.size(); ++t) {
        Row c(channels);
        for (std::size_t i = 0; i < channels; ++i) c[i] = filtered(t, i);
        const auto slice = [&](std::size_t at, std::size_t n) {
          return Row(c.begin() + static_cast<std::ptrdiff_t>(at),
                     c.begin() + static_cast<std::ptrdiff_t>(at + n));
        };
        const Row q = of_length_one(slice(g * dk, dk)), k = of_length_one(slice(keys + g * dk, dk)),
                  v = slice(2 * keys + h * dv, dv);
        const double beta = sigmoid(gates[t][2 * g * each + own]),
                     a = gates[t][2 * g * each + each + own] + step[h],
                     kept = std::exp(-std::exp(decay[h]) * std::log1p(std::exp(a)));
        Row read(dv, 0.0), o(dv, 0.0);
        for (std::size_t i = 0; i < dk; ++i)
          for (std::size_t j = 0; j < dv; ++j) read[j] += k[i] * (state[i][j] *= kept);
        for (std::size_t i = 0; i < dk; ++i)
          for (std::size_t j = 0; j < dv; ++j) {
            state[i][j] += k[i] * beta * (v[j] - read[j]);
            o[j] += q[i] * state[i][j] / std::sqrt(static_cast<double>(dk));
          }
        const double squares = std::inner_product(o.begin(), o.end(), o.begin(), 0.0);
        for (std::size_t j = 0; j < dv; ++j) {
          const double z = in[t][g * group + 2 * dk + (each + own) * dv + j];
          out[t][h * dv + j] = o[j] / std::sqrt(squares / static_cast<double>(dv) + n_.norm_epsilon) *
                               weight[j] * z * sigmoid(z);
        }
      }
    }
    return linear(out, Role::kLinearOut);
  }

  Rows latent_attention(const MlaAttention& a, const Rows& x) const {
    const std::int64_t qk = a.nope_dim + a.rope_dim;
    Rows q;
    if (a.q_lora_rank > 0)
      q = linear(
          norm(linear(x, Role::kQA, Role::kQABias), Role::kQANorm, std::nullopt, n_.latent_norm_epsilon),
          Role::kQB);
    else
      q = linear(x, Role::kQ);
    turn(q, qk, a.nope_dim);
    Rows latent, rotated;
    for (const Row& row : linear(x, Role::kKvA, Role::kKvABias)) {
      latent.emplace_back(row.begin(), row.begin() + a.kv_lora_rank);
      rotated.emplace_back(row.begin() + a.kv_lora_rank, row.end());
    }
    turn(rotated, a.rope_dim, 0);
    const Rows kv = linear(norm(latent, Role::kKvANorm, std::nullopt, n_.latent_norm_epsilon), Role::kKvB);
    Rows k, v;
    for (std::size_t t = 0; t < x.size(); ++t) {
      Row keys, values;
      for (std::int64_t h = 0; h < a.heads; ++h) {
        const auto at = kv[t].begin() + h * (a.nope_dim + a.v_dim);
        keys.insert(keys.end(), at, at + a.nope_dim);
        keys.insert(keys.end(), rotated[t].begin(), rotated[t].end());
        values.insert(values.end(), at + a.nope_dim, at + a.nope_dim + a.v_dim);
      }
      k.push_back(keys);
      v.push_back(values);
    }
    const auto heads = static_cast<std::size_t>(a.heads);
    return linear(attend(q, k, v, heads, heads, 0, false, {}), Role::kO, Role::kOBias);
  }

  double activate(double gate, double up) const {
    const ActivationArgs& a = n_.activation;
    switch (a.kind) {
      case Activation::kSilu:
        return gate * sigmoid(gate) * up;
      case Activation::kGelu:
        return 0.5 * gate * (1 + std::erf(gate / std::numbers::sqrt2)) * up;
      case Activation::kGeluTanh:
        return 0.5 * gate *
               (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (gate + 0.044715 * gate * gate * gate))) * up;
      case Activation::kRelu:
        return std::max(gate, 0.0) * up;
      case Activation::kReluSquared:
        return std::max(gate, 0.0) * std::max(gate, 0.0) * up;
      case Activation::kClampedSwiglu:
        gate = std::min(gate, static_cast<double>(a.limit));
        up = std::clamp(up, -static_cast<double>(a.limit), static_cast<double>(a.limit));
        return gate * sigmoid(a.alpha * gate) * (up + 1);
    }
    throw std::logic_error("unknown activation");
  }

  Rows feed_forward(const Rows& x, Role gate, Role up, Role down, Role gate_bias, Role up_bias,
                    Role down_bias, std::int64_t expert = 0) const {
    Rows y = linear(x, up, up_bias, expert);
    const Rows g = n_.activation.gated ? linear(x, gate, gate_bias, expert) : Rows{};
    for (std::size_t t = 0; t < y.size(); ++t)
      for (std::size_t i = 0; i < y[t].size(); ++i)
        y[t][i] = n_.activation.gated ? activate(g[t][i], y[t][i]) : activate(y[t][i], 1);
    return linear(y, down, down_bias, expert);
  }

  // Weight of every expert, 0 where it is not chosen.
  Row route(const Row& logits, const Row& correction) const {
    const RoutingArgs& r = n_.routing;
    const std::size_t experts = logits.size(), of_group = experts / static_cast<std::size_t>(r.groups);
    Row scores = logits;
    if (r.sigmoid)
      for (double& s : scores) s = sigmoid(s);
    else if (!r.softmax_over_selected)
      softmax(scores);
    Row choice = scores;
    if (!correction.empty()) add(correction, choice);
    Row groups;
    for (std::size_t g = 0; g < experts; g += of_group) {
      Row members(choice.begin() + static_cast<std::ptrdiff_t>(g),
                  choice.begin() + static_cast<std::ptrdiff_t>(g + of_group));
      std::sort(members.rbegin(), members.rend());
      groups.push_back(r.group_by_top_two ? members.at(0) + members.at(1) : members.at(0));
    }
    const auto best_groups = best(groups, r.top_groups);
    for (std::size_t e = 0; e < experts; ++e)
      if (std::find(best_groups.begin(), best_groups.end(), e / of_group) == best_groups.end())
        choice[e] = -std::numeric_limits<double>::infinity();
    Row selected;
    const auto chosen = best(choice, r.top_k);
    for (const std::size_t e : chosen) selected.push_back(scores[e]);
    if (r.softmax_over_selected) softmax(selected);
    const double sum = r.normalise && !r.softmax_over_selected
                           ? std::accumulate(selected.begin(), selected.end(), 0.0)
                           : 1.0;
    Row weights(experts, 0.0);
    for (std::size_t i = 0; i < chosen.size(); ++i) weights[chosen[i]] = selected[i] / sum * r.scale;
    return weights;
  }
  static void softmax(Row& x) {
    const double best = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (double& v : x) sum += v = std::exp(v - best);
    for (double& v : x) v /= sum;
  }
  static std::vector<std::size_t> best(const Row& x, std::int64_t count) {
    std::vector<std::size_t> order(x.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return x[a] > x[b]; });
    order.resize(static_cast<std::size_t>(count));
    return order;
  }

  Rows mixture(const MoeMlp& moe, const Rows& x) const {
    const Rows logits = linear(x, Role::kRouter, Role::kRouterBias);
    const Row correction = vector(Role::kRouterCorrection);
    Rows weights, out(x.size(), Row(x[0].size(), 0.0));
    for (const Row& row : logits) weights.push_back(route(row, correction));
    for (std::int64_t e = 0; e < moe.experts; ++e) {
      const Rows y = feed_forward(x, Role::kExpertGate, Role::kExpertUp, Role::kExpertDown,
                                  Role::kExpertGateBias, Role::kExpertUpBias, Role::kExpertDownBias, e);
      for (std::size_t t = 0; t < x.size(); ++t)
        for (std::size_t i = 0; i < out[t].size(); ++i)
          out[t][i] += weights[t][static_cast<std::size_t>(e)] * y[t][i];
    }
    if (moe.shared_inter == 0) return out;
    Rows shared = product(x, matrix(Role::kSharedUp), {});
    const Rows gate = product(x, matrix(Role::kSharedGate), {});
    for (std::size_t t = 0; t < x.size(); ++t)
      for (std::size_t i = 0; i < shared[t].size(); ++i) shared[t][i] = activate(gate[t][i], shared[t][i]);
    shared = linear(shared, Role::kSharedDown);
    if (moe.shared_gate) {
      const Rows mix = linear(x, Role::kSharedMix);
      for (std::size_t t = 0; t < x.size(); ++t)
        for (double& v : shared[t]) v *= sigmoid(mix[t][0]);
    }
    add(shared, out);
    return out;
  }

  const ModelConfig& m_;
  const Numerics& n_;
  const Checkpoint& w_;
  std::int64_t layer_ = 0;
};

}  // namespace

Rows plain_forward(const ModelConfig& model, const Numerics& numerics, const Checkpoint& weights,
                   std::span<const std::int32_t> tokens) {
  return Forward(model, numerics, weights).run(tokens);
}

}  // namespace foretoken
