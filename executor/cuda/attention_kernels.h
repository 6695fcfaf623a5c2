// Which compiled kernel a plan's variant is: one place that looks at kernel, storage and heads, and one
// launch of what it finds (attention.cu). Each kernel's file gives those of its own that are compiled, by the
// lists that plans choose from.
#pragma once

#include "executor/cuda/attention_plan.h"
#include "executor/cuda/tensor_map.h"

namespace foretoken::cuda {

struct AttentionParams;
using AttentionFunction = void (*)(AttentionParams);

// Of the cache's keys and values, boxes of variant.box_rows rows.
struct AttentionMaps {
  TensorMap keys, values;
};
using TensorAttentionFunction = void (*)(AttentionParams, AttentionMaps);

// Null: no such kernel is compiled, which no plan asks for. The second: of kPromptTma and kLatentTma alone.
AttentionFunction attention_kernel(const AttentionVariant& variant);
TensorAttentionFunction tensor_attention_kernel(const AttentionVariant& variant);
const char* attention_kernel_name(AttentionKernel kernel);

// Of one file each, for the variants of its kernel.
AttentionFunction decode_attention_kernel(const AttentionVariant& variant);
AttentionFunction prompt_attention_kernel(const AttentionVariant& variant);
AttentionFunction prompt_warpgroup_kernel(const AttentionVariant& variant);
AttentionFunction latent_attention_kernel(const AttentionVariant& variant);
AttentionFunction latent_warpgroup_kernel(const AttentionVariant& variant);
TensorAttentionFunction prompt_tma_kernel(const AttentionVariant& variant);
TensorAttentionFunction latent_tma_kernel(const AttentionVariant& variant);
AttentionFunction general_attention_kernel(const AttentionVariant& variant);

}  // namespace foretoken::cuda
