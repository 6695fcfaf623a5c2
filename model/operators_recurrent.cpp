// Linear attention and state-space mixers.
#include "model/kv_cache.h"
#include "model/op_builder.h"

namespace foretoken {
namespace {

double d(std::int64_t n) { return static_cast<double>(n); }

}  // namespace

// Prompt chunks and decoding sequences are kernels of their own.
void OpBuilder::recurrence(std::string_view name, RecurrentShape s) {
  s.activation = precision_.activation;
  for (const PrefillChunk& c : work_.prefill) {
    if (c.new_tokens <= 0 || c.count <= 0) continue;
    s.sequences = c.count;
    s.tokens = c.new_tokens * c.count;
    add(name, s, OpScope::kPrefillAttention);
  }
  if (has_decode()) {
    s.decode = true;
    s.sequences = work_.decode_sequences;
    s.tokens = decode_rows();
    add(name, s, OpScope::kTokens);
  }
}

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
  if (channels > 0) {
    RecurrentShape conv;
    conv.form = Recurrence::kConvolution;
    conv.heads = split(channels);
    conv.k_dim = r.conv_kernel;
    conv.v_dim = 1;
    conv.state_bytes = layer_convolution_bytes(r, shard_.tensor_parallel);
    recurrence("conv", conv);
  }
  if (r.kind == Kind::kMamba1) {
    gemm("state_proj", rows_, r.dt_rank + 2 * r.k_dim, split(v), w);
    gemm("step_proj", rows_, split(v), r.dt_rank, w);
  }
  RecurrentShape s;
  s.form = r.kind == Kind::kGatedDelta || r.kind == Kind::kKda ? Recurrence::kDeltaRule : Recurrence::kScan;
  s.heads = split(r.v_heads);
  s.k_heads = split(r.k_heads);
  s.k_dim = r.k_dim;
  s.v_dim = r.v_dim;
  s.state_bytes =
      layer_state_bytes(r, shard_.tensor_parallel) - layer_convolution_bytes(r, shard_.tensor_parallel);
  recurrence("recurrence", s);
  elementwise("output_gate", rows_, 3 * d(split(v)), 10 * d(split(v)));
  gemm("out_proj", rows_, h, split(v), w);
}

}  // namespace foretoken
