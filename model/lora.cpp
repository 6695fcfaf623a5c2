#include "model/lora.h"

#include <initializer_list>

#include "model/operators.h"
#include "model/weights.h"

namespace foretoken {
namespace {

constexpr std::uint8_t bit(LoraTarget t) { return static_cast<std::uint8_t>(1u << static_cast<int>(t)); }

std::uint8_t bits(std::initializer_list<LoraTarget> targets) {
  std::uint8_t all = 0;
  for (const LoraTarget t : targets) all |= bit(t);
  return all;
}

}  // namespace

std::string_view shrink_name(LoraModule module) {
  static constexpr std::string_view kNames[] = {"lora_shrink_qkv", "lora_shrink_o", "lora_shrink_gate_up",
                                                "lora_shrink_down"};
  return kNames[static_cast<int>(module)];
}

std::string_view expand_name(LoraModule module) {
  static constexpr std::string_view kNames[] = {"lora_expand_qkv", "lora_expand_o", "lora_expand_gate_up",
                                                "lora_expand_down"};
  return kNames[static_cast<int>(module)];
}

std::uint8_t lora_targets(const LayerKind& kind) {
  std::uint8_t targets = 0;
  const auto* a = std::get_if<GqaAttention>(&kind.mixer);
  if (a != nullptr && !a->output_gate && !a->value_is_key && !a->shared_kv_projection)
    targets = bits({LoraTarget::kQ, LoraTarget::kK, LoraTarget::kV, LoraTarget::kO});
  if (const auto* m = std::get_if<DenseMlp>(&kind.mlp)) {
    targets |= bits({LoraTarget::kUp, LoraTarget::kDown});
    if (m->gated) targets |= bit(LoraTarget::kGate);
  }
  return targets;
}

InlineVector<LoraProduct, kLoraModules> lora_products(const LayerKind& kind, std::int64_t hidden,
                                                      const Shard& shard) {
  InlineVector<LoraProduct, kLoraModules> products;
  const std::uint8_t possible = lora_targets(kind);
  const auto split = [&](std::int64_t n) { return (n + shard.tensor_parallel - 1) / shard.tensor_parallel; };
  std::int64_t column = 0;
  const auto output = [&](LoraProduct& p, LoraTarget target, std::int64_t rows) {
    if (shard.lora.has(target) && (possible & bit(target)) != 0) p.outputs.push_back({target, rows, column});
    column += rows;
  };
  const auto add = [&](const LoraProduct& p) {
    if (!p.outputs.empty()) products.push_back(p);
    column = 0;
  };
  if (const auto* a = std::get_if<GqaAttention>(&kind.mixer)) {
    const std::int64_t heads = split(a->heads), kv = kv_heads_on_rank(a->kv_heads, shard.tensor_parallel);
    LoraProduct qkv{LoraModule::kQkv, hidden, {}};
    output(qkv, LoraTarget::kQ, heads * a->head_dim);
    output(qkv, LoraTarget::kK, kv * a->head_dim);
    output(qkv, LoraTarget::kV, kv * a->v_head_dim);
    add(qkv);
    LoraProduct o{LoraModule::kO, heads * a->v_head_dim, {}};
    output(o, LoraTarget::kO, hidden);
    add(o);
  }
  if (const auto* m = std::get_if<DenseMlp>(&kind.mlp)) {
    const std::int64_t inter = split(m->inter);
    LoraProduct up{LoraModule::kGateUp, hidden, {}};
    if (m->gated) output(up, LoraTarget::kGate, inter);
    output(up, LoraTarget::kUp, inter);
    add(up);
    LoraProduct down{LoraModule::kDown, inter, {}};
    output(down, LoraTarget::kDown, hidden);
    add(down);
  }
  return products;
}

std::int64_t adapter_elements(const ModelConfig& model, const Shard& shard) {
  if (shard.lora.rank <= 0) return 0;
  const auto [first, last] = layer_range(model, shard);
  std::int64_t sum = 0;
  for (std::size_t k = 0; k < model.kinds.size(); ++k) {
    const std::int64_t layers = model.layers_of_kind(k, first, last);
    for (const LoraProduct& p : lora_products(model.kinds[k], model.hidden, shard))
      for (const LoraProduct::Output& o : p.outputs) sum += layers * shard.lora.rank * (p.in + o.rows);
  }
  return sum;
}

}  // namespace foretoken
