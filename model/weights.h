// What a layer stores: its weights by component, with how they are split over ranks. Parameter counts, weight
// bytes and the laws that tie the operator list to them are read off this one list.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/inline_vector.h"
#include "model/operators.h"

namespace foretoken {

enum class Component : std::uint8_t {
  kAttention,
  kLinearAttention,
  kMlp,
  kExperts,
  kSharedExperts,
  kRouter,
  kNorms,
};
std::string_view name_of(Component c);  // as in QuantizationSpec::excluded

// How the parameters of a part are divided among ranks.
enum class Split : std::uint8_t {
  kReplicated,
  kTensor,   // by tensor_parallel
  kKvHeads,  // by tensor_parallel, whole heads, replicated where there are fewer heads than ranks
  kExperts,  // whole experts by expert_parallel, their width by moe_tensor_parallel
};

struct WeightPart {
  Component component;
  Split split = Split::kReplicated;
  bool matrix = true;  // multiplied with the tokens; vectors (biases, norms, sinks) are not quantised
  std::int64_t parameters = 0;  // whole model
  std::int64_t kv_heads = 0;    // of a kKvHeads part
  std::int64_t experts = 0;     // of a kExperts part
  double active = 1;            // share that one token uses: top_k / experts for routed experts
  bool plain = false;           // stays at the activation type in every format (routers, small gates)
};

// No layer has more.
using WeightParts = InlineVector<WeightPart, 24>;
WeightParts weight_parts(const ModelConfig& model, const LayerKind& kind);
// Parameters of the part that one rank holds.
double rank_share(const WeightPart& part, const Shard& shard);
// Key-value heads that one rank keeps: at least one, replicated where they don't divide.
std::int64_t kv_heads_on_rank(std::int64_t kv_heads, int tensor_parallel);
// Format in which a component's matrices are stored under `weights`.
WeightFormat component_format(const ModelConfig& model, WeightFormat weights, Component component);

}  // namespace foretoken
