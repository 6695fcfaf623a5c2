// Parameter counts and the bytes of one rank's weights.
#include "model/parameters.h"

#include <algorithm>
#include <cmath>

#include "model/weights.h"

namespace foretoken {
namespace {

struct KindTotal {
  std::int64_t total = 0;
  std::int64_t inactive = 0;  // routed experts that a token does not visit
};

KindTotal add_kind(const ModelConfig& model, const LayerKind& kind, std::int64_t layers, Parameters* into) {
  KindTotal sum;
  for (const WeightPart& part : weight_parts(model, kind)) {
    const std::int64_t n = part.parameters * layers;
    sum.total += n;
    if (part.component == Component::kExperts) {
      const auto& moe = std::get<MoeMlp>(kind.mlp);
      sum.inactive += n / moe.experts * (moe.experts - moe.top_k);
    }
    if (into == nullptr) continue;
    switch (part.component) {
      case Component::kAttention:
      case Component::kLinearAttention:
        into->attention += n;
        break;
      case Component::kMlp:
        into->mlp += n;
        break;
      case Component::kExperts:
        into->experts += n;
        break;
      case Component::kSharedExperts:
        into->shared_experts += n;
        break;
      case Component::kRouter:
        into->router += n;
        break;
      case Component::kNorms:
        into->norms += n;
        break;
    }
  }
  return sum;
}

}  // namespace

double layer_weight_bytes(const ModelConfig& model, const LayerKind& kind, const Shard& shard,
                          const Precision& precision) {
  double sum = 0;
  for (const WeightPart& part : weight_parts(model, kind)) {
    const WeightFormat format = part.matrix && !part.plain
                                    ? component_format(model, precision.weights, part.component)
                                    : WeightFormat::kPlain;
    sum += rank_share(part, shard) * bytes_per_weight(format, precision.activation);
  }
  return sum;
}

Parameters count_parameters(const ModelConfig& model) {
  Parameters p;
  const std::int64_t width = model.embedding_projection > 0 ? model.embedding_projection : model.hidden;
  if (!model.is_prediction) {
    p.embedding = model.vocab * width + model.position_table * model.hidden +
                  (model.embedding_norm ? 2 * model.hidden : 0);
    p.lm_head = model.tied_embeddings ? 0 : model.vocab * width;
  }
  p.norms = model.final_norm_parameters + model.other_parameters;
  if (model.embedding_projection > 0) p.norms += 2 * model.embedding_projection * model.hidden;
  std::int64_t inactive = 0;
  for (std::size_t k = 0; k < model.kinds.size(); ++k)
    if (const std::int64_t n = model.layers_of_kind(k, 0, static_cast<int>(model.num_layers)); n > 0)
      inactive += add_kind(model, model.kinds[k], n, &p).inactive;
  if (model.mtp_layers > 0 && model.mtp_kind >= 0)
    p.mtp = model.mtp_layers *
            (add_kind(model, model.kinds[static_cast<std::size_t>(model.mtp_kind)], 1, nullptr).total +
             model.mtp_extra_parameters);
  p.total = p.embedding + p.attention + p.mlp + p.experts + p.shared_experts + p.router + p.norms + p.lm_head;
  p.active = p.total - inactive;
  return p;
}

Bytes weight_bytes(const ModelConfig& model, const Shard& shard, const Precision& precision) {
  const auto [first, last] = layer_range(model, shard);
  const double plain = bytes_of(precision.activation);
  double sum = 0;
  for (std::size_t k = 0; k < model.kinds.size(); ++k)
    if (const std::int64_t n = model.layers_of_kind(k, first, last); n > 0)
      sum += static_cast<double>(n) * layer_weight_bytes(model, model.kinds[k], shard, precision);
  const auto width =
      static_cast<double>(model.embedding_projection > 0 ? model.embedding_projection : model.hidden);
  // A prediction head has its embedding and head from the main model.
  const bool own_tables = !model.is_prediction;
  const bool first_stage = shard.has_embedding && first == 0;
  const bool last_stage = shard.has_head && last == static_cast<int>(model.num_layers);
  // Engines split vocabularies over tensor-parallel ranks, rounded up.
  const double table = std::ceil(static_cast<double>(model.vocab) / shard.tensor_parallel) * width;
  if (first_stage && own_tables)
    sum += plain * (table + static_cast<double>(model.position_table * model.hidden) +
                    (model.embedding_norm ? 2.0 * static_cast<double>(model.hidden) : 0.0));
  if (last_stage) {
    sum += plain * static_cast<double>(model.final_norm_parameters + model.other_parameters);
    if (own_tables && (!model.tied_embeddings || !first_stage)) sum += plain * table;
  }
  if (model.embedding_projection > 0)
    sum += plain * width * static_cast<double>(model.hidden) * ((first_stage ? 1 : 0) + (last_stage ? 1 : 0));
  return Bytes(sum);
}

}  // namespace foretoken
