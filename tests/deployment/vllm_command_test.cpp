// `vllm serve` commands: from a deployment, into a scenario, and round.
#include <gtest/gtest.h>

#include "base/json_full.h"
#include "models.h"

namespace foretoken {
namespace {

std::string patch(const std::string& command) { return patch_from_vllm_command(command); }
std::string error(const std::string& command) {
  return error_of([&] { patch(command); });
}
Deployment deploy(const Scenario& s, const ModelConfig& model, const Device& device) {
  return deployment_of(resolve_on(s, {}, model, device, nvlink_node(), 0, 0));
}

TEST(VllmCommand, DefaultsAreLeftOut) {
  EXPECT_EQ(vllm_command(deploy(scenario_on("H100"), llama_8b(), h100())), "vllm serve llama-3.1-8b");
}

TEST(VllmCommand, WhatDiffersIsSaid) {
  Scenario s = scenario_on("H100", 4);
  s.model.text = "\"meta-llama/Llama-3.1-70B\"";
  s.engine.quantization = "fp8";
  s.engine.kv_cache_dtype = "fp8_e4m3";
  s.engine.max_model_len = 32768;
  s.engine.max_num_seqs = 256;
  s.engine.max_num_batched_tokens = 16384;
  s.engine.gpu_memory_utilization = 0.85;
  s.engine.enable_prefix_caching = false;
  EXPECT_EQ(
      vllm_command(deploy(s, llama_70b(), h100())),
      "vllm serve meta-llama/Llama-3.1-70B --tensor-parallel-size 4 --quantization fp8 --kv-cache-dtype "
      "fp8_e4m3 "
      "--max-model-len 32768 --max-num-seqs 256 --max-num-batched-tokens 16384 --gpu-memory-utilization 0.85 "
      "--no-enable-prefix-caching");
}

TEST(VllmCommand, ExpertParallelAndItsLimits) {
  Scenario s = scenario_on("H200", 1);
  s.model.text = "\"deepseek-ai/DeepSeek-V3\"";
  s.engine.data_parallel_size = 16;
  s.engine.enable_expert_parallel = true;
  s.engine.max_num_seqs = 256;
  EXPECT_EQ(vllm_command(deploy(s, deepseek_v3(), h200())),
            "vllm serve deepseek-ai/DeepSeek-V3 --data-parallel-size 16 --enable-expert-parallel "
            "--max-num-seqs 256");
  s.engine.data_parallel_size = 2;
  s.engine.tensor_parallel_size = 8;
  s.engine.enable_expert_parallel = false;
  s.engine.expert_parallel_size = 8;
  const std::string command = vllm_command(deploy(s, deepseek_v3(), h200()));
  EXPECT_NE(command.find("# vLLM splits the experts over all 16 tensor x data ranks, not 8"),
            std::string::npos)
      << command;
}

TEST(VllmCommand, AdaptersByTheirFlags) {
  EXPECT_EQ(patch("vllm serve m --enable-lora --max-loras 4 --max-lora-rank=32 --lora-modules a=x b=y c=z"),
            R"({"model":"m","engine":{"lora":{"max_loras":4,"max_lora_rank":32,"num_adapters":3}}})");
  EXPECT_EQ(patch("vllm serve m --max-loras 4"), R"({"model":"m"})") << "without --enable-lora";
  Scenario s = scenario_on("H100");
  s.engine.lora.emplace();
  s.engine.lora->max_loras = 4, s.engine.lora->num_adapters = 20;
  EXPECT_EQ(vllm_command(deploy(s, llama_8b(), h100())),
            "vllm serve llama-3.1-8b --enable-lora --max-loras 4 --max-cpu-loras 20");
}

TEST(VllmCommand, RoundTrip) {
  Scenario s = scenario_on("H100", 4);
  s.model.text = "\"meta-llama/Llama-3.1-70B\"";
  s.engine.pipeline_parallel_size = 2;
  s.engine.data_parallel_size = 2;
  s.engine.quantization = "fp8";
  s.engine.dtype = "float16";
  s.engine.kv_cache_dtype = "fp8";
  s.engine.max_model_len = 8192;
  s.engine.max_num_seqs = 100;
  s.engine.max_num_batched_tokens = 4096;
  s.engine.block_size = 32;
  s.engine.gpu_memory_utilization = 0.8;
  s.engine.enable_chunked_prefill = true;
  s.engine.enable_prefix_caching = false;
  s.engine.long_prefill_token_threshold = 2048;
  s.engine.scheduler_reserve_full_isl = true;
  s.engine.async_scheduling = false;
  s.engine.watermark = 0.01;
  s.engine.cuda_graph_sizes = {1, 8, 64};
  s.engine.num_gpu_blocks_override = 9000;
  const Deployment d = deploy(s, llama_70b(), h100());
  const Json parsed = parse_json(patch(vllm_command(d)), "patch");
  Json base = scenario_to_json(scenario_on("H100"));
  base.merge_patch(parsed);
  const Deployment again = deploy(scenario_from_json(base, "again"), llama_70b(), h100());
  Json expected = scenario_to_json(d.scenario), got = scenario_to_json(again.scenario);
  EXPECT_EQ(dump_json(got["engine"]), dump_json(expected["engine"]));
  EXPECT_EQ(got["model"], expected["model"]);
  EXPECT_EQ(vllm_command(again), vllm_command(d));
}

TEST(VllmCommand, EagerRoundTrip) {
  Scenario s = scenario_on("H100");
  s.engine.enforce_eager = true;
  const std::string command = vllm_command(deploy(s, llama_8b(), h100()));
  EXPECT_EQ(command, "vllm serve llama-3.1-8b --enforce-eager");
  EXPECT_EQ(patch(command), R"({"model":"llama-3.1-8b","engine":{"enforce_eager":true}})");
}

TEST(FromVllm, SpellingsThatVllmTakes) {
  const char* expected = R"({"model":"m","engine":{"tensor_parallel_size":4}})";
  for (const char* command :
       {"vllm serve m --tensor-parallel-size 4", "vllm serve m --tensor-parallel-size=4",
        "vllm serve m -tp 4", "vllm serve --tensor_parallel_size 4 m", "vllm serve 'm' -tp=4",
        "vllm serve --model m -tp 4", "CUDA_VISIBLE_DEVICES=0,1 vllm serve m -tp 4",
        "vllm serve m \\\n  -tp 4", "python3 -m vllm.entrypoints.openai.api_server --model m -tp 4",
        "vllm serve m -tp 4 # four"})
    EXPECT_EQ(patch(command), expected) << command;
  EXPECT_EQ(patch("vllm serve m --max-model-len 32k"), R"({"model":"m","engine":{"max_model_len":32000}})");
  EXPECT_EQ(patch("vllm serve m --max-model-len 32K"), R"({"model":"m","engine":{"max_model_len":32768}})");
  EXPECT_EQ(patch("vllm serve m --max-model-len auto"), R"({"model":"m"})");
  EXPECT_EQ(patch("vllm serve m --no-enable-prefix-caching --enable-chunked-prefill"),
            R"({"model":"m","engine":{"enable_prefix_caching":false,"enable_chunked_prefill":true}})");
  EXPECT_EQ(patch("vllm serve m -q awq_marlin --dtype half"),
            R"({"model":"m","engine":{"quantization":"awq","dtype":"float16"}})");
  EXPECT_EQ(patch("vllm serve m --quantization compressed-tensors"), R"({"model":"m"})");
  EXPECT_EQ(patch("vllm serve m --cudagraph-capture-sizes 1 2 4"),
            R"({"model":"m","engine":{"cuda_graph_sizes":[1,2,4]}})");
  EXPECT_EQ(patch(R"(vllm serve m --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}')"),
            R"({"model":"m","engine":{"speculative_config":{"method":"mtp","num_speculative_tokens":1}}})");
}

TEST(FromVllm, FlagsWithoutEffectAreLeftOut) {
  EXPECT_EQ(patch("vllm serve \"org/model name\" --host 0.0.0.0 --port 8000 --served-model-name a b c "
                  "--trust-remote-code --api-key=secret --disable-log-requests"),
            R"({"model":"org/model name"})");
}

TEST(FromVllm, IgnoredFlagsTakeTheirOwnValuesOnly) {
  EXPECT_EQ(patch("vllm serve --host 0.0.0.0 m --no-enable-log-requests"), R"({"model":"m"})");
  EXPECT_EQ(patch("vllm serve --trust-remote-code m"), R"({"model":"m"})");
  EXPECT_EQ(error("vllm serve m --host"), "--from-vllm: --host needs a value");
}

TEST(FromVllm, Errors) {
  EXPECT_EQ(error("vllm serve m --tensor-paralel-size 4"),
            "--from-vllm: --tensor-paralel-size is not understood by this build; did you mean "
            "\"--tensor-parallel-size\"?");
  EXPECT_EQ(error("vllm serve m --zzzzzzzzzzzzzz"),
            "--from-vllm: --zzzzzzzzzzzzzz is not understood by this build");
  EXPECT_EQ(error("vllm serve m -tp"), "--from-vllm: --tensor-parallel-size needs a value");
  EXPECT_EQ(error("vllm serve m -tp --enforce-eager"), "--from-vllm: --tensor-parallel-size needs a value");
  EXPECT_EQ(error("vllm serve m -tp four"),
            "--from-vllm --tensor-parallel-size: a whole number is expected, not \"four\"");
  EXPECT_EQ(error("vllm serve m --gpu-memory-utilization nan"),
            "--from-vllm --gpu-memory-utilization: a number is expected, not \"nan\"");
  EXPECT_EQ(error("vllm serve m --enforce-eager=yes"),
            "--from-vllm --enforce-eager: takes no value, not \"yes\"");
  EXPECT_EQ(
      error("vllm serve m -q fp9"),
      "--from-vllm --quantization: \"fp9\" is not one of compressed-tensors, modelopt, fp8, fp8_per_tensor, "
      "fp8_per_block, awq, awq_marlin, gptq, gptq_marlin, mxfp4, modelopt_fp4; did you mean \"fp8\"?");
  EXPECT_EQ(error("vllm serve"), "--from-vllm: the command names no model");
  EXPECT_EQ(error(""), "--from-vllm: a command that begins with `vllm serve` is expected");
  EXPECT_EQ(error("sglang serve m"), "--from-vllm: a command that begins with `vllm serve` is expected");
  EXPECT_EQ(error("vllm serve a b"), "--from-vllm: \"b\" is not expected: the model is \"a\" already");
  EXPECT_EQ(error("vllm serve 'm"), "--from-vllm: a quote is not closed");
}

}  // namespace
}  // namespace foretoken
