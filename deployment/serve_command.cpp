// Deployments as commands of SGLang and TensorRT-LLM.
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "deployment/block_systems.h"
#include "deployment/deployment.h"
#include "deployment/parts.h"
#include "deployment/vllm_flags.h"

namespace foretoken {
namespace {

class CommandText {
 public:
  explicit CommandText(std::string begin) : text_(std::move(begin)) {}
  template <class T>
  void add_if(bool wanted, std::string_view flag, const T& value) {
    if (wanted) text_ += fmt::format(" {} {}", flag, value);
  }
  void add_switch(bool wanted, std::string_view flag) {
    if (wanted) text_ += fmt::format(" {}", flag);
  }
  void note(const std::string& note) { notes_.push_back(note); }
  std::string text() const { return notes_.empty() ? text_ : text_ + "  # " + join(notes_, "; "); }

 private:
  std::string text_;
  std::vector<std::string> notes_;
};

bool needs_checkpoint(const Deployment& d) {
  const WeightFormat format = d.precision.weights;
  return format != d.model.quantization.format && format != WeightFormat::kPlain;
}

void note_checkpoint(const Deployment& d, CommandText& c) {
  c.note(fmt::format("serve a checkpoint with {} weights", name_of(d.precision.weights)));
}

// The servers' own flags for it differ between their versions.
void note_speculation(const Deployment& d, CommandText& c) {
  if (!d.speculation) return;
  const Speculation& s = *d.speculation;
  c.note(fmt::format("turn speculative decoding on, {} drafted tokens a step from {}", s.tokens(),
                     s.draft ? model_id(*s.draft) : "n-grams"));
}

std::string sglang_command(const Deployment& d) {
  const EngineSection& e = d.scenario.engine;
  const Behavior& b = d.behavior;
  const Mapping& m = d.mapping;
  CommandText c("python -m sglang.launch_server --model-path " + shell_quote(model_id(d)));
  c.add_if(m.tensor_parallel > 1, "--tp-size", m.tensor_parallel);
  if (m.data_parallel > 1) {
    if (m.expert_parallel > 1) {
      c.note(
          fmt::format("attention data parallelism: SGLang takes --tp-size {} --dp-size {} "
                      "--enable-dp-attention",
                      m.tensor_parallel * m.data_parallel, m.data_parallel));
    } else {
      c.add_if(true, "--dp-size", m.data_parallel);
    }
  }
  c.add_if(m.expert_parallel > 1, "--ep-size", m.expert_parallel);
  c.add_switch(e.enable_eplb, "--enable-eplb");
  c.add_if(e.num_redundant_experts > 0, "--ep-num-redundant-experts", e.num_redundant_experts);
  c.add_if(d.precision.activation != d.model.dtype, "--dtype", name_of(d.precision.activation));
  if (needs_checkpoint(d)) {
    if (d.precision.weights == WeightFormat::kFp8)
      c.add_if(true, "--quantization", "fp8");
    else
      note_checkpoint(d, c);
  }
  c.add_if(d.precision.kv != d.precision.activation, "--kv-cache-dtype",
           e.kv_cache_dtype == "fp8" ? "fp8_e4m3" : e.kv_cache_dtype);
  c.add_if(*e.max_model_len != d.model.max_positions, "--context-length", *e.max_model_len);

  const double gib = d.device.memory.value / kGiB;
  EngineSection defaults;
  defaults.max_model_len = e.max_model_len;
  fill_running_requests(defaults, d.memory.kv_cache_tokens);
  c.add_if(*e.max_num_seqs != *defaults.max_num_seqs, "--max-running-requests", *e.max_num_seqs);
  c.add_if(*e.chunked_prefill_size != default_limits(b, gib, d.device.name).max_num_batched_tokens,
           "--chunked-prefill-size", *e.chunked_prefill_size);
  c.add_if(*e.max_prefill_tokens != SglangConfig().max_prefill_tokens, "--max-prefill-tokens",
           *e.max_prefill_tokens);
  c.add_if(*e.page_size != b.block_size, "--page-size", *e.page_size);
  const std::int64_t largest = default_largest_graph(b, gib, m.tensor_parallel);
  const double share = default_memory_share(b, gib, *e.max_num_batched_tokens, largest, m.tensor_parallel,
                                            m.pipeline_parallel);
  c.add_if(*e.mem_fraction_static != share, "--mem-fraction-static", *e.mem_fraction_static);
  c.add_if(*e.schedule_policy != "fcfs", "--schedule-policy", *e.schedule_policy);
  c.add_if(*e.schedule_conservativeness != 1.0, "--schedule-conservativeness", *e.schedule_conservativeness);
  c.add_switch(*e.enable_mixed_chunk, "--enable-mixed-chunk");
  c.add_switch(*e.disable_radix_cache, "--disable-radix-cache");
  c.add_switch(*e.disable_overlap_schedule, "--disable-overlap-schedule");
  if (d.scheduler.sglang.enable_priority_scheduling) {
    const SglangConfig& s = d.scheduler.sglang;
    c.add_switch(true, "--enable-priority-scheduling");
    c.add_switch(s.schedule_low_priority_values_first, "--schedule-low-priority-values-first");
    c.add_switch(s.disable_priority_preemption, "--disable-priority-preemption");
    c.add_if(
        s.priority_scheduling_preemption_threshold != SglangConfig().priority_scheduling_preemption_threshold,
        "--priority-scheduling-preemption-threshold", s.priority_scheduling_preemption_threshold);
  }
  c.add_if(*e.scheduler_recv_interval != 1, "--scheduler-recv-interval", *e.scheduler_recv_interval);
  if (m.pipeline_parallel > 1)
    c.add_if(*e.pp_max_micro_batch_size != std::max<std::int64_t>(1, *e.max_num_seqs / m.pipeline_parallel),
             "--pp-max-micro-batch-size", *e.pp_max_micro_batch_size);
  if (d.graph_sizes.empty()) {
    c.add_switch(true, "--disable-cuda-graph");
  } else if (d.graph_sizes != graph_sizes_up_to(b, std::min(largest, *e.max_num_seqs))) {
    c.add_if(true, "--cuda-graph-bs", fmt::format("{}", fmt::join(d.graph_sizes, " ")));
  }
  if (!e.kv_tiers.empty()) {  // gigabytes of 1e9 bytes, of each rank
    c.add_switch(true, "--enable-hierarchical-cache");
    c.add_if(true, "--hicache-size", fmt::format("{:.4g}", *e.kv_tiers[0].capacity_gib * kGiB * 1e-9));
    c.add_if(*e.kv_tiers[0].write_policy != "write_through", "--hicache-write-policy",
             *e.kv_tiers[0].write_policy);
    if (e.kv_tiers.size() > 1) {
      c.add_if(*e.hicache_storage_prefetch_policy != "best_effort", "--hicache-storage-prefetch-policy",
               *e.hicache_storage_prefetch_policy);
      c.note("with a --hicache-storage-backend of that speed");
    }
  }
  if (e.num_gpu_blocks_override)
    c.add_if(true, "--max-total-tokens", (*e.num_gpu_blocks_override - 1) * *e.block_size);
  note_speculation(d, c);
  return c.text();
}

std::string trtllm_command(const Deployment& d) {
  const EngineSection& e = d.scenario.engine;
  const Behavior& b = d.behavior;
  const Mapping& m = d.mapping;
  CommandText c("trtllm-serve " + shell_quote(model_id(d)));
  std::vector<std::string> options;  // what only the YAML file takes
  const int ranks =
      m.data_parallel > 1 && m.expert_parallel > 1 ? m.tensor_parallel * m.data_parallel : m.tensor_parallel;
  c.add_if(ranks > 1, "--tp_size", ranks);
  c.add_if(m.expert_parallel > 1, "--ep_size", m.expert_parallel);
  if (e.enable_eplb)
    c.note("balance experts by moe_config.load_balancer, whose slots are experts and copies");
  if (m.data_parallel > 1 && m.expert_parallel > 1) options.emplace_back("enable_attention_dp: true");
  if (m.data_parallel > 1 && m.expert_parallel == 1)
    c.note(fmt::format("{} servers behind a router: one has no independent data-parallel ranks",
                       m.data_parallel));
  if (needs_checkpoint(d)) note_checkpoint(d, c);
  c.add_if(*e.max_model_len != d.model.max_positions, "--max_seq_len", *e.max_model_len);
  c.add_if(*e.max_batch_size != 2048, "--max_batch_size", *e.max_batch_size);
  c.add_if(*e.max_num_tokens != 8192, "--max_num_tokens", *e.max_num_tokens);
  c.add_if(*e.kv_cache_free_gpu_memory_fraction != b.gpu_memory_utilization,
           "--kv_cache_free_gpu_memory_fraction", *e.kv_cache_free_gpu_memory_fraction);
  if (d.precision.kv != d.precision.activation) options.emplace_back("kv_cache_config: {dtype: fp8}");
  if (!*e.enable_block_reuse) options.emplace_back("kv_cache_config: {enable_block_reuse: false}");
  if (*e.tokens_per_block != b.block_size)
    options.push_back(fmt::format("kv_cache_config: {{tokens_per_block: {}}}", *e.tokens_per_block));
  if (*e.enable_chunked_context) options.emplace_back("enable_chunked_prefill: true");
  const auto upper = [](std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char ch) { return ch >= 'a' && ch <= 'z' ? static_cast<char>(ch - 'a' + 'A') : ch; });
    return text;
  };
  if (*e.capacity_scheduler_policy != "guaranteed_no_evict")
    options.push_back("scheduler_config: {capacity_scheduler_policy: " + upper(*e.capacity_scheduler_policy) +
                      "}");
  if (*e.context_chunking_policy != "first_come_first_served")
    options.push_back("scheduler_config: {context_chunking_policy: " + upper(*e.context_chunking_policy) +
                      "}");
  if (*e.batch_wait_timeout_iters > 0)
    options.push_back(fmt::format("batch_wait_timeout_iters: {}", *e.batch_wait_timeout_iters));
  if (*e.batch_wait_max_tokens_ratio > 0)
    options.push_back(fmt::format("batch_wait_max_tokens_ratio: {}", *e.batch_wait_max_tokens_ratio));
  if (b.major >= 1 && !*e.async_scheduling) options.emplace_back("disable_overlap_scheduler: true");
  if (b.major >= 1 && d.graph_sizes.empty()) options.emplace_back("cuda_graph_config: null");
  note_speculation(d, c);
  if (!options.empty()) c.note("in --extra_llm_api_options FILE: " + join(options, ", "));
  return c.text();
}

