#include "deployment/block_systems.h"

#include <algorithm>
#include <array>

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
};

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
                               {"llama.cpp",
                                "llama.cpp",
                                {"llama-cpp", "llama_cpp", "llamacpp"},
                                SchedulerPolicy::kLlamaCpp,
                                MemoryRule::kShareOfRest,
                                1.0,
                                32,
                                true,
                                false,
                                "llama.cpp of 2024, examples/server (update_slots)"}};

bool is_called(const System& s, std::string_view text) {
  const auto is = [&](std::string_view name) {
    // A version may follow: its rules are the ones that are modelled.
    return !name.empty() && text.starts_with(name) &&
           (text.size() == name.size() || text.substr(name.size()).find_first_of("-_ =") == 0);
  };
  return is(s.name) || std::any_of(s.aliases.begin(), s.aliases.end(), is);
}

}  // namespace

std::optional<Behavior> find_block_system(std::string_view text) {
  for (const System& s : kSystems) {
    if (!is_called(s, text)) continue;
    Behavior b;
    b.name = b.family = s.name;
    b.policy = s.policy;
    b.memory_rule = s.rule;
    b.gpu_memory_utilization = s.memory_share;
    b.block_size = s.block_size;
    b.chunked_prefill = s.chunks;
    b.prefix_caching = b.reserve_full_prompt = false;
    b.async_scheduling = b.overlaps_operators = s.policy == SchedulerPolicy::kNanoflow;
    b.source = s.source;
    b.in_python = s.in_python;
    return b;
  }
  return std::nullopt;
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
