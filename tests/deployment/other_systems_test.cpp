// SGLang and TensorRT-LLM as deployments: their knobs, limits, memory rules and commands.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "models.h"

namespace foretoken {
namespace {

using testing::HasSubstr;

std::variant<Deployment, Infeasible> result(const Scenario& s, const ModelConfig& model = llama_8b(),
                                            const Device& device = h100()) {
  Resources resources;
  resources.scenario_file = "s.json";
  return resolve_on(s, resources, model, device, nvlink_node(), 0, 4096);
}
Deployment deploy(const Scenario& s) { return deployment_of(result(s)); }
Scenario with(const char* behavior, int tensor_parallel = 1) {
  Scenario s = scenario_on("H100", tensor_parallel);
  s.engine.behavior = behavior;
  return s;
}
std::string error(const Scenario& s) {
  return error_of([&] { result(s); });
}

TEST(OtherSystems, SglangsDefaults) {
  const Deployment d = deploy(with("sglang-0.5.8"));
  const SchedulerConfig& c = d.scheduler;
  EXPECT_EQ(c.policy, SchedulerPolicy::kSglang);
  EXPECT_EQ(c.sglang.chunked_prefill_size, 8192);
  EXPECT_EQ(c.sglang.max_prefill_tokens, 16384);
  EXPECT_EQ(c.sglang.schedule_conservativeness, 1.0);
  EXPECT_EQ(c.sglang.schedule_policy, SglangConfig::Order::kFcfs);
  EXPECT_TRUE(c.sglang.overlap);
  EXPECT_FALSE(c.sglang.enable_mixed_chunk);
  EXPECT_TRUE(c.enable_prefix_caching);
  EXPECT_EQ(c.block_size, 1);
  EXPECT_EQ(c.max_num_seqs, 4096) << "512 sequences of max_model_len for each that fits, at most 4096";
  EXPECT_EQ(d.scenario.engine.max_running_requests, 4096);
  EXPECT_EQ(d.graph_sizes.back(), 256);
  EXPECT_TRUE(d.warnings.empty());
}

TEST(OtherSystems, TrtllmsDefaults) {
  const Deployment d = deploy(with("trtllm-1.2.0rc6"));
  const SchedulerConfig& c = d.scheduler;
  EXPECT_EQ(c.policy, SchedulerPolicy::kTrtllm);
  EXPECT_EQ(c.trtllm.capacity_scheduler_policy, TrtllmConfig::Capacity::kGuaranteedNoEvict);
  EXPECT_EQ(c.trtllm.context_chunking_policy, TrtllmConfig::Chunking::kFirstComeFirstServed);
  EXPECT_EQ(c.max_num_seqs, 2048);
  EXPECT_EQ(c.max_num_batched_tokens, 8192);
  EXPECT_EQ(c.block_size, 32);
  EXPECT_EQ(c.trtllm.chunk_unit_size, 32);
  EXPECT_FALSE(c.enable_chunked_prefill);
  EXPECT_TRUE(*d.scenario.engine.async_scheduling);
  EXPECT_FALSE(*deploy(with("trtllm-0.20")).scenario.engine.async_scheduling);
}

// All of the budget is accounted for, whatever the rule; the cache is what each rule says.
// ModelOpt's checkpoints carry an fp8 cache; other ways to fp8 don't, and a stated type stands.
TEST(OtherSystems, ConvertedCheckpointsAskForAnFp8Cache) {
  Scenario s = with("trtllm-1.2");
  s.engine.quantization = "fp8";
  const Deployment d = deploy(s);
  EXPECT_EQ(d.precision.kv, DType::kFp8);
  EXPECT_THAT(d.warnings, testing::Contains(HasSubstr("ask for an fp8 KV cache")));
  s.engine.kv_cache_dtype = "bfloat16";
  EXPECT_EQ(deploy(s).precision.kv, DType::kBf16);
  Scenario online = with("vllm-0.19");
  online.engine.quantization = "fp8";
  EXPECT_EQ(deploy(online).precision.kv, DType::kBf16);
}

TEST(OtherSystems, MemoryRules) {
  for (const char* behavior : {"vllm-0.19", "sglang-0.5", "trtllm-1.2"}) {
    const MemoryPlan m = deploy(with(behavior)).memory;
    EXPECT_NEAR(m.weights_bytes + m.activation_peak_bytes + m.overhead_bytes + m.kv_cache_bytes,
                m.budget_bytes, 1)
        << behavior;
    EXPECT_LT(m.budget_bytes, m.device_bytes) << behavior;
  }
  const auto kv = [](Scenario s, double share) {
    s.engine.gpu_memory_utilization = share;
    return deploy(s).memory.kv_cache_bytes;
  };
  // SGLang: share of the device less weights, so a tenth more share is a tenth of the device more.
  const Scenario sglang = with("sglang-0.5"), trtllm = with("trtllm-1.2");
  EXPECT_NEAR((kv(sglang, 0.7) - kv(sglang, 0.6)) / (kv(sglang, 0.6) - kv(sglang, 0.5)), 1, 1e-9);
  EXPECT_NEAR((kv(sglang, 0.7) - kv(sglang, 0.6)) / (0.1 * h100().memory.value), 1, 0.02);
  // TensorRT-LLM: (device - all else) x share.
  EXPECT_NEAR(kv(trtllm, 0.9) / kv(trtllm, 0.45), 2, 1e-9);
  EXPECT_GT(kv(trtllm, 0.9), kv(sglang, 0.836));
}

TEST(OtherSystems, OwnKeysAreTheCommonOnes) {
  Scenario s = with("sglang-0.5");
  s.engine.chunked_prefill_size = 4096;
  s.engine.max_running_requests = 64;
  s.engine.page_size = 16;
  s.engine.mem_fraction_static = 0.7;
  s.engine.disable_radix_cache = true;
  s.engine.disable_overlap_schedule = true;
  s.engine.schedule_policy = "lpm";
  Deployment d = deploy(s);
  EXPECT_EQ(d.scheduler.max_num_batched_tokens, 4096);
  EXPECT_EQ(d.scheduler.max_num_seqs, 64);
  EXPECT_EQ(d.memory.block_size, 16);
  EXPECT_EQ(*d.scenario.engine.gpu_memory_utilization, 0.7);
  EXPECT_FALSE(d.scheduler.enable_prefix_caching);
  EXPECT_FALSE(d.scheduler.sglang.overlap);
  EXPECT_EQ(d.scheduler.sglang.schedule_policy, SglangConfig::Order::kLpm);
  EXPECT_EQ(deploy(d.scenario).memory.num_gpu_blocks, d.memory.num_gpu_blocks) << "resolved again: the same";

  s = with("sglang-0.5");
  s.engine.chunked_prefill_size = -1;
  EXPECT_FALSE(deploy(s).scheduler.enable_chunked_prefill);
  s = with("sglang-0.5");
  s.engine.max_num_batched_tokens = 2048;
  EXPECT_EQ(deploy(s).scheduler.sglang.chunked_prefill_size, 2048);

  s = with("trtllm-1.2");
  s.engine.max_batch_size = 128;
  s.engine.max_num_tokens = 4096;
  s.engine.enable_chunked_context = true;
  s.engine.capacity_scheduler_policy = "max_utilization";
  d = deploy(s);
  EXPECT_EQ(d.scheduler.max_num_seqs, 128);
  EXPECT_EQ(d.scheduler.max_num_batched_tokens, 4096);
  EXPECT_TRUE(d.scheduler.enable_chunked_prefill);
  EXPECT_EQ(d.scheduler.trtllm.capacity_scheduler_policy, TrtllmConfig::Capacity::kMaxUtilization);
  EXPECT_EQ(d.graph_sizes.back(), 128);
}

TEST(OtherSystems, KnobsOfAnotherSystemAreRefusedByName) {
  Scenario s = with("vllm-0.19");
  s.engine.schedule_policy = "lpm";
  EXPECT_EQ(
      error(s),
      "s.json:/engine/schedule_policy: is a knob of SGLang, and the behaviour is vllm-0.19; leave it out");
  s = with("sglang-0.5");
  s.engine.capacity_scheduler_policy = "max_utilization";
  EXPECT_THAT(error(s),
              HasSubstr("capacity_scheduler_policy: is a knob of TensorRT-LLM, and the behaviour is sglang"));
  s = with("trtllm-1.2");
  s.engine.watermark = 0.1;
  EXPECT_THAT(
      error(s),
      HasSubstr(
          "watermark: is a knob of vLLM, Sarathi-Serve, Infinite-LLM, and the behaviour is trtllm-1.2"));
  s = with("sglang-0.5");
  s.engine.max_num_seqs = 8;
  s.engine.max_running_requests = 9;
  EXPECT_EQ(error(s),
            "s.json:/engine/max_running_requests: is 9, and max_num_seqs is 8: they mean the same; give one");
  s = with("sglang-0.5");
  s.engine.chunked_prefill_size = 100;
  s.engine.page_size = 16;
  EXPECT_THAT(error(s), HasSubstr("chunked_prefill_size: 100 is no multiple of the page size 16"));
  s = with("trtllm-1.2");
  s.engine.chunk_unit_size = 48;
  EXPECT_THAT(error(s), HasSubstr("chunk_unit_size: 48 is no multiple of tokens_per_block 32"));
  s = with("sglang-0.5");
  s.engine.pipeline_parallel_size = 2;
  const Deployment staged = deploy(s);
  EXPECT_FALSE(staged.scheduler.sglang.overlap);
  EXPECT_EQ(staged.scheduler.sglang.pp_max_micro_batch_size, staged.scheduler.max_num_seqs / 2);
  EXPECT_THAT(serve_command(staged), testing::Not(HasSubstr("micro-batch")));
  s.engine.pp_max_micro_batch_size = 7;
  EXPECT_THAT(serve_command(deploy(s)), HasSubstr("--pp-max-micro-batch-size 7"));
  s.engine.enable_mixed_chunk = true;
  EXPECT_THAT(error(s), HasSubstr("enable_mixed_chunk: SGLang refuses it in a pipeline"));
  s.engine.enable_mixed_chunk.reset(), s.engine.enable_dynamic_chunking = true;
  EXPECT_THAT(error(s), HasSubstr("enable_dynamic_chunking: is not modelled"));
  s.engine.enable_dynamic_chunking.reset(), s.engine.async_scheduling = true;
  EXPECT_THAT(error(s), HasSubstr("no overlap scheduler in a pipeline"));
}

TEST(OtherSystems, Commands) {
  EXPECT_EQ(serve_command(deploy(with("sglang-0.5"))),
            "python -m sglang.launch_server --model-path llama-3.1-8b --context-length 4096");
  Scenario s = with("sglang-0.5", 2);
  s.engine.chunked_prefill_size = 4096;
  s.engine.max_running_requests = 64;
  s.engine.schedule_policy = "lpm";
  s.engine.disable_radix_cache = true;
  s.engine.mem_fraction_static = 0.8;
  EXPECT_EQ(
      serve_command(deploy(s)),
      "python -m sglang.launch_server --model-path llama-3.1-8b --tp-size 2 --context-length 4096 "
      "--max-running-requests 64 --chunked-prefill-size 4096 --mem-fraction-static 0.8 --schedule-policy "
      "lpm --disable-radix-cache");
  EXPECT_EQ(serve_command(deploy(with("trtllm-1.2"))), "trtllm-serve llama-3.1-8b --max_seq_len 4096");
  s = with("trtllm-1.2", 2);
  s.engine.max_batch_size = 128;
  s.engine.enable_chunked_context = true;
  s.engine.capacity_scheduler_policy = "max_utilization";
  EXPECT_EQ(serve_command(deploy(s)),
            "trtllm-serve llama-3.1-8b --tp_size 2 --max_seq_len 4096 --max_batch_size 128  # in "
            "--extra_llm_api_options FILE: enable_chunked_prefill: true, scheduler_config: "
            "{capacity_scheduler_policy: MAX_UTILIZATION}");
  const Deployment vllm = deploy(with("vllm-0.19"));
  EXPECT_EQ(serve_command(vllm), vllm_command(vllm));
}

}  // namespace
}  // namespace foretoken
