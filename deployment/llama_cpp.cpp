// llama.cpp's slots: their defaults by build, their context, and the memory that they need
// (docs/policies.md).
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "deployment/knobs.h"
#include "deployment/parts.h"
#include "model/kv_cache.h"

namespace foretoken {
namespace {

// Builds; those that are known by their date alone are between others that are known.
constexpr int kCachesPrompts = 4174;       // pull request 10501, November 2024
constexpr int kLastUnusedFirst = 5700;     // by mid-2025
constexpr int kLowSimilarity = 6451;       // pull request 15913, September 2025
constexpr int kSimilarityOfPrompt = 6700;  // pull request 16391, October 2025
constexpr int kUnified = 6925;             // pull request 16736, November 2025
constexpr int kShiftsChunks = 3917;        // pull request 9866, October 2024
constexpr int kPromptCache = kSimilarityOfPrompt;

constexpr std::int64_t kSlots = 4;        // from then on, with one cache
constexpr std::int64_t kCacheRam = 8192;  // MiB
constexpr double kSimilarity = 0.1, kOldSimilarity = 0.5;

constexpr double kMostBlocks = 2'147'483'647;

bool keeps_all_tokens(const ModelConfig& model) {
  const std::vector<std::int64_t> windows = model.attention_windows();
  return !model.is_recurrent() &&
         std::all_of(windows.begin(), windows.end(), [](std::int64_t w) { return w == 0; });
}

}  // namespace

void take_slots(EngineSection& e, const Behavior& b, const ModelConfig& model, bool has_length,
                const std::string& where) {
  const Knobs k(b, where);
  constexpr const char* kFamily = "llama.cpp";
  k.alias(e.n_parallel, "n_parallel", kFamily, e.max_num_seqs, "max_num_seqs");
  k.alias(e.n_batch, "n_batch", kFamily, e.max_num_batched_tokens, "max_num_batched_tokens");
  k.alias(e.cache_prompt, "cache_prompt", kFamily, e.enable_prefix_caching, "enable_prefix_caching");
  k.only(e.n_ubatch, "n_ubatch", kFamily);
  k.only(e.n_ctx, "n_ctx", kFamily);
  k.only(e.kv_unified, "kv_unified", kFamily);
  k.only(e.slot_prompt_similarity, "slot_prompt_similarity", kFamily);
  k.only(e.cache_reuse, "cache_reuse", kFamily);
  k.only(e.cache_ram, "cache_ram", kFamily);
  if (b.policy != SchedulerPolicy::kLlamaCpp) return;
  if (e.cache_reuse.value_or(0) > 0 && b.minor < kShiftsChunks)
    k.fail("cache_reuse",
           fmt::format("came to the server in October 2024 (b{}), and the behaviour is {}; leave "
                       "it out",
                       kShiftsChunks, b.name));
  if (e.cache_ram.value_or(0) != 0 && b.minor < kPromptCache)
    k.fail("cache_ram",
           fmt::format("came to the server in October 2025 (b{}), and the behaviour is {}; leave it "
                       "out",
                       kPromptCache, b.name));
  const bool whole = keeps_all_tokens(model);
  if (e.kv_unified.value_or(false) && b.minor < kUnified)
    k.fail("kv_unified", fmt::format("came to the server with b{}, and the behaviour is {}; leave it out",
                                     kUnified, b.name));
  if (e.kv_unified.value_or(false) && !whole)
    k.fail("kv_unified",
           "is not modelled for models with attention windows or recurrent states, whose layers have caches "
           "of their own; turn it off");
  if (e.enable_prefix_caching.value_or(false) && !whole)
    k.fail("cache_prompt",
           "is not modelled for models with attention windows or recurrent states, of which llama.cpp keeps "
           "checkpoints; turn it off");
  if (!e.kv_unified) e.kv_unified = b.minor >= kUnified && !e.max_num_seqs && whole;
  if (!e.enable_prefix_caching) e.enable_prefix_caching = b.minor >= kCachesPrompts && whole;
  if (!e.max_num_seqs)
    e.max_num_seqs = std::min(b.minor >= kUnified ? kSlots : 1, e.max_num_batched_tokens.value_or(kSlots));
  if (!e.n_ctx || has_length) return;
  const std::int64_t slot = *e.kv_unified ? *e.n_ctx : *e.n_ctx / *e.max_num_seqs;
  e.max_model_len = model.max_positions > 0 ? std::min(slot, model.max_positions) : slot;
}

void fill_slots(EngineSection& e, const Behavior& b, const std::string& where) {
  const Knobs k(b, where);
  e.n_parallel = e.max_num_seqs;
  e.n_batch = e.max_num_batched_tokens;
  e.cache_prompt = e.enable_prefix_caching;
  if (!e.n_ubatch) e.n_ubatch = std::min(LlamaCppConfig().n_ubatch, *e.n_batch);
  if (!e.slot_prompt_similarity)
    e.slot_prompt_similarity = b.minor >= kLowSimilarity ? kSimilarity : kOldSimilarity;
  e.cache_reuse = e.cache_reuse.value_or(0);
  if (*e.cache_reuse > 0 && !*e.cache_prompt)
    k.fail("cache_reuse", "takes effect with cache_prompt alone; turn that on, or leave it out");
  if (*e.kv_unified && *e.block_size != 1)
    k.fail("block_size", "the cache of all slots is given out token by token; use 1 with kv_unified");
  if (*e.kv_unified && e.n_ctx && *e.n_ctx < *e.max_model_len)
    k.fail("n_ctx", fmt::format("{} is below max_model_len {}, the context of a slot; raise it",
                                with_commas(*e.n_ctx), with_commas(*e.max_model_len)));
  if (*e.kv_unified) return;  // its default goes by the memory
  const std::int64_t all = *e.max_num_seqs * *e.max_model_len;
  if (e.n_ctx && *e.n_ctx / *e.max_num_seqs != *e.max_model_len)
    k.fail("n_ctx", fmt::format("{} gives each of {} slots {} tokens, and max_model_len is {}; give one",
                                with_commas(*e.n_ctx), *e.max_num_seqs,
                                with_commas(*e.n_ctx / *e.max_num_seqs), with_commas(*e.max_model_len)));
  e.n_ctx = e.n_ctx.value_or(all);
}

void read_prompt_cache(Deployment& d, const std::string& where) {
  if (d.behavior.policy != SchedulerPolicy::kLlamaCpp) return;
  EngineSection& e = d.scenario.engine;
  const Knobs k(d.behavior, where);
  const bool staged = d.mapping.pipeline_parallel > 1;
  if (e.cache_ram.value_or(0) != 0 && !*e.enable_prefix_caching)
    k.fail("cache_ram", "keeps what cache_prompt finds again; turn that on, or use 0");
  if (e.cache_ram.value_or(0) != 0 && staged)
    k.fail("cache_ram", "is not modelled in a pipeline, whose stages copy their layers each; use 0");
  if (!e.cache_ram) {
    const bool is_linked =
        d.shares_host_memory || d.scenario.hardware.host_link_bandwidth || d.device.pcie_bandwidth.value > 0;
    const bool is_on = d.behavior.minor >= kPromptCache && *e.enable_prefix_caching && !staged && is_linked;
    e.cache_ram = is_on ? kCacheRam : 0;
  }
  if (*e.cache_ram != 0) use_host_link(d, where);
}

void set_slots(SchedulerConfig& s, const Deployment& d) {
  const EngineSection& e = d.scenario.engine;
  const Behavior& b = d.behavior;
  if (b.policy != SchedulerPolicy::kLlamaCpp) return;
  s.llama_cpp.n_cache_reuse = *e.cache_reuse;
  if (*e.cache_ram > 0) {
    double token = 0;
    for (const Shard& shard : d.mapping.stages)
      token += kv_bytes_per_token(d.model, shard, d.precision.kv) * d.mapping.tensor_parallel;
    const double blocks =
        static_cast<double>(*e.cache_ram) * kMiB / (token * static_cast<double>(*e.block_size));
    s.llama_cpp.prompt_cache_blocks = static_cast<std::int64_t>(std::clamp(blocks, 1.0, kMostBlocks));
  } else if (*e.cache_ram < 0) {  // as many tokens as all slots have
    s.llama_cpp.prompt_cache_blocks = (*e.n_ctx + *e.block_size - 1) / *e.block_size;
  }
  s.llama_cpp.n_ubatch = *e.n_ubatch;
  s.llama_cpp.slot_prompt_similarity = static_cast<float>(*e.slot_prompt_similarity);
  s.llama_cpp.similarity_of_slot = b.minor < kSimilarityOfPrompt;
  s.llama_cpp.last_unused_first = b.minor >= kLastUnusedFirst;
  s.llama_cpp.kv_unified = *e.kv_unified;
}

std::optional<Infeasible> slots_verdict(Deployment& d) {
  if (d.behavior.policy != SchedulerPolicy::kLlamaCpp) return std::nullopt;
  EngineSection& e = d.scenario.engine;
  MemoryPlan& m = d.memory;
  const std::int64_t slot = (*e.max_model_len + m.block_size - 1) / m.block_size;
  // As llama.cpp, which takes the model's context, and less where the memory does not hold it.
  if (*e.kv_unified && !e.n_ctx)
    e.n_ctx = std::max(slot, std::min(d.model.max_positions, m.num_gpu_blocks - 1));
  const std::int64_t blocks = 1 + (*e.kv_unified ? *e.n_ctx : *e.max_num_seqs * slot);
  if (m.num_gpu_blocks < blocks) {
    m.fits = false;
    m.reason = *e.kv_unified
                   ? fmt::format("KV cache holds {} tokens, n_ctx is {}: lower --n-ctx or --max-model-len",
                                 with_commas(m.kv_cache_tokens), with_commas(*e.n_ctx))
                   : fmt::format(
                         "KV cache holds {} tokens, {} slots of {} tokens need {}: lower --n-parallel or "
                         "--max-model-len",
                         with_commas(m.kv_cache_tokens), *e.max_num_seqs, with_commas(*e.max_model_len),
                         with_commas((blocks - 1) * m.block_size));
    return Infeasible{"does not fit in memory", m.reason, m};
  }
  m.num_gpu_blocks = blocks;
  m.kv_cache_bytes = static_cast<double>(blocks) * m.block_bytes;
  m.kv_cache_tokens = (blocks - 1) * m.block_size;
  return std::nullopt;
}

}  // namespace foretoken
