// Tables of `vllm serve` flags, and shell words.
#include "deployment/vllm_flags.h"

#include "base/error.h"

namespace foretoken {
namespace {

constexpr VllmFlag kFlags[] = {
    {"--tensor-parallel-size", "-tp", "tensor_parallel_size", FlagKind::kInteger},
    {"--pipeline-parallel-size", "-pp", "pipeline_parallel_size", FlagKind::kInteger},
    {"--data-parallel-size", "-dp", "data_parallel_size", FlagKind::kInteger},
    {"--enable-expert-parallel", "-ep", "enable_expert_parallel", FlagKind::kSwitch},
    {"--enable-eplb", "", "enable_eplb", FlagKind::kSwitch},
    {"--num-redundant-experts", "", "num_redundant_experts", FlagKind::kInteger},
    {"--eplb-config", "", "eplb_config", FlagKind::kJson},
    {"--dtype", "", "dtype", FlagKind::kText},
    {"--quantization", "-q", "quantization", FlagKind::kText},
    {"--kv-cache-dtype", "", "kv_cache_dtype", FlagKind::kText},
    {"--max-model-len", "", "max_model_len", FlagKind::kInteger},
    {"--max-num-seqs", "", "max_num_seqs", FlagKind::kInteger},
    {"--max-num-batched-tokens", "", "max_num_batched_tokens", FlagKind::kInteger},
    {"--block-size", "", "block_size", FlagKind::kInteger},
    {"--gpu-memory-utilization", "", "gpu_memory_utilization", FlagKind::kNumber},
    {"--enable-chunked-prefill", "", "enable_chunked_prefill", FlagKind::kSwitch},
    {"--enable-prefix-caching", "", "enable_prefix_caching", FlagKind::kSwitch},
    {"--long-prefill-token-threshold", "", "long_prefill_token_threshold", FlagKind::kInteger},
    {"--scheduler-reserve-full-isl", "", "scheduler_reserve_full_isl", FlagKind::kSwitch},
    {"--async-scheduling", "", "async_scheduling", FlagKind::kSwitch},
    {"--scheduling-policy", "", "scheduling_policy", FlagKind::kText},
    {"--watermark", "", "watermark", FlagKind::kNumber},
    {"--enforce-eager", "", "enforce_eager", FlagKind::kSwitch},
    {"--cudagraph-capture-sizes", "", "cuda_graph_sizes", FlagKind::kIntegers},
    {"--cuda-graph-sizes", "", "cuda_graph_sizes", FlagKind::kIntegers},
    {"--num-gpu-blocks-override", "", "num_gpu_blocks_override", FlagKind::kInteger},
    {"--speculative-config", "", "speculative_config", FlagKind::kJson},
    {"--swap-space", "", "swap_space_gib", FlagKind::kNumber},
    {"--cpu-offload-gb", "", "cpu_offload_gib", FlagKind::kNumber},
    {"--enable-lora", "", "lora", FlagKind::kSwitch},
    {"--max-loras", "", "lora/max_loras", FlagKind::kInteger},
    {"--max-lora-rank", "", "lora/max_lora_rank", FlagKind::kInteger},
    {"--max-cpu-loras", "", "lora/max_cpu_loras", FlagKind::kInteger},
};

constexpr IgnoredFlag kIgnored[] = {
    {"--host", Values::kOne},
    {"--port", Values::kOne},
    {"--uvicorn-log-level", Values::kOne},
    {"--served-model-name", Values::kSeveral},
    {"--api-key", Values::kOne},
    {"--trust-remote-code", Values::kNone},
    {"--download-dir", Values::kOne},
    {"--revision", Values::kOne},
    {"--tokenizer", Values::kOne},
    {"--tokenizer-mode", Values::kOne},
    {"--tokenizer-revision", Values::kOne},
    {"--hf-token", Values::kOne},
    {"--load-format", Values::kOne},
    {"--seed", Values::kOne},
    {"--chat-template", Values::kOne},
    {"--disable-log-requests", Values::kNone},
    {"--disable-log-stats", Values::kNone},
    {"--enable-log-requests", Values::kNone},
    {"--max-log-len", Values::kOne},
    {"--allowed-origins", Values::kOne},
    {"--allow-credentials", Values::kNone},
    {"--ssl-keyfile", Values::kOne},
    {"--ssl-certfile", Values::kOne},
    {"--root-path", Values::kOne},
    {"--response-role", Values::kOne},
    {"--reasoning-parser", Values::kOne},
    {"--tool-call-parser", Values::kOne},
    {"--enable-auto-tool-choice", Values::kNone},
    {"--generation-config", Values::kOne},
    {"--disable-uvicorn-access-log", Values::kNone},
    {"--distributed-executor-backend", Values::kOne},
    {"--data-parallel-size-local", Values::kOne},
    {"--data-parallel-address", Values::kOne},
    {"--data-parallel-rpc-port", Values::kOne},
    {"--data-parallel-backend", Values::kOne},
    {"--nnodes", Values::kOne},
    {"--node-rank", Values::kOne},
    {"--master-addr", Values::kOne},
    {"--master-port", Values::kOne},
    {"--headless", Values::kNone},
    {"--limit-mm-per-prompt", Values::kOne},
    {"--enable-prompt-tokens-details", Values::kNone},
    {"--enable-force-include-usage", Values::kNone},
};

// vLLM's "compressed-tensors" and "modelopt" say where the format is written down, not which it is.
constexpr QuantizationName kQuantizations[] = {
    {"fp8", "fp8"},          {"fp8_per_tensor", "fp8"}, {"fp8_per_block", "fp8_block"},
    {"awq", "awq"},          {"awq_marlin", "awq"},     {"gptq", "gptq"},
    {"gptq_marlin", "gptq"}, {"mxfp4", "mxfp4"},        {"modelopt_fp4", "nvfp4"},
};

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

}  // namespace

std::span<const VllmFlag> vllm_flags() { return kFlags; }
std::span<const IgnoredFlag> ignored_vllm_flags() { return kIgnored; }
std::span<const QuantizationName> vllm_quantizations() { return kQuantizations; }

std::vector<std::string> shell_words(std::string_view command, const std::string& where) {
  std::vector<std::string> words;
  std::string word;
  bool in_word = false;
  for (std::size_t i = 0; i < command.size(); ++i) {
    const char c = command[i];
    if (c == '\'' || c == '"') {
      in_word = true;
      std::size_t j = i + 1;
      for (; j < command.size() && command[j] != c; ++j) {
        const bool escape = c == '"' && command[j] == '\\' && j + 1 < command.size() &&
                            (command[j + 1] == '"' || command[j + 1] == '\\' || command[j + 1] == '$');
        word += command[escape ? ++j : j];
      }
      if (j >= command.size()) throw Error(where, "a quote is not closed");
      i = j;
    } else if (c == '\\' && i + 1 < command.size()) {
      ++i;
      if (command[i] == '\r' && i + 1 < command.size() && command[i + 1] == '\n') ++i;
      if (command[i] == '\n') continue;
      word += command[i];
      in_word = true;
    } else if (is_blank(c)) {
      if (in_word) words.push_back(std::move(word));
      word.clear();
      in_word = false;
    } else if (c == '#' && !in_word) {
      while (i + 1 < command.size() && command[i + 1] != '\n') ++i;
    } else {
      word += c;
      in_word = true;
    }
  }
  if (in_word) words.push_back(std::move(word));
  return words;
}

std::string shell_quote(std::string_view word) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,+@%";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string_view::npos) return std::string(word);
  std::string out = "'";
  for (const char c : word) {
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  }
  return out + "'";
}

}  // namespace foretoken