// Few of the flags that V1 has.
std::string vllm_v0_command(const Deployment& d) {
  constexpr std::int64_t kSeqs = 256;
  const EngineSection& e = d.scenario.engine;
  CommandText c("vllm serve " + shell_quote(model_id(d)));
  c.add_if(d.mapping.tensor_parallel > 1, "--tensor-parallel-size", d.mapping.tensor_parallel);
  c.add_if(d.mapping.pipeline_parallel > 1, "--pipeline-parallel-size", d.mapping.pipeline_parallel);
  c.add_if(d.precision.activation != d.model.dtype, "--dtype", name_of(d.precision.activation));
  if (needs_checkpoint(d)) {
    if (d.precision.weights == WeightFormat::kFp8)
      c.add_if(true, "--quantization", "fp8");
    else
      note_checkpoint(d, c);
  }
  c.add_if(d.precision.kv != d.precision.activation, "--kv-cache-dtype", e.kv_cache_dtype);
  c.add_if(*e.max_model_len != d.model.max_positions, "--max-model-len", *e.max_model_len);
  c.add_if(*e.max_num_seqs != kSeqs, "--max-num-seqs", *e.max_num_seqs);
  c.add_if(
      *e.max_num_batched_tokens != vllm_v0_tokens(d.behavior, *e.enable_chunked_prefill, *e.max_model_len),
      "--max-num-batched-tokens", *e.max_num_batched_tokens);
  c.add_if(*e.block_size != d.behavior.block_size, "--block-size", *e.block_size);
  c.add_if(*e.gpu_memory_utilization != d.behavior.gpu_memory_utilization, "--gpu-memory-utilization",
           *e.gpu_memory_utilization);
  c.add_if(*e.enable_chunked_prefill != vllm_v0_chunks(e, d.model), "--enable-chunked-prefill",
           *e.enable_chunked_prefill ? "True" : "False");
  c.add_switch(*e.enable_prefix_caching, "--enable-prefix-caching");
  if (e.preemption_mode.value_or("") == "swap") {
    c.add_if(true, "--preemption-mode", "swap");
    c.add_if(true, "--swap-space", *e.swap_space_gib);
  }
  if (d.speculation) {
    const SpeculativeSection& s = *e.speculative_config;
    c.add_if(true, "--speculative-model",
             d.speculation->draft ? shell_quote(model_id(*d.speculation->draft)) : "'[ngram]'");
    c.add_if(true, "--num-speculative-tokens", d.speculation->tokens());
    if (!d.speculation->draft) {
      c.add_if(true, "--ngram-prompt-lookup-max", *s.prompt_lookup_max);
      c.add_if(true, "--ngram-prompt-lookup-min", *s.prompt_lookup_min);
    }
    c.add_if(s.disable_by_batch_size.has_value(), "--speculative-disable-by-batch-size",
             s.disable_by_batch_size.value_or(0));
  }
  if (d.scheduler.by_priority) c.add_if(true, "--scheduling-policy", "priority");
  c.add_switch(d.graph_sizes.empty(), "--enforce-eager");
  c.add_if(e.num_gpu_blocks_override.has_value(), "--num-gpu-blocks-override",
           e.num_gpu_blocks_override.value_or(0));
  if (d.mapping.data_parallel > 1)
    c.note(
        fmt::format("{} servers behind a router: one has no data-parallel ranks", d.mapping.data_parallel));
  if (*e.watermark != 0.01) c.note(fmt::format("watermark {} is in its source", *e.watermark));
  c.note(fmt::format("of {}", d.behavior.name));
  return c.text();
}

