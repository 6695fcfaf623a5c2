// The attention kernels as attention.cu launches them, and what adds up the parts of items that were cut.
#pragma once

#include "executor/cuda/attention_plan.h"
#include "executor/cuda/runtime.h"

namespace foretoken::cuda {

struct AttentionParams;

// Each launches one kernel over plan.blocks blocks.
void launch_decode_attention(const AttentionPlan& plan, Storage storage, const AttentionParams& params,
                             Stream& stream);
void launch_prompt_attention(const AttentionPlan& plan, Storage storage, const AttentionParams& params,
                             Stream& stream);
void launch_prompt_warpgroup(const AttentionPlan& plan, const AttentionParams& params, Stream& stream);
void launch_latent_attention(const AttentionPlan& plan, Storage storage, const AttentionParams& params,
                             Stream& stream);
void launch_latent_warpgroup(const AttentionPlan& plan, const AttentionParams& params, Stream& stream);
void launch_general_attention(const AttentionPlan& plan, Storage storage, const AttentionParams& params,
                              Stream& stream);

}  // namespace foretoken::cuda
