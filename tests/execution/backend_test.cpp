// Served by the executor: whatever the scheduler does to a request, its tokens stay the same; and the
// schedule is the one that the simulator decides when it is told how long steps take.
#include <gmock/gmock.h>

#include <map>

#include "expect_error.h"
#include "served.h"

namespace foretoken {
namespace {

using test::error_of;
using testing::HasSubstr;

Json scenario(const std::string& family, const Json& engine = Json::object(),
              const Json& workload = Json::object()) {
  return small_scenario(small_config(family, 256), engine, workload);
}

struct Executed {
  std::map<RequestId, std::vector<std::int32_t>> tokens;
  Simulation result;
  Recording recording;
  std::vector<StepRun> steps;
};

Executed execute(const Json& json, const ExecutorOptions& options = {}) {
  Executed e;
  execute_scenario(json, options, e.recording, [&](ExecutedBackend& backend, const Simulation& result) {
    e.result = result;
    for (const RequestRecord& r : result.served.records) e.tokens[r.id] = backend.output(r.id);
    e.steps.assign(backend.steps().begin(), backend.steps().end());
  });
  return e;
}

Json on_devices(Json json, int count) {
  json["hardware"]["count"] = count;
  json["hardware"]["devices_per_node"] = count;
  json["hardware"]["scaleup_bandwidth"] = "10 GB/s";
  return json;
}

Json split(Json json, const Json& prefill, const Json& decode, int devices = 2) {
  json["cluster"] = Json{{"prefill", prefill}, {"decode", decode}, {"kv_link", {{"bandwidth", "10 GB/s"}}}};
  return on_devices(std::move(json), devices);
}

void expect_the_simulated_schedule(const Json& json) {
  const Executed e = execute(json);
  expect_the_same_schedule(e.result.served, e.recording, json);
  EXPECT_EQ(static_cast<std::int64_t>(e.steps.size()), e.result.served.metrics.num_steps);
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

// Swapped or computed again, with room in host memory for everybody, for some or for nobody.
TEST_P(Strategies, SwappedRequestsGoOnAsIfNothingHadHappened) {
  const Json many{{"num_prompts", 16}, {"output_len", {{"value", 60}}}};
  const Executed roomy = execute(scenario(GetParam(), Json::object(), many));
  const Json tight{{"num_gpu_blocks_override", 20}, {"enable_prefix_caching", false}};
  const Executed recomputed = execute(scenario(GetParam(), tight, many));
  EXPECT_GT(recomputed.result.served.discarded_tokens, 0);
  EXPECT_EQ(roomy.tokens, recomputed.tokens);
  std::int64_t discarded = recomputed.result.served.discarded_tokens;
  for (const auto& [gib, caching] :
       {std::pair(1.5e-4, false), std::pair(0.01, false), std::pair(0.01, true)}) {
    Json swap = tight;
    swap.update(
        Json{{"preemption_mode", "swap"}, {"swap_space_gib", gib}, {"enable_prefix_caching", caching}});
    const Executed swapped = execute(scenario(GetParam(), swap, many));
    const ServeResult& r = swapped.result.served;
    EXPECT_EQ(roomy.tokens, swapped.tokens);
    EXPECT_GT(r.swapped_out_blocks, 0);
    EXPECT_EQ(r.swapped_out_blocks, r.swapped_in_blocks);
    EXPECT_LT(r.discarded_tokens, discarded) << gib << " GiB";
    EXPECT_TRUE(gib < 0.001 || r.discarded_tokens == 0);
    std::int64_t copied = 0;
    for (const StepRun& s : swapped.steps) copied += s.work.swap_out_tokens + s.work.swap_in_tokens;
    EXPECT_EQ(copied, 16 * (r.swapped_out_blocks + r.swapped_in_blocks));
  }
}

TEST_P(Strategies, StreamedWeightsSayTheSame) {
  const auto plain = execute(scenario(GetParam())).tokens;
  for (const bool overlap : {false, true})
    for (const char* source : {"host", "storage"}) {
      Json json = scenario(
          GetParam(), {{"layer_streaming",
                        {{"layers", 2}, {"prefetch_depth", 1}, {"overlap", overlap}, {"source", source}}}});
      json["hardware"]["storage_bandwidth"] = "1 GB/s";
      EXPECT_EQ(plain, execute(json).tokens) << source;
    }
}

// SGLang's scheduler: a radix tree of pages instead of blocks that are found by their hash, prompts alone or
// mixed, requests that are retracted, ends that are seen late.
TEST_P(Strategies, SglangsSchedulerSaysTheSame) {
  const Json shared{{"num_prompts", 16},
                    {"shared_prefix", {{"groups", 2}, {"users_per_group", 4}, {"prefix_len", 45}}},
                    {"input_len", {{"value", 70}}},
                    {"output_len", {{"distribution", "uniform"}, {"min", 3}, {"max", 60}}}};
  const auto plain = execute(scenario(GetParam(), {{"enable_prefix_caching", false}}, shared)).tokens;
  const auto sglang = [&](const Json& more) {
    Json engine{{"behavior", "sglang-0.5"}, {"block_size", 1}, {"num_gpu_blocks_override", 3000}};
    engine.update(more);
    return scenario(GetParam(), engine, shared);
  };
  const Executed tree = execute(sglang(Json::object()));
  EXPECT_EQ(plain, tree.tokens);
  EXPECT_GT(tree.result.served.reused_tokens, 0);
  EXPECT_EQ(plain, execute(sglang({{"disable_radix_cache", true}})).tokens) << "no tree";
  EXPECT_EQ(plain, execute(sglang({{"disable_overlap_schedule", true}, {"schedule_policy", "lpm"}})).tokens);
  EXPECT_EQ(plain,
            execute(sglang({{"enable_mixed_chunk", true}, {"page_size", 16}, {"block_size", 16}})).tokens)
      << "pages of 16, mixed";
  const Json tight{{"num_gpu_blocks_override", 300}, {"schedule_conservativeness", 0.05}};
  const Executed retracted = execute(sglang(tight));
  EXPECT_EQ(plain, retracted.tokens);
  EXPECT_GT(retracted.result.served.metrics.preemptions, 0);
  expect_the_simulated_schedule(sglang(tight));
  expect_the_simulated_schedule(
      sglang({{"page_size", 16}, {"block_size", 16}, {"num_gpu_blocks_override", 40}}));
}

// Regions in one piece, whatever is reserved; only how many run at once differs.
TEST_P(Strategies, ContiguousMemoryIsPagedMemory) {
  const Json crowd{{"num_prompts", 16}, {"output_len", {{"value", 40}}}};
  const Executed paged = execute(scenario(GetParam(), Json::object(), crowd));
  std::map<std::string, double> running;
  for (const char* reservation : {"max_model_len", "power_of_two", "exact"}) {
    const Executed contiguous = execute(scenario(
        GetParam(),
        {{"kv_layout", "contiguous"}, {"kv_reservation", reservation}, {"num_gpu_blocks_override", 40}},
        crowd));
    EXPECT_EQ(paged.tokens, contiguous.tokens) << reservation;
    EXPECT_GT(contiguous.result.served.reserved_tokens, contiguous.result.served.filled_tokens);
    EXPECT_EQ(contiguous.result.served.metrics.preemptions, 0);
    running[reservation] = contiguous.result.served.metrics.mean_running;
  }
  EXPECT_LT(running["max_model_len"], running["power_of_two"]);
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
  const Json turns = one_conversation();
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

TEST_P(Strategies, TheExecutedScheduleIsTheSimulatedOne) {
  expect_the_simulated_schedule(scenario(GetParam(), {{"num_gpu_blocks_override", 30}}));
  expect_the_simulated_schedule(scenario(
      GetParam(), {{"num_gpu_blocks_override", 20}, {"preemption_mode", "swap"}, {"swap_space_gib", 0.001}}));
  expect_the_simulated_schedule(
      scenario(GetParam(), {{"num_gpu_blocks_override", 40}, {"kv_layout", "contiguous"}}));
}

TEST_P(Strategies, ADisaggregatedRequestGetsTheTokensOfAColocatedOne) {
  const auto plain = execute(scenario(GetParam())).tokens;
  const Json one = split(scenario(GetParam()), {{"max_num_batched_tokens", 32}}, {{"max_num_seqs", 3}});
  const Executed apart = execute(one);
  EXPECT_EQ(plain, apart.tokens);
  EXPECT_EQ(apart.recording.transfers.size(), 12u);
  for (const auto& t : apart.recording.transfers) EXPECT_GT(t.duration, 0);
  for (const auto& s : apart.recording.steps)
    EXPECT_EQ(s.engine == 0 ? s.decode_tokens : s.prefill_tokens, 0) << "nothing is computed again";
  expect_the_same_schedule(apart.result.served, apart.recording, one);
  const Json several = split(scenario(GetParam()), {{"replicas", 2}}, {{"replicas", 2}}, 4);
  EXPECT_EQ(plain, execute(several).tokens);
  Json late = one;
  late["cluster"]["first_token"] = "decode";
  const Executed again = execute(late);
  expect_the_same_schedule(again.result.served, again.recording, late);
  // Latent attention projects prompts up and absorbs when it decodes: other sums, so near ties may differ.
  if (std::string(GetParam()) != "latent") {
    EXPECT_EQ(plain, again.tokens);
  }
}

TEST_P(Strategies, LayersSentWhilePromptsAreComputedChangeNoToken) {
  const auto plain = execute(scenario(GetParam())).tokens;
  Json json = split(scenario(GetParam()), {{"max_num_batched_tokens", 32}, {"replicas", 2}},
                    {{"max_num_seqs", 3}}, 3);
  json["cluster"]["kv_link"]["overlap"] = "layerwise";
  json["cluster"]["kv_link"]["engines_per_port"] = 2;
  const Executed apart = execute(json);
  EXPECT_EQ(plain, apart.tokens);
  EXPECT_GT(apart.recording.transfers.size(), 12u) << "chunk by chunk";
  expect_the_same_schedule(apart.result.served, apart.recording, json);
}

TEST_P(Strategies, ACacheMovesInEveryFormatAndAfterAPreemption) {
  for (const char* format : {"int8", "fp8", "bfloat16"}) {
    const Json cache{{"kv_cache_dtype", format}};
    EXPECT_EQ(execute(scenario(GetParam(), cache)).tokens,
              execute(split(scenario(GetParam(), cache), Json::object(), Json::object())).tokens)
        << format;
  }
  const Json many{{"num_prompts", 16}, {"output_len", {{"value", 60}}}};
  const Executed roomy = execute(scenario(GetParam(), Json::object(), many)),
                 tight = execute(split(scenario(GetParam(), Json::object(), many), Json::object(),
                                       {{"num_gpu_blocks_override", 20}}));
  std::int64_t preemptions = 0;
  for (const RequestRecord& r : tight.result.served.records) preemptions += r.preemptions;
  EXPECT_GT(preemptions, 0);
  EXPECT_EQ(roomy.tokens, tight.tokens);
}

// Heads are dealt out anew where the sides differ in tensor parallelism.
TEST_P(Strategies, ACacheMovesBetweenDifferentRanks) {
  for (const int prefill : {1, 2, 4})
    for (const int decode : {1, 2, 4}) {
      const Executed e = execute(split(scenario(GetParam()), {{"tensor_parallel_size", prefill}},
                                       {{"tensor_parallel_size", decode}}, 8));
      const auto plain = execute(scenario(GetParam())).tokens;
      std::size_t same = 0, all = 0;
      for (const auto& [id, t] : plain)
        for (std::size_t i = 0; i < t.size(); ++i) same += t[i] == e.tokens.at(id)[i], ++all;
      EXPECT_GT(static_cast<double>(same) / static_cast<double>(all), 0.95) << prefill << " to " << decode;
    }
}

TEST_P(Strategies, StagesAndEnginesAndDataParallelRanksChangeNoToken) {
  const auto plain = execute(scenario(GetParam())).tokens;
  const Json pipeline = on_devices(scenario(GetParam(), {{"pipeline_parallel_size", 2}}), 2);
  const Executed stages = execute(pipeline);
  EXPECT_EQ(plain, stages.tokens);
  expect_the_same_schedule(stages.result.served, stages.recording, pipeline);
  Json replicas = on_devices(scenario(GetParam()), 3);
  replicas["cluster"]["replicas"] = 3;
  const Executed engines = execute(replicas);
  EXPECT_EQ(plain, engines.tokens);
  expect_the_same_schedule(engines.result.served, engines.recording, replicas);
  std::set<std::int32_t> used;
  for (const auto& s : engines.recording.steps) used.insert(s.engine);
  EXPECT_EQ(used.size(), 3u);
  EXPECT_EQ(plain, execute(on_devices(scenario(GetParam(), {{"data_parallel_size", 2}}), 2)).tokens)
      << "independent ranks";
  if (std::string(GetParam()) == "dense") return;
  const Json shared{{"data_parallel_size", 2}, {"enable_expert_parallel", true}};
  const Json together = on_devices(scenario(GetParam(), shared), 2);
  const Executed ranks = execute(together);
  EXPECT_EQ(plain, ranks.tokens) << "ranks that share the experts";
  expect_the_same_schedule(ranks.result.served, ranks.recording, together);
  EXPECT_EQ(plain, execute(on_devices(scenario(GetParam(), {{"data_parallel_size", 2},
                                                            {"enable_expert_parallel", true},
                                                            {"pipeline_parallel_size", 2}}),
                                      4))
                       .tokens)
      << "and stages";
}

// Every row of the stream is summed up in the order of the ranks either way.
TEST_P(Strategies, SequenceParallelismChangesNoToken) {
  for (const int ranks : {2, 4}) {
    const auto plain =
        execute(on_devices(scenario(GetParam(), {{"tensor_parallel_size", ranks}}), ranks)).tokens;
    const Json split_rows{{"tensor_parallel_size", ranks}, {"enable_sequence_parallelism", true}};
    EXPECT_EQ(plain, execute(on_devices(scenario(GetParam(), split_rows), ranks)).tokens);
    Json staged = split_rows;
    staged["pipeline_parallel_size"] = 2;
    EXPECT_EQ(plain, execute(on_devices(scenario(GetParam(), staged), 2 * ranks)).tokens);
  }
}

// Several batches are under way: the next one starts before the tokens of the one before are out.
TEST(ExecutedBackend, BatchesFollowEachOtherThroughAPipeline) {
  const Executed e =
      execute(on_devices(scenario("dense", {{"pipeline_parallel_size", 2}, {"max_num_seqs", 4}}), 2));
  std::size_t overlapping = 0;
  for (std::size_t i = 1; i < e.recording.steps.size(); ++i) {
    const auto &a = e.recording.steps[i - 1], &b = e.recording.steps[i];
    EXPECT_GE(b.start, a.start + a.time.next_start);
    EXPECT_LE(a.time.next_start, a.time.tokens_out);
    overlapping += b.start < a.start + a.time.tokens_out;
  }
  EXPECT_GT(overlapping * 2, e.recording.steps.size());
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
  EXPECT_EQ(plain.tokens, run({{"layer_streaming", {{"layers", 2}, {"prefetch_depth", 1}}}}).tokens);
  EXPECT_THAT(error_of([&] { run({{"enable_prefix_caching", true}}); }), HasSubstr("recurrent"));
  EXPECT_THAT(error_of([&] {
                run({{"preemption_mode", "swap"}, {"swap_space_gib", 0.001}});
              }),
              HasSubstr("recurrent states lie in no block"));
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
  EXPECT_EQ(
      two.tokens,
      execute(scenario("dense", lora(2, {{"max_model_len", 200}, {"num_gpu_blocks_override", 14}}))).tokens)
      << "preempted";
  const Executed swapped = execute(scenario("dense", lora(2, {{"max_model_len", 200},
                                                              {"num_gpu_blocks_override", 14},
                                                              {"preemption_mode", "swap"},
                                                              {"swap_space_gib", 0.001}})));
  EXPECT_GT(swapped.result.served.swapped_in_blocks, 0);
  EXPECT_EQ(two.tokens, swapped.tokens);
  EXPECT_EQ(two.tokens,
            execute(scenario("dense", lora(2, {{"layer_streaming", {{"layers", 2}, {"prefetch_depth", 1}}}})))
                .tokens);
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
  expect_the_simulated_schedule(
      scenario("dense", {{"lora", {{"max_loras", 2}, {"num_adapters", 5}, {"assignment", "zipf"}}}}));
}

TEST(ExecutedBackend, RefusesByNameWhatItDoesNotDo) {
  const auto refused = [](const Json& engine, const Json& hardware = Json::object()) {
    Json j = scenario("dense", engine);
    j["hardware"].update(hardware);
    return error_of([&] { execute(j); });
  };
  EXPECT_THAT(refused({{"pipeline_parallel_size", 2}, {"layer_streaming", {{"layers", 2}}}},
                      {{"count", 2}, {"devices_per_node", 2}, {"scaleup_bandwidth", "1 GB/s"}}),
              HasSubstr("pipeline"));
  EXPECT_THAT(refused({{"num_gpu_blocks_override", 2000000000}}), HasSubstr("GiB"));
  const Json lora{{"max_loras", 2}, {"max_lora_rank", 4}};
  const auto linear = [](Json engine) { return on_devices(scenario("linear", engine), 2); };
  const auto adapted = [&](Json engine, const char* family = "dense") {
    engine["lora"] = lora;
    return on_devices(scenario(family, engine), 2);
  };
  const auto why = [](const Json& json) { return error_of([&] { execute(json); }); };
  const Json stages{{"pipeline_parallel_size", 2}};
  EXPECT_THAT(why(linear(stages)), HasSubstr("recurrent layers in a pipeline"));
  EXPECT_THAT(why(adapted(stages)), HasSubstr("adapters in a pipeline"));
  const Json alone{{"data_parallel_size", 2}};
  EXPECT_THAT(why(linear(alone)), HasSubstr("recurrent layers on several engines"));
  EXPECT_THAT(why(adapted(alone)), HasSubstr("adapters on several engines"));
  const Json sharing{{"data_parallel_size", 2}, {"enable_expert_parallel", true}};
  EXPECT_THAT(why(adapted(sharing, "moe")), HasSubstr("adapters on data-parallel ranks"));
  const Json rows{{"tensor_parallel_size", 2}, {"enable_sequence_parallelism", true}};
  EXPECT_THAT(why(linear(rows)), HasSubstr("recurrent layers with sequence parallelism"));
  EXPECT_THAT(why(adapted(rows)), HasSubstr("adapters with sequence parallelism"));
  EXPECT_THAT(why(split(scenario("linear"), Json::object(), Json::object())),
              HasSubstr("recurrent layers on several engines"));
  SilentJob job;
  ExecutorOptions processes;
  processes.processes = &job;
  const Json two{{"tensor_parallel_size", 2}};
  EXPECT_THAT(error_of([&] { execute(linear(two), processes); }), HasSubstr("ranks that are processes"));
  EXPECT_THAT(error_of([&] { execute(adapted(two), processes); }), HasSubstr("ranks that are processes"));
  ExecutorOptions odd;
  odd.isa = "sse9";
  EXPECT_THAT(error_of([&] { execute(scenario("dense"), odd); }), HasSubstr("sse9"));
  ExecutorOptions scales;
  scales.fp8_scales = "tensor";
  EXPECT_THAT(error_of([&] { execute(scenario("dense"), scales); }), HasSubstr("use --quantization fp8"));
  Json experts = scenario("moe", {{"quantization", "fp8"}});
  experts["hardware"]["device"] = "h200";
  EXPECT_THAT(error_of([&] { execute(experts, scales); }), HasSubstr("rows that go to different experts"));
  Json other = scenario("dense");
  other["model"]["config"]["model_type"] = "gptj";
  other["model"]["config"]["rotary_dim"] = 8;
  EXPECT_THAT(error_of([&] { execute(other); }), testing::Not(testing::IsEmpty()));
}

}  // namespace
}  // namespace foretoken
