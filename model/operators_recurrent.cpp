// Linear attention and state-space mixers.
#include "model/kv_cache.h"
#include "model/op_builder.h"

namespace foretoken {
namespace {

double d(std::int64_t n) { return static_cast<double>(n); }

}  // namespace

void OpBuilder::mixer(const RecurrentMixer& r) {
  using Kind = RecurrentMixer::Kind;
  const WeightFormat w = format(Component::kLinearAttention);
  const std::int64_t k = r.k_heads * r.k_dim, v = r.v_heads * r.v_dim, h = model_.hidden;
  std::int64_t in = 0, channels = 2 * k + v;
  switch (r.kind) {
    case Kind::kGatedDelta:
      in = 2 * k + 2 * v;
      gemm("gate_proj", rows_, split(2 * r.v_heads), h, WeightFormat::kPlain);
      break;
    case Kind::kMamba2:
      in = 2 * v + 2 * k + r.v_heads;
      break;
    case Kind::kMamba1:
      in = 2 * v;
      channels = v;
      break;
    case Kind::kLightning:
      in = 2 * k + 2 * v;
      channels = 0;
      break;
    case Kind::kKda:
      in = 2 * k + v + r.v_heads + (r.low_rank_gate ? 0 : v);
      // Low-rank decay (and gate): the narrow halves are replicated.
      gemm("gate_proj", rows_, (r.low_rank_gate ? 2 : 1) * r.v_dim, h, w);
      gemm("gate_proj", rows_, split(k + (r.low_rank_gate ? v : 0)), r.v_dim, w);
      break;
  }
  gemm("in_proj", rows_, split(in), h, w);
  const double conv = d(split(channels));
  if (channels > 0) elementwise("conv", rows_, 2 * conv, 2 * d(r.conv_kernel) * conv);
  if (r.kind == Kind::kMamba1) {
    gemm("state_proj", rows_, r.dt_rank + 2 * r.k_dim, split(v), w);
    gemm("step_proj", rows_, split(v), r.dt_rank, w);
  }
  RecurrentShape s;
  s.heads = split(r.v_heads);
  s.k_dim = r.k_dim;
  s.v_dim = r.v_dim;
  s.state_bytes = layer_state_bytes(r, shard_.tensor_parallel);
  s.activation = precision_.activation;
  s.delta_rule = r.kind == Kind::kGatedDelta || r.kind == Kind::kKda;
  for (const PrefillChunk& c : work_.prefill) {
    if (c.new_tokens <= 0 || c.count <= 0) continue;
    s.sequences = c.count;
    s.tokens = c.new_tokens * c.count;
    add("recurrence", s, OpScope::kPrefillAttention);
  }
  if (has_decode()) {
    s.decode = true;
    s.sequences = work_.decode_sequences;
    s.tokens = decode_rows();
    add("recurrence", s, OpScope::kTokens);
  }
  elementwise("output_gate", rows_, 3 * d(split(v)), 10 * d(split(v)));
  gemm("out_proj", rows_, h, split(v), w);
}

}  // namespace foretoken
