// What Infinite-LLM's gManager knows of the time that decode steps take: its performance model, a term for
// the batch and one for the cached tokens, from this program's prices.
#pragma once

#include "simulator/cost_model.h"

namespace foretoken {

struct Deployment;
struct LendingConfig;

// Fills step_ms for 1, 2, 4, ... sequences up to max_num_seqs, attention_ms and exchange_ms.
void profile_lending(const Deployment& deployment, const CostModel& cost, LendingConfig& config);

}  // namespace foretoken
