// Served by the executor: whatever the scheduler does to a request, its tokens stay the same; and the
// schedule is the one that the simulator decides when it is told how long steps take.
#include <gmock/gmock.h>

#include <map>

#include "executor/executed_backend.h"
#include "expect_error.h"
#include "fixtures.h"
#include "serving/timeline.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

using test::error_of;
using testing::HasSubstr;

// A model of 64 dimensions; `engine` and `workload` are merged into the scenario.
Json scenario(const std::string& family, const Json& engine = Json::object(),
              const Json& workload = Json::object()) {
  Json config{{"model_type", "llama"},    {"hidden_size", 64},
              {"intermediate_size", 96},  {"num_hidden_layers", 2},
              {"num_attention_heads", 4}, {"num_key_value_heads", 2},
              {"vocab_size", 256},        {"max_position_embeddings", 512},
              {"rms_norm_eps", 1e-5},     {"rope_theta", 10000.0},
              {"hidden_act", "silu"},     {"tie_word_embeddings", false},
              {"torch_dtype", "float32"}};
  if (family == "moe")
    config.update(Json{{"model_type", "qwen3_moe"},
                       {"moe_intermediate_size", 32},
                       {"num_experts", 8},
                       {"num_experts_per_tok", 2},
                       {"norm_topk_prob", true},
                       {"decoder_sparse_step", 1},
                       {"mlp_only_layers", Json::array()},
                       {"head_dim", 16}});
  if (family == "linear")  // every second layer has a recurrent state
    config.update(Json{{"model_type", "qwen3_next"},
                       {"head_dim", 16},
                       {"full_attention_interval", 2},
                       {"num_experts", 0},
                       {"linear_num_key_heads", 2},
                       {"linear_num_value_heads", 4},
                       {"linear_key_head_dim", 16},
                       {"linear_value_head_dim", 16},
                       {"linear_conv_kernel_dim", 4}});
  if (family == "latent")
    config.update(Json{{"model_type", "deepseek_v3"},
                       {"q_lora_rank", 32},
                       {"kv_lora_rank", 32},
                       {"qk_nope_head_dim", 16},
                       {"qk_rope_head_dim", 8},
                       {"v_head_dim", 16},
                       {"num_key_value_heads", 4},
                       {"n_routed_experts", 8},
                       {"n_shared_experts", 1},
                       {"num_experts_per_tok", 2},
                       {"moe_intermediate_size", 32},
                       {"first_k_dense_replace", 1},
                       {"n_group", 4},
                       {"topk_group", 2},
                       {"topk_method", "noaux_tc"},
                       {"scoring_func", "sigmoid"},
                       {"norm_topk_prob", true},
                       {"routed_scaling_factor", 2.5},
                       {"moe_layer_freq", 1}});
  Json s{{"name", "small"},
         {"model", {{"config", config}}},
         {"hardware", {{"device", "epyc-9654"}, {"count", 1}, {"host_memory", "64 GiB"}}},
         {"engine",
          {{"behavior", "foretoken"},
           {"dtype", "float32"},
           {"max_model_len", 256},
           {"max_num_seqs", 8},
           {"max_num_batched_tokens", 64},
           {"block_size", 16},
           {"num_gpu_blocks_override", 200}}},
         {"workload",
          {{"request_rate", 1000000},
           {"num_prompts", 12},
           {"seed", 3},
           {"input_len", {{"distribution", "uniform"}, {"min", 5}, {"max", 90}}},
           {"output_len", {{"distribution", "uniform"}, {"min", 3}, {"max", 30}}}}}};
  s["engine"].update(engine);
  s["workload"].update(workload);
  return s;
}

struct Executed {
  std::map<RequestId, std::vector<std::int32_t>> tokens;
  Simulation result;
  Recording recording;
  std::vector<StepRun> steps;
};

Executed execute(const Json& json, ExecutorOptions options = {}) {
  const Scenario s = test_scenario(json.dump());
  const Resources resources = test_resources();
  const auto workload = make_workload(s.workload, resources.scenario_folder, "test.json:/workload");
  const Deployment d = resolve_or_fail(s, 100, 120);
  options.seed = 5;
  ExecutedBackend backend(d, *workload, scenario_model_text(s, resources), options);
  Executed e;
  SimulateOptions o;
  o.use_spans = false, o.keep_records = true, o.timeline = &e.recording;
  e.result = serve_with(backend, *workload, d, o);
  for (const RequestRecord& r : e.result.served.records) e.tokens[r.id] = backend.output(r.id);
  e.steps.assign(backend.steps().begin(), backend.steps().end());
  return e;
}

