// Low-rank adapters (Hu et al. 2021): beside a weight W[out, in] stand A[rank, in] and B[out, rank], and
// y = W x + B (A x). Several adapters share a batch: a step's tokens are grouped by adapter, and each product
// (shrink, then expand) runs once for all groups (Chen et al. 2023, "Punica"; Sheng et al. 2023, "S-LoRA").
#pragma once

#include <cstdint>
#include <string_view>

#include "base/inline_vector.h"
#include "model/model_config.h"

namespace foretoken {

struct Shard;

enum class LoraTarget : std::uint8_t { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr std::string_view kLoraTargetNames[] = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                        "gate_proj", "up_proj", "down_proj"};

// What a rank holds of adapters.
struct Lora {
  std::int64_t rank = 0;     // of every adapter; 0: none
  std::int64_t slots = 0;    // adapters in device memory at once
  std::uint8_t targets = 0;  // bits by LoraTarget
  bool has(LoraTarget t) const { return (targets >> static_cast<int>(t) & 1) != 0; }
};

// Targets that the model's layers have, as bits. Zero for layers whose projections can't be adapted here:
// latent attention, recurrent mixers, experts.
std::uint8_t lora_targets(const LayerKind& kind);

enum class LoraModule : std::uint8_t { kQkv, kO, kGateUp, kDown };
inline constexpr int kLoraModules = 4;

// The adapted part of one fused projection on one rank. Its input is whole (qkv, gate_up: outputs are split
// over ranks) or the rank's part (o, down: results are summed over ranks).
struct LoraProduct {
  LoraModule module = LoraModule::kQkv;
  std::int64_t in = 0;
  struct Output {
    LoraTarget target;
    std::int64_t rows = 0;    // of B on this rank
    std::int64_t column = 0;  // where they stand in the fused projection's output
  };
  InlineVector<Output, 3> outputs;
};
std::string_view shrink_name(LoraModule module);  // "lora_shrink_qkv"
std::string_view expand_name(LoraModule module);
InlineVector<LoraProduct, kLoraModules> lora_products(const LayerKind& kind, std::int64_t hidden,
                                                      const Shard& shard);

// Elements of one adapter on one rank, all of its layers.
std::int64_t adapter_elements(const ModelConfig& model, const Shard& shard);

}  // namespace foretoken
