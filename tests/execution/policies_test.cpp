// Every scheduling policy on the executor: requests get the tokens that plain serving gives them, and the
// schedule is the one that the simulator decides when it is told how long steps take.
#include <gmock/gmock.h>

#include <fstream>

#include "served.h"

namespace foretoken {
namespace {

struct Case {
  const char* behavior;
  Json engine;
  bool preempts;
};

// Twenty blocks of 16 where requests may lose their memory.
std::vector<Case> cases() {
  const Json tight{{"num_gpu_blocks_override", 20}};
  const auto with = [](Json json, const Json& more) {
    json.update(more);
    return json;
  };
  const Json whole{{"max_num_batched_tokens", 256}};
  return {
      {"vllm-0.7", with(whole, with(tight, {{"enforce_eager", true}})), true},
      {"vllm-0.7",
       with(tight, {{"max_num_batched_tokens", 32},
                    {"enable_chunked_prefill", true},
                    {"enable_prefix_caching", true},
                    {"enforce_eager", true}}),
       true},
      {"vllm-0.7",
       with(whole,
            with(tight, {{"preemption_mode", "swap"}, {"swap_space_gib", 0.01}, {"enforce_eager", true}})),
       true},
      {"orca", with(whole, {{"kv_layout", "buddy"}, {"kv_reservation", "power_of_two"}}), false},
      {"orca", with(whole, {{"kv_layout", "paged"}, {"num_gpu_blocks_override", 40}}), false},
      {"sarathi", with(tight, {{"max_num_batched_tokens", 24}}), true},
      {"sarathi",
       {{"low_chunk_size", 32}, {"high_chunk_size", 64}, {"chunk_schedule_max_tokens", 64}},
       false},
      {"fastertransformer", with(whole, {{"remove_padding", false}}), false},
      {"transformers", with(whole, {{"max_num_seqs", 6}, {"num_gpu_blocks_override", 900}}), false},
      {"triton", with(whole, {{"max_queue_delay_microseconds", 300}, {"preferred_batch_size", {3}}}), false},
      {"lightllm", with(whole, {{"block_size", 1}, {"num_gpu_blocks_override", 400}}), false},
      {"deepspeed-fastgen", with(tight, {{"max_num_batched_tokens", 24}}), true},
      {"tgi", {{"max_num_batched_tokens", 200}, {"num_gpu_blocks_override", 40}}, false},
      {"tgi-3",
       {{"block_size", 1},
        {"max_num_batched_tokens", 24},
        {"max_num_seqs", 8},
        {"num_gpu_blocks_override", 400}},
       false},
      {"lightllm-1.0",
       {{"block_size", 1}, {"chunked_prefill_size", 16}, {"num_gpu_blocks_override", 400}},
       false},
      {"lmdeploy-turbomind", with(tight, {{"max_num_batched_tokens", 32}, {"enable_prefix_caching", true}}),
       true},
      {"lmdeploy-pytorch",
       with(tight, {{"max_num_batched_tokens", 24},
                    {"prefill_interval", 4},
                    {"enable_prefix_caching", true},
                    {"enforce_eager", true}}),
       true},
      {"lmdeploy-turbomind", with(tight, {{"max_num_batched_tokens", 32}, {"num_tokens_per_iter", 16}}),
       true},
      {"lmdeploy-pytorch",
       with(tight, {{"max_num_batched_tokens", 24}, {"prefill_interval", 4}, {"enforce_eager", true}}), true},
      {"nanoflow",
       with(tight,
            {{"max_num_batched_tokens", 24}, {"average_prefill_length", 5}, {"average_decode_length", 2}}),
       true},
      {"splitwise", with(whole, with(tight, {{"enforce_eager", true}})), true},
      {"vllm-0.24", with(tight, {{"enforce_eager", true}}), true},
      {"sglang-0.5",
       with(tight, {{"block_size", 16},
                    {"chunked_prefill_size", 32},
                    {"max_num_batched_tokens", 32},
                    {"schedule_conservativeness", 0.1},
                    {"enable_mixed_chunk", true}}),
       true},
      {"trtllm-1.0", with(whole, with(tight, {{"capacity_scheduler_policy", "static_batch"}})), false},
      {"trtllm-1.0",
       with(tight, {{"capacity_scheduler_policy", "max_utilization"}, {"enable_chunked_context", true}}),
       true},
      {"llama.cpp", {{"n_parallel", 3}, {"n_ubatch", 20}, {"max_num_seqs", 3}, {"cache_ram", 0}}, false}};
}

// Two stages, in which each system keeps its own micro-batches in flight.
std::vector<Case> pipelines() {
  const auto with = [](Json json, const Json& more) {
    json.update({{"pipeline_parallel_size", 2}});
    json.update(more);
    return json;
  };
  const Json whole{{"max_num_batched_tokens", 256}}, tight{{"num_gpu_blocks_override", 20}};
  return {
      {"vllm-0.7", with(whole, {{"num_gpu_blocks_override", 26}, {"enforce_eager", true}}), true},
      {"orca", with(whole, {{"kv_reservation", "exact"}, {"max_num_seqs", 3}}), false},
      {"sarathi", with(tight, {{"max_num_batched_tokens", 24}}), true},
      {"sglang-0.5",
       with(tight, {{"block_size", 16}, {"chunked_prefill_size", 32}, {"max_num_batched_tokens", 32}}), true},
      {"trtllm-1.0",
       with(tight, {{"capacity_scheduler_policy", "max_utilization"}, {"enable_chunked_context", true}}),
       true},
      {"trtllm-1.0", with(tight, {{"enable_chunked_context", true}}), false},
      {"fastertransformer", with(whole, {{"remove_padding", false}}), false},
      {"llama.cpp", with({{"n_parallel", 3}, {"max_num_seqs", 3}}, {{"n_ubatch", 20}}), false}};
}

Json scenario(const Json& engine) {
  Json json = small_scenario(small_config("dense", 256), engine,
                             {{"num_prompts", 16}, {"request_rate", 4000}, {"output_len", {{"value", 40}}}});
  json["hardware"]["count"] = engine.value("pipeline_parallel_size", 1);
  return json;
}

// As many groups of requests whose prompts begin alike.
Json sharing(const Json& engine, int groups) {
  Json json = scenario(engine);
  json["workload"]["shared_prefix"] = {{"groups", groups}, {"users_per_group", 4}, {"prefix_len", 48}};
  json["workload"]["input_len"] = {{"value", 70}};
  return json;
}

TEST(Policies, TokensAreThoseOfPlainServingAndTheScheduleIsTheSimulatedOne) {
  ServeResult served;
  Recording plain;
  const auto expected = tokens_of(scenario(Json::object()), served, plain);
  ASSERT_EQ(expected.size(), 16u);
  std::vector<Case> all = cases();
  for (const Case& c : pipelines()) all.push_back(c);
  for (const Case& c : all) {
    SCOPED_TRACE(std::string(c.behavior) + " " + c.engine.dump());
    Json engine{{"behavior", c.behavior}};
    engine.update(c.engine);
    const Json json = scenario(engine);
    Recording recording;
    EXPECT_EQ(expected, tokens_of(json, served, recording));
    EXPECT_EQ(served.rejected, 0);
    EXPECT_EQ(served.metrics.preemptions > 0, c.preempts);
    expect_the_same_schedule(served, recording, json);
  }
}

// The same of a few requests, for sets of kernels on which all that is above would take long. Three of three
// blocks each where seven are.
TEST(Policies, AFewRequestsOfEachSayTheSame) {
  const auto few = [](Json engine) {
    engine.update({{"max_model_len", 96}, {"max_num_seqs", 3}});
    if (engine.value("num_gpu_blocks_override", 0) == 20) engine["num_gpu_blocks_override"] = 8;
    return small_scenario(
        small_config("dense"), engine,
        {{"num_prompts", 3}, {"input_len", {{"value", 30}}}, {"output_len", {{"value", 5}}}});
  };
  ServeResult served;
  Recording plain;
  const auto expected = tokens_of(few(Json::object()), served, plain);
  ASSERT_EQ(expected.size(), 3u);
  int preempted = 0;
  for (const Case& c : cases()) {
    SCOPED_TRACE(std::string(c.behavior) + " " + c.engine.dump());
    Json engine{{"behavior", c.behavior}};
    engine.update(c.engine);
    Recording recording;
    EXPECT_EQ(expected, tokens_of(few(engine), served, recording));
    EXPECT_EQ(served.rejected, 0);
    preempted += served.metrics.preemptions > 0;
    expect_the_same_schedule(served, recording, few(engine));
  }
  EXPECT_GT(preempted, 5);
}

// The same of caches: by hashes, by trees, host memory below both, slots and what host memory keeps of them.
// Four beginnings of two blocks each, where seven blocks are.
TEST(Policies, AFewPromptsInEachCacheSayTheSame) {
  const auto few = [](Json engine) {
    engine.update({{"max_model_len", 64}, {"max_num_seqs", 2}});
    return small_scenario(small_config("dense"), engine,
                          Json::parse(R"({"num_prompts": 16, "request_rate": 2000,
        "shared_prefix": {"groups": 4, "users_per_group": 4, "prefix_len": 32},
        "input_len": {"value": 40}, "output_len": {"value": 2}})"));
  };
  ServeResult served;
  Recording plain;
  const auto expected = tokens_of(few(Json::object()), served, plain);
  ASSERT_EQ(expected.size(), 16u);
  const Json blocks{{"num_gpu_blocks_override", 8}};
  for (Json more :
       {Json{{"enable_prefix_caching", true}},
        Json::parse(
            R"({"enable_prefix_caching": true, "kv_tiers": [{"kind": "host", "capacity_gib": 0.01}]})"),
        Json{{"behavior", "sglang-0.5"}, {"num_gpu_blocks_override", 112}},
        Json{{"behavior", "sglang-0.5"},
             {"block_size", 16},
             {"enable_hierarchical_cache", true},
             {"hicache_size", 0.001}},
        Json{{"behavior", "llama.cpp"}, {"n_parallel", 2}}}) {
    const bool host = more.contains("kv_tiers") || more.contains("hicache_size"),
               slots = more.contains("n_parallel");
    if (!slots && !more.contains("num_gpu_blocks_override")) more.update(blocks);
    if (more.contains("behavior") && !slots && !host) more["block_size"] = 1;
    SCOPED_TRACE(more.dump());
    Recording recording;
    EXPECT_EQ(expected, tokens_of(few(more), served, recording));
    EXPECT_EQ(served.rejected, 0);
    EXPECT_GT(served.reused_tokens, 0);
    if (host) {
      ASSERT_EQ(served.kv_tiers.size(), 1u);
      EXPECT_GT(served.kv_tiers[0].loaded, 0);
    }
    if (slots) {
      EXPECT_GT(served.swapped_in_blocks, 0);
    }
    expect_the_same_schedule(served, recording, few(more));
  }
}

// Slots with a context each, and with one cache that has to give up what idle slots keep.
TEST(Policies, SlotsThatKeepTheirTokensGiveThoseOfPlainServing) {
  ServeResult served;
  Recording plain;
  const auto expected = tokens_of(sharing(Json::object(), 2), served, plain);
  Json slots{
      {"behavior", "llama.cpp"}, {"n_parallel", 3}, {"n_ubatch", 20}, {"max_num_seqs", 3}, {"cache_ram", 0}},
      common = slots;
  common.update({{"kv_unified", true}, {"block_size", 1}, {"num_gpu_blocks_override", 3000}, {"n_ctx", 470}});
  for (const Json& engine : {slots, common}) {
    SCOPED_TRACE(engine.dump());
    Recording recording;
    EXPECT_EQ(expected, tokens_of(sharing(engine, 2), served, recording));
    EXPECT_EQ(served.rejected, 0);
    EXPECT_GT(served.reused_tokens, 100);
    expect_the_same_schedule(served, recording, sharing(engine, 2));
  }
}

// Prompts that lose their slot and come back from host memory; every slot with a context of its own, and one
// cache.
TEST(Policies, PromptsKeptInHostMemoryGiveTheTokensOfPlainServing) {
  ServeResult served;
  Recording plain;
  const auto expected = tokens_of(sharing(Json::object(), 4), served, plain);
  Json slots{{"behavior", "llama.cpp"}, {"n_parallel", 2}, {"n_ubatch", 20}, {"max_num_seqs", 2}},
      common = slots, little = slots;
  common.update({{"kv_unified", true}, {"block_size", 1}, {"num_gpu_blocks_override", 3000}, {"n_ctx", 300}});
  little["cache_ram"] = -1;  // as much as both slots
  for (const Json& engine : {slots, common, little}) {
    SCOPED_TRACE(engine.dump());
    Recording recording;
    EXPECT_EQ(expected, tokens_of(sharing(engine, 4), served, recording));
    EXPECT_EQ(served.rejected, 0);
    EXPECT_GT(served.swapped_out_blocks, 20);
    EXPECT_GT(served.swapped_in_blocks, 0);
    expect_the_same_schedule(served, recording, sharing(engine, 4));
  }
}

// Two users, whose prompts leave out some of what the last ones said and add to the rest: in blocks of 16.
std::string holes_trace() {
  const std::string path = testing::TempDir() + "holes.jsonl";
  std::ofstream file(path);
  std::vector<std::vector<int>> users{{1, 2, 3, 4, 5, 6, 7}, {1, 2, 13, 14, 15, 16, 17}};
  for (int turn = 0; turn < 5; ++turn)
    for (std::vector<int>& ids : users) {
      if (turn > 0) {
        ids.erase(ids.begin() + 2);
        if (turn % 2 == 0) ids.erase(ids.begin() + 4);
        ids.push_back(ids.back() + 10 * turn);
      }
      file << Json{{"chat_id", turn},
                   {"timestamp", turn},
                   {"input_length", 16 * ids.size()},
                   {"output_length", 6},
                   {"hash_ids", ids}}
                  .dump()
           << "\n";
    }
  return path;
}

// Of one layer, keys and values depend on a token and its place alone, so chunks that were shifted are those
// of plain serving. Of several, wherever slots lie and whatever computes them, the same is said.
TEST(Policies, ShiftedChunksGiveTheTokensOfPlainServingWhereTheyCan) {
  const auto serving = [trace = holes_trace()](const Json& engine, int layers) {
    Json json = small_scenario(small_config("dense", 256, layers), engine, Json::object());
    json["workload"] = Json{{"trace", trace}};
    json["hardware"]["count"] = engine.value("pipeline_parallel_size", 1);
    return json;
  };
  Json slots{{"behavior", "llama.cpp"}, {"n_parallel", 2}, {"n_ubatch", 20},
             {"max_num_seqs", 2},       {"cache_ram", 0},  {"cache_reuse", 8}},
      common = slots, staged = slots, kept = slots, none = slots;
  common.update({{"kv_unified", true}, {"block_size", 1}, {"num_gpu_blocks_override", 3000}, {"n_ctx", 512}});
  staged["pipeline_parallel_size"] = 2;
  kept["cache_ram"] = -1;
  none["cache_reuse"] = 200;
  for (const int layers : {1, 2}) {
    ServeResult served;
    Recording plain;
    auto expected = tokens_of(serving(Json::object(), layers), served, plain);
    ASSERT_EQ(expected.size(), 10u);
    EXPECT_EQ(expected, tokens_of(serving(none, layers), served, plain)) << "no chunk is as long";
    if (layers > 1) expected.clear();
    for (const Json& engine : {slots, common, staged, kept, slots}) {
      if (layers == 1 && engine == staged) continue;
      SCOPED_TRACE(engine.dump());
      Recording recording;
      std::map<RequestId, std::vector<std::int32_t>> tokens;
      ExecutorOptions options;
      options.threads = expected.empty() ? 1 : 2;
      execute_scenario(serving(engine, layers), options, recording,
                       [&](ExecutedBackend& backend, const Simulation& result) {
                         served = result.served;
                         for (const RequestRecord& r : served.records) tokens[r.id] = backend.output(r.id);
                         EXPECT_GT(backend.operator_seconds()["key_shift"], 0);
                       });
      if (expected.empty()) expected = tokens;
      EXPECT_EQ(expected, tokens);
      EXPECT_EQ(served.rejected, 0);
      EXPECT_GT(served.reused_tokens, 400);
      expect_the_same_schedule(served, recording, serving(engine, layers));
    }
  }
}

// Each system's own prefix cache, and host memory under SGLang's.
TEST(Policies, PrefixCachesGiveTheTokensOfPlainServing) {
  ServeResult served;
  Recording plain;
  const auto expected = tokens_of(sharing(Json::object(), 3), served, plain);
  const Json chunks{{"max_num_batched_tokens", 32}, {"num_gpu_blocks_override", 40}};
  const auto of = [&](const char* behavior, const Json& more) {
    Json engine{{"behavior", behavior}};
    engine.update(chunks);
    engine.update(more);
    return engine;
  };
  const Json caching{{"enable_prefix_caching", true}},
      tokens{{"block_size", 1}, {"num_gpu_blocks_override", 640}};
  Json lmdeploy = caching;
  lmdeploy["enforce_eager"] = true;
  Json chunked = caching;
  chunked["enable_chunked_context"] = true;
  Json whole = lmdeploy;
  whole["max_num_batched_tokens"] = 256;
  Json hicache{{"block_size", 16},
               {"page_size", 16},
               {"num_gpu_blocks_override", 18},
               {"enable_hierarchical_cache", true},
               {"hicache_size", 0.001}};
  Json write_back = hicache;
  write_back["hicache_write_policy"] = "write_back";
  for (const Json& engine :
       {of("foretoken", caching), of("vllm-0.7", whole), of("tgi-3", tokens), of("lightllm-1.0", tokens),
        of("lmdeploy-turbomind", caching), of("lmdeploy-pytorch", lmdeploy), of("trtllm-1.0", chunked),
        of("sglang-0.5", tokens), of("sglang-0.5", hicache), of("sglang-0.5", write_back)}) {
    SCOPED_TRACE(engine.dump());
    Recording recording;
    EXPECT_EQ(expected, tokens_of(sharing(engine, 3), served, recording));
    EXPECT_EQ(served.rejected, 0);
    EXPECT_GT(served.reused_tokens, 0);
    if (engine.contains("hicache_size")) {
      ASSERT_EQ(served.kv_tiers.size(), 1u);
      EXPECT_GT(served.kv_tiers[0].written, 0);
    }
    expect_the_same_schedule(served, recording, sharing(engine, 3));
  }
}

// Who is served first, and who gives way.
TEST(Policies, PrioritiesChangeNoToken) {
  const auto classes = [](const Json& engine) {
    Json json = scenario(engine);
    json["workload"]["priority_classes"] =
        Json::parse(R"([{"priority": 0, "share": 0.5}, {"priority": 1, "share": 0.5}])");
    return json;
  };
  ServeResult served;
  Recording plain;
  const auto expected = tokens_of(scenario(Json::object()), served, plain);
  const Json tight{{"num_gpu_blocks_override", 20}, {"scheduling_policy", "priority"}};
  Json v0 = tight;
  v0.update({{"behavior", "vllm-0.7"}, {"max_num_batched_tokens", 256}, {"enforce_eager", true}});
  for (const Json& engine : {tight, v0,
                             Json{{"behavior", "sglang-0.5"},
                                  {"block_size", 16},
                                  {"page_size", 16},
                                  {"num_gpu_blocks_override", 20},
                                  {"enable_priority_scheduling", true}}}) {
    SCOPED_TRACE(engine.dump());
    Recording recording;
    EXPECT_EQ(expected, tokens_of(classes(engine), served, recording));
    expect_the_same_schedule(served, recording, classes(engine));
  }
}

}  // namespace
}  // namespace foretoken
