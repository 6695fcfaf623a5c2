// vLLM V0 and the systems with a small scheduler of their own as deployments: defaults, knobs, memory,
// commands.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "base/json_full.h"
#include "models.h"

namespace foretoken {
namespace {

using testing::HasSubstr;

std::variant<Deployment, Infeasible> result(const Scenario& s) {
  Resources resources;
  resources.scenario_file = "s.json";
  return resolve_on(s, resources, llama_8b(), h100(), nvlink_node(), 0, 4096);
}
Deployment deploy(const Scenario& s) { return deployment_of(result(s)); }
Scenario with(const std::string& behavior) {
  Scenario s = scenario_on("H100", 1);
  s.engine.behavior = behavior;
  return s;
}
std::string error(const Scenario& s) {
  return error_of([&] { result(s); });
}
template <class Change>
std::string refused(const std::string& behavior, Change change) {
  Scenario s = with(behavior);
  change(s.engine);
  return error(s);
}

struct Expected {
  const char* behavior;
  SchedulerPolicy policy;
  std::int64_t tokens, sequences;
  int block_size;
};

// max_model_len is 4096, the longest request. TGI: 4095 + 50, rounded up to blocks.
TEST(BlockSystems, Defaults) {
  for (const Expected& x : {Expected{"vllm-0.7", SchedulerPolicy::kVllmV0, 4096, 256, 16},
                            Expected{"orca", SchedulerPolicy::kOrca, 8192, 128, 16},
                            Expected{"sarathi", SchedulerPolicy::kSarathi, 512, 128, 16},
                            Expected{"fastertransformer", SchedulerPolicy::kStaticBatch, 8192, 128, 16},
                            Expected{"triton", SchedulerPolicy::kStaticBatch, 8192, 128, 16},
                            Expected{"lightllm", SchedulerPolicy::kLightllm, 8192, 1000, 1},
                            Expected{"deepspeed-fastgen", SchedulerPolicy::kFastgen, 768, 512, 128},
                            Expected{"tgi", SchedulerPolicy::kTgi, 4160, 128, 16},
                            Expected{"lmdeploy-turbomind", SchedulerPolicy::kTurbomind, 8192 + 512, 512, 64},
                            Expected{"lmdeploy-pytorch", SchedulerPolicy::kLmdeployPytorch, 4096, 512, 64},
                            Expected{"nanoflow", SchedulerPolicy::kNanoflow, 2048, 2048, 16},
                            Expected{"splitwise", SchedulerPolicy::kSplitwise, 2048, 512, 16},
                            Expected{"transformers", SchedulerPolicy::kTransformers, 8192, 1, 1},
                            Expected{"llama.cpp-b4000", SchedulerPolicy::kLlamaCpp, 2048, 1, 32}}) {
    const Deployment d = deploy(with(x.behavior));
    const SchedulerConfig& c = d.scheduler;
    EXPECT_EQ(c.policy, x.policy) << x.behavior;
    EXPECT_EQ(c.max_num_batched_tokens, x.tokens) << x.behavior;
    EXPECT_EQ(c.max_num_seqs, x.sequences) << x.behavior;
    EXPECT_EQ(c.block_size, x.block_size) << x.behavior;
    EXPECT_FALSE(c.enable_prefix_caching) << x.behavior;
    EXPECT_EQ(c.schedules_ahead, x.policy == SchedulerPolicy::kNanoflow) << x.behavior;
    EXPECT_TRUE(d.warnings.empty()) << x.behavior;
    // All of the budget is accounted for, and what is resolved resolves to the same.
    const MemoryPlan& m = d.memory;
    if (x.policy != SchedulerPolicy::kLlamaCpp) {
      EXPECT_NEAR(m.weights_bytes + m.activation_peak_bytes + m.overhead_bytes + m.kv_cache_bytes,
                  m.budget_bytes, 1)
          << x.behavior;
    }
    const Deployment again = deploy(d.scenario);
    EXPECT_EQ(again.memory.num_gpu_blocks, m.num_gpu_blocks) << x.behavior;
    EXPECT_EQ(scenario_to_json(again.scenario), scenario_to_json(d.scenario)) << x.behavior;
  }
  EXPECT_EQ(deploy(with("vllm-0.7")).scheduler.watermark, 0.01);
  EXPECT_EQ(deploy(with("sarathi")).scheduler.watermark, 0.01);
  EXPECT_EQ(deploy(with("vllm-0.7")).graph_sizes.back(), 256);
  EXPECT_EQ(deploy(with("tgi")).graph_sizes.back(), 32);
  EXPECT_TRUE(deploy(with("lightllm")).graph_sizes.empty());
}

// LMDeploy's max_batch_size goes by the device, TurboMind's step holds a token more for each place.
TEST(BlockSystems, Lmdeploy) {
  Scenario s = with("lmdeploy-turbomind");
  s.engine.max_batch_size = 64;
  s.engine.max_prefill_token_num = 1000;
  s.engine.num_tokens_per_iter = 512;
  s.engine.max_prefill_iters = 4;
  s.engine.cache_max_entry_count = 0.5;
  s.engine.cache_block_seq_len = 128;
  const Deployment d = deploy(s);
  EXPECT_EQ(d.scheduler.max_num_batched_tokens, 1064);
  EXPECT_EQ(d.scheduler.lmdeploy.num_tokens_per_iter, 512);
  EXPECT_EQ(d.scheduler.lmdeploy.max_prefill_iters, 4);
  EXPECT_EQ(d.scheduler.block_size, 128);
  // Half of what weights and buffers leave; activations find room in the other half.
  const double half = 0.5 * (d.memory.budget_bytes - d.memory.weights_bytes);
  EXPECT_NEAR(d.memory.kv_cache_bytes / half, 1, 0.02);
  EXPECT_LT(d.memory.kv_cache_bytes, half);
  EXPECT_TRUE(d.graph_sizes.empty());
  s.engine.max_num_batched_tokens = 1000;
  EXPECT_THAT(error(s), HasSubstr("max_prefill_token_num 1000 with max_num_seqs 64 makes 1064"));

  s = with("lmdeploy-pytorch");
  s.engine.prefill_interval = 8;
  s.engine.max_prefill_token_num = 2048;
  s.engine.max_batch_size = 48;
  const Deployment p = deploy(s);
  EXPECT_EQ(p.scheduler.lmdeploy.prefill_interval, 8);
  EXPECT_EQ(p.scheduler.max_num_batched_tokens, 2048);
  EXPECT_THAT(p.graph_sizes, testing::ElementsAre(1, 2, 4, 8, 16, 32, 64));
  EXPECT_THAT(serve_command(p), HasSubstr("--backend pytorch"));
  EXPECT_THAT(serve_command(d), HasSubstr("--num-tokens-per-iter 512"));
  EXPECT_THAT(refused("lmdeploy-pytorch", [](auto& e) { e.num_tokens_per_iter = 4; }),
              HasSubstr("is a knob of LMDeploy's TurboMind"));
  s.engine.enable_prefix_caching = true;
  EXPECT_TRUE(deploy(s).scheduler.enable_prefix_caching);
  EXPECT_THAT(serve_command(deploy(s)), HasSubstr("--enable-prefix-caching"));
}

// Versions with chunks and radix trees; what is resolved resolves to the same.
TEST(BlockSystems, LaterVersions) {
  Scenario s = with("tgi-3.3.4");
  s.engine.max_batch_total_tokens = 30000;
  const Deployment t = deploy(s);
  EXPECT_TRUE(t.scheduler.tgi.support_chunking);
  EXPECT_TRUE(t.scheduler.enable_prefix_caching);
  EXPECT_EQ(t.scheduler.max_num_batched_tokens, 4096);
  EXPECT_EQ(t.scheduler.max_num_seqs, 128);
  EXPECT_EQ(t.scheduler.block_size, 1);
  EXPECT_EQ(t.graph_sizes.back(), 32);
  EXPECT_EQ(scenario_to_json(deploy(t.scenario).scenario), scenario_to_json(t.scenario));
  EXPECT_THAT(serve_command(t), HasSubstr("# of version 3"));

  s = with("lightllm-1.0");
  s.engine.chunked_prefill_size = 1024;
  const Deployment l = deploy(s);
  EXPECT_EQ(l.scheduler.lightllm.chunked_prefill_size, 1024);
  EXPECT_EQ(l.scheduler.lightllm.router_max_wait_tokens, 6);
  EXPECT_EQ(l.scheduler.max_num_batched_tokens, 2048);
  EXPECT_TRUE(l.scheduler.enable_prefix_caching);
  EXPECT_EQ(l.graph_sizes.back(), 256);
  EXPECT_EQ(scenario_to_json(deploy(l.scenario).scenario), scenario_to_json(l.scenario));
  EXPECT_THAT(serve_command(l), HasSubstr("--chunked_prefill_size 1024 --router_max_wait_tokens 6"));

  EXPECT_THAT(refused("tgi-3", [](auto& e) { e.max_waiting_tokens = 5; }),
              HasSubstr("nothing beside chunks"));
  EXPECT_THAT(refused("tgi-3", [](auto& e) { e.block_size = 16; }), HasSubstr("flashdecoding's of 256"));
  EXPECT_THAT(refused("tgi", [](auto& e) { e.enable_prefix_caching = true; }), HasSubstr("turn it off"));
  EXPECT_THAT(refused("lightllm", [](auto& e) { e.chunked_prefill_size = 5; }), HasSubstr("of lightllm-1.0"));
  EXPECT_THAT(refused("lightllm-1.0", [](auto& e) { e.router_max_wait_tokens = 0; }), HasSubstr("use 1"));
  EXPECT_THAT(refused("lightllm-1.0", [](auto& e) { e.chunked_prefill_size = 10'000; }),
              HasSubstr("tokens of batch_max_tokens"));
}

TEST(BlockSystems, Nanoflow) {
  Scenario s = with("nanoflow");
  s.engine.global_batch_size = 1024;
  s.engine.average_decode_length = 300;
  const Deployment d = deploy(s);
  EXPECT_EQ(d.scheduler.max_num_batched_tokens, 1024);
  EXPECT_EQ(d.scheduler.nanoflow.average_decode_length, 300);
  EXPECT_EQ(d.scheduler.nanoflow.average_prefill_length, 0) << "the workload's mean";
  EXPECT_TRUE(d.behavior.overlaps_operators);
  EXPECT_THAT(refused("nanoflow", [](auto& e) { e.async_scheduling = false; }),
              HasSubstr("is how nanoflow works"));
  EXPECT_THAT(refused("nanoflow", [](auto& e) { e.data_parallel_size = 2; }), HasSubstr("use replicas"));
  EXPECT_THAT(refused("nanoflow", [](auto& e) { e.cpu_offload_gib = 1; }), HasSubstr("leave it out"));
}

TEST(BlockSystems, OwnKeysAreTheCommonOnes) {
  Scenario s = with("sarathi");
  s.engine.chunk_size = 1024;
  s.engine.low_chunk_size = 256;
  Deployment d = deploy(s);
  EXPECT_EQ(d.scheduler.max_num_batched_tokens, 1024);
  EXPECT_EQ(d.scheduler.sarathi.low_chunk_size, 256);
  EXPECT_EQ(d.scheduler.sarathi.high_chunk_size, 1024);
  EXPECT_EQ(d.scheduler.sarathi.chunk_schedule_max_tokens, 4096);
  s = with("triton");
  s.engine.max_batch_size = 32;
  s.engine.max_queue_delay_microseconds = 500;
  s.engine.preferred_batch_size = {8, 16};
  s.engine.remove_padding = false;
  d = deploy(s);
  EXPECT_EQ(d.scheduler.max_num_seqs, 32);
  EXPECT_EQ(d.scheduler.static_batch.max_queue_delay, 500'000'000);
  EXPECT_THAT(d.scheduler.static_batch.preferred_batch_size, testing::ElementsAre(8, 16));
  EXPECT_FALSE(d.scheduler.static_batch.remove_padding);
  s = with("lightllm");
  s.engine.running_max_req_size = 50;
  s.engine.batch_max_tokens = 5000;
  s.engine.mem_fraction = 0.8;
  s.engine.router_max_wait_tokens = 6;
  d = deploy(s);
  EXPECT_EQ(d.scheduler.max_num_seqs, 50);
  EXPECT_EQ(d.scheduler.max_num_batched_tokens, 5000);
  EXPECT_EQ(*d.scenario.engine.gpu_memory_utilization, 0.8);
  EXPECT_EQ(d.scheduler.lightllm.router_max_wait_tokens, 6);
  s = with("fastgen");
  s.engine.max_ragged_batch_size = 2048;
  s.engine.max_ragged_sequence_count = 64;
  d = deploy(s);
  EXPECT_EQ(d.scheduler.max_num_batched_tokens, 2048);
  EXPECT_EQ(d.scheduler.max_num_seqs, 64);
  s = with("tgi");
  s.engine.max_batch_prefill_tokens = 4096;
  s.engine.max_batch_total_tokens = 30000;
  s.engine.waiting_served_ratio = 1.2;
  s.engine.max_waiting_tokens = 5;
  d = deploy(s);
  EXPECT_EQ(d.scheduler.max_num_batched_tokens, 4096);
  EXPECT_EQ(d.scheduler.tgi.max_batch_total_tokens, 30000);
  EXPECT_EQ(d.scheduler.tgi.waiting_served_ratio, 1.2);
  EXPECT_EQ(d.scheduler.tgi.max_waiting_tokens, 5);
}

// Orca's regions hold the longest sequence unless another reservation is asked for; others' layouts stand.
TEST(BlockSystems, LayoutsOfMemory) {
  EXPECT_EQ(deploy(with("orca")).scheduler.reservation, KvReservation::kMaxModelLen);
  EXPECT_TRUE(deploy(with("orca")).scheduler.contiguous);
  Scenario s = with("orca");
  s.engine.kv_reservation = "exact";
  s.engine.kv_layout = "paged";
  EXPECT_EQ(deploy(s).scheduler.reservation, KvReservation::kExact);
  EXPECT_FALSE(deploy(s).scheduler.contiguous);
  s.engine.kv_layout = "buddy";
  EXPECT_TRUE(deploy(s).scheduler.buddy);
  EXPECT_THAT(refused("triton", [](auto& e) { e.kv_layout = "paged"; }), HasSubstr("use contiguous"));
  EXPECT_THAT(refused("vllm", [](auto& e) { e.kv_layout = "buddy"; }), HasSubstr("modelled with Orca"));
  EXPECT_THAT(refused("sarathi", [](auto& e) { e.kv_layout = "contiguous"; }), HasSubstr("use paged"));
  EXPECT_THAT(refused("llama.cpp-b4000", [](auto& e) { e.kv_reservation = "exact"; }),
              HasSubstr("use max_model_len"));
  EXPECT_THAT(refused("llama.cpp", [](auto& e) { e.kv_reservation = "exact"; }),
              HasSubstr("turn kv_unified off"));
}

// llama.cpp takes what its slots need, and does not start where that is not there.
TEST(BlockSystems, SlotsOfLlamaCpp) {
  Scenario s = with("llama.cpp");
  s.engine.n_parallel = 4;
  s.engine.n_ubatch = 256;
  const Deployment d = deploy(s);
  EXPECT_EQ(d.memory.kv_cache_tokens, 4 * 4096);
  EXPECT_EQ(d.memory.num_gpu_blocks, 1 + 4 * 128);
  EXPECT_EQ(d.scheduler.llama_cpp.n_ubatch, 256);
  s.engine.n_parallel = 1000;
  const auto verdict = result(s);
  ASSERT_TRUE(std::holds_alternative<Infeasible>(verdict));
  EXPECT_THAT(std::get<Infeasible>(verdict).reason, HasSubstr("lower --n-parallel"));
}

// Defaults by build; without one they are the newest's.
TEST(BlockSystems, BuildsOfLlamaCpp) {
  const auto config = [](const char* behavior) { return deploy(with(behavior)).scheduler; };
  const SchedulerConfig newest = config("llama.cpp");
  EXPECT_TRUE(newest.llama_cpp.kv_unified);
  EXPECT_TRUE(newest.enable_prefix_caching);
  EXPECT_EQ(newest.max_num_seqs, 4);
  EXPECT_EQ(newest.block_size, 1);
  EXPECT_EQ(newest.reservation, KvReservation::kPaged);
  EXPECT_EQ(newest.num_blocks, 1 + 131'072) << "the model's context";
  EXPECT_FLOAT_EQ(newest.llama_cpp.slot_prompt_similarity, 0.1F);
  EXPECT_FALSE(newest.llama_cpp.similarity_of_slot);
  const SchedulerConfig before = config("llama.cpp-b6924");
  EXPECT_FALSE(before.llama_cpp.kv_unified);
  EXPECT_EQ(before.max_num_seqs, 1);
  EXPECT_TRUE(before.enable_prefix_caching);
  EXPECT_FALSE(before.llama_cpp.similarity_of_slot);
  const SchedulerConfig older = config("llama.cpp-b5000");
  EXPECT_TRUE(older.enable_prefix_caching);
  EXPECT_FLOAT_EQ(older.llama_cpp.slot_prompt_similarity, 0.5F);
  EXPECT_TRUE(older.llama_cpp.similarity_of_slot);
  EXPECT_FALSE(older.llama_cpp.last_unused_first);
  EXPECT_FALSE(config("llama.cpp-b4000").enable_prefix_caching);
}

// 8192 MiB of Llama-3.1-8B's 128 KiB a token.
TEST(BlockSystems, PromptsOfLlamaCppInHostMemory) {
  Scenario s = with("llama.cpp");
  const auto tokens = [&] {
    const SchedulerConfig c = deploy(s).scheduler;
    return c.llama_cpp.prompt_cache_blocks * c.block_size;
  };
  EXPECT_EQ(tokens(), 0) << "no link to host memory is known";
  s.hardware.host_link_bandwidth = "64 GB/s";
  EXPECT_EQ(tokens(), 65'536);
  EXPECT_THAT(serve_command(deploy(s)), HasSubstr("--cache-ram 8192"));
  s.engine.n_parallel = 2;
  EXPECT_EQ(tokens(), 65'536);
  s.engine.cache_ram = -1;
  EXPECT_EQ(tokens(), 2 * 4096) << "as many as n_ctx";
  s.engine.cache_ram = 0;
  EXPECT_EQ(tokens(), 0);
  s.engine.cache_ram.reset();
  s.engine.cache_prompt = false;
  EXPECT_EQ(tokens(), 0);
  s.engine.cache_prompt.reset();
  s.engine.behavior = "llama.cpp-b6699";
  EXPECT_EQ(tokens(), 0);
}

TEST(BlockSystems, ContextOfLlamaCpp) {
  Scenario s = with("llama.cpp");
  s.engine.n_ctx = 16'384;
  s.engine.max_model_len.reset();
  EXPECT_EQ(deploy(s).memory.kv_cache_tokens, 16'384);
  EXPECT_EQ(*deploy(s).scenario.engine.max_model_len, 16'384) << "each slot may take all of it";
  s.engine.n_parallel = 4;  // without kv_unified it is divided
  const Deployment d = deploy(s);
  EXPECT_EQ(*d.scenario.engine.max_model_len, 4096);
  EXPECT_EQ(d.memory.kv_cache_tokens, 16'384);
  EXPECT_THAT(serve_command(d), HasSubstr("--parallel 4 --ctx-size 16384"));
  EXPECT_EQ(scenario_to_json(deploy(d.scenario).scenario), scenario_to_json(d.scenario));
  s.engine.kv_unified = true;
  EXPECT_EQ(*deploy(s).scenario.engine.max_model_len, 16'384);
  const auto refusal = [](const char* behavior, auto change) { return refused(behavior, change); };
  EXPECT_THAT(refusal("llama.cpp", [](auto& e) { e.max_model_len = 4096, e.n_ctx = 2048; }),
              HasSubstr("the context of a slot"));
  EXPECT_THAT(refusal("llama.cpp", [](auto& e) { e.max_model_len = 4096, e.n_ctx = 8192, e.n_parallel = 4; }),
              HasSubstr("give one"));
  EXPECT_THAT(refusal("llama.cpp-b3000", [](auto& e) { e.cache_reuse = 256; }), HasSubstr("October 2024"));
  EXPECT_THAT(refusal("llama.cpp-b5000", [](auto& e) { e.cache_ram = 8192; }), HasSubstr("October 2025"));
  EXPECT_THAT(refusal("llama.cpp", [](auto& e) { e.cache_ram = -1, e.cache_prompt = false; }),
              HasSubstr("cache_prompt"));
  EXPECT_THAT(refusal("llama.cpp", [](auto& e) { e.cache_reuse = 9, e.cache_prompt = false; }),
              HasSubstr("cache_prompt"));
  EXPECT_THAT(refusal("llama.cpp-b5000", [](auto& e) { e.kv_unified = true; }), HasSubstr("b6925"));
  EXPECT_THAT(refusal("llama.cpp", [](auto& e) { e.block_size = 16; }), HasSubstr("token by token"));
  EXPECT_THAT(refusal("tgi", [](auto& e) { e.cache_prompt = true; }), HasSubstr("llama.cpp"));
}

// Who drafts under vLLM V0, and what its scheduler learns of it.
TEST(BlockSystems, SpeculationOfVllmV0) {
  Scenario s = with("vllm-0.7");
  s.engine.speculative_config.emplace();
  SpeculativeSection& section = *s.engine.speculative_config;
  section.method = "ngram";
  section.num_speculative_tokens = 4;
  section.disable_by_batch_size = 8;
  EXPECT_THAT(error(s), HasSubstr("no default"));
  section.prompt_lookup_max = 3;
  const Deployment d = deploy(s);
  EXPECT_EQ(*d.scenario.engine.speculative_config->prompt_lookup_min, 1);
  EXPECT_EQ(d.scheduler.draft_tokens, 4);
  EXPECT_EQ(d.scheduler.lookahead, 0);
  EXPECT_EQ(d.scheduler.disable_by_batch_size, 8);
  EXPECT_THAT(serve_command(d), HasSubstr("--speculative-model '[ngram]' --num-speculative-tokens 4 "
                                          "--ngram-prompt-lookup-max 3 --ngram-prompt-lookup-min 1 "
                                          "--speculative-disable-by-batch-size 8"));
  s.engine.behavior = "vllm-0.9";
  EXPECT_THAT(error(s), HasSubstr("vLLM V0's"));
  s.engine.behavior = "vllm-0.7";
  section.method = "draft_model";
  section.prompt_lookup_max.reset();
  section.tree_widths = {2, 2};
  section.num_speculative_tokens.reset();
  EXPECT_THAT(error(s), HasSubstr("chains alone"));
}

// Chunks are vLLM V0's default for long contexts, its prefix cache is off until it is asked for.
TEST(BlockSystems, MemoryOfVllmV0) {
  Scenario s = with("vllm-0.7");
  EXPECT_FALSE(deploy(s).scheduler.enable_chunked_prefill);
  EXPECT_FALSE(deploy(s).scheduler.enable_prefix_caching);
  s.engine.enable_prefix_caching = true;
  s.engine.max_model_len = 40'000;
  const Deployment d = deploy(s);
  EXPECT_TRUE(d.scheduler.enable_chunked_prefill);
  EXPECT_TRUE(d.scheduler.enable_prefix_caching);
  EXPECT_EQ(d.scheduler.max_num_batched_tokens, 2048);
  EXPECT_EQ(serve_command(d),
            "vllm serve llama-3.1-8b --max-model-len 40000 --enable-prefix-caching  # of vllm-0.7");
  s.engine.behavior = "vllm-0.6.3";
  EXPECT_EQ(deploy(s).scheduler.max_num_batched_tokens, 512);
  s.engine.enable_prefix_caching = s.engine.enable_chunked_prefill = false;
  s.engine.preemption_mode = "swap";
  s.hardware.host_link_bandwidth = "64 GB/s";
  EXPECT_GT(deploy(s).scheduler.num_host_blocks, 0);
  EXPECT_EQ(deploy(s).scheduler.max_num_batched_tokens, 40'000);
  EXPECT_THAT(serve_command(deploy(s)),
              HasSubstr("--enable-chunked-prefill False --preemption-mode swap --swap-space 4"));
}

TEST(BlockSystems, WrongKnobsAreRefusedWithARemedy) {
  EXPECT_EQ(
      refused("vllm-0.7", [](auto& e) { e.chunk_size = 512; }),
      "s.json:/engine/chunk_size: is a knob of Sarathi-Serve, and the behaviour is vllm-0.7; leave it out");
  EXPECT_EQ(
      refused("sarathi", [](auto& e) { e.max_batch_size = 4; }),
      "s.json:/engine/max_batch_size: is a knob of TensorRT-LLM, Orca, FasterTransformer, Triton, Text "
      "Generation Inference, LMDeploy's TurboMind, LMDeploy's PyTorch engine, Hugging Face transformers, "
      "and the behaviour is sarathi; "
      "leave it out");
  EXPECT_THAT(refused("fastertransformer", [](auto& e) { e.max_queue_delay_microseconds = 5; }),
              HasSubstr("is a knob of Triton"));
  EXPECT_THAT(refused("orca", [](auto& e) { e.enable_prefix_caching = true; }), HasSubstr("turn it off"));
  EXPECT_THAT(refused("tgi", [](auto& e) { e.async_scheduling = true; }), HasSubstr("turn it off"));
  EXPECT_THAT(refused("orca", [](auto& e) { e.enable_chunked_prefill = true; }),
              HasSubstr("such as sarathi or vllm-0.8"));
  EXPECT_THAT(refused("sarathi", [](auto& e) { e.enable_chunked_prefill = false; }),
              HasSubstr("prompts are always split"));
  EXPECT_THAT(refused("sarathi", [](auto& e) { e.preemption_mode = "swap"; }), HasSubstr("use recompute"));
  EXPECT_THAT(refused("vllm-0.7", [](auto& e) { e.preemption_mode = "swap", e.max_model_len = 40'000; }),
              HasSubstr("turn enable_chunked_prefill off"));
  EXPECT_THAT(
      refused("vllm-0.7", [](auto& e) { e.preemption_mode = "swap", e.enable_prefix_caching = true; }),
      HasSubstr("turn enable_prefix_caching off"));
  EXPECT_THAT(
      refused("vllm-0.7", [](auto& e) { e.scheduling_policy = "priority", e.enable_chunked_prefill = true; }),
      HasSubstr("or use fcfs"));
  EXPECT_THAT(refused("vllm-0.7",
                      [](auto& e) {
                        e.enable_chunked_prefill = e.enable_prefix_caching = true;
                        e.max_num_batched_tokens = 1000;
                      }),
              HasSubstr("no multiple of block_size 16"));
  EXPECT_THAT(refused("vllm-0.7", [](auto& e) { e.long_prefill_token_threshold = 100; }),
              HasSubstr("vLLM V1"));
  EXPECT_THAT(refused("vllm-0.7", [](auto& e) { e.max_num_batched_tokens = 2048; }),
              HasSubstr("below max_model_len 4096"));
  EXPECT_THAT(refused("lightllm", [](auto& e) { e.block_size = 16; }), HasSubstr("token by token"));
  EXPECT_THAT(refused("lightllm", [](auto& e) { e.lora.emplace(); }), HasSubstr("vLLM V1's rules"));
  EXPECT_THAT(refused("sarathi", [](auto& e) { e.chunk_size = 512, e.max_num_batched_tokens = 256; }),
              HasSubstr("they mean the same"));
  EXPECT_THAT(refused("sarathi", [](auto& e) { e.high_chunk_size = 512; }), HasSubstr("turn it on"));
  EXPECT_THAT(refused("sarathi", [](auto& e) { e.enable_dynamic_chunking_schedule = true; }),
              HasSubstr("low_chunk_size"));
  EXPECT_THAT(refused("fastgen", [](auto& e) { e.max_num_seqs = 900, e.max_num_batched_tokens = 800; }),
              HasSubstr("below max_num_seqs"));
  for (const char* behavior : {"lightllm", "fastgen", "tgi", "lmdeploy", "nanoflow"}) {
    Scenario s = scenario_on("H100", 2);
    s.engine.behavior = behavior;
    s.engine.tensor_parallel_size = 1;
    s.engine.pipeline_parallel_size = 2;
    EXPECT_TRUE(std::holds_alternative<Infeasible>(result(s))) << behavior;
  }
  for (const char* behavior :
       {"vllm-0.7", "orca", "sarathi", "fastertransformer", "triton", "trtllm-1.0", "llama.cpp"}) {
    Scenario s = scenario_on("H100", 2);
    s.engine.behavior = behavior;
    s.engine.tensor_parallel_size = 1;
    s.engine.pipeline_parallel_size = 2;
    EXPECT_EQ(deploy(s).scheduler.pipeline_depth, 2) << behavior;
  }
}

// Forty kernels a layer, each dispatched by itself, and the cache copied in every step.
TEST(BlockSystems, TransformersLaunchesItsModulesKernelByKernel) {
  Scenario s = with("transformers");
  s.engine.max_batch_size = 8;
  const Deployment d = deploy(s);
  EXPECT_EQ(d.scheduler.max_num_seqs, 8);
  EXPECT_TRUE(d.graph_sizes.empty());
  EXPECT_EQ(d.behavior.ingress.value, 0);
  Work decode;
  decode.decode_sequences = 8, decode.sampled_rows = 8, decode.contexts = {8 * 1000.0};
  std::map<std::string, std::int64_t> kernels;
  double copied = 0;
  for (const Op& op : operators(d.model, d.mapping.stages.front(), decode, d.precision, d.fusion).ops) {
    if (op.layer_kind < 0) continue;
    kernels[std::string(op.name)] += op.count;
    if (op.name == "kv_concat") copied += static_cast<double>(op.count) * bytes(op).value;
  }
  const std::map<std::string, std::int64_t> a_layer{
      {"input_norm", 8}, {"residual_add", 2}, {"q_proj", 1},     {"k_proj", 1},   {"v_proj", 1},
      {"rope", 10},      {"kv_concat", 2},    {"attention", 1},  {"o_proj", 1},   {"post_norm", 8},
      {"gate_proj", 1},  {"up_proj", 1},      {"activation", 2}, {"down_proj", 1}};
  for (const auto& [name, count] : a_layer) EXPECT_EQ(kernels[name], 32 * count) << name;
  EXPECT_EQ(kernels.size(), a_layer.size());
  EXPECT_DOUBLE_EQ(copied, 2.0 * 8 * 1000 * 131072) << "read and written: 128 KiB a token";
  for (const auto& [change, text] : std::vector<std::pair<std::function<void(EngineSection&)>, const char*>>{
           {[](auto& e) { e.quantization = "fp8"; }, "bitsandbytes"},
           {[](auto& e) { e.kv_cache_dtype = "fp8_e4m3"; }, "QuantizedCache"},
           {[](auto& e) {
              e.cuda_graph_sizes = {1, 2};
            },
            "torch.compile"},
           {[](auto& e) { e.cpu_offload_gib = 4; }, "accelerate"},
           {[](auto& e) { e.remove_padding = true; }, "is a knob of FasterTransformer"},
           {[](auto& e) { e.kv_layout = "contiguous"; }, "use paged"},
           {[](auto& e) { e.enable_prefix_caching = true; }, "turn it off"}})
    EXPECT_THAT(refused("transformers", change), HasSubstr(text));
}

// A sixth of what its instances hold; what is resolved resolves to the same.
TEST(BlockSystems, LoongserveTakesTokensByMemory) {
  Scenario s = with("loongserve");
  s.cluster.replicas = 4;
  const Deployment d = deploy(s);
  EXPECT_EQ(d.scheduler.policy, SchedulerPolicy::kLoongserve);
  EXPECT_EQ(d.scheduler.max_num_seqs, 1000);
  EXPECT_EQ(d.scheduler.max_num_batched_tokens, d.memory.kv_cache_tokens * 4 / 6);
  EXPECT_GT(d.scheduler.max_num_batched_tokens, 8192);
  const Deployment again = deploy(d.scenario);
  EXPECT_EQ(again.memory.num_gpu_blocks, d.memory.num_gpu_blocks);
  EXPECT_EQ(scenario_to_json(again.scenario), scenario_to_json(d.scenario));
  EXPECT_THAT(serve_command(d), HasSubstr("--sp_world_size 4"));
}

// A request's cache may lie at all instances, unless nothing is lent.
TEST(BlockSystems, InfiniteLlmLendsMemory) {
  Scenario s = with("infinite-llm");
  s.cluster.replicas = 4;
  s.engine.max_model_len = 131072;
  s.engine.num_gpu_blocks_override = 4000;
  const Deployment d = deploy(s);
  EXPECT_EQ(d.scheduler.policy, SchedulerPolicy::kInfiniteLlm);
  EXPECT_EQ(d.scheduler.max_num_batched_tokens, 131072);
  EXPECT_EQ(d.scheduler.watermark, 0.01);
  EXPECT_EQ(scenario_to_json(deploy(d.scenario).scenario), scenario_to_json(d.scenario));
  s.engine.lend_limit = 0.0;
  EXPECT_TRUE(std::holds_alternative<Infeasible>(result(s)));
  EXPECT_THAT(refused("vllm-0.7", [](EngineSection& e) { e.lend_limit = 0.5; }), HasSubstr("Infinite-LLM"));
}

TEST(BlockSystems, Commands) {
  Scenario s = with("vllm-0.7");
  s.engine.max_num_seqs = 64;
  EXPECT_EQ(serve_command(deploy(s)),
            "vllm serve llama-3.1-8b --max-model-len 4096 --max-num-seqs 64  # of vllm-0.7");
  EXPECT_THAT(serve_command(deploy(with("tgi"))),
              HasSubstr("text-generation-launcher --model-id llama-3.1-8b --max-total-tokens 4096 "
                        "--max-input-tokens 4095 --max-batch-prefill-tokens 4145"));
  EXPECT_THAT(serve_command(deploy(with("llama.cpp-b4000"))),
              HasSubstr("llama-server --model MODEL.gguf --parallel 1 --ctx-size 4096 --batch-size 2048"));
  EXPECT_THAT(serve_command(deploy(with("llama.cpp"))),
              HasSubstr("--parallel 4 --ctx-size 131072 --batch-size 2048 --ubatch-size 512 --kv-unified "
                        "--slot-prompt-similarity 0.1 --cache-ram 0"));
  EXPECT_THAT(serve_command(deploy(with("lightllm"))), HasSubstr("--running_max_req_size 1000"));
  for (const char* none : {"orca", "sarathi", "fastertransformer", "triton", "fastgen", "transformers"})
    EXPECT_THAT(serve_command(deploy(with(none))), HasSubstr("has no command of its own")) << none;
}

}  // namespace
}  // namespace foretoken