std::string tgi_command(const Deployment& d) {
  const EngineSection& e = d.scenario.engine;
  CommandText c("text-generation-launcher --model-id " + shell_quote(model_id(d)));
  c.add_if(d.mapping.tensor_parallel > 1, "--num-shard", d.mapping.tensor_parallel);
  if (needs_checkpoint(d)) note_checkpoint(d, c);
  c.add_if(true, "--max-total-tokens", *e.max_model_len);
  c.add_if(true, "--max-input-tokens", *e.max_model_len - 1);
  c.add_if(true, "--max-batch-prefill-tokens", *e.max_batch_prefill_tokens);
  c.add_if(e.max_batch_total_tokens.has_value(), "--max-batch-total-tokens",
           e.max_batch_total_tokens.value_or(0));
  c.add_if(true, "--max-batch-size", *e.max_batch_size);
  if (d.scheduler.tgi.support_chunking) {
    if (!*e.enable_prefix_caching) c.note("with PREFIX_CACHING=0 in its environment");
    if (*e.block_size == 256) c.note("with ATTENTION=flashdecoding in its environment");
    c.note("of version 3");
    return c.text();
  }
  c.add_if(*e.waiting_served_ratio != TgiConfig().waiting_served_ratio, "--waiting-served-ratio",
           *e.waiting_served_ratio);
  c.add_if(*e.max_waiting_tokens != TgiConfig().max_waiting_tokens, "--max-waiting-tokens",
           *e.max_waiting_tokens);
  return c.text();
}

