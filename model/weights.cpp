// Weights of every kind of layer (formulas.md 2.1).
#include "model/weights.h"

#include <algorithm>

namespace foretoken {
namespace {

class Parts {
 public:
  explicit Parts(std::int64_t hidden) : h_(hidden) {}
  const WeightParts& all() const { return parts_; }

  void add(const NoMixer&) {}
  void add(const NoMlp&) {}
  void add(const GqaAttention& a);
  void add(const MlaAttention& a);
  void add(const CompressedAttention& a);
  void add(const RecurrentMixer& r);
  void add(const DenseMlp& m);
  void add(const MoeMlp& m);

  void matrix(Component c, Split s, std::int64_t n, std::int64_t kv_heads = 0, bool plain = false) {
    put({.component = c, .split = s, .matrix = true, .parameters = n, .kv_heads = kv_heads, .plain = plain});
  }
  void vector(Component c, Split s, std::int64_t n, std::int64_t kv_heads = 0) {
    put({.component = c, .split = s, .matrix = false, .parameters = n, .kv_heads = kv_heads, .plain = true});
  }

 private:
  void put(const WeightPart& part) {
    if (part.parameters > 0) parts_.push_back(part);
  }
  std::int64_t h_;
  WeightParts parts_;
};

void Parts::add(const GqaAttention& a) {
  constexpr auto kC = Component::kAttention;
  const std::int64_t q = a.heads * a.head_dim, k = a.kv_heads * a.head_dim;
  const std::int64_t v = (a.value_is_key || a.shared_kv_projection) ? 0 : a.kv_heads * a.v_head_dim;
  const std::int64_t o = a.heads * a.v_head_dim;
  matrix(kC, Split::kTensor, h_ * (a.output_gate ? 2 * q : q));
  matrix(kC, Split::kKvHeads, h_ * (k + v), a.kv_heads);
  matrix(kC, Split::kTensor, o * h_);
  matrix(kC, Split::kTensor, h_ * a.heads * a.gate_width, 0, true);
  if (a.qkv_bias) {
    vector(kC, Split::kTensor, a.output_gate ? 2 * q : q);
    vector(kC, Split::kKvHeads, k + v, a.kv_heads);
  }
  if (a.output_bias) vector(kC, Split::kReplicated, h_);
  if (a.qk_norm == GqaAttention::QkNorm::kPerHead) vector(kC, Split::kReplicated, 2 * a.head_dim);
  if (a.qk_norm == GqaAttention::QkNorm::kFull) {
    vector(kC, Split::kTensor, q);
    vector(kC, Split::kKvHeads, k, a.kv_heads);
  }
  if (a.sinks) vector(kC, Split::kTensor, a.heads);
  vector(kC, Split::kReplicated, a.extra_parameters);
  if (a.index_heads > 0) {  // queries and one key a token, each with its norm
    matrix(kC, Split::kReplicated, h_ * (a.index_heads + 1) * a.index_head_dim);
    vector(kC, Split::kReplicated, 2 * a.index_head_dim);
  }
}

void Parts::add(const MlaAttention& a) {
  constexpr auto kC = Component::kAttention;
  const std::int64_t qk = a.nope_dim + a.rope_dim;
  if (a.q_lora_rank > 0) {
    matrix(kC, Split::kReplicated, h_ * a.q_lora_rank);
    vector(kC, Split::kReplicated, a.q_lora_rank);
    matrix(kC, Split::kTensor, a.q_lora_rank * a.heads * qk);
  } else {
    matrix(kC, Split::kTensor, h_ * a.heads * qk);
  }
  matrix(kC, Split::kReplicated, h_ * (a.kv_lora_rank + a.rope_dim));
  vector(kC, Split::kReplicated, a.kv_lora_rank);
  matrix(kC, Split::kTensor, a.kv_lora_rank * a.heads * (a.nope_dim + a.v_dim));
  matrix(kC, Split::kTensor, a.heads * a.v_dim * h_);
  if (a.output_gate) matrix(kC, Split::kTensor, h_ * a.heads * a.v_dim);
  if (a.bias) vector(kC, Split::kReplicated, a.q_lora_rank + a.kv_lora_rank + a.rope_dim + h_);
  if (a.has_indexer) {  // formulas.md 2.1, DSA: queries from the q latent, one key with a layer norm, head
                        // weights
    matrix(kC, Split::kReplicated,
           (a.q_lora_rank > 0 ? a.q_lora_rank : h_) * a.index_heads * a.index_head_dim);
    matrix(kC, Split::kReplicated, h_ * a.index_head_dim);
    vector(kC, Split::kReplicated, 2 * a.index_head_dim);
    matrix(kC, Split::kReplicated, h_ * a.index_heads, 0, true);
  }
}

void Parts::add(const CompressedAttention& a) {
  constexpr auto kC = Component::kAttention;
  matrix(kC, Split::kReplicated, h_ * a.q_lora_rank);
  vector(kC, Split::kReplicated, a.q_lora_rank);
  matrix(kC, Split::kTensor, a.q_lora_rank * a.heads * a.head_dim);
  matrix(kC, Split::kReplicated, h_ * a.head_dim);
  vector(kC, Split::kReplicated, a.head_dim);
  matrix(kC, Split::kTensor,
         a.heads * a.head_dim * a.o_lora_rank);  // groups x (heads head_dim / groups) x rank
  matrix(kC, Split::kTensor, a.o_groups * a.o_lora_rank * h_);
  vector(kC, Split::kTensor, a.heads);  // sinks
  const std::int64_t width = a.compressor_width();
  matrix(kC, Split::kReplicated, h_ * 2 * width);  // values and gates
  vector(kC, Split::kReplicated, a.ratio * width + (width > 0 ? a.head_dim : 0));
  if (a.index_heads > 0) {
    const std::int64_t index_width = 2 * a.index_head_dim;
    matrix(kC, Split::kReplicated, a.q_lora_rank * a.index_heads * a.index_head_dim);
    matrix(kC, Split::kReplicated, h_ * 2 * index_width);
    matrix(kC, Split::kReplicated, h_ * a.index_heads, 0, true);
    vector(kC, Split::kReplicated, a.ratio * index_width + a.index_head_dim);
  }
}

void Parts::add(const RecurrentMixer& r) {
  constexpr auto kC = Component::kLinearAttention;
  using Kind = RecurrentMixer::Kind;
  const std::int64_t k = r.k_heads * r.k_dim, v = r.v_heads * r.v_dim;
  switch (r.kind) {
    case Kind::kGatedDelta:  // q, k, v and the output gate; decay and step size a value head
      matrix(kC, Split::kTensor, h_ * (2 * k + 2 * v));
      matrix(kC, Split::kTensor, h_ * 2 * r.v_heads, 0, true);
      vector(kC, Split::kTensor, (2 * k + v) * r.conv_kernel + 2 * r.v_heads);
      vector(kC, Split::kReplicated, r.v_dim);
      break;
    case Kind::kMamba2: {  // k_heads groups of k_dim state, v_heads heads of v_dim
      const std::int64_t in = 2 * v + 2 * k + r.v_heads, channels = v + 2 * k;
      matrix(kC, Split::kTensor, h_ * in);
      vector(kC, Split::kTensor, channels * r.conv_kernel + (r.conv_bias ? channels : 0) + 3 * r.v_heads + v);
      if (r.projection_bias) vector(kC, Split::kTensor, in);
      break;
    }
    case Kind::kKda:  // q, k, v; decay of low rank; step size a head; output gate
      matrix(kC, Split::kTensor, h_ * (2 * k + v));
      matrix(kC, Split::kReplicated, h_ * r.v_dim);
      matrix(kC, Split::kTensor, r.v_dim * k + h_ * r.v_heads);
      if (r.low_rank_gate) {
        matrix(kC, Split::kReplicated, h_ * r.v_dim);
        matrix(kC, Split::kTensor, r.v_dim * v);
      } else {
        matrix(kC, Split::kTensor, h_ * v);
      }
      vector(kC, Split::kTensor, (2 * k + v) * r.conv_kernel + k + r.v_heads);
      vector(kC, Split::kReplicated, r.v_dim);
      break;
    case Kind::kMamba1:  // Jamba: norms on the step size and on B and C
      matrix(kC, Split::kTensor, h_ * 2 * v + v * (r.dt_rank + 2 * r.k_dim) + r.dt_rank * v);
      vector(kC, Split::kTensor, v * (r.conv_kernel + (r.conv_bias ? 1 : 0) + r.k_dim + 2));
      vector(kC, Split::kReplicated, r.dt_rank + 2 * r.k_dim);
      if (r.projection_bias) vector(kC, Split::kTensor, 2 * v);
      break;
    case Kind::kLightning:  // q, k, v and the output gate, one norm
      matrix(kC, Split::kTensor, h_ * (2 * k + 2 * v));
      vector(kC, Split::kTensor, v);
      break;
  }
  matrix(kC, Split::kTensor, v * h_);
  if (r.projection_bias) vector(kC, Split::kReplicated, h_);
}

void Parts::add(const DenseMlp& m) {
  const std::int64_t up = m.gated ? 2 : 1;
  matrix(Component::kMlp, Split::kTensor, (up + 1) * h_ * m.inter);
  if (m.bias) {
    vector(Component::kMlp, Split::kTensor, up * m.inter);
    vector(Component::kMlp, Split::kReplicated, h_);
  }
}

void Parts::add(const MoeMlp& m) {
  const std::int64_t mats = m.gated ? 3 : 2, width = m.latent > 0 ? m.latent : h_;
  const double share = static_cast<double>(m.top_k) / static_cast<double>(m.experts);
  matrix(Component::kRouter, Split::kReplicated, h_ * m.experts, 0, true);
  vector(Component::kRouter, Split::kReplicated, (m.router_bias ? m.experts : 0) + m.extra_parameters);
  put({.component = Component::kExperts,
       .split = Split::kExperts,
       .matrix = true,
       .parameters = m.experts * mats * width * m.inter,
       .experts = m.experts,
       .active = share});
  if (m.expert_bias)
    put({.component = Component::kExperts,
         .split = Split::kExperts,
         .matrix = false,
         .parameters = m.experts * ((mats - 1) * m.inter + width),
         .experts = m.experts,
         .active = share,
         .plain = true});
  if (m.latent > 0) matrix(Component::kMlp, Split::kReplicated, 2 * h_ * m.latent);
  if (m.latent_norm) vector(Component::kMlp, Split::kReplicated, m.latent);
  matrix(Component::kSharedExperts, Split::kTensor, mats * h_ * m.shared_inter);
  if (m.shared_gate) matrix(Component::kSharedExperts, Split::kReplicated, h_, 0, true);
}

}  // namespace

std::string_view name_of(Component c) {
  switch (c) {
    case Component::kAttention:
      return "attention";
    case Component::kLinearAttention:
      return "linear_attention";
    case Component::kMlp:
      return "mlp";
    case Component::kExperts:
      return "experts";
    case Component::kSharedExperts:
      return "shared_experts";
    case Component::kRouter:
      return "router";
    case Component::kNorms:
      return "norms";
  }
  return "";
}

WeightParts weight_parts(const ModelConfig& model, const LayerKind& kind) {
  Parts parts(model.hidden);
  std::visit([&](const auto& m) { parts.add(m); }, kind.mixer);
  std::visit([&](const auto& m) { parts.add(m); }, kind.mlp);
  parts.vector(Component::kNorms, Split::kReplicated, kind.norm_parameters);
  parts.matrix(Component::kNorms, Split::kReplicated, kind.residual_parameters, 0, true);
  return parts.all();
}

std::int64_t kv_heads_on_rank(std::int64_t kv_heads, int tensor_parallel) {
  return std::max<std::int64_t>(1, (kv_heads + tensor_parallel - 1) / tensor_parallel);
}

double rank_share(const WeightPart& part, const Shard& shard) {
  const auto n = static_cast<double>(part.parameters);
  switch (part.split) {
    case Split::kReplicated:
      return n;
    case Split::kTensor:
      return n / shard.tensor_parallel;
    case Split::kKvHeads:
      return n * static_cast<double>(kv_heads_on_rank(part.kv_heads, shard.tensor_parallel)) /
             static_cast<double>(part.kv_heads);
    case Split::kExperts:
      return n * (1 + static_cast<double>(shard.redundant_experts) / static_cast<double>(part.experts)) /
             shard.expert_parallel / shard.moe_tensor_parallel;
  }
  return n;
}

WeightFormat component_format(const ModelConfig& model, WeightFormat weights, Component component) {
  const QuantizationSpec& q = model.quantization;
  if (component == Component::kRouter || component == Component::kNorms) return WeightFormat::kPlain;
  if (component == Component::kExperts && q.experts != WeightFormat::kPlain && weights == q.format)
    return q.experts;
  return q.is_excluded(name_of(component)) ? WeightFormat::kPlain : weights;
}

}  // namespace foretoken
