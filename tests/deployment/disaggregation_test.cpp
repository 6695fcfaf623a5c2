// Prefill and decode sides of a scenario: each with its overrides, the link between them, what moves over it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json_full.h"
#include "models.h"

namespace foretoken {
namespace {

using testing::HasSubstr;

Scenario split_scenario() {
  Scenario s = scenario_on("H100");
  s.cluster.prefill.emplace();
  s.cluster.decode.emplace();
  return s;
}
std::variant<Deployment, Infeasible> result(const Scenario& s, const ModelConfig& model = llama_8b()) {
  Resources r;
  r.scenario_file = "s.json";
  return resolve_on(s, r, model, h100(), nvlink_node(), 0, 4000);
}
Deployment resolved(const Scenario& s, const ModelConfig& model = llama_8b()) {
  return deployment_of(result(s, model));
}
std::string error(const Scenario& s) {
  return error_of([&] { result(s); });
}

TEST(Disaggregation, EachSideIsTheEngineWithItsOverrides) {
  Scenario s = split_scenario();
  s.engine.max_num_batched_tokens = 4096;
  s.cluster.prefill->tensor_parallel_size = 4;
  s.cluster.prefill->max_num_batched_tokens = 16384;
  s.cluster.decode->replicas = 3;
  s.cluster.decode->max_num_seqs = 64;
  const Deployment d = resolved(s);
  ASSERT_TRUE(d.pools);
  const Deployment &p = d.pools->prefill, &q = d.pools->decode;
  EXPECT_EQ(p.mapping.tensor_parallel, 4);
  EXPECT_EQ(p.mapping.replicas, 1);
  EXPECT_EQ(p.scheduler.max_num_batched_tokens, 16384);
  EXPECT_TRUE(p.scheduler.prefill_only);
  EXPECT_EQ(q.mapping.tensor_parallel, 1);
  EXPECT_EQ(q.mapping.replicas, 3);
  EXPECT_EQ(q.scheduler.max_num_batched_tokens, 4096);
  EXPECT_EQ(q.scheduler.max_num_seqs, 64);
  EXPECT_FALSE(q.scheduler.prefill_only);
  EXPECT_EQ(d.devices(), 4 + 3);
  EXPECT_EQ(d.engines(), 1 + 3);
  EXPECT_EQ(d.scenario.hardware.count, 7);
  EXPECT_EQ(&d.of_engine(0), &p);
  EXPECT_EQ(&d.of_engine(1), &q);
  EXPECT_EQ(d.pools->link.bandwidth.value, nvlink_node().inter_node.bandwidth.value);
  EXPECT_FALSE(d.pools->decode_makes_first_token);
}

TEST(Disaggregation, Idempotent) {
  Scenario s = split_scenario();
  s.cluster.prefill->tensor_parallel_size = 2;
  s.cluster.kv_link.emplace();
  s.cluster.kv_link->bandwidth = "25 GB/s";
  s.cluster.first_token = "decode";
  const Deployment once = resolved(s);
  const Deployment twice = resolved(once.scenario);
  EXPECT_EQ(scenario_to_json(once.scenario).dump(), scenario_to_json(twice.scenario).dump());
  EXPECT_EQ(once.pools->prefill.memory.num_gpu_blocks, twice.pools->prefill.memory.num_gpu_blocks);
  EXPECT_EQ(twice.pools->link.bandwidth.value, 25e9);
  EXPECT_TRUE(twice.pools->decode_makes_first_token);
}

// The busiest port: latents and replicated heads go to every rank that keeps them.
TEST(Disaggregation, BytesThroughTheBusiestPort) {
  const auto bytes = [](const ModelConfig& model, int prefill, int decode, int stages = 1) {
    Scenario s = split_scenario();
    s.engine.max_model_len = 4000;
    s.hardware.devices_per_node = 64;
    s.cluster.prefill->tensor_parallel_size = prefill;
    s.cluster.prefill->pipeline_parallel_size = stages;
    s.cluster.decode->tensor_parallel_size = decode;
    return moved_bytes(*resolved(s, model).pools, 1600);
  };
  // 32 layers, 8 heads of 128, keys and values in 2 bytes.
  const double all = 1600.0 * 32 * 8 * 128 * 2 * 2;
  EXPECT_DOUBLE_EQ(bytes(llama_8b(), 1, 1), all);
  EXPECT_DOUBLE_EQ(bytes(llama_8b(), 4, 4), all / 4);
  EXPECT_DOUBLE_EQ(bytes(llama_8b(), 4, 2), all / 2) << "two take in what four send";
  EXPECT_DOUBLE_EQ(bytes(llama_8b(), 2, 4), all / 2) << "two send what four take in";
  EXPECT_DOUBLE_EQ(bytes(llama_8b(), 1, 4, 4), all / 4) << "stages send their layers";
  EXPECT_DOUBLE_EQ(bytes(llama_8b(), 8, 16), all / 4)
      << "each head to two of sixteen: twice over eight ports";
}

TEST(Disaggregation, WholeBlocksAndTheLink) {
  Scenario s = split_scenario();
  s.cluster.kv_link.emplace();
  s.cluster.kv_link->bandwidth = "1 GB/s";
  s.cluster.kv_link->latency_us = 30;
  const Deployment d = resolved(s);
  EXPECT_EQ(moved_bytes(*d.pools, 1), moved_bytes(*d.pools, 16));
  EXPECT_LT(moved_bytes(*d.pools, 16), moved_bytes(*d.pools, 17));
  EXPECT_DOUBLE_EQ(move_time(*d.pools, 160).value, 30e-6 + moved_bytes(*d.pools, 160) / 1e9);
}

// Under routers that give engines of both sides either work no engine only prefills, and caches go anywhere.
TEST(Disaggregation, EnginesThatDoEitherWork) {
  Scenario s = split_scenario();
  s.engine.max_model_len = 4000;
  s.hardware.devices_per_node = 64;
  s.cluster.prefill->tensor_parallel_size = 4;
  s.cluster.decode->tensor_parallel_size = 2;
  s.cluster.router = "tetriinfer";
  const Deployment d = resolved(s);
  EXPECT_FALSE(d.pools->prefill.scheduler.prefill_only);
  EXPECT_EQ(d.pools->prefill.scheduler.max_num_batched_tokens, 512) << "its chunks";
  EXPECT_GT(d.pools->decode.scheduler.max_num_batched_tokens, 512);
  EXPECT_EQ(scenario_to_json(d.scenario).dump(), scenario_to_json(resolved(d.scenario).scenario).dump());
  const double all = 1600.0 * 32 * 8 * 128 * 2 * 2;
  EXPECT_DOUBLE_EQ(moved_bytes(*d.pools, 1600, {false, true}), all / 2) << "two send to four";
  EXPECT_DOUBLE_EQ(moved_bytes(*d.pools, 1600, {false, false}), all / 2);
  EXPECT_DOUBLE_EQ(moved_bytes(*d.pools, 1600, {true, true}), all / 4);
  s.engine.behavior = "splitwise";
  EXPECT_THAT(error(s), HasSubstr("s.json:/engine/behavior: tetriinfer is modelled over vLLM's"));
  s.cluster.router = "splitwise";
  const Deployment whole = resolved(s);
  EXPECT_EQ(whole.pools->prefill.scheduler.policy, SchedulerPolicy::kSplitwise);
  EXPECT_EQ(whole.pools->decode.scheduler.splitwise.max_preemptions, 4);
  s.cluster.first_token = "decode";
  EXPECT_THAT(error(s), HasSubstr("s.json:/cluster/first_token: splitwise gives the client"));
  s.cluster.first_token.reset();
  s.cluster.kv_link.emplace();
  s.cluster.kv_link->layerwise_min_tokens = 512;
  EXPECT_THAT(error(s), HasSubstr("layerwise_min_tokens: belongs to overlap"));
  s.cluster.kv_link.reset();
  s.cluster.router = "round_robin";
  s.cluster.splitwise.emplace();
  EXPECT_THAT(error(s), HasSubstr("s.json:/cluster/splitwise: belongs to router"));
}

TEST(Disaggregation, WhatCannotBeIsSaidByName) {
  Scenario s = split_scenario();
  s.cluster.decode.reset();
  EXPECT_THAT(error(s), HasSubstr("s.json:/cluster/decode: is missing"));
  s = scenario_on("H100");
  s.cluster.kv_link.emplace();
  EXPECT_THAT(error(s), HasSubstr("s.json:/cluster/prefill: is missing"));
  s = split_scenario();
  s.cluster.replicas = 2;
  EXPECT_THAT(error(s), HasSubstr("prefill.replicas and decode.replicas"));
  s = split_scenario();
  s.engine.behavior = "trtllm-1.2";
  EXPECT_THAT(error(s), HasSubstr("vLLM's scheduler and Splitwise's alone"));
  s = split_scenario();
  s.engine.lora.emplace();
  EXPECT_THAT(error(s), HasSubstr("s.json:/engine/lora: adapters with prefill and decode"));
  s = split_scenario();
  s.engine.preemption_mode = "swap";
  EXPECT_THAT(error(s), HasSubstr("s.json:/engine/preemption_mode: swap is not modelled"));
  s = split_scenario();
  s.engine.kv_layout = "contiguous";
  EXPECT_THAT(error(s), HasSubstr("s.json:/engine/kv_layout: contiguous is not modelled"));
  s = split_scenario();
  s.cluster.kv_link.emplace();
  s.cluster.kv_link->bandwidth = "0 GB/s";
  EXPECT_THAT(error(s), HasSubstr("/cluster/kv_link"));
  EXPECT_THAT(error_of([&] { refuse_pools(split_scenario(), "plan", "s.json:"); }),
              HasSubstr("s.json:/cluster/prefill: plan covers engines that serve whole requests"));

  s = split_scenario();
  s.hardware.count = 1;
  EXPECT_THAT(verdict_of(result(s)).reason, HasSubstr("take 2 devices"));
  s = split_scenario();
  s.cluster.decode->tensor_parallel_size = 3;
  EXPECT_THAT(verdict_of(result(s)).reason, HasSubstr("decode engines: "));
}

}  // namespace
}  // namespace foretoken
