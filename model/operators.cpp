// The operator list of one forward pass on one rank: frame, norms, collectives, head.
#include "model/operators.h"

#include <algorithm>

#include "model/kv_cache.h"
#include "model/op_builder.h"
#include "model/parameters.h"

namespace foretoken {
namespace {

double d(std::int64_t n) { return static_cast<double>(n); }

// A residual mix (hyper-connections) as a matrix: streams x hidden in, its parameters a layer over two
// sublayers.
std::int64_t residual_outputs(const LayerKind& kind, std::int64_t hidden) {
  const auto in = static_cast<std::int64_t>(kind.residual_streams) * hidden;
  return in > 0 ? kind.residual_parameters / 2 / in : 0;
}

}  // namespace

Precision checkpoint_precision(const ModelConfig& model) {
  Precision p;
  p.activation = model.dtype == DType::kF16 ? DType::kF16 : DType::kBf16;
  p.kv = model.quantization.kv_fp8 ? DType::kFp8 : p.activation;
  p.weights = model.quantization.format;
  return p;
}

Fusion eager_fusion(const ModelConfig& model) {
  Fusion f;
  f.norm_residual = f.gate_up = f.fused_moe = f.attention = f.activation = false;
  // GPT-2 and its kin hold q, k and v in one matrix, the others in three.
  for (const std::string_view type : {"gpt2", "gpt3", "gpt_bigcode", "bloom", "gpt_neox", "falcon", "mpt"})
    if (model.model_type == type) return f;
  f.qkv = false;
  return f;
}

std::pair<int, int> layer_range(const ModelConfig& model, const Shard& shard) {
  const int total = static_cast<int>(model.num_layers);
  if (shard.last_layer >= 0)
    return {std::clamp(shard.first_layer, 0, total), std::clamp(shard.last_layer, 0, total)};
  if (shard.pipeline_parallel <= 1) return {std::clamp(shard.first_layer, 0, total), total};
  const int each = total / shard.pipeline_parallel, rest = total % shard.pipeline_parallel, s = shard.stage;
  const int first = s * each + std::min(s, rest);
  return {first, first + each + (s < rest ? 1 : 0)};
}

bool is_streamed(const ModelConfig& model, const Shard& shard, int layer) {
  const std::int64_t all = std::max<std::int64_t>(model.num_layers, 1), k = shard.streamed_layers;
  return (layer + 1) * k / all > layer * k / all;
}

namespace {

// Weights that one execution reads; 0 for operators without.
double weights_read(const Op& op) {
  if (const auto* g = std::get_if<GemmShape>(&op.shape))
    return g->weight_is_activation
               ? 0
               : d(g->batch) * d(g->n) * d(g->k) * bytes_per_weight(g->weight, g->activation);
  if (const auto* m = std::get_if<MoeShape>(&op.shape))
    return m->distinct_experts * (m->gated ? 3 : 2) * d(m->hidden) * d(m->inter) *
           bytes_per_weight(m->weight, m->activation);
  return 0;
}

}  // namespace

OpBuilder::OpBuilder(const ModelConfig& model, const Shard& shard, const Work& work,
                     const Precision& precision, const Fusion& fusion, OpList& list)
    : model_(model),
      shard_(shard),
      work_(work),
      precision_(precision),
      fusion_(fusion),
      list_(list),
      rows_(std::max(work.tokens(), work.padded_tokens)),
      element_(bytes_of(precision.activation)) {
  norm_rows_ = shard.sequence_parallel ? split(rows_) : rows_;
}

void OpBuilder::add(std::string_view name, Shape shape, OpScope scope, std::int64_t uses, int group) {
  Op op;
  op.name = name;
  op.scope = scope;
  op.layer_kind = kind_;
  op.count = layers_ * uses;
  op.attention_group = group;
  op.shape = shape;
  if (on_host_ && scope != OpScope::kAdapters) op.host_bytes = weights_read(op);
  list_.ops.push_back(op);
}

void OpBuilder::gemm(std::string_view name, std::int64_t rows, std::int64_t n, std::int64_t k,
                     WeightFormat weight, std::int64_t batch, OpScope scope, bool quantised_input) {
  if (rows <= 0 || n <= 0 || k <= 0 || batch <= 0) return;
  add(name,
      GemmShape{.m = rows,
                .n = n,
                .k = k,
                .batch = batch,
                .weight = weight,
                .activation = precision_.activation,
                .output = precision_.activation,
                .quantised_input = quantised_input},
      scope);
}

// One product an adapter of the batch, which share its tokens evenly (rounded up).
void OpBuilder::lora(LoraModule module) {
  const std::int64_t adapters = std::min(work_.adapters, work_.tokens());
  if (shard_.lora.rank <= 0 || adapters <= 0) return;
  for (const LoraProduct& p :
       lora_products(model_.kinds[static_cast<std::size_t>(kind_)], model_.hidden, shard_)) {
    if (p.module != module) continue;
    const std::int64_t rows = (work_.tokens() + adapters - 1) / adapters, rank = shard_.lora.rank;
    std::int64_t out = 0;
    for (const LoraProduct::Output& o : p.outputs) out += o.rows;
    const auto parts = static_cast<std::int64_t>(p.outputs.size());
    gemm(shrink_name(module), rows, parts * rank, p.in, WeightFormat::kPlain, adapters, OpScope::kAdapters);
    gemm(expand_name(module), rows, out, rank, WeightFormat::kPlain, adapters, OpScope::kAdapters);
  }
}

void OpBuilder::elementwise(std::string_view name, std::int64_t rows, double values_per_row,
                            double flops_per_row, std::int64_t uses) {
  add(name, ElementwiseShape{rows, values_per_row * element_, flops_per_row}, OpScope::kTokens, uses);
}

void OpBuilder::collective(std::string_view name, Collective kind, double bytes, int ranks, OpScope scope) {
  if (ranks <= 1 || bytes <= 0) return;
  add(name,
      CollectiveShape{.kind = kind,
                      .message_bytes = bytes,
                      .ranks = ranks,
                      .ranks_per_node = shard_.devices_per_node,
                      .element = precision_.activation},
      scope);
}

void OpBuilder::reduce(std::string_view all_reduce, std::string_view scatter, int ranks) {
  const double message = d(rows_) * d(model_.hidden) * element_;
  if (shard_.sequence_parallel)
    collective(scatter, Collective::kReduceScatter, message, ranks);
  else
    collective(all_reduce, Collective::kAllReduce, message, ranks);
}

// Reads the input and the residual, writes both; without the fusion the residual add is a pass of its own.
void OpBuilder::norms(std::string_view name, int uses, std::string_view gather, WeightFormat quantised) {
  const double h = d(model_.hidden);
  const auto whole = [&] {
    if (shard_.sequence_parallel)
      collective(gather, Collective::kAllGather, d(rows_) * h * element_, shard_.tensor_parallel);
  };
  if (uses <= 0) return whole();
  const double flops = (fusion_.norm_residual ? 5 : 4) * h, moved = (fusion_.norm_residual ? 4 : 2) * h;
  if (!fusion_.norm_residual) elementwise("residual_add", norm_rows_, 3 * h, h, uses);
  if (fusion_.composed && !fusion_.norm_residual && !is_layer_norm()) {
    // To fp32, squares, mean, epsilon, root, product, back, weight: each a pass of its own.
    constexpr int kKernels = 8;
    add(name, ElementwiseShape{norm_rows_, h * (28 + 4 * element_) / kKernels, 4 * h / kKernels},
        OpScope::kTokens, uses * kKernels);
  } else if (quantised == WeightFormat::kPlain) {
    elementwise(name, norm_rows_, moved, flops, uses);
  } else {
    add(name,
        ElementwiseShape{norm_rows_, (moved - h) * element_ + quantised_row_bytes(quantised, model_.hidden),
                         flops + 3 * h});
  }
  whole();
}

WeightFormat OpBuilder::attention_input(const LayerKind& kind) const {
  const WeightFormat w = format(Component::kAttention);
  if (!quantises(w) || kind.parallel || shard_.sequence_parallel) return WeightFormat::kPlain;
  const auto* grouped = std::get_if<GqaAttention>(&kind.mixer);
  const auto* latent = std::get_if<MlaAttention>(&kind.mixer);
  // Gates and indexers of their own read activations.
  const bool alone = grouped  ? grouped->gate_width <= 0 && grouped->index_heads <= 0
                     : latent ? !latent->output_gate && latent->index_top_k <= 0
                              : false;
  return alone ? w : WeightFormat::kPlain;
}

WeightFormat OpBuilder::mlp_input(const LayerKind& kind) const {
  const WeightFormat w = format(Component::kMlp);
  const bool alone =
      std::holds_alternative<DenseMlp>(kind.mlp) && !kind.parallel && !shard_.sequence_parallel;
  return alone && quantises(w) ? w : WeightFormat::kPlain;
}

// torch.nn.LayerNorm, one kernel; other norms have no biases. Of the layer at hand, or the final one.
bool OpBuilder::is_layer_norm() const {
  const std::int64_t each = kind_ < 0 ? model_.final_norm_parameters
                                      : model_.kinds[static_cast<std::size_t>(kind_)].norm_parameters /
                                            std::max(1, model_.kinds[static_cast<std::size_t>(kind_)].norms);
  return each == 0 || each >= 2 * model_.hidden;
}

void OpBuilder::mix(const LayerKind& kind) {
  if (kind.residual_streams <= 1) return;
  const double streams = kind.residual_streams, h = d(model_.hidden);
  const auto in = static_cast<std::int64_t>(streams) * model_.hidden;
  const std::int64_t out = residual_outputs(kind, model_.hidden);
  if (out > 0) gemm("residual_weights", norm_rows_, out, in, WeightFormat::kPlain);
  // Streams are read to make the sublayer's input, then read and written to take its output back.
  elementwise("residual_mix", norm_rows_, (3 * streams + 2) * h, 4 * streams * h);
}

void OpBuilder::feed_forward(const LayerKind& kind) {
  if (std::holds_alternative<NoMlp>(kind.mlp)) return;
  std::visit([&](const auto& m) { mlp(m); }, kind.mlp);
  int ranks = shard_.tensor_parallel;
  if (std::holds_alternative<MoeMlp>(kind.mlp) && shard_.data_parallel <= 1)
    ranks = std::max(ranks, shard_.expert_parallel * shard_.moe_tensor_parallel);
  reduce("mlp_all_reduce", "mlp_reduce_scatter", ranks);
}

void OpBuilder::layer(const LayerKind& kind) {
  const bool has_mixer = !std::holds_alternative<NoMixer>(kind.mixer);
  const bool has_mlp = !std::holds_alternative<NoMlp>(kind.mlp);
  const int before = has_mixer && has_mlp && !kind.parallel ? (kind.norms + 1) / 2 : kind.norms;
  if (has_mixer) {
    mix(kind);
    const WeightFormat quantised = before == 1 ? attention_input(kind) : WeightFormat::kPlain;
    norms("input_norm", before, "attn_all_gather", quantised);
    reads_8_bits_ = quantised != WeightFormat::kPlain;
    std::visit([&](const auto& m) { mixer(m); }, kind.mixer);
    reads_8_bits_ = false;
    if (!kind.parallel || !has_mlp) reduce("attn_all_reduce", "attn_reduce_scatter", shard_.tensor_parallel);
  }
  if (has_mlp) {
    mix(kind);
    const int uses = has_mixer ? kind.norms - before : kind.norms;
    const WeightFormat quantised = uses == 1 ? mlp_input(kind) : WeightFormat::kPlain;
    if (!has_mixer)
      norms("input_norm", uses, "mlp_all_gather", quantised);
    else if (!kind.parallel)
      norms("post_norm", uses, "mlp_all_gather", quantised);
    reads_8_bits_ = quantised != WeightFormat::kPlain;
    feed_forward(kind);
    reads_8_bits_ = false;
  }
}

void OpBuilder::build() {
  const auto [first, last] = layer_range(model_, shard_);
  list_.ops.clear();
  model_.attention_windows(list_.windows);
  list_.kinds.resize(model_.kinds.size());
  for (std::size_t k = 0; k < model_.kinds.size(); ++k) {
    OpList::Kind& kind = list_.kinds[k];
    kind.name = model_.kinds[k].name;
    kind.layers = kind.offloaded = kind.streamed = 0;
  }
  for (int i = first; i < last; ++i) {
    OpList::Kind& kind = list_.kinds[model_.layers[static_cast<std::size_t>(i)]];
    ++kind.layers;
    if (i - first < shard_.offloaded_layers) ++kind.offloaded;
    if (is_streamed(model_, shard_, i)) ++kind.streamed;
  }
  const double h = d(model_.hidden);
  const bool embeds = shard_.has_embedding && first == 0;
  const bool heads = shard_.has_head && last == static_cast<int>(model_.num_layers);
  const double cached = kv_bytes_per_token(model_, shard_, precision_.kv);
  if (work_.swap_out_tokens > 0)
    add("swap_out", CopyShape{d(work_.swap_out_tokens) * cached}, OpScope::kSwap);
  if (work_.swap_in_tokens > 0) add("swap_in", CopyShape{d(work_.swap_in_tokens) * cached}, OpScope::kSwap);
  // Keys and values are read and written once.
  if (work_.shifted_tokens > 0)
    add("key_shift", ElementwiseShape{work_.shifted_tokens, 2 * cached, 0}, OpScope::kSwap);
  if (rows_ <= 0) return;
  if (work_.adapter_loads > 0 && shard_.lora.rank > 0)
    add("lora_load", CopyShape{d(work_.adapter_loads) * d(adapter_elements(model_, shard_)) * element_},
        OpScope::kAdapters);
  if (embeds) {
    elementwise("embedding", rows_, (model_.position_table > 0 ? 3 : 2) * h, 0);
    if (model_.embedding_projection > 0)
      gemm("embedding_projection", rows_, model_.hidden, model_.embedding_projection, WeightFormat::kPlain);
    // The table is split by vocabulary rows: ranks without the row contribute zeros.
    reduce("embedding_all_reduce", "embedding_reduce_scatter", shard_.tensor_parallel);
    if (model_.is_prediction) {
      layers_ = model_.num_layers;
      elementwise("prediction_norm", rows_, 4 * h, 8 * h);
      gemm("prediction_proj", rows_, model_.hidden, 2 * model_.hidden, WeightFormat::kPlain);
      layers_ = 1;
    }
    if (model_.embedding_norm) elementwise("embedding_norm", rows_, 2 * h, 5 * h);
  }
  for (std::size_t k = 0; k < model_.kinds.size(); ++k) {
    const OpList::Kind& kind = list_.kinds[k];
    if (kind.layers == 0) continue;
    kind_ = static_cast<int>(k);
    if ((layers_ = kind.streamed) > 0)
      add("weight_fetch",
          CopyShape{layer_weight_bytes(model_, model_.kinds[k], shard_, precision_),
                    shard_.streams_from_storage},
          OpScope::kStreaming);
    on_host_ = true;
    if ((layers_ = kind.offloaded) > 0) layer(model_.kinds[k]);
    on_host_ = false;
    if ((layers_ = kind.layers - kind.offloaded) > 0) layer(model_.kinds[k]);
  }
  kind_ = -1;
  layers_ = 1;
  if (heads) {
    norms("final_norm", model_.final_norm_parameters > 0 || model_.is_prediction ? 1 : 0, "final_all_gather");
    const std::int64_t sampled = work_.sampled_rows;
    if (sampled > 0) {
      const std::int64_t width =
          model_.embedding_projection > 0 ? model_.embedding_projection : model_.hidden;
      if (model_.embedding_projection > 0)
        gemm("head_projection", sampled, width, model_.hidden, WeightFormat::kPlain, 1, OpScope::kSampled);
      gemm("lm_head", sampled, split(model_.vocab), width, WeightFormat::kPlain, 1, OpScope::kSampled);
      collective("logits_gather", Collective::kAllGather, d(sampled) * d(model_.vocab) * element_,
                 shard_.tensor_parallel, OpScope::kSampled);
      add("sampling", SamplingShape{sampled, model_.vocab, fusion_.sorts_logits, fusion_.ranks_beams},
          OpScope::kSampled);
    }
  }
  if (shard_.pipeline_parallel > 1 && !heads)
    collective("stage_send", Collective::kSendRecv, d(rows_) * h * element_, 2);
}

OpList operators(const ModelConfig& model, const Shard& shard, const Work& work, const Precision& precision,
                 const Fusion& fusion) {
  OpList list;
  operators(model, shard, work, precision, fusion, list);
  return list;
}

void operators(const ModelConfig& model, const Shard& shard, const Work& work, const Precision& precision,
               const Fusion& fusion, OpList& list) {
  OpBuilder(model, shard, work, precision, fusion, list).build();
}

}  // namespace foretoken
