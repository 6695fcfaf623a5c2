// Instances whose attention reaches over several caches, on the executor: the tokens of plain serving, and
// the schedule that the simulator decides when it is told how long steps and moves took.
#include <gmock/gmock.h>

#include "expect_error.h"
#include "served.h"

namespace foretoken {
namespace {

Json scenario(int instances, const Json& engine, const Json& workload = Json::object()) {
  Json load{{"num_prompts", 16}, {"request_rate", 4000}, {"output_len", {{"value", 40}}}};
  load.update(workload);
  Json json = small_scenario(small_config("dense", 256), engine, load);
  const int devices = instances * engine.value("tensor_parallel_size", 1);
  json["hardware"].update(
      Json{{"count", devices}, {"devices_per_node", devices}, {"scaleup_bandwidth", "10 GB/s"}});
  json["cluster"]["replicas"] = instances;
  return json;
}

struct Executed {
  std::map<RequestId, std::vector<std::int32_t>> tokens;
  ServeResult served;
  Recording recording;
};

Executed execute(const Json& json) {
  Executed e;
  e.tokens = tokens_of(json, e.served, e.recording);
  EXPECT_EQ(e.served.rejected, 0);
  expect_the_same_schedule(e.served, e.recording, json);
  return e;
}

std::map<RequestId, std::vector<std::int32_t>> plain(const Json& workload = Json::object()) {
  return execute(scenario(1, Json::object(), workload)).tokens;
}

Json loongserve(const Json& more) {
  Json engine{{"behavior", "loongserve"},
              {"block_size", 1},
              {"max_num_batched_tokens", 256},
              {"num_gpu_blocks_override", 180}};
  engine.update(more);
  return engine;
}

TEST(ExecutedInstances, ElasticOnesSayTheSame) {
  const auto expected = plain();
  // Room for one request or a few; static; without merging; several masters; two ranks each.
  for (const Json& more :
       {Json::object(), Json{{"num_gpu_blocks_override", 90}}, Json{{"use_fixed_sp", true}},
        Json{{"disable_scale_up", true}}, Json{{"min_comp_bound_decoding_batch_size", 1}},
        Json{{"tensor_parallel_size", 2}, {"max_wait_tokens", 2}}}) {
    SCOPED_TRACE(more.dump());
    const Executed e = execute(scenario(3, loongserve(more)));
    EXPECT_EQ(e.tokens, expected);
  }
}

// Prompts that no instance holds.
TEST(ExecutedInstances, PromptsGoRoundARing) {
  const Json longer{{"num_prompts", 6}, {"input_len", {{"value", 150}}}, {"output_len", {{"value", 20}}}};
  const auto expected = execute(scenario(1, {{"max_num_batched_tokens", 256}}, longer)).tokens;
  for (const char* cache : {"auto", "int8"}) {
    const Json rounded{{"kv_cache_dtype", cache}};
    const auto same = std::string(cache) == "auto" ? expected : execute(scenario(1, rounded, longer)).tokens;
    for (const Json& more : {Json::object(), Json{{"use_fixed_sp", true}}}) {
      Json engine = loongserve({{"num_gpu_blocks_override", 100}, {"kv_cache_dtype", cache}});
      engine.update(more);
      SCOPED_TRACE(engine.dump());
      EXPECT_EQ(execute(scenario(3, engine, longer)).tokens, same);
    }
  }
}

Json lending(const Json& more) {
  Json engine{{"behavior", "infinite-llm"}, {"max_num_batched_tokens", 256}, {"num_gpu_blocks_override", 14}};
  engine.update(more);
  return engine;
}

TEST(ExecutedInstances, ThoseThatLendSayTheSame) {
  const auto expected = plain();
  std::int64_t moved = 0;
  for (const Json& more : {Json::object(), Json{{"num_gpu_blocks_override", 8}},
                           Json{{"heartbeat_ms", 0.2}, {"num_gpu_blocks_override", 24}},
                           Json{{"tensor_parallel_size", 2}, {"num_gpu_blocks_override", 8}}}) {
    SCOPED_TRACE(more.dump());
    const Executed e = execute(scenario(3, lending(more)));
    EXPECT_EQ(e.tokens, expected);
    moved += e.served.lending.moved_blocks;
  }
  EXPECT_GT(moved, 0);
}

// Of both kinds, for sets of kernels on which all that is above would take long.
TEST(ExecutedInstances, AFewRequestsSayTheSame) {
  const Json few{{"num_prompts", 2}, {"output_len", {{"value", 3}}}, {"input_len", {{"value", 70}}}};
  const auto expected = plain(few);
  const Json elastic = loongserve({{"num_gpu_blocks_override", 60}, {"max_model_len", 96}}),
             lent = lending({{"num_gpu_blocks_override", 5}, {"max_model_len", 96}, {"watermark", 0}});
  for (const Json& engine : {elastic, lent}) EXPECT_EQ(expected, execute(scenario(2, engine, few)).tokens);
}

}  // namespace
}  // namespace foretoken