class Strategies : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Families, Strategies, testing::Values("dense", "moe", "latent"));

TEST_P(Strategies, EveryRequestGetsItsTokensAndTheyAreTheSameAgain) {
  const Executed a = execute(scenario(GetParam())), b = execute(scenario(GetParam()));
  ASSERT_EQ(a.tokens.size(), 12u);
  for (const RequestRecord& r : a.result.served.records)
    EXPECT_EQ(static_cast<std::int64_t>(a.tokens.at(r.id).size()), r.output_len);
  EXPECT_EQ(a.tokens, b.tokens);
  std::set<std::int32_t> distinct;
  for (const auto& [id, t] : a.tokens) distinct.insert(t.begin(), t.end());
  EXPECT_GT(distinct.size(), 5u);
}

TEST_P(Strategies, BatchingChunkingAndPagingDoNotChangeTokens) {
  const auto plain = execute(scenario(GetParam())).tokens;
  EXPECT_EQ(plain, execute(scenario(GetParam(), {{"max_num_seqs", 1}})).tokens) << "one after the other";
  EXPECT_EQ(plain, execute(scenario(GetParam(),
                                    {{"max_num_batched_tokens", 256}, {"enable_chunked_prefill", false}}))
                       .tokens)
      << "whole prompts";
  EXPECT_EQ(plain,
            execute(scenario(GetParam(), {{"block_size", 256}, {"num_gpu_blocks_override", 20}})).tokens)
      << "one block a sequence";
  EXPECT_EQ(plain, execute(scenario(GetParam(), {{"behavior", "vllm-0.19"}, {"enforce_eager", true}})).tokens)
      << "another behaviour of the same scheduler";
  EXPECT_EQ(plain, execute(scenario(GetParam(), {{"behavior", "trtllm-1.2"},
                                                 {"enable_chunked_context", true},
                                                 {"block_size", 32},
                                                 {"max_num_batched_tokens", 128}}))
                       .tokens)
      << "another scheduler";
}

TEST_P(Strategies, PreemptedRequestsGoOnAsIfNothingHadHappened) {
  const Json many{{"num_prompts", 16}, {"output_len", {{"value", 60}}}};
  const Executed roomy = execute(scenario(GetParam(), Json::object(), many)),
                 tight = execute(scenario(GetParam(), {{"num_gpu_blocks_override", 20}}, many));
  std::int64_t preemptions = 0;
  for (const RequestRecord& r : tight.result.served.records) preemptions += r.preemptions;
  EXPECT_GT(preemptions, 0);
  EXPECT_EQ(roomy.tokens, tight.tokens);
}

TEST_P(Strategies, AHitInThePrefixCacheIsAColdPrompt) {
  const Json shared{{"shared_prefix", {{"groups", 2}, {"users_per_group", 4}, {"prefix_len", 48}}},
                    {"input_len", {{"value", 70}}}};
  const Executed hit = execute(scenario(GetParam(), {{"enable_prefix_caching", true}}, shared)),
                 cold = execute(scenario(GetParam(), {{"enable_prefix_caching", false}}, shared));
  EXPECT_GT(hit.result.served.reused_tokens, 0);
  EXPECT_EQ(cold.result.served.reused_tokens, 0);
  EXPECT_EQ(hit.tokens, cold.tokens);
}

// One conversation after the other: with several at once their order, and with it who is who, depends on how
// fast they are served.
TEST_P(Strategies, AConversationRepeatsWhatWasSaid) {
  const Json turns{
      {"request_rate", 400},
      {"num_prompts", 6},
      {"shared_prefix",
       {{"groups", 1}, {"users_per_group", 1}, {"prefix_len", 16}, {"multi_turn", true}, {"turns", 3}}},
      {"input_len", {{"value", 24}}},
      {"output_len", {{"value", 12}}}};
  const Executed hit = execute(scenario(GetParam(), {{"enable_prefix_caching", true}}, turns)),
                 cold = execute(scenario(GetParam(), {{"enable_prefix_caching", false}}, turns));
  EXPECT_GT(hit.result.served.reused_tokens, 0);
  EXPECT_EQ(hit.tokens, cold.tokens);
}