std::string llama_cpp_command(const Deployment& d) {
  const EngineSection& e = d.scenario.engine;
  CommandText c("llama-server --model MODEL.gguf");
  c.note(fmt::format("MODEL.gguf is {} with {} weights", model_id(d), name_of(d.precision.weights)));
  c.add_if(true, "--parallel", *e.n_parallel);
  c.add_if(true, "--ctx-size", *e.n_ctx);
  c.add_if(true, "--batch-size", *e.n_batch);
  c.add_if(true, "--ubatch-size", *e.n_ubatch);
  c.add_switch(*e.kv_unified, "--kv-unified");
  c.add_if(true, "--slot-prompt-similarity", *e.slot_prompt_similarity);
  c.add_if(d.mapping.pipeline_parallel > 1, "--split-mode", "layer");
  c.add_if(*e.cache_reuse > 0, "--cache-reuse", *e.cache_reuse);
  c.add_if(d.behavior.minor >= 6700, "--cache-ram", *e.cache_ram);
  c.note(*e.cache_prompt ? "requests with cache_prompt" : "requests without cache_prompt");
  return c.text();
}

std::string lightllm_command(const Deployment& d) {
  const EngineSection& e = d.scenario.engine;
  CommandText c("python -m lightllm.server.api_server --model_dir " + shell_quote(model_id(d)));
  c.add_if(d.mapping.tensor_parallel > 1, "--tp", d.mapping.tensor_parallel);
  if (needs_checkpoint(d)) note_checkpoint(d, c);
  c.add_if(true, "--max_total_token_num", d.memory.kv_cache_tokens);
  c.add_if(true, "--batch_max_tokens", *e.batch_max_tokens);
  c.add_if(true, "--running_max_req_size", *e.running_max_req_size);
  if (d.behavior.major >= 1) {
    c.add_if(true, "--max_req_total_len", *e.max_model_len);
    c.add_if(true, "--chunked_prefill_size", *e.chunked_prefill_size);
    c.add_if(true, "--router_max_wait_tokens", *e.router_max_wait_tokens);
    c.add_switch(!*e.enable_prefix_caching, "--disable_dynamic_prompt_cache");
    return c.text();
  }
  if (*e.router_max_wait_tokens != LightllmConfig().router_max_wait_tokens)
    c.note(fmt::format("max_wait_tokens {} is in its source", *e.router_max_wait_tokens));
  return c.text();
}

