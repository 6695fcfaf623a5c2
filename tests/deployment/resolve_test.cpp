// From a scenario to a deployment: defaults, verdicts, errors, warnings.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/json_full.h"
#include "models.h"

namespace foretoken {
namespace {

Resources named() {
  Resources r;
  r.scenario_file = "s.json";
  return r;
}
std::variant<Deployment, Infeasible> result(const Scenario& s, const ModelConfig& model = llama_8b(),
                                            const Device& device = h100(), double mean = 0,
                                            std::int64_t longest = 0) {
  return resolve_on(s, named(), model, device, nvlink_node(), mean, longest);
}
std::string error(const Scenario& s, const ModelConfig& model = llama_8b()) {
  return error_of([&] { result(s, model); });
}

TEST(Resolve, DefaultsOfVllmOnAnH100) {
  const Deployment d = deployment_of(result(scenario_on("H100"), llama_8b(), h100(), 1500, 4000));
  const EngineSection& e = d.scenario.engine;
  EXPECT_EQ(d.behavior.name, "vllm-0.19");
  EXPECT_EQ(e.max_num_seqs, 1024);
  EXPECT_EQ(e.max_num_batched_tokens, 8192);
  EXPECT_EQ(e.max_model_len, 4000);  // the workload's longest
  EXPECT_EQ(e.block_size, 16);
  EXPECT_EQ(e.gpu_memory_utilization, 0.9);
  EXPECT_EQ(e.dtype, "bfloat16");
  EXPECT_EQ(e.quantization, "none");
  EXPECT_EQ(e.kv_cache_dtype, "bfloat16");
  EXPECT_TRUE(*e.enable_prefix_caching && *e.enable_chunked_prefill && *e.async_scheduling);
  EXPECT_EQ(d.graph_sizes.back(), 512);
  EXPECT_EQ(d.scenario.hardware.count, 1);
  EXPECT_EQ(d.scenario.cluster.replicas, 1);
  EXPECT_EQ(d.scheduler.num_blocks, d.memory.num_gpu_blocks);
  EXPECT_EQ(d.scheduler.max_model_len, 4000);
  EXPECT_TRUE(d.scheduler.caches_tokens);
  EXPECT_TRUE(d.has_price);
  EXPECT_EQ(d.usd_per_device_hour, 1.3);
  EXPECT_TRUE(d.warnings.empty()) << d.warnings[0];
}

// A resolved scenario resolves to itself.
TEST(Resolve, Idempotent) {
  Scenario s = scenario_on("H100", 2);
  s.engine.data_parallel_size = 2;
  s.engine.enable_expert_parallel = true;
  s.engine.enforce_eager = true;
  s.hardware.count = 8;
  const Deployment once = deployment_of(result(
      s, deepseek_v3(),
      [] {
        Device d = h200();
        d.memory = Bytes(1e12);
        return d;
      }(),
      1000, 5000));
  const Json json = scenario_to_json(once.scenario);
  const Scenario again = scenario_from_json(json, "again");
  Device large = h200();
  large.memory = Bytes(1e12);
  const Deployment twice = deployment_of(result(again, deepseek_v3(), large, 1000, 5000));
  EXPECT_EQ(dump_json(scenario_to_json(twice.scenario)), dump_json(json));
  EXPECT_EQ(twice.memory.num_gpu_blocks, once.memory.num_gpu_blocks);
  EXPECT_EQ(twice.mapping.replicas, 2);
}

TEST(Resolve, LengthOfTheModelIsALimit) {
  Scenario s = scenario_on("H100");
  EXPECT_EQ(deployment_of(result(s)).scenario.engine.max_model_len, 131072);
  EXPECT_EQ(deployment_of(result(s, llama_8b(), h100(), 0, 500'000)).scenario.engine.max_model_len, 131072);
  s.engine.max_model_len = 131073;
  EXPECT_EQ(error(s),
            "s.json:/engine/max_model_len: 131,073 is above the 131,072 positions of llama-3.1-8b; lower it "
            "to 131,072 "
            "or less");
  s.engine.max_model_len = 1000;
  const Deployment d = deployment_of(result(s, llama_8b(), h100(), 0, 5000));
  ASSERT_EQ(d.warnings.size(), 1u);
  EXPECT_EQ(d.warnings[0],
            "requests of up to 5,000 tokens are longer than max_model_len 1,000: they are rejected");
}

TEST(Resolve, LimitsThatContradict) {
  Scenario s = scenario_on("H100");
  s.engine.max_num_batched_tokens = 128;
  s.engine.max_num_seqs = 256;
  EXPECT_EQ(
      error(s),
      "s.json:/engine/max_num_batched_tokens: 128 is below max_num_seqs 256; raise it or lower max_num_seqs");
  s.engine.max_num_seqs.reset();
  EXPECT_EQ(deployment_of(result(s)).scenario.engine.max_num_seqs, 128);
  s.engine.enable_chunked_prefill = false;
  s.engine.max_model_len = 4096;
  EXPECT_EQ(error(s),
            "s.json:/engine/max_num_batched_tokens: 128 is below max_model_len 4096 and chunked prefill is "
            "off; raise "
            "it to 4096 or turn enable_chunked_prefill on");
  s.engine.max_num_batched_tokens.reset();
  s.engine.max_model_len = 20000;
  EXPECT_EQ(deployment_of(result(s)).scenario.engine.max_num_batched_tokens, 20000);
}

TEST(Resolve, PrecisionFollowsModelOrScenario) {
  const Deployment own = deployment_of(result(scenario_on("H200", 8), deepseek_v3(), h200()));
  EXPECT_EQ(own.precision.weights, WeightFormat::kFp8Block);
  EXPECT_EQ(own.precision.kv, DType::kBf16);  // the checkpoint's fp8 does not reach the cache
  Scenario s = scenario_on("H100");
  s.engine.quantization = "awq";
  s.engine.kv_cache_dtype = "fp8_e4m3";
  s.engine.dtype = "float16";
  const Deployment d = deployment_of(result(s));
  EXPECT_EQ(d.precision.weights, WeightFormat::kInt4Wo);
  EXPECT_EQ(d.precision.kv, DType::kFp8);
  EXPECT_EQ(d.precision.activation, DType::kF16);
  ASSERT_EQ(d.warnings.size(), 1u);
  EXPECT_EQ(d.warnings[0], "int4_wo weights need a checkpoint in that format; llama-3.1-8b is not one");
}

TEST(Resolve, CheckpointThatAsksForAnFp8Cache) {
  ModelConfig model = llama_8b();
  model.quantization.kv_fp8 = true;
  Scenario s = scenario_on("H100");
  const Deployment d = deployment_of(result(s, model));
  EXPECT_EQ(d.precision.kv, DType::kFp8);
  EXPECT_EQ(d.warnings.size(), 1u);
  EXPECT_EQ(deployment_of(result(d.scenario, model)).precision.kv, DType::kFp8);
  s.engine.kv_cache_dtype = "bfloat16";
  EXPECT_EQ(deployment_of(result(s, model)).precision.kv, DType::kBf16);
  s.engine.kv_cache_dtype = "auto";
  s.engine.behavior = "vllm-0.8";
  EXPECT_EQ(deployment_of(result(s, model)).precision.kv, DType::kBf16);
}

TEST(Resolve, FormatsThatTheDeviceLacks) {
  Scenario s = scenario_on("A100");
  s.engine.quantization = "fp8";
  const Infeasible verdict = verdict_of(result(s, llama_8b(), a100()));
  EXPECT_EQ(verdict.category, "device lacks fp8");
  EXPECT_EQ(verdict.reason, "fp8 weights need matrix units for fp8, which A100-SXM4-80GB lacks");
  s.engine.quantization = "nvfp4";  // weight-only where there is no fp4
  EXPECT_NO_THROW(deployment_of(result(s, llama_8b(), a100())));
  Device volta = a100();
  volta.generation = "7.0";
  s.engine.quantization.reset();
  EXPECT_EQ(deployment_of(result(s, llama_8b(), volta)).precision.activation, DType::kF16);
  s.engine.dtype = "bfloat16";
  EXPECT_EQ(verdict_of(result(s, llama_8b(), volta)).category, "device lacks bfloat16");
}

TEST(Resolve, MemoryIsAVerdictWithItsPlan) {
  const Infeasible verdict = verdict_of(result(scenario_on("H100"), llama_70b()));
  EXPECT_EQ(verdict.category, "does not fit in memory");
  EXPECT_EQ(verdict.reason.substr(0, 23), "weights need 131.4 GiB,");
  ASSERT_TRUE(verdict.memory.has_value());
  EXPECT_FALSE(verdict.memory->fits);
}

TEST(Resolve, ReplicasPricesAndIdleDevices) {
  Scenario s = scenario_on("A100", 2);
  s.hardware.count = 7;
  Deployment d = deployment_of(result(s, llama_8b(), a100()));
  EXPECT_EQ(d.mapping.replicas, 3);
  EXPECT_FALSE(d.has_price);
  ASSERT_EQ(d.warnings.size(), 1u);
  EXPECT_EQ(d.warnings[0], "hardware.count 7 is no multiple of the 2 devices of a replica: 1 stay idle");
  s.hardware.usd_per_device_hour = 0;
  d = deployment_of(result(s, llama_8b(), a100()));
  EXPECT_TRUE(d.has_price);
  EXPECT_EQ(d.usd_per_device_hour, 0);
  s.hardware.count = 1;
  EXPECT_EQ(verdict_of(result(s, llama_8b(), a100())).category, "too few devices");
}

TEST(Resolve, ParallelismAcrossNodesIsWarnedAbout) {
  Scenario s = scenario_on("H100", 8);
  s.hardware.devices_per_node = 4;
  const Deployment d = deployment_of(result(s));
  ASSERT_EQ(d.warnings.size(), 1u);
  EXPECT_EQ(d.warnings[0],
            "tensor parallelism over 8 devices spans nodes of 4: its collectives use the network; "
            "pipeline_parallel_size 2 keeps them inside");
  EXPECT_EQ(d.topology.devices_per_node, 4);
}

TEST(Resolve, LinksOfTheScenario) {
  Scenario s = scenario_on("H100");
  s.hardware.scaleup_bandwidth = "200 GB/s";
  const Deployment d = deployment_of(result(s));
  EXPECT_EQ(d.topology.intra_node.bandwidth.value, 200e9);
  EXPECT_EQ(d.topology.inter_node.bandwidth.value, 50e9);
  s.hardware.scaleup_bandwidth = "200 apples";
  EXPECT_EQ(error(s).substr(0, 36), "s.json:/hardware/scaleup_bandwidth: ");
  s.hardware.scaleup_bandwidth = "0 GB/s";
  EXPECT_EQ(error(s), "s.json:/hardware/scaleup_bandwidth: \"0 GB/s\" is not a positive bandwidth");
}

// Llama-3.1-8B, rank 16 on all projections, 32 layers: q and o 4096 + 4096, k and v 4096 + 1024, gate, up and
// down 4096 + 14336.
TEST(Resolve, AdaptersTakeTheirSlots) {
  Scenario s = scenario_on("H100");
  const MemoryPlan base = deployment_of(result(s)).memory;
  s.engine.lora.emplace();
  s.engine.lora->max_loras = 4;
  const Deployment d = deployment_of(result(s));
  const double one = 2.0 * 32 * 16 * (2 * 8192 + 2 * 5120 + 3 * 18432);
  EXPECT_DOUBLE_EQ(d.memory.weights_bytes - base.weights_bytes, 4 * one);
  EXPECT_LT(d.memory.num_gpu_blocks, base.num_gpu_blocks);
  EXPECT_EQ(d.scheduler.lora.max_loras, 4);
  EXPECT_EQ(d.scheduler.lora.num_adapters, 4);
  EXPECT_EQ(d.scenario.engine.lora->target_modules.size(), 7u);
  s.engine.lora->target_modules = {"q_proj", "v_proj"};
  EXPECT_DOUBLE_EQ(deployment_of(result(s)).memory.weights_bytes - base.weights_bytes,
                   4 * 2.0 * 32 * 16 * (8192 + 5120));
  // A of outputs split over ranks is whole on each, B of inputs split over them too.
  s.engine.lora->target_modules = {"o_proj"};
  s.engine.tensor_parallel_size = 2;
  Scenario plain = scenario_on("H100", 2);
  s.hardware.count = plain.hardware.count = 2;
  plain.engine.tensor_parallel_size = 2;
  EXPECT_DOUBLE_EQ(
      deployment_of(result(s)).memory.weights_bytes - deployment_of(result(plain)).memory.weights_bytes,
      4 * 2.0 * 32 * 16 * (2048 + 4096));
}

TEST(Resolve, AdaptersThatCanNotBeAreRefused) {
  const auto refused = [](auto change, const ModelConfig& model = llama_8b()) {
    Scenario s = scenario_on("H100");
    s.engine.lora.emplace();
    change(s);
    return error(s, model);
  };
  EXPECT_NE(refused([](Scenario& s) { s.engine.behavior = "sglang"; }).find("vLLM V1's rules alone"),
            std::string::npos);
  EXPECT_NE(refused([](Scenario& s) {
              s.engine.lora->target_modules = {"q_proj", "lm_head"};
            }).find("/engine/lora/target_modules/1: \"lm_head\" can have no adapters"),
            std::string::npos);
  EXPECT_NE(refused([](Scenario& s) {
              s.engine.lora->num_adapters = 9, s.engine.lora->max_cpu_loras = 8;
            }).find("8 of 9 adapters fit host memory"),
            std::string::npos);
  EXPECT_NE(refused([](Scenario& s) {
              s.engine.lora->max_loras = 9, s.engine.lora->max_cpu_loras = 8;
            }).find("8 is below max_loras 9"),
            std::string::npos);
  EXPECT_NE(refused([](Scenario&) {}, deepseek_v3()).find("no projection of all layers"), std::string::npos);
}

TEST(Resolve, WhatIsNotModelledIsRefusedByName) {
  Scenario s = scenario_on("H100");
  s.cluster.router = "prefix_aware";
  EXPECT_EQ(
      error(s),
      "s.json:/cluster/router: \"prefix_aware\" is not modelled by this build; it models round_robin, "
      "random, least_outstanding, least_tokens, power_of_two, session_sticky, prefix_affine, precise_prefix, "
      "kv_cost, mooncake, splitwise, tetriinfer");
  s = scenario_on("H100");
  s.cluster.router_load_bound = 1.5;
  EXPECT_EQ(error(s),
            "s.json:/cluster/router_load_bound: belongs to router \"prefix_affine\", and the router is "
            "\"round_robin\"; leave it out");
  s = scenario_on("H100");
  s.engine.behavior = "rtp-llm";
  EXPECT_NE(error(s).find("s.json:/engine/behavior: \"rtp-llm\" is not modelled by this build"),
            std::string::npos);
}

TEST(Resolve, WhichBehaviourIsUsedIsSaid) {
  Scenario s = scenario_on("H100");
  s.engine.behavior = "vllm-0.31.2";
  const Deployment d = deployment_of(result(s));
  EXPECT_EQ(d.scenario.engine.behavior, "vllm-0.24");
  ASSERT_EQ(d.warnings.size(), 1u);
  EXPECT_EQ(d.warnings[0], "\"vllm-0.31.2\" is modelled as vllm-0.24");
  s.engine.behavior = "vllm-0.19.0";
  EXPECT_TRUE(deployment_of(result(s)).warnings.empty());
}

TEST(Resolve, StateSpaceModelsCacheNoTokens) {
  const Deployment d = deployment_of(result(scenario_on("H100"), recurrent_only()));
  EXPECT_FALSE(d.scheduler.caches_tokens);
  EXPECT_FALSE(d.scheduler.enable_prefix_caching);
}

// Values that no reader lets through, but a search or a program may set.
TEST(Resolve, HostileNumbers) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto with = [](auto set) {
    Scenario s = scenario_on("H100");
    set(s);
    return error(s);
  };
  EXPECT_EQ(with([&](Scenario& s) { s.engine.gpu_memory_utilization = nan; }),
            "s.json:/engine/gpu_memory_utilization: nan is outside (0, 1]");
  EXPECT_EQ(with([&](Scenario& s) { s.engine.watermark = nan; }),
            "s.json:/engine/watermark: nan is outside [0, 1]");
  EXPECT_EQ(with([&](Scenario& s) { s.hardware.usd_per_device_hour = nan; }),
            "s.json:/hardware/usd_per_device_hour: nan is not a price");
  EXPECT_EQ(with([](Scenario& s) { s.engine.max_num_seqs = -1; }),
            "s.json:/engine/max_num_seqs: -1 is outside [1, 1,000,000]");
  EXPECT_EQ(with([](Scenario& s) { s.engine.max_num_batched_tokens = INT64_MAX; }),
            "s.json:/engine/max_num_batched_tokens: 9,223,372,036,854,775,807 is outside [1, 2,147,483,647]");
  EXPECT_EQ(with([](Scenario& s) { s.engine.block_size = 0; }),
            "s.json:/engine/block_size: 0 is outside [1, 65,536]");
  EXPECT_EQ(with([](Scenario& s) {
              s.engine.cuda_graph_sizes = {8, -1};
            }),
            "s.json:/engine/cuda_graph_sizes/1: -1 is outside [1, 2,147,483,647]");
  EXPECT_EQ(with([](Scenario& s) { s.hardware.count = INT64_MAX; }),
            "s.json:/hardware/count: 9,223,372,036,854,775,807 is outside [1, 1,000,000]");
  EXPECT_EQ(with([](Scenario& s) { s.hardware.devices_per_node = 0; }),
            "s.json:/hardware/devices_per_node: 0 is outside [1, 1,000,000]");
  EXPECT_EQ(with([](Scenario& s) { s.engine.dtype = "fp8"; }),
            "s.json:/engine/dtype: \"fp8\" is not one of auto, bfloat16, float16, float32");
  EXPECT_NO_THROW(result(scenario_on("H100"), llama_8b(), h100(), nan, -5));
  EXPECT_NO_THROW(result(scenario_on("H100"), llama_8b(), h100(), 1e300, INT64_MAX));
}

TEST(LoadModel, TellsWhatAModelMayBe) {
  Scenario s = scenario_on("H100");
  s.model.text.clear();
  EXPECT_EQ(
      error_of([&] { load_scenario_model(s, named()); }),
      "s.json:/model: a model is needed: a preset (`foretoken model list`), a path to a config.json, or "
      "{\"config\": {...}}");
  s.model.text = "[]";
  EXPECT_EQ(error_of([&] { load_scenario_model(s, named()); }),
            "s.json:/model: a name, a path or an object with \"config\" is expected, not the array []");
  s.model.text = R"({"konfig": {}})";
  EXPECT_EQ(error_of([&] { load_scenario_model(s, named()); }),
            "s.json:/model/konfig: unknown key; did you mean \"config\"?");
  s.model.text = R"({"name": "x"})";
  EXPECT_EQ(error_of([&] { load_scenario_model(s, named()); }),
            "s.json:/model: \"config\" is missing: it holds the keys of a config.json");
}

}  // namespace
}  // namespace foretoken
