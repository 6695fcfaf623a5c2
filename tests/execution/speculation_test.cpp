// Speculative decoding executed: whoever drafts, a request's tokens are those of plain decoding, through
// batches, paging, preemption and the prefix cache; a perfect draft is accepted whole; and the simulator's
// loop, told durations and accepted counts, decides the same schedule.
#include <gmock/gmock.h>

#include <map>
#include <set>

#include "executor/drafter.h"
#include "expect_error.h"
#include "served.h"

namespace foretoken {
namespace {

using test::error_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

Json scenario(const std::string& family, const Json& engine = Json::object(),
              Json workload = Json::object()) {
  if (!workload.contains("output_len"))
    workload["output_len"] = Json{{"distribution", "uniform"}, {"min", 3}, {"max", 40}};
  Json room{{"max_num_batched_tokens", 96}};
  room.update(engine);
  return small_scenario(small_config(family), room, workload);
}

// The target itself, with rounded weights if so: a draft that is right, or often right.
Json itself(const std::string& family, int tokens, const char* quantization = nullptr) {
  Json s{{"model", {{"config", small_config(family)}}}, {"num_speculative_tokens", tokens}};
  if (quantization) s["quantization"] = quantization;
  return s;
}
// Another model, which is hardly ever right.
Json another(int tokens) {
  return {{"model", {{"config", small_config("dense", 64, 1)}}}, {"num_speculative_tokens", tokens}};
}
Json tree(Json speculative, const std::vector<int>& widths) {
  speculative.erase("num_speculative_tokens");
  speculative["tree_widths"] = widths;
  return speculative;
}

struct Executed {
  std::map<RequestId, std::vector<std::int32_t>> tokens;
  ServeResult served;
  Recording recording;
  SpeculationCounts counts;
  std::int64_t drafting_passes = 0;
};

Executed execute(Json json, const Json& speculative = nullptr, const ExecutorOptions& options = {}) {
  if (!speculative.is_null()) json["engine"]["speculative_config"] = speculative;
  Executed e;
  execute_scenario(json, options, e.recording, [&](ExecutedBackend& backend, const Simulation& result) {
    e.served = result.served;
    for (const RequestRecord& r : e.served.records) e.tokens[r.id] = backend.output(r.id);
    for (const StepRun& step : backend.steps())
      e.drafting_passes += static_cast<std::int64_t>(step.drafting.size());
  });
  e.counts = e.served.metrics.speculation;
  return e;
}

class Drafting : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Families, Drafting, testing::Values("dense", "moe", "latent", "window"));

TEST_P(Drafting, TokensAreThoseOfPlainDecodingBitForBit) {
  const auto plain = execute(scenario(GetParam())).tokens;
  for (const int k : {1, 3, 7}) {
    EXPECT_EQ(plain, execute(scenario(GetParam()), another(k)).tokens) << k;
    EXPECT_EQ(plain, execute(scenario(GetParam()), itself(GetParam(), k)).tokens) << k;
  }
  const Executed rounded = execute(scenario(GetParam()), itself(GetParam(), 4, "int4_wo"));
  EXPECT_EQ(plain, rounded.tokens);
  EXPECT_GT(rounded.counts.acceptance_rate(), 0.05);
  EXPECT_LT(rounded.counts.acceptance_rate(), 0.95) << "some drafts are rejected, some are not";
}

TEST_P(Drafting, TreesOfDraftsGiveTheSameTokens) {
  const auto plain = execute(scenario(GetParam())).tokens;
  const Json chain = itself(GetParam(), 3, "int4_wo");
  const Executed narrow = execute(scenario(GetParam()), chain),
                 wide = execute(scenario(GetParam()), tree(chain, {4, 3, 2}));
  EXPECT_EQ(plain, wide.tokens);
  EXPECT_EQ(plain, execute(scenario(GetParam()), tree(another(1), {8, 2})).tokens);
  EXPECT_EQ(plain,
            execute(scenario(GetParam(), {{"max_num_batched_tokens", 37}}), tree(chain, {2, 2, 2})).tokens)
      << "cut by the token budget";
  EXPECT_GT(wide.counts.tokens_per_step(), narrow.counts.tokens_per_step())
      << "the second guess is right at times";
}

TEST_P(Drafting, ADraftEqualToTheTargetIsAcceptedWhole) {
  for (const Json& speculative : {itself(GetParam(), 3), tree(itself(GetParam(), 1), {2, 1, 1})}) {
    const Executed e = execute(scenario(GetParam()), speculative);
    EXPECT_EQ(e.counts.tokens_per_step(), 4) << "three and the target's own";
    EXPECT_THAT(e.counts.rates(), ElementsAre(1, 1, 1));
  }
}

// Tight pools, so that sequences are retracted and paused with drafts that they lose.
TEST_P(Drafting, WhoeverSchedulesTokensAreThoseOfPlainDecoding) {
  const auto plain = execute(scenario(GetParam())).tokens;
  const Json sglang{{"behavior", "sglang-0.5"}},
      pages{{"behavior", "sglang-0.5"}, {"page_size", 16}, {"block_size", 16}},
      trtllm{{"behavior", "trtllm-1.2"}, {"enable_chunked_context", true}, {"max_num_tokens", 96}};
  const auto with = [](Json engine, const Json& more) {
    engine.update(more);
    return engine;
  };
  const Json engines[] = {
      with(sglang, {{"block_size", 1}, {"num_gpu_blocks_override", 3000}}),
      with(sglang, {{"block_size", 1}, {"num_gpu_blocks_override", 280}, {"disable_radix_cache", true}}),
      with(pages, {{"num_gpu_blocks_override", 200}}),
      with(pages, {{"num_gpu_blocks_override", 20}, {"schedule_conservativeness", 0.1}}),
      with(trtllm, {{"num_gpu_blocks_override", 200}}),
      with(trtllm, {{"num_gpu_blocks_override", 20}, {"capacity_scheduler_policy", "max_utilization"}})};
  std::int64_t preemptions = 0;
  for (const Json& engine : engines) {
    SCOPED_TRACE(engine.dump());
    for (const Json& speculative : {another(3), itself(GetParam(), 3), itself(GetParam(), 4, "int4_wo"),
                                    tree(itself(GetParam(), 1, "int4_wo"), {2, 2})}) {
      const Executed e = execute(scenario(GetParam(), engine), speculative);
      EXPECT_EQ(plain, e.tokens);
      preemptions += e.served.metrics.preemptions;
    }
    EXPECT_EQ(execute(scenario(GetParam(), engine), itself(GetParam(), 3)).counts.tokens_per_step(), 4);
  }
  EXPECT_GT(preemptions, 0);
}

TEST_P(Drafting, PagingPreemptionAndThePrefixCacheChangeNothing) {
  const Json drafts = itself(GetParam(), 3, "int4_wo"), branches = tree(drafts, {3, 2});
  const Json many{{"num_prompts", 16}, {"output_len", {{"value", 60}}}};
  const auto plain = execute(scenario(GetParam(), Json::object(), many)).tokens;
  for (const Json& speculative : {drafts, branches}) {
    const Executed tight =
        execute(scenario(GetParam(), {{"num_gpu_blocks_override", 22}}, many), speculative);
    EXPECT_GT(tight.served.metrics.preemptions, 0);
    EXPECT_EQ(plain, tight.tokens);
    EXPECT_EQ(plain,
              execute(scenario(GetParam(), {{"block_size", 256}, {"num_gpu_blocks_override", 20}}, many),
                      speculative)
                  .tokens);
  }
  const Json shared{{"shared_prefix", {{"groups", 2}, {"users_per_group", 4}, {"prefix_len", 48}}},
                    {"input_len", {{"value", 70}}}};
  const auto cold = execute(scenario(GetParam(), {{"enable_prefix_caching", false}}, shared)).tokens;
  const Executed hit = execute(scenario(GetParam(), {{"enable_prefix_caching", true}}, shared), drafts);
  EXPECT_GT(hit.served.reused_tokens, 0);
  EXPECT_EQ(cold, hit.tokens);
  const Executed whole =
      execute(scenario(GetParam(), {{"enable_prefix_caching", true}}, shared), itself(GetParam(), 3));
  EXPECT_EQ(whole.counts.tokens_per_step(), 4) << "the draft model's cache is hit with the target's";
}

TEST_P(Drafting, SampledTokensAreThoseOfPlainSampling) {
  const Json drawn =
      scenario(GetParam(), Json::object(), {{"temperature", 0.8}, {"top_k", 20}, {"top_p", 0.95}});
  const auto plain = execute(drawn).tokens;
  EXPECT_NE(plain, execute(scenario(GetParam())).tokens);
  EXPECT_EQ(plain, execute(drawn, itself(GetParam(), 4)).tokens);
  EXPECT_EQ(plain, execute(drawn, tree(itself(GetParam(), 4), {3, 2, 1})).tokens);
  Json one = drawn;
  one["workload"]["top_k"] = 1;
  EXPECT_EQ(execute(one).tokens, execute(scenario(GetParam())).tokens) << "one token to draw from: greedy";
  one["engine"]["max_num_seqs"] = 1;
  one["workload"]["top_k"] = 20;
  EXPECT_EQ(plain, execute(one).tokens) << "draws don't depend on the batch";
}

TEST_P(Drafting, TheExecutedScheduleIsTheSimulatedOne) {
  Json json = scenario(GetParam(), {{"num_gpu_blocks_override", 34}});
  json["engine"]["speculative_config"] = itself(GetParam(), 3, "int4_wo");
  const Executed e = execute(json);
  expect_the_same_schedule(e.served, e.recording, json);
}

TEST(Speculation, StepsAreFewerAndPassesAreThoseOfTheModel) {
  const Executed plain = execute(scenario("dense", {{"max_num_seqs", 1}})),
                 drafting = execute(scenario("dense", {{"max_num_seqs", 1}}), itself("dense", 3));
  EXPECT_LT(drafting.served.metrics.num_steps * 2, plain.served.metrics.num_steps);
  // Each step that samples runs three passes, each other one the draft's part of its prompt.
  EXPECT_GT(drafting.drafting_passes, drafting.served.metrics.num_steps * 2);
  EXPECT_LE(drafting.drafting_passes, drafting.served.metrics.num_steps * 3);
}

// What a prompt says twice is looked up, and tokens stay what they are.
TEST(Speculation, LooksUpNgrams) {
  const Json ngram{
      {"method", "ngram"}, {"num_speculative_tokens", 4}, {"prompt_lookup_min", 1}, {"prompt_lookup_max", 3}};
  const Json longer{{"output_len", {{"value", 120}}}};
  const Executed plain = execute(scenario("dense", Json::object(), longer)),
                 looked = execute(scenario("dense", Json::object(), longer), ngram);
  EXPECT_EQ(plain.tokens, looked.tokens);
  EXPECT_GT(looked.counts.drafted, 0);
  EXPECT_GT(looked.counts.accepted, 0);
  EXPECT_LT(looked.counts.verifications, looked.served.metrics.total_output_tokens) << "not always";
  const Json v0{{"behavior", "vllm-0.7"},
                {"enforce_eager", true},
                {"max_num_batched_tokens", 256},
                {"num_gpu_blocks_override", 40}};
  Json few = ngram;
  few["disable_by_batch_size"] = 4;
  const Executed tight = execute(scenario("dense", v0, longer), few);
  EXPECT_EQ(plain.tokens, tight.tokens);
  EXPECT_GT(tight.counts.accepted, 0);
}

// vLLM V0's draft model guesses in the step that verifies; with many requests it is left out.
TEST(Speculation, ADraftModelUnderVllmV0) {
  const Json longer{{"output_len", {{"value", 60}}}},
      whole{{"behavior", "vllm-0.7"}, {"enforce_eager", true}, {"max_num_batched_tokens", 256}};
  Json chunks = whole, tight = whole;
  chunks.update({{"max_num_batched_tokens", 96}, {"enable_chunked_prefill", true}});
  tight["num_gpu_blocks_override"] = 30;
  for (const char* family : {"dense", "latent"}) {
    const auto plain = execute(scenario(family, Json::object(), longer)).tokens;
    for (const Json& engine : {whole, chunks, tight}) {
      SCOPED_TRACE(family + engine.dump());
      Json json = scenario(family, engine, longer);
      const Executed same = execute(json, itself(family, 3));
      EXPECT_EQ(plain, same.tokens);
      EXPECT_EQ(same.counts.tokens_per_step(), 4) << "three and the target's own";
      EXPECT_EQ(same.served.metrics.preemptions > 0, engine == tight);
      json["engine"]["speculative_config"] = itself(family, 3, "int4_wo");
      json["engine"]["speculative_config"]["disable_by_batch_size"] = 7;
      const Executed rounded = execute(json);
      EXPECT_EQ(plain, rounded.tokens);
      EXPECT_GT(rounded.counts.accepted, 0);
      expect_the_same_schedule(rounded.served, rounded.recording, json);
    }
  }
}

TEST(Speculation, RanksAndThreadsAgree) {
  Json two = scenario("dense", {{"tensor_parallel_size", 2}});
  two["hardware"].update(Json{{"count", 2}, {"devices_per_node", 2}, {"scaleup_bandwidth", "10 GB/s"}});
  ExecutorOptions threads;
  threads.threads = 3;
  for (const Json& speculative : {itself("dense", 3), tree(itself("dense", 1), {3, 2})}) {
    EXPECT_EQ(execute(two).tokens, execute(two, speculative).tokens);
    EXPECT_EQ(execute(scenario("dense"), speculative).tokens,
              execute(scenario("dense"), speculative, threads).tokens);
  }
  ExecutorOptions reference;
  reference.isa = "float64";
  EXPECT_EQ(execute(scenario("latent"), nullptr, reference).tokens,
            execute(scenario("latent"), tree(itself("latent", 1), {2, 2}), reference).tokens);
}

// Each engine's sequences are drafted for from a cache of the draft model of its own.
TEST(Speculation, SeveralEnginesDraftForTheirOwn) {
  Json two = scenario("dense");
  two["hardware"].update(Json{{"count", 2}, {"devices_per_node", 2}, {"scaleup_bandwidth", "10 GB/s"}});
  two["cluster"]["replicas"] = 2;
  const auto plain = execute(scenario("dense")).tokens;
  for (const Json& speculative : {itself("dense", 3), tree(itself("dense", 1), {2, 1, 1})}) {
    const Executed e = execute(two, speculative);
    EXPECT_EQ(plain, e.tokens);
    EXPECT_EQ(e.counts.tokens_per_step(), 4) << "the target's own drafts are right, whichever engine it is";
    std::set<std::int32_t> engines;
    for (const auto& step : e.recording.steps) engines.insert(step.engine);
    EXPECT_EQ(engines.size(), 2u);
  }
  EXPECT_EQ(plain, execute(two, itself("dense", 3, "int4_wo")).tokens);
}

TEST(Speculation, IsRefusedByNameWhereItIsNotExecuted) {
  Json two = scenario("moe");
  two["hardware"].update(Json{{"count", 2}, {"devices_per_node", 2}, {"scaleup_bandwidth", "10 GB/s"}});
  Json sharing = two;
  sharing["engine"].update(Json{{"data_parallel_size", 2}, {"enable_expert_parallel", true}});
  EXPECT_THAT(error_of([&] { execute(sharing, itself("moe", 2)); }), HasSubstr("data-parallel ranks"));
  EXPECT_THAT(error_of([&] {
                Json ngram{{"method", "ngram"}, {"num_speculative_tokens", 2}};
                execute(sharing, ngram);
              }),
              HasSubstr("data-parallel ranks"));
  Json along = two;
  along["engine"].update(Json{{"tensor_parallel_size", 2}, {"enable_sequence_parallelism", true}});
  EXPECT_THAT(error_of([&] { execute(along, itself("moe", 2)); }), HasSubstr("sequence parallelism"));
  Json ranks = two;
  ranks["engine"]["tensor_parallel_size"] = 2;
  SilentJob job;
  ExecutorOptions processes;
  processes.processes = &job;
  EXPECT_THAT(error_of([&] { execute(ranks, itself("moe", 2), processes); }),
              AllOf(HasSubstr("speculative_config"), HasSubstr("mpirun")));
}

TEST(DraftTree, NumbersLevelByLevel) {
  const std::vector<int> widths{2, 3};
  const DraftTree t{widths};
  EXPECT_EQ(t.nodes(), 9);
  EXPECT_FALSE(t.is_chain());
  EXPECT_EQ(t.first_child(0), 1);
  EXPECT_EQ(t.first_child(1), 3);
  EXPECT_EQ(t.first_child(2), 6);
  EXPECT_EQ(t.first_child(5), 9);
  EXPECT_THAT(t.parents(), testing::ElementsAre(-1, 0, 0, 1, 1, 1, 2, 2, 2));
  EXPECT_TRUE(DraftTree(std::vector<int>{1, 1, 1}).parents().empty());
}

}  // namespace
}  // namespace foretoken