TEST_P(Strategies, ThreadsAndKernelsAndRanksAgree) {
  const auto plain = execute(scenario(GetParam())).tokens;
  ExecutorOptions threads, reference;
  threads.threads = 3;
  reference.isa = "float64";
  EXPECT_EQ(plain, execute(scenario(GetParam()), threads).tokens);
  // Other orders of summation: a near tie may fall the other way, so most tokens are asked to agree.
  const auto alike = [&](const std::map<RequestId, std::vector<std::int32_t>>& other) {
    std::size_t same = 0, all = 0;
    for (const auto& [id, t] : plain)
      for (std::size_t i = 0; i < t.size(); ++i) same += t[i] == other.at(id)[i], ++all;
    return static_cast<double>(same) / static_cast<double>(all);
  };
  EXPECT_GT(alike(execute(scenario(GetParam()), reference).tokens), 0.95);
  Json two = scenario(GetParam(), {{"tensor_parallel_size", 2}});
  two["hardware"]["count"] = 2, two["hardware"]["devices_per_node"] = 2;
  two["hardware"]["scaleup_bandwidth"] = "10 GB/s";
  EXPECT_GT(alike(execute(two).tokens), 0.95);
  if (std::string(GetParam()) != "dense") {
    two["engine"]["enable_expert_parallel"] = true;
    EXPECT_GT(alike(execute(two).tokens), 0.95);
  }
}

// Told how long the executed steps took, the simulator's loop makes the very same decisions at the same
// times.
TEST_P(Strategies, TheExecutedScheduleIsTheSimulatedOne) {
  const Json json = scenario(GetParam(), {{"num_gpu_blocks_override", 30}});
  const Executed e = execute(json);
  const Scenario s = test_scenario(json.dump());
  const Deployment d = resolve_or_fail(s, 100, 120);
  const auto workload = make_workload(s.workload, test_resources().scenario_folder, "test.json:/workload");
  ReplayBackend replay(e.recording);
  SimulateOptions o;
  o.use_spans = false, o.keep_records = true;
  const Simulation again = serve_with(replay, *workload, d, o);
  ASSERT_EQ(again.served.records.size(), e.result.served.records.size());
  for (std::size_t i = 0; i < again.served.records.size(); ++i) {
    EXPECT_EQ(again.served.records[i].first_token, e.result.served.records[i].first_token);
    EXPECT_EQ(again.served.records[i].finish, e.result.served.records[i].finish);
  }
  EXPECT_EQ(again.served.metrics.num_steps, e.result.served.metrics.num_steps);
  EXPECT_EQ(static_cast<std::int64_t>(e.steps.size()), e.result.served.metrics.num_steps);
}

// States of sequences that end, wait again or start are told apart.
TEST(RecurrentStates, WhateverTheSchedulerDoesTokensStayTheSame) {
  const Json many{{"num_prompts", 16}, {"output_len", {{"value", 40}}}};
  const auto run = [&](const Json& engine) { return execute(scenario("linear", engine, many)); };
  const Executed plain = run(Json::object());
  EXPECT_EQ(plain.tokens.size(), 16u);
  EXPECT_EQ(plain.tokens, run({{"max_num_seqs", 1}}).tokens) << "one after the other";
  EXPECT_EQ(plain.tokens, run({{"max_num_batched_tokens", 16}}).tokens) << "short chunks";
  const Executed tight = run({{"num_gpu_blocks_override", 20}});
  std::int64_t preemptions = 0;
  for (const RequestRecord& r : tight.result.served.records) preemptions += r.preemptions;
  EXPECT_GT(preemptions, 0);
  EXPECT_EQ(plain.tokens, tight.tokens);
  EXPECT_THAT(error_of([&] { run({{"enable_prefix_caching", true}}); }), HasSubstr("recurrent"));
  EXPECT_THAT(error_of([&] {
                run({{"behavior", "trtllm-1.2"}, {"enable_chunked_context", true}});
              }),
              HasSubstr("recurrent"));
}

