#include "deployment/block_systems.h"

#include <array>
#include <string>

namespace foretoken {
namespace {

struct System {
  std::string_view name, title;
  std::array<std::string_view, 4> aliases;
  SchedulerPolicy policy;
  MemoryRule rule;
  double memory_share;
  int block_size;
  bool chunks, in_python;
  std::string_view source;
  // Of a later version of another one of these, whose family it is: from which major version on.
  std::string_view family = {};
  int since = 0;
};

constexpr int kNewestLlamaCpp = 7400;  // December 2025

// Block sizes and memory shares are each system's own defaults (docs/policies.md).
constexpr System kSystems[] = {{"orca",
                                "Orca",
                                {},
                                SchedulerPolicy::kOrca,
                                MemoryRule::kShareOfDevice,
                                0.9,
                                16,
                                false,
                                false,
                                "Yu et al. 2022; Sarathi-Serve's orca_scheduler.py"},
                               {"sarathi",
                                "Sarathi-Serve",
                                {"sarathi-serve"},
                                SchedulerPolicy::kSarathi,
                                MemoryRule::kShareOfDevice,
                                0.9,
                                16,
                                true,
                                true,
                                "Agrawal et al. 2024; core/scheduler/sarathi_scheduler.py"},
                               {"fastertransformer",
                                "FasterTransformer",
                                {"faster-transformer", "static"},
                                SchedulerPolicy::kStaticBatch,
                                MemoryRule::kShareOfRest,
                                0.9,
                                16,
                                false,
                                false,
                                "FasterTransformer 5; Sarathi-Serve's faster_transformer_scheduler.py"},
                               {"triton",
                                "Triton",
                                {"triton-inference-server"},
                                SchedulerPolicy::kStaticBatch,
                                MemoryRule::kShareOfRest,
                                0.9,
                                16,
                                false,
                                false,
                                "Triton's dynamic_batch_scheduler.cc before FasterTransformer"},
                               {"lightllm",
                                "LightLLM",
                                {},
                                SchedulerPolicy::kLightllm,
                                MemoryRule::kStaticShare,
                                0.9,
                                1,
                                false,
                                true,
                                "LightLLM of 2023, server/router"},
                               {"lightllm-1.0",
                                "LightLLM 1.0",
                                {},
                                SchedulerPolicy::kLightllm,
                                MemoryRule::kStaticShare,
                                0.9,
                                1,
                                true,
                                true,
                                "LightLLM of 2025, server/router (chunked_prefill, dynamic_prompt)",
                                "lightllm",
                                1},
                               {"deepspeed-fastgen",
                                "DeepSpeed-FastGen",
                                {"fastgen", "deepspeed-mii", "mii"},
                                SchedulerPolicy::kFastgen,
                                MemoryRule::kShareOfRest,
                                0.98,
                                128,
                                true,
                                true,
                                "DeepSpeed-MII, batching/ragged_batching.py"},
                               {"tgi",
                                "Text Generation Inference",
                                {"text-generation-inference"},
                                SchedulerPolicy::kTgi,
                                MemoryRule::kShareOfRest,
                                0.95,
                                16,
                                false,
                                true,
                                "Text Generation Inference 2, router/src/infer/v3"},
                               {"tgi-3",
                                "Text Generation Inference 3",
                                {"text-generation-inference-3"},
                                SchedulerPolicy::kTgi,
                                MemoryRule::kShareOfRest,
                                0.9,
                                1,
                                true,
                                true,
                                "Text Generation Inference 3, backends/v3 (queue.rs, backend.rs, radix.rs)",
                                "tgi",
                                3},
                               {"lmdeploy-pytorch",
                                "LMDeploy's PyTorch engine",
                                {},
                                SchedulerPolicy::kLmdeployPytorch,
                                MemoryRule::kShareOfRest,
                                0.8,
                                64,
                                true,
                                true,
                                "LMDeploy 0.9, lmdeploy/pytorch (paging/scheduler.py, engine/engine.py)"},
                               {"lmdeploy-turbomind",
                                "LMDeploy's TurboMind",
                                {"lmdeploy", "turbomind"},
                                SchedulerPolicy::kTurbomind,
                                MemoryRule::kShareOfFree,
                                0.8,
                                64,
                                true,
                                false,
                                "LMDeploy 0.9, src/turbomind (LlamaBatch.cc, SequenceManager.cc)"},
                               {"nanoflow",
                                "NanoFlow",
                                {},
                                SchedulerPolicy::kNanoflow,
                                MemoryRule::kShareOfRest,
                                1.0,
                                16,
                                true,
                                false,
                                "Zhu et al. 2024; efeslab/Nanoflow, pipeline/utils/serve.py"},
                               {"loongserve",
                                "LoongServe",
                                {"longserve"},
                                SchedulerPolicy::kLoongserve,
                                MemoryRule::kStaticShare,
                                0.9,
                                1,
                                false,
                                true,
                                "Wu et al. 2024; LoongServe/LoongServe at 74a9d4b, longserve_server/router"},
                               {"infinite-llm",
                                "Infinite-LLM",
                                {"distkv-llm"},
                                SchedulerPolicy::kInfiniteLlm,
                                MemoryRule::kShareOfDevice,
                                0.9,
                                16,
                                false,
                                true,
                                "Lin et al. 2024 (arXiv 2401.02669v2), as others describe it"},
                               {"splitwise",
                                "Splitwise",
                                {},
                                SchedulerPolicy::kSplitwise,
                                MemoryRule::kShareOfDevice,
                                0.9,
                                16,
                                false,
                                true,
                                "Patel et al. 2024, 4.2; splitwise-sim, instance.py"},
                               {"transformers",
                                "Hugging Face transformers",
                                {"huggingface", "hf"},
                                SchedulerPolicy::kTransformers,
                                MemoryRule::kShareOfRest,
                                0.9,
                                1,
                                false,
                                true,
                                "transformers 4.46 to 5 (generation/utils.py, cache_utils.py)"},
                               {"llama.cpp",
                                "llama.cpp",
                                {"llama-cpp", "llama_cpp", "llamacpp"},
                                SchedulerPolicy::kLlamaCpp,
                                MemoryRule::kShareOfRest,
                                1.0,
                                32,
                                true,
                                false,
                                "llama.cpp, tools/server (update_slots)"}};

// What follows its name, a version; nullopt: it is another's name.
std::optional<std::string_view> version_of(const System& s, std::string_view text) {
  const auto follows = [&](std::string_view name) {
    return !name.empty() && text.starts_with(name) &&
           (text.size() == name.size() || text.substr(name.size()).find_first_of("-_ =") == 0);
  };
  if (follows(s.name)) return text.substr(s.name.size());
  for (const std::string_view alias : s.aliases)
    if (follows(alias)) return text.substr(alias.size());
  return std::nullopt;
}

// The number that a version begins with, after those of `before`: 3 of "-v3.3" and, with a b before it, 4000
// of
// "-b4000"; 0: none is said.
int first_number(std::string_view version, std::string_view before) {
  int number = 0;
  for (const char c : version.substr(std::min(version.size(), version.find_first_not_of(before)))) {
    if (c < '0' || c > '9') break;
    number = std::min(number * 10 + (c - '0'), 1'000'000);
  }
  return number;
}

}  // namespace

std::optional<Behavior> find_block_system(std::string_view text) {
  const System* chosen = nullptr;
  std::string_view said;
  for (const System& s : kSystems) {
    if (s.since > 0) continue;
    const auto version = version_of(s, text);
    if (!version) continue;
    chosen = &s, said = *version;
    break;
  }
  if (chosen == nullptr) return std::nullopt;
  const std::string_view family = chosen->name;
  for (const System& later : kSystems)
    if (later.family == family && first_number(said, "-_ =v") >= later.since) chosen = &later;
  const System& s = *chosen;
  Behavior b;
  b.name = s.name;
  b.family = family;
  b.major = s.since;
  b.policy = s.policy;
  b.memory_rule = s.rule;
  b.gpu_memory_utilization = s.memory_share;
  b.block_size = s.block_size;
  b.chunked_prefill = s.chunks;
  b.prefix_caching = s.since > 0;
  b.reserve_full_prompt = false;
  b.async_scheduling = b.overlaps_operators = s.policy == SchedulerPolicy::kNanoflow;
  b.source = s.source;
  b.in_python = s.in_python;
  if (s.policy == SchedulerPolicy::kLlamaCpp) {
    const int build = std::min(first_number(said, "-_ =b"), 99'999);
    b.minor = build > 0 ? build : kNewestLlamaCpp;
    if (build > 0) b.name += "-b" + std::to_string(build);
  }
  return b;
}

std::vector<std::string> block_system_names() {
  std::vector<std::string> names;
  for (const System& s : kSystems) names.emplace_back(s.name);
  return names;
}

std::string_view block_system_title(std::string_view family) {
  for (const System& s : kSystems)
    if (s.name == family) return s.title;
  return {};
}

}  // namespace foretoken
