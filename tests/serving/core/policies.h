// The schedulers on top of BlockScheduler with random knobs of their own.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "base/random.h"
#include "serving/serve.h"

namespace foretoken::toy {

inline constexpr SchedulerPolicy kBlockPolicies[] = {
    SchedulerPolicy::kVllmV0,      SchedulerPolicy::kOrca,
    SchedulerPolicy::kSarathi,     SchedulerPolicy::kStaticBatch,
    SchedulerPolicy::kLightllm,    SchedulerPolicy::kFastgen,
    SchedulerPolicy::kTgi,         SchedulerPolicy::kLlamaCpp,
    SchedulerPolicy::kTurbomind,   SchedulerPolicy::kLmdeployPytorch,
    SchedulerPolicy::kNanoflow,    SchedulerPolicy::kSplitwise,
    SchedulerPolicy::kTransformers};

inline constexpr SchedulerPolicy kCachingPolicies[] = {SchedulerPolicy::kVllmV1, SchedulerPolicy::kSglang,
                                                       SchedulerPolicy::kTrtllm};

inline constexpr SchedulerPolicy kPipelinePolicies[] = {
    SchedulerPolicy::kVllmV1,      SchedulerPolicy::kSglang,  SchedulerPolicy::kTrtllm,
    SchedulerPolicy::kVllmV0,      SchedulerPolicy::kOrca,    SchedulerPolicy::kSarathi,
    SchedulerPolicy::kStaticBatch, SchedulerPolicy::kLlamaCpp};

bool is_block_policy(SchedulerPolicy policy);
bool has_prefix_cache(SchedulerPolicy policy);
// Whether a request that runs may have to give its memory up.
bool preempts(SchedulerPolicy policy);
std::string name_of(const testing::TestParamInfo<SchedulerPolicy>& info);

// Knobs of the policy, drawn from `random`, and what it asks of the others: limits that hold a prompt, a
// memory for a request of max_model_len.
void choose_block_policy(SchedulerConfig& config, SchedulerPolicy policy, CounterRandom random);

// The same for vLLM V1, SGLang and TensorRT-LLM, on a pool that holds a request of max_model_len.
void choose_caching_policy(SchedulerConfig& config, SchedulerPolicy policy, CounterRandom& random);

// So many stages, with what the policy asks of its other knobs there.
void pipeline(SchedulerConfig& config, int stages, CounterRandom& random);

// In most cases an order of SGLang's other than fcfs and lpm, or priorities.
void choose_sglang_order(SchedulerConfig& config, CounterRandom random);

}  // namespace foretoken::toy
