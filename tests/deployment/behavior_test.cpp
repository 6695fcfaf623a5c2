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
  EXPECT_EQ(name("vllm-0.6.4"), "vllm-0.8");  // none below: the oldest
}

TEST(Behavior, WithoutVersionOrDevelopmentIsTheNewest) {
  for (const char* asked : {"vllm", "vllm-nightly", "vllm-0.19.1.dev301", "vllm-dev", "vllm-v1", "vllm-main"})
    EXPECT_EQ(name(asked), "vllm-0.24") << asked;
}

TEST(Behavior, OthersAreRefusedByName) {
  for (const char* asked : {"sglang-0.5", "trtllm-1.0", "orca", "sarathi", "static", "vllm-v0", "vllm-",
                            "vllmish", "vllm-0.", "vllm-x", "", "foretoken"})
    EXPECT_EQ(error_of([&] { find_behavior(asked, "a.json:/engine/behavior"); }),
              std::string("a.json:/engine/behavior: \"") + asked +
                  "\" is not modelled by this build; it models vllm-0.8 to vllm-0.24");
  EXPECT_EQ(modelled_behaviors().size(), 17u);
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
}

}  // namespace
}  // namespace foretoken