// Eight adapters, two in a batch: what a request says depends on its adapter and on nothing else that the
// scheduler does.
TEST(Adapters, WhoElseIsServedDoesNotChangeTokens) {
  const auto lora = [](std::int64_t max_loras, const Json& engine = Json::object()) {
    Json e{{"lora", {{"max_loras", max_loras}, {"max_lora_rank", 4}, {"num_adapters", 6}}}};
    e.update(engine);
    return e;
  };
  const Executed two = execute(scenario("dense", lora(2)));
  EXPECT_EQ(two.tokens.size(), 12u);
  EXPECT_EQ(two.tokens, execute(scenario("dense", lora(6))).tokens) << "all adapters resident";
  EXPECT_EQ(two.tokens, execute(scenario("dense", lora(1))).tokens) << "one after the other";
  EXPECT_EQ(two.tokens, execute(scenario("dense", lora(2, {{"max_num_seqs", 1}}))).tokens);
  EXPECT_EQ(two.tokens, execute(scenario("dense", lora(2, {{"num_gpu_blocks_override", 14}}))).tokens)
      << "preempted";
  EXPECT_NE(two.tokens, execute(scenario("dense")).tokens) << "the base model";
  std::int64_t loads = 0, most = 0;
  for (const StepRun& s : two.steps) {
    loads += s.work.adapter_loads;
    most = std::max(most, s.work.adapters);
  }
  EXPECT_EQ(most, 2);
  EXPECT_GE(loads, 4);
}

// Prompts that begin alike share blocks, but only under the same adapter.
TEST(Adapters, AHitInThePrefixCacheIsAColdPrompt) {
  const Json shared{{"shared_prefix", {{"groups", 1}, {"users_per_group", 4}, {"prefix_len", 48}}},
                    {"input_len", {{"value", 70}}}};
  const auto run = [&](bool caching, std::int64_t adapters) {
    return execute(scenario("dense",
                            {{"enable_prefix_caching", caching},
                             {"lora", {{"max_loras", 3}, {"max_lora_rank", 4}, {"num_adapters", adapters}}}},
                            shared));
  };
  const Executed hit = run(true, 3), cold = run(false, 3), same = run(true, 1);
  EXPECT_EQ(hit.tokens, cold.tokens);
  EXPECT_GT(hit.result.served.reused_tokens, 0);
  EXPECT_LT(hit.result.served.reused_tokens, same.result.served.reused_tokens);
}

TEST(Adapters, TheExecutedScheduleIsTheSimulatedOne) {
  const Json json =
      scenario("dense", {{"lora", {{"max_loras", 2}, {"num_adapters", 5}, {"assignment", "zipf"}}}});
  const Executed e = execute(json);
  const Scenario s = test_scenario(json.dump());
  const Deployment d = resolve_or_fail(s, 100, 120);
  const auto workload = make_workload(s.workload, test_resources().scenario_folder, "test.json:/workload");
  ReplayBackend replay(e.recording);
  SimulateOptions o;
  o.use_spans = false, o.keep_records = true;
  const Simulation again = serve_with(replay, *workload, d, o);
  ASSERT_EQ(again.served.records.size(), e.result.served.records.size());
  for (std::size_t i = 0; i < again.served.records.size(); ++i)
    EXPECT_EQ(again.served.records[i].finish, e.result.served.records[i].finish);
  EXPECT_EQ(again.served.metrics.num_steps, e.result.served.metrics.num_steps);
}

TEST(ExecutedBackend, RefusesByNameWhatItDoesNotDo) {
  const auto refused = [](const Json& engine, const Json& hardware = Json::object()) {
    Json j = scenario("dense", engine);
    j["hardware"].update(hardware);
    return error_of([&] { execute(j); });
  };
  EXPECT_THAT(refused({{"behavior", "sglang-0.5"}}), HasSubstr("SGLang's scheduler"));
  EXPECT_THAT(refused({{"pipeline_parallel_size", 2}},
                      {{"count", 2}, {"devices_per_node", 2}, {"scaleup_bandwidth", "1 GB/s"}}),
              HasSubstr("pipeline"));
  EXPECT_THAT(refused({{"num_gpu_blocks_override", 2000000000}}), HasSubstr("GiB"));
  ExecutorOptions odd;
  odd.isa = "sse9";
  EXPECT_THAT(error_of([&] { execute(scenario("dense"), odd); }), HasSubstr("sse9"));
  Json other = scenario("dense");
  other["model"]["config"]["model_type"] = "gptj";
  other["model"]["config"]["rotary_dim"] = 8;
  EXPECT_THAT(error_of([&] { execute(other); }), testing::Not(testing::IsEmpty()));
}

}  // namespace
}  // namespace foretoken
