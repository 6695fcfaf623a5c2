// Which version a name means, and what that version's defaults are.
#include <gtest/gtest.h>

#include "models.h"

namespace foretoken {
namespace {

std::string name(const char* asked) { return find_behavior(asked, "f:/engine/behavior").name; }

TEST(Behavior, NearestModelledVersionNotAbove) {
  EXPECT_EQ(name("vllm-0.19"), "vllm-0.19");
  EXPECT_EQ(name("vllm-0.19.0"), "vllm-0.19");
  EXPECT_EQ(name("vllm-0.19.1rc1"), "vllm-0.19");
  EXPECT_EQ(name("vLLM 0.15.1"), "vllm-0.15");
  EXPECT_EQ(name("vllm-v0.11.0"), "vllm-0.11");
  EXPECT_EQ(name("vllm-0.99"), "vllm-0.24");
  EXPECT_EQ(name("vllm-1.2"), "vllm-0.24");
  EXPECT_EQ(name("vllm-0.99999999999999999999"), "vllm-0.24");
  EXPECT_EQ(name("vllm-0.8.5"), "vllm-0.8");
}

// The engine before V1: up to 0.7 by default.
TEST(Behavior, VersionsBeforeV1AreV0) {
  EXPECT_EQ(name("vllm-0.7.3"), "vllm-0.7");
  EXPECT_EQ(name("vllm-0.6.4"), "vllm-0.6");
  EXPECT_EQ(name("vllm-0.5"), "vllm-0.6") << "none below: the oldest";
  EXPECT_EQ(name("vllm-v0"), "vllm-0.7");
  EXPECT_EQ(find_behavior("vllm-0.7", "").policy, SchedulerPolicy::kVllmV0);
  EXPECT_EQ(find_behavior("vllm-0.8", "").policy, SchedulerPolicy::kVllmV1);
}

TEST(Behavior, SystemsByAnyOfTheirNames) {
  for (const auto& [asked, meant] : {std::pair("orca", "orca"),
                                     std::pair("Sarathi-Serve", "sarathi"),
                                     std::pair("FasterTransformer 5.3", "fastertransformer"),
                                     std::pair("triton", "triton"),
                                     std::pair("lightllm", "lightllm"),
                                     std::pair("fastgen", "deepspeed-fastgen"),
                                     std::pair("mii-0.2", "deepspeed-fastgen"),
                                     std::pair("tgi-2.4.0", "tgi"),
                                     std::pair("tgi-3.3.4", "tgi-3"),
                                     std::pair("text-generation-inference v3.0.1", "tgi-3"),
                                     std::pair("lightllm-0.0.1", "lightllm"),
                                     std::pair("lightllm-1.0.1", "lightllm-1.0"),
                                     std::pair("text-generation-inference", "tgi"),
                                     std::pair("llama.cpp-b4000", "llama.cpp-b4000"),
                                     std::pair("llama_cpp 6925", "llama.cpp-b6925"),
                                     std::pair("llama-cpp", "llama.cpp"),
                                     std::pair("lmdeploy-0.9", "lmdeploy-turbomind"),
                                     std::pair("turbomind", "lmdeploy-turbomind"),
                                     std::pair("lmdeploy-pytorch-0.9.2", "lmdeploy-pytorch"),
                                     std::pair("nanoflow", "nanoflow"),
                                     std::pair("longserve", "loongserve"),
                                     std::pair("static", "fastertransformer"),
                                     std::pair("transformers-4.57.6", "transformers"),
                                     std::pair("HuggingFace", "transformers"),
                                     std::pair("triton-dynamic", "triton")})
    EXPECT_EQ(name(asked), meant) << asked;
}

TEST(Behavior, WithoutVersionOrDevelopmentIsTheNewest) {
  for (const char* asked : {"vllm", "vllm-nightly", "vllm-0.19.1.dev301", "vllm-dev", "vllm-v1", "vllm-main"})
    EXPECT_EQ(name(asked), "vllm-0.24") << asked;
}

TEST(Behavior, OtherSystems) {
  for (const char* asked : {"sglang", "sglang-0.5", "sglang-0.5.8", "sglang-0.9", "sglang-nightly",
                            "SGLang v0.5.1", "sglang-1.0", "sglang-0.5.8.dev12"})
    EXPECT_EQ(name(asked), "sglang-0.5") << asked;
  EXPECT_EQ(name("sglang-0.4.6.post2"), "sglang-0.4");
  EXPECT_EQ(name("sglang-0.3"), "sglang-0.4");
  for (const char* asked :
       {"trtllm", "trtllm-1.3.0rc10", "trtllm-1.9", "trtllm-dev", "tensorrt-llm", "trtllm-1"})
    EXPECT_EQ(name(asked), "trtllm-1.3") << asked;
  EXPECT_EQ(name("trtllm-1.2.0rc6"), "trtllm-1.2");
  EXPECT_EQ(name("tensorrt_llm 1.0.0"), "trtllm-1.0");
  EXPECT_EQ(name("trtllm-0.30"), "trtllm-0.21");
  EXPECT_EQ(name("trtllm-0.12"), "trtllm-0.17");
}

TEST(Behavior, AsExecutedKeepsTheRulesAndTakesTheExecutorsTimes) {
  const Behavior own = find_behavior("foretoken", ""), sglang = find_behavior("sglang-0.5", "");
  const Behavior b = as_executed(sglang);
  EXPECT_EQ(b.policy, SchedulerPolicy::kSglang);
  EXPECT_EQ(b.name, sglang.name);
  EXPECT_EQ(b.measured_engine(), own.measured_engine());
  EXPECT_EQ(b.host_step.value, own.host_step.value);
  EXPECT_EQ(b.ingress.value, 0);
  EXPECT_EQ(b.engine_error, own.engine_error);
}

TEST(Behavior, OthersAreRefusedByName) {
  for (const char* asked : {"orcas", "nanoflows", "rtp-llm", "vllm-", "vllmish", "vllm-0.", "vllm-x", "",
                            "foretoken-2", "sglang-", "sglang-x", "sglangish", "trtllm-1.", "trt"})
    EXPECT_EQ(
        error_of([&] { find_behavior(asked, "a.json:/engine/behavior"); }),
        std::string("a.json:/engine/behavior: \"") + asked +
            "\" is not modelled by this build; it models vllm-0.8 to vllm-0.24, V0 as vllm-0.6 and vllm-0.7, "
            "sglang-0.4 and sglang-0.5, trtllm-0.17 to trtllm-0.21 and trtllm-1.0 to trtllm-1.3, orca, "
            "sarathi, fastertransformer, triton, lightllm, lightllm-1.0, deepspeed-fastgen, tgi, tgi-3, "
            "lmdeploy-pytorch, "
            "lmdeploy-turbomind, nanoflow, loongserve, infinite-llm, splitwise, transformers, llama.cpp, and "
            "its own "
            "executor, "
            "foretoken");
  EXPECT_EQ(error_of([&] { find_behavior("Ollama 0.12", "a.json:/engine/behavior"); }),
            "a.json:/engine/behavior: \"Ollama 0.12\" is not modelled by itself; it runs llama.cpp: use "
            "llama.cpp, with n_parallel as its OLLAMA_NUM_PARALLEL (1)");
  EXPECT_EQ(modelled_behaviors().size(), 1u + 2u + 17u + 2u + 9u + 17u);
}

TEST(Behavior, DefaultsMoveWithTheVersion) {
  EXPECT_EQ(find_behavior("vllm-0.21", "").gpu_memory_utilization, 0.9);
  EXPECT_EQ(find_behavior("vllm-0.22", "").gpu_memory_utilization, 0.92);
  EXPECT_FALSE(find_behavior("vllm-0.13", "").async_scheduling);
  EXPECT_TRUE(find_behavior("vllm-0.14", "").async_scheduling);
  EXPECT_FALSE(default_async_scheduling(find_behavior("vllm-0.14", ""), 2));
  EXPECT_TRUE(default_async_scheduling(find_behavior("vllm-0.15", ""), 2));
  EXPECT_FALSE(find_behavior("vllm-0.20", "").graph_memory_counted);
  EXPECT_TRUE(find_behavior("vllm-0.21", "").graph_memory_counted);
}

TEST(Behavior, BatchLimitsGoByDeviceMemory) {
  const Behavior b = find_behavior("vllm", "");
  const auto limits = [&](double gib, const char* device) { return default_limits(b, gib, device); };
  EXPECT_EQ(limits(79.6, "H100-SXM5-80GB").max_num_batched_tokens, 8192);
  EXPECT_EQ(limits(79.6, "H100-SXM5-80GB").max_num_seqs, 1024);
  EXPECT_EQ(limits(80, "A100-SXM4-80GB").max_num_batched_tokens, 2048);
  EXPECT_EQ(limits(80, "A100-SXM4-80GB").max_num_seqs, 256);
  EXPECT_EQ(limits(24, "RTX-4090").max_num_seqs, 256);
}

// arg_utils.py of 0.8: by device name, from 0.8.5 by memory alone (pull requests 12369, 16158, 17073, 17885).
TEST(Behavior, BatchLimitsOfVllm08GoByPatch) {
  const auto limits = [](const char* version, double gib, const char* device) {
    const BatchLimits l = default_limits(find_behavior(version, ""), gib, device);
    return std::pair(l.max_num_batched_tokens, l.max_num_seqs);
  };
  using Pair = std::pair<std::int64_t, std::int64_t>;
  for (const char* version : {"vllm-0.8.3", "vllm-0.8.4", "vllm-0.8.5", "vllm-0.8", "vllm-0.9"})
    EXPECT_EQ(limits(version, 79.6, "H100-SXM5-80GB"), Pair(8192, 1024)) << version;
  EXPECT_EQ(limits("vllm-0.8.3", 180, "B200"), Pair(2048, 1024));
  EXPECT_EQ(limits("vllm-0.8.4", 180, "B200"), Pair(2048, 256));
  EXPECT_EQ(limits("vllm-0.8.4", 80, "A100-SXM4-80GB"), Pair(2048, 256));
  EXPECT_EQ(limits("vllm-0.8.5", 80, "A100-SXM4-80GB"), Pair(8192, 1024));
  EXPECT_EQ(limits("vllm-0.8", 80, "A100-SXM4-80GB"), Pair(8192, 1024));
  EXPECT_EQ(limits("vllm-0.9", 80, "A100-SXM4-80GB"), Pair(2048, 256));
  EXPECT_EQ(limits("vllm-0.8", 40, "A100-PCIE-40GB"), Pair(2048, 256));
}

// server_args.py of SGLang 0.5 and 0.4.
TEST(Behavior, SglangGoesByDeviceMemory) {
  const Behavior recent = find_behavior("sglang-0.5", ""), old = find_behavior("sglang-0.4", "");
  const auto chunk = [](const Behavior& b, double gib) {
    return default_limits(b, gib, "").max_num_batched_tokens;
  };
  EXPECT_EQ(chunk(recent, 24), 2048);
  EXPECT_EQ(chunk(recent, 48), 4096);
  EXPECT_EQ(chunk(recent, 80), 8192);
  EXPECT_EQ(chunk(recent, 180), 16384);
  EXPECT_EQ(chunk(old, 24), 2048);
  EXPECT_EQ(chunk(old, 48), 8192);
  EXPECT_EQ(default_largest_graph(recent, 80, 1), 256);
  EXPECT_EQ(default_largest_graph(recent, 80, 8), 512);
  EXPECT_EQ(default_largest_graph(recent, 24, 1), 24);
  EXPECT_EQ(default_largest_graph(old, 80, 1), 160);
  // 80 GiB: max(512 + 1.5 x 8192 + 2 x 256 + 128, 10 GiB) = 13,440 MiB of 81,920.
  EXPECT_DOUBLE_EQ(default_memory_share(recent, 80, 8192, 256, 1, 1), 0.836);
  // 24 GiB: 512 + 1.5 x 2048 + 2 x 24 + 128 = 3,760 MiB of 24,576.
  EXPECT_DOUBLE_EQ(default_memory_share(recent, 24, 2048, 24, 1, 1), 0.847);
  EXPECT_DOUBLE_EQ(default_memory_share(recent, 80, 2048, 8, 1, 1), 0.875) << "never less than 10 GiB";
  EXPECT_EQ(default_memory_share(old, 80, 8192, 160, 4, 1), 0.85);
  EXPECT_EQ(graph_sizes_up_to(recent, 24), (std::vector<std::int64_t>{1, 2, 4, 8, 12, 16, 24}));
  EXPECT_EQ(graph_sizes_up_to(old, 160).size(), 3u + 20u);
}

TEST(Behavior, GraphSizes) {
  const Behavior recent = find_behavior("vllm-0.19", "");
  EXPECT_EQ(default_graph_sizes(recent, 1), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(default_graph_sizes(recent, 8), (std::vector<std::int64_t>{1, 2, 4, 8, 16}));
  const auto sizes = default_graph_sizes(recent, 1024);
  EXPECT_EQ(sizes.size(), 3u + 31u + 17u);  // 1 2 4, 8 to 248, 256 to 512
  EXPECT_EQ(sizes.back(), 512);
  EXPECT_EQ(sizes[34], 256);
  EXPECT_EQ(sizes[35], 272);
  EXPECT_EQ(default_graph_sizes(find_behavior("vllm-0.8", ""), 256).size(), 3u + 64u);
  EXPECT_EQ(default_graph_sizes(recent, INT64_MAX).back(), 512);
  const Behavior own = find_behavior("foretoken", "");
  EXPECT_EQ(default_graph_sizes(own, 20, false), (std::vector<std::int64_t>{})) << "on the processor";
  EXPECT_EQ(default_graph_sizes(own, 20), (std::vector<std::int64_t>{1, 2, 4, 8, 16, 20}));
  EXPECT_EQ(default_graph_sizes(own, INT64_MAX).back(), 512);
}

}  // namespace
}  // namespace foretoken
