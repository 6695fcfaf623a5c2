// Priorities and orders of waiting requests as deployments: which version has what, and what they are refused
// beside.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "models.h"

namespace foretoken {
namespace {

using testing::HasSubstr;

std::variant<Deployment, Infeasible> result(const Scenario& s) {
  Resources resources;
  resources.scenario_file = "s.json";
  return resolve_on(s, resources, llama_8b(), h100(), nvlink_node(), 0, 4096);
}
Scenario with(const std::string& behavior) {
  Scenario s = scenario_on("H100", 1);
  s.engine.behavior = behavior;
  return s;
}
template <class Change>
std::string refused(const std::string& behavior, Change change) {
  Scenario s = with(behavior);
  change(s);
  return error_of([&] { result(s); });
}
std::string order(const std::string& behavior, const std::string& name) {
  return refused(behavior, [&](Scenario& s) { s.engine.schedule_policy = name; });
}

TEST(Orders, EachIsRefusedForVersionsBeforeIt) {
  for (const char* name : {"fcfs", "lpm", "dfs-weight", "lof", "random"}) {
    EXPECT_EQ(order("sglang-0.4", name), "") << name;
    EXPECT_EQ(order("sglang-0.5", name), "") << name;
  }
  EXPECT_EQ(order("sglang-0.5", "hrrn"), "");
  EXPECT_EQ(order("sglang-0.5.20", "hrrn"), "");
  EXPECT_EQ(order("sglang-0.5.8", "hrrn"),
            "s.json:/engine/schedule_policy: \"hrrn\" came with SGLang 0.5.20, and the behaviour is "
            "sglang-0.5.8; leave it out");
  EXPECT_THAT(order("sglang-0.4", "hrrn"), HasSubstr("came with SGLang 0.5.20"));
  EXPECT_THAT(order("sglang-0.5.20", "shortest-prefill-first"), HasSubstr("came with SGLang 0.5.21"));
  EXPECT_EQ(order("sglang-0.5.21", "shortest-prefill-first"), "no error");
  EXPECT_THAT(order("sglang-0.5", "routing-key"), HasSubstr("keys that a router sends"));
  EXPECT_THAT(order("sglang-0.5", "sjf"), HasSubstr("is no policy of SGLang"));
  EXPECT_THAT(refused("sglang-0.5",
                      [](Scenario& s) {
                        s.engine.schedule_policy = "shortest-prefill-first";
                        s.engine.disable_radix_cache = true;
                      }),
              HasSubstr("needs the radix cache"));
}

TEST(Orders, WhatTheSchedulerIsTold) {
  Scenario s = with("sglang-0.5");
  s.engine.schedule_policy = "lof";
  s.engine.enable_priority_scheduling = true;
  s.engine.schedule_low_priority_values_first = true;
  s.engine.priority_scheduling_preemption_threshold = 3;
  s.workload.seed = 9;
  const SglangConfig c = deployment_of(result(s)).scheduler.sglang;
  EXPECT_EQ(c.schedule_policy, SglangConfig::Order::kLof);
  EXPECT_TRUE(c.enable_priority_scheduling);
  EXPECT_TRUE(c.schedule_low_priority_values_first);
  EXPECT_EQ(c.priority_scheduling_preemption_threshold, 3);
  EXPECT_EQ(c.seed, 9u);
  for (const char* behavior : {"vllm-0.19", "vllm-0.7"}) {
    Scenario v = with(behavior);
    EXPECT_FALSE(deployment_of(result(v)).scheduler.by_priority);
    v.engine.scheduling_policy = "priority";
    const Deployment d = deployment_of(result(v));
    EXPECT_TRUE(d.scheduler.by_priority);
    EXPECT_THAT(serve_command(d), HasSubstr("--scheduling-policy priority"));
  }
}

TEST(Orders, PrioritiesAreRefusedWhereTheyAreNotModelled) {
  const auto priority = [](Scenario& s) { s.engine.scheduling_policy = "priority"; };
  EXPECT_THAT(refused("vllm-0.8", priority), HasSubstr("came with vLLM 0.9.2"));
  EXPECT_THAT(refused("vllm-0.9.1", priority), HasSubstr("came with vLLM 0.9.2"));
  EXPECT_EQ(refused("vllm-0.9.2", priority), "no error");
  EXPECT_THAT(refused("vllm-0.6.2", priority), HasSubstr("came with vLLM 0.6.3"));
  EXPECT_THAT(refused("sglang-0.5", priority), HasSubstr("scheduling_policy: is a knob of vLLM"));
  EXPECT_THAT(refused("vllm-0.19",
                      [&](Scenario& s) {
                        priority(s);
                        s.engine.preemption_mode = "swap";
                      }),
              HasSubstr("beside preemption_mode swap"));
  EXPECT_THAT(refused("vllm-0.19",
                      [&](Scenario& s) {
                        priority(s);
                        s.workload.beam_width = 2;
                      }),
              HasSubstr("beside beam search"));
  const auto sglang = [](Scenario& s) { s.engine.enable_priority_scheduling = true; };
  EXPECT_THAT(refused("sglang-0.4", sglang), HasSubstr("came with SGLang 0.5.3"));
  EXPECT_THAT(refused("sglang-0.5",
                      [&](Scenario& s) {
                        sglang(s);
                        s.engine.schedule_policy = "lpm";
                      }),
              HasSubstr("takes fcfs and lof beside it"));
  EXPECT_THAT(refused("sglang-0.5.9",
                      [&](Scenario& s) {
                        sglang(s);
                        s.engine.disable_priority_preemption = true;
                      }),
              HasSubstr("came with SGLang 0.5.10"));
  EXPECT_THAT(refused("sglang-0.5", [](Scenario& s) { s.engine.schedule_low_priority_values_first = true; }),
              HasSubstr("belongs to enable_priority_scheduling"));
}

}  // namespace
}  // namespace foretoken
