// What LoongServe's scheduler knows of the time that prefills take: its own analytical model, fitted to our
// prices as its profiler fits measured ones (longserve_server/router/profiler.py).
#pragma once

#include "simulator/cost_model.h"

namespace foretoken {

struct Deployment;
struct LoongserveConfig;

// Fills prefill_model for 1 to replicas instances, and move_per_token. Of a model alpha + beta x sum of
// lengths + gamma x sum of squares the least squares of relative errors, over single prompts of 128 tokens,
// twice as many, and so on up to max_model_len or what the instances hold.
void profile_elastic(const Deployment& deployment, const CostModel& cost, LoongserveConfig& config);

}  // namespace foretoken
