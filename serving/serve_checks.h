// What the serving loop can't serve is refused before it begins: Error with the key and the remedy.
#pragma once

#include <cstddef>
#include <vector>

#include "serving/serve.h"

namespace foretoken {

void check(const EngineConfig& engine, const Backend& backend);
// How many engines do prompts alone (0: none); they come first.
std::size_t prefill_engines(const std::vector<EngineConfig>& engines);
// Of links and the conductor; prefill: how many engines do prompts alone.
void check_transfers(const ServeOptions& options, std::size_t prefill);
void check_autoscale(const ServeOptions& options, std::size_t replicas);

}  // namespace foretoken
