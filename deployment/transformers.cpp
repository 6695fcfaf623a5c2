// Hugging Face transformers' generate(): what of a scenario it is not modelled with, and which operators its
// modules launch (docs/policies.md).
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "deployment/parts.h"

namespace foretoken {

void refuse_with_transformers(const EngineSection& e, const ModelConfig& model, const std::string& where) {
  const auto refuse = [&](bool wrong, std::string_view key, std::string_view what) {
    if (wrong) throw Error(fmt::format("{}/{}", where, key), std::string(what));
  };
  for (const LayerKind& kind : model.kinds) {
    refuse(!std::holds_alternative<GqaAttention>(kind.mixer), "model",
           "latent, compressed and recurrent layers are not modelled as transformers runs them; use another "
           "behavior, such as vllm");
    refuse(std::holds_alternative<MoeMlp>(kind.mlp), "model",
           "experts, which transformers computes one after the other, are not modelled there; use another "
           "behavior, such as vllm");
  }
  const bool quantised =
      e.quantization ? *e.quantization != "none" : model.quantization.format != WeightFormat::kPlain;
  refuse(e.fuse_rope_kv_write.value_or(false), "engine/fuse_rope_kv_write",
         "transformers turns queries and keys and copies its cache in kernels of their own; leave it out");
  refuse(quantised, "engine/quantization",
         "the kernels of quantized layers in transformers (bitsandbytes, GPTQ, AWQ) are not modelled; use "
         "\"none\"");
  refuse(e.kv_cache_dtype != "auto" && e.kv_cache_dtype != e.dtype, "engine/kv_cache_dtype",
         "a cache of another type (QuantizedCache) is not modelled under transformers; use \"auto\"");
  refuse(e.cuda_graph_sizes && !e.cuda_graph_sizes->empty(), "engine/cuda_graph_sizes",
         "a static cache with torch.compile, which records graphs, is not modelled under transformers; leave "
         "it out");
  refuse(e.cpu_offload_gib.value_or(0) > 0, "engine/cpu_offload_gib",
         "accelerate's hooks, which copy a layer's weights before it runs, are not modelled; leave it out");
  refuse(e.layer_streaming.layers.has_value(), "engine/layer_streaming",
         "accelerate's hooks, which copy a layer's weights before it runs, are not modelled; leave it out");
}

void take_composed_modules(Fusion& fusion, const EngineSection& e, const ModelConfig& model) {
  const Fusion modules = eager_fusion(model);
  fusion.qkv = modules.qkv;
  fusion.gate_up = fusion.rope_kv_write = false;
  fusion.norm_residual = e.fuse_norm_residual.value_or(false);
  fusion.activation = false;
  fusion.attention = fusion.composed = true;  // attn_implementation "sdpa"
}

}  // namespace foretoken
