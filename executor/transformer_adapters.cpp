// Low-rank adapters of a step: its rows grouped by adapter, then two products a group beside each projection.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "executor/transformer_state.h"

namespace foretoken {

void Transformer::State::group_by_adapter(std::span<const StepSequence> all) {
  adapted_rows.clear(), adapter_groups.clear();
  for (const AdapterLoad& load : swaps.loads) {
    if (load.slot < 0 || static_cast<std::size_t>(load.slot) >= slot_adapters.size() || load.adapter < 0 ||
        load.adapter >= layout.num_adapters)
      throw Error("adapter", fmt::format("{} can't be loaded into slot {}", load.adapter, load.slot));
    slot_adapters[static_cast<std::size_t>(load.slot)] = load.adapter;
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (all[i].adapter < 0) continue;
    const auto found = std::find(slot_adapters.begin(), slot_adapters.end(), all[i].adapter);
    if (found == slot_adapters.end()) throw Error("adapter", fmt::format("{} is in no slot", all[i].adapter));
    const auto slot = static_cast<std::int32_t>(found - slot_adapters.begin());
    const auto known = std::find_if(adapter_groups.begin(), adapter_groups.end(),
                                    [&](const AdapterGroup& g) { return g.slot == slot; });
    if (known != adapter_groups.end()) continue;
    AdapterGroup group{slot, static_cast<std::int64_t>(adapted_rows.size()), 0};
    for (std::size_t j = i; j < all.size(); ++j)
      if (all[j].adapter == all[i].adapter)
        for (std::int64_t t = 0; t < sequences[j].new_tokens; ++t)
          adapted_rows.push_back(static_cast<std::int32_t>(sequences[j].first_row + t));
    group.count = static_cast<std::int64_t>(adapted_rows.size()) - group.first;
    adapter_groups.push_back(group);
  }
  asked.adapters = static_cast<std::int64_t>(adapter_groups.size());
  asked.adapter_loads = static_cast<std::int64_t>(swaps.loads.size());
}

void Transformer::State::adapter_operator(std::string_view name, int layer, std::size_t r) {
  RankAdapters& own = adapters[r];
  if (name == "lora_load") {
    for (const AdapterLoad& load : swaps.loads) own.load(load.adapter, load.slot);
    return;
  }
  PerRank& w = work[r];
  for (int m = 0; m < kLoraModules; ++m) {
    const auto module = static_cast<LoraModule>(m);
    const bool shrink = name == shrink_name(module);
    if (!shrink && name != expand_name(module)) continue;
    const RankAdapters::Product& p = *own.product(layer, module);
    const std::int64_t parts = static_cast<std::int64_t>(p.b.size()), width = p.a.n, low = width / parts;
    const bool from_stream = module == LoraModule::kQkv || module == LoraModule::kGateUp;
    const float* x = from_stream ? normed : module == LoraModule::kO ? w.heads_out : w.act;
    const LayerWeights& weights = ranks[r].layer(layer);
    float* y = module == LoraModule::kQkv ? w.qkv : module == LoraModule::kGateUp ? w.inter : w.partial;
    const std::int64_t y_width = module == LoraModule::kQkv      ? weights.qkv.w.n
                                 : module == LoraModule::kGateUp ? weights.gate_up.w.n
                                                                 : model.hidden;
    for (const AdapterGroup& g : adapter_groups) {
      const auto own_rows =
          adapted_rows.own(static_cast<std::size_t>(g.first), static_cast<std::size_t>(g.count));
      float* between = w.low_rank + g.first * width;
      if (shrink) {
        kernels.gather_rows(x, p.a.k, own_rows, lora_in);
        gemm({RankAdapters::in_slot(p.a, own.slot_bytes(), g.slot), nullptr}, lora_in, p.a.k, g.count,
             between, width);
        continue;
      }
      for (std::int64_t part = 0; part < parts; ++part) {
        const Matrix b = RankAdapters::in_slot(p.b[static_cast<std::size_t>(part)], own.slot_bytes(), g.slot);
        gemm({b, nullptr}, between + part * low, width, g.count, lora_out, b.n);
        const std::int64_t column = p.shape.outputs[static_cast<std::size_t>(part)].column;
        kernels.add_rows(lora_out, b.n, own_rows, y + column, y_width);
      }
    }
    return;
  }
  throw Error(std::string(name), "the executor has no such operator of adapters");
}

}  // namespace foretoken