std::string loongserve_command(const Deployment& d) {
  const EngineSection& e = d.scenario.engine;
  const LoongserveConfig defaults;
  CommandText c("python -m loongserve.longserve_server.api_server --model_dir " + shell_quote(model_id(d)));
  c.add_if(true, "--tp_world_size", d.mapping.tensor_parallel);
  c.add_if(true, "--sp_world_size", d.mapping.replicas);
  if (needs_checkpoint(d)) note_checkpoint(d, c);
  c.add_if(true, "--max_total_token_num", d.memory.kv_cache_tokens);
  c.add_if(true, "--max_req_total_len", *e.max_model_len);
  c.add_if(true, "--batch_max_tokens", *e.batch_max_tokens);
  c.add_if(true, "--running_max_req_size", *e.running_max_req_size);
  c.add_if(*e.max_wait_tokens != defaults.max_wait_tokens, "--max_wait_tokens", *e.max_wait_tokens);
  c.add_if(*e.min_comp_bound_decoding_batch_size != defaults.min_comp_bound_decoding_batch_size,
           "--min_comp_bound_decoding_batch_size", *e.min_comp_bound_decoding_batch_size);
  c.add_if(*e.max_num_ooe != defaults.max_num_ooe, "--max_num_ooe", *e.max_num_ooe);
  c.add_if(*e.max_prefill_time != defaults.max_prefill_time, "--max_prefill_time", *e.max_prefill_time);
  c.add_if(*e.avg_decoding_time != defaults.avg_decoding_time, "--avg_decoding_time", *e.avg_decoding_time);
  c.add_switch(*e.use_fixed_sp, "--use_fixed_sp");
  c.add_switch(*e.disable_scale_up, "--disable_scale_up");
  return c.text();
}

std::string lmdeploy_command(const Deployment& d, bool turbomind) {
  const EngineSection& e = d.scenario.engine;
  CommandText c("lmdeploy serve api_server " + shell_quote(model_id(d)));
  c.add_if(true, "--backend", turbomind ? "turbomind" : "pytorch");
  c.add_if(d.mapping.tensor_parallel > 1, "--tp", d.mapping.tensor_parallel);
  if (needs_checkpoint(d)) note_checkpoint(d, c);
  c.add_if(true, "--session-len", *e.max_model_len);
  c.add_if(true, "--max-batch-size", *e.max_batch_size);
  c.add_if(true, "--max-prefill-token-num", *e.max_prefill_token_num);
  c.add_if(*e.cache_max_entry_count != d.behavior.gpu_memory_utilization, "--cache-max-entry-count",
           *e.cache_max_entry_count);
  c.add_if(*e.block_size != d.behavior.block_size, "--cache-block-seq-len", *e.block_size);
  c.add_switch(*e.enable_prefix_caching, "--enable-prefix-caching");
  if (turbomind) {
    c.add_if(*e.num_tokens_per_iter != 0, "--num-tokens-per-iter", *e.num_tokens_per_iter);
    c.add_if(*e.max_prefill_iters != 1, "--max-prefill-iters", *e.max_prefill_iters);
  } else if (*e.prefill_interval != LmdeployConfig().prefill_interval) {
    c.note(fmt::format("prefill_interval {} is set in PytorchEngineConfig", *e.prefill_interval));
  }
  return c.text();
}

}  // namespace

std::string serve_command(const Deployment& d) {
  switch (d.behavior.policy) {
    case SchedulerPolicy::kSglang:
      return sglang_command(d);
    case SchedulerPolicy::kTrtllm:
      return trtllm_command(d);
    case SchedulerPolicy::kVllmV1:
      return vllm_command(d);
    case SchedulerPolicy::kVllmV0:
      return vllm_v0_command(d);
    case SchedulerPolicy::kTgi:
      return tgi_command(d);
    case SchedulerPolicy::kLlamaCpp:
      return llama_cpp_command(d);
    case SchedulerPolicy::kLightllm:
      return lightllm_command(d);
    case SchedulerPolicy::kLoongserve:
      return loongserve_command(d);
    case SchedulerPolicy::kTurbomind:
      return lmdeploy_command(d, true);
    case SchedulerPolicy::kLmdeployPytorch:
      return lmdeploy_command(d, false);
    case SchedulerPolicy::kInfiniteLlm:
    case SchedulerPolicy::kSplitwise:
    case SchedulerPolicy::kNanoflow:
    case SchedulerPolicy::kOrca:
    case SchedulerPolicy::kSarathi:
    case SchedulerPolicy::kStaticBatch:
    case SchedulerPolicy::kFastgen:
    case SchedulerPolicy::kTransformers:
      break;
  }
  return fmt::format("# {} has no command of its own to start a server; its limits are in the scenario",
                     block_system_title(d.behavior.family));
}

}  // namespace foretoken
