#include "hwdb/published_rows.h"

namespace foretoken {

std::optional<Piece> piece_of(const std::string& name, const Layer& l, std::int64_t tokens, std::int64_t tp) {
  const std::int64_t heads = share(l.heads, tp), kv = share(l.kv_heads, tp), inter = share(l.inter, tp);
  const auto gemm = [&](std::int64_t n, std::int64_t k) {
    return Piece{MeasuredKind::kGemm, {n, k, 1, tokens}};
  };
  const auto rows = [&](const char* kernel, std::int64_t values, std::int64_t flops) {
    return Piece{MeasuredKind::kElementwise, {2 * values, flops, tokens}, kernel};
  };
  const auto is = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return name == n; });
  };
  if (is({"attn_pre_proj", "qkv_proj"})) return gemm((heads + 2 * kv) * l.head_dim, l.hidden);
  if (is({"attn_post_proj", "o_proj"})) return gemm(l.hidden, heads * l.head_dim);
  if (is({"q_proj"})) return gemm(heads * l.head_dim, l.hidden);
  if (is({"k_proj", "v_proj"})) return gemm(kv * l.head_dim, l.hidden);
  if (is({"mlp_up_proj", "gate_up_proj"})) return gemm((l.gated ? 2 : 1) * inter, l.hidden);
  if (is({"gate_proj", "up_proj"})) return gemm(inter, l.hidden);
  if (is({"mlp_down_proj", "down_proj"})) return gemm(l.hidden, inter);
  if (is({"lm_head", "lm_head_linear"}) && l.vocab > 0) return gemm(share(l.vocab, tp), l.hidden);
  if (is({"gate", "moe_gating_linear", "moe_gating"}) && l.experts > 0) return gemm(l.experts, l.hidden);
  if (is({"layernorm", "input_layernorm", "post_layernorm", "post_attention_layernorm", "final_layernorm"}))
    return rows("norm", 2 * l.hidden, 5 * l.hidden);
  if (is({"add"})) return rows("residual_add", 3 * l.hidden, l.hidden);
  if (is({"mlp_act", "act_fn"})) return rows("activation", (l.gated ? 3 : 2) * inter, 5 * inter);
  const std::int64_t turned = (heads + kv) * l.head_dim;
  if (is({"attn_rope", "rope", "rotary_emb"})) return rows("rope", 2 * turned, 3 * turned);
  if (is({"qk_norm"})) return rows("qk_norm", 2 * turned, 5 * turned);
  if (is({"emb", "embedding"})) return rows("embedding", 2 * l.hidden, 0);
  return std::nullopt;
}

}  // namespace foretoken
