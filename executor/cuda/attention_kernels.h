// Which compiled kernel a plan's variant is: one place that looks at kernel, storage and heads, and one
// launch of what it finds (attention.cu). Each kernel's file gives those of its own that are compiled, by the
// lists that plans choose from.
#pragma once

#include "executor/cuda/attention_plan.h"

namespace foretoken::cuda {

struct AttentionParams;
using AttentionFunction = void (*)(AttentionParams);

// Null: no such kernel is compiled, which no plan asks for.
AttentionFunction attention_kernel(const AttentionVariant& variant);
const char* attention_kernel_name(AttentionKernel kernel);

// Of one file each, for the variants of its kernel.
AttentionFunction decode_attention_kernel(const AttentionVariant& variant);
AttentionFunction prompt_attention_kernel(const AttentionVariant& variant);
AttentionFunction prompt_warpgroup_kernel(const AttentionVariant& variant);
AttentionFunction latent_attention_kernel(const AttentionVariant& variant);
AttentionFunction latent_warpgroup_kernel(const AttentionVariant& variant);
AttentionFunction general_attention_kernel(const AttentionVariant& variant);

}  // namespace foretoken::cuda
