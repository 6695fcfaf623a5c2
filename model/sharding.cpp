// Which splits of a model over ranks are possible.
#include <fmt/format.h>

#include "model/operators.h"

namespace foretoken {
namespace {

std::string indivisible(std::string_view what, std::int64_t n, std::string_view how, int ranks) {
  return fmt::format("{} {} can't be divided among {} {} ranks; choose a divisor of {}", n, what, ranks, how,
                     n);
}

// The rank's part of a quantised width must hold whole groups of scales.
std::string misaligned(std::string_view what, std::int64_t width, int ranks, WeightFormat format) {
  std::int64_t group = 1;
  if (format == WeightFormat::kFp8Block) group = 128;
  if (format == WeightFormat::kInt4Wo) group = 128;
  if (format == WeightFormat::kNvfp4) group = 16;
  if (format == WeightFormat::kMxfp4) group = 32;
  // A width that the groups don't fit before the split is padded by every engine.
  if (group == 1 || width % group != 0 || (width / ranks) % group == 0) return {};
  return fmt::format(
      "{} {} over {} ranks is {}, which is no multiple of the {} weights that share a scale in {}; "
      "use fewer ranks or expert parallelism",
      what, width, ranks, width / ranks, group, name_of(format));
}

std::string mixer_problem(const LayerKind& kind, int tp) {
  std::int64_t heads = 0, kv = 0;
  if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
    heads = a->heads;
    kv = a->kv_heads;
  } else if (const auto* m = std::get_if<MlaAttention>(&kind.mixer)) {
    heads = m->heads;
  } else if (const auto* c = std::get_if<CompressedAttention>(&kind.mixer)) {
    heads = c->heads;
    if (c->o_groups % tp != 0) return indivisible("output groups", c->o_groups, "tensor-parallel", tp);
  } else if (const auto* r = std::get_if<RecurrentMixer>(&kind.mixer)) {
    heads = r->v_heads;
    if (r->k_heads % tp != 0 && tp % r->k_heads != 0)
      return indivisible("linear-attention key heads", r->k_heads, "tensor-parallel", tp);
  }
  if (heads % tp != 0) return indivisible("attention heads", heads, "tensor-parallel", tp);
  if (kv > 0 && kv % tp != 0 && tp % kv != 0)
    return fmt::format("{} key-value heads and {} tensor-parallel ranks: one must divide the other", kv, tp);
  return {};
}

std::string mlp_problem(const LayerKind& kind, const Shard& shard, WeightFormat format) {
  if (const auto* m = std::get_if<DenseMlp>(&kind.mlp)) {
    if (m->inter % shard.tensor_parallel != 0)
      return indivisible("intermediate_size", m->inter, "tensor-parallel", shard.tensor_parallel);
    return misaligned("intermediate_size", m->inter, shard.tensor_parallel, format);
  }
  if (const auto* m = std::get_if<MoeMlp>(&kind.mlp)) {
    if (m->experts % shard.expert_parallel != 0)
      return indivisible("experts", m->experts, "expert-parallel", shard.expert_parallel);
    if (m->inter % shard.moe_tensor_parallel != 0)
      return indivisible("moe_intermediate_size", m->inter, "expert-tensor-parallel",
                         shard.moe_tensor_parallel);
    if (m->shared_inter % shard.tensor_parallel != 0)
      return indivisible("shared expert width", m->shared_inter, "tensor-parallel", shard.tensor_parallel);
    // Engines pad slices of MXFP4 experts.
    if (format == WeightFormat::kMxfp4) return {};
    return misaligned("moe_intermediate_size", m->inter, shard.moe_tensor_parallel, format);
  }
  return {};
}

}  // namespace

std::string shard_problem(const ModelConfig& model, const Shard& shard, WeightFormat format) {
  if (shard.tensor_parallel < 1 || shard.expert_parallel < 1 || shard.moe_tensor_parallel < 1 ||
      shard.data_parallel < 1 || shard.pipeline_parallel < 1)
    return "parallel sizes must be at least 1";
  if (shard.pipeline_parallel > model.num_layers)
    return fmt::format("{} pipeline stages for {} layers; use at most one stage a layer",
                       shard.pipeline_parallel, model.num_layers);
  bool any_experts = false;
  for (const std::uint8_t k : model.layers) {
    const LayerKind& kind = model.kinds[k];
    any_experts = any_experts || std::holds_alternative<MoeMlp>(kind.mlp);
  }
  if (!any_experts && shard.expert_parallel > 1)
    return fmt::format("{} has no experts; set expert_parallel to 1", model.name);
  for (const LayerKind& kind : model.kinds) {
    if (std::string problem = mixer_problem(kind, shard.tensor_parallel); !problem.empty()) return problem;
    if (std::string problem = mlp_problem(kind, shard, format); !problem.empty()) return problem;
  }
  return {};
}

}  // namespace foretoken
