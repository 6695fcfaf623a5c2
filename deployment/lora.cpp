// Low-rank adapters of a scenario: what its keys mean for this model, and what is refused.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "base/text.h"
#include "deployment/parts.h"

namespace foretoken {
namespace {

std::string names_of(std::uint8_t targets) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < std::size(kLoraTargetNames); ++i)
    if ((targets >> i & 1) != 0) names.emplace_back(kLoraTargetNames[i]);
  return join(names, ", ");
}

}  // namespace

Lora take_lora(EngineSection& engine, const ModelConfig& model, const Behavior& behavior,
               const std::string& where) {
  Lora lora;
  if (!engine.lora) return lora;
  LoraSection& l = *engine.lora;
  const std::string at = where + "/engine/lora";
  if (behavior.policy != SchedulerPolicy::kVllmV1)
    throw Error(at, fmt::format("adapters are modelled for vLLM V1's rules alone, not for {}; leave it out",
                                behavior.name));
  if (!l.num_adapters) l.num_adapters = l.max_loras;
  if (!l.max_cpu_loras) l.max_cpu_loras = std::max(l.max_loras, *l.num_adapters);
  if (*l.max_cpu_loras < l.max_loras)
    throw Error(at + "/max_cpu_loras",
                fmt::format("{} is below max_loras {}; raise it", *l.max_cpu_loras, l.max_loras));
  if (*l.num_adapters > *l.max_cpu_loras)
    throw Error(
        at + "/max_cpu_loras",
        fmt::format("{} of {} adapters fit host memory; reading adapters from storage is not modelled "
                    "by this build, so raise it or lower num_adapters",
                    *l.max_cpu_loras, *l.num_adapters));

  std::uint8_t all = 0xff;
  for (const std::uint8_t kind : model.layers) all &= lora_targets(model.kinds[kind]);
  if (model.layers.empty() || all == 0)
    throw Error(at, fmt::format("no projection of all layers of {} can have adapters in this build (those of "
                                "attention with heads of its own and of dense feed-forward parts can); leave "
                                "it out",
                                model.name));
  if (l.target_modules.empty())
    for (std::size_t i = 0; i < std::size(kLoraTargetNames); ++i)
      if ((all >> i & 1) != 0) l.target_modules.emplace_back(kLoraTargetNames[i]);
  for (std::size_t i = 0; i < l.target_modules.size(); ++i) {
    const std::string& name = l.target_modules[i];
    const auto found = std::find(std::begin(kLoraTargetNames), std::end(kLoraTargetNames), name);
    const auto bit = found - std::begin(kLoraTargetNames);
    if (found == std::end(kLoraTargetNames) || (all >> bit & 1) == 0)
      throw Error(
          fmt::format("{}/target_modules/{}", at, i),
          fmt::format("\"{}\" can have no adapters in {}; these can: {}", name, model.name, names_of(all)));
    lora.targets |= static_cast<std::uint8_t>(1u << bit);
  }
  lora.rank = l.max_lora_rank;
  lora.slots = l.max_loras;
  return lora;
}

LoraConfig lora_config(const Scenario& scenario) {
  LoraConfig c;
  if (!scenario.engine.lora) return c;
  const LoraSection& l = *scenario.engine.lora;
  c.max_loras = l.max_loras;
  c.num_adapters = l.num_adapters.value_or(l.max_loras);
  c.zipf_exponent = l.assignment == "zipf" ? l.zipf_exponent : 0;
  c.seed = static_cast<std::uint64_t>(scenario.workload.seed);
  return c;
}

}  // namespace foretoken
