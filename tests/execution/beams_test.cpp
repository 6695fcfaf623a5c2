// Beam search executed: a request's answer is that of a plain search that computes every sequence whole, in
// float64; it depends neither on who else is served nor on where blocks lie, how prompts are cut or who is
// preempted; and the simulator's loop, told how long steps take, decides the same schedule.
#include "executor/beams.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "served.h"
#include "tests/executor/plain_forward.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

Json scenario(const std::string& family, int width, const Json& engine = Json::object(),
              const Json& workload = Json::object()) {
  Json room{{"max_num_seqs", 24}, {"block_size", 8}, {"num_gpu_blocks_override", 700}};
  room.update(engine);
  Json asked{{"input_len", {{"distribution", "uniform"}, {"min", 5}, {"max", 60}}}};
  if (width > 0) asked["beam_width"] = width;
  asked.update(workload);
  return small_scenario(small_config(family), room, asked);
}

using Tokens = std::vector<std::int32_t>;

struct Executed {
  std::map<RequestId, Tokens> prompts, tokens;
  ServeResult served;
  Recording recording;
  ExecutedBackend::BeamSharing sharing;
};

Executed execute(const Json& json, const ExecutorOptions& options = {}) {
  Executed e;
  execute_scenario(json, options, e.recording, [&](ExecutedBackend& backend, const Simulation& result) {
    e.served = result.served;
    for (const RequestRecord& r : e.served.records) {
      e.tokens[r.id] = backend.output(r.id);
      e.prompts[r.id] = backend.prompt(r.id);
      EXPECT_EQ(static_cast<std::int64_t>(e.tokens[r.id].size()), r.output_len);
      EXPECT_EQ(static_cast<std::int64_t>(e.prompts[r.id].size()), r.input_len);
    }
    e.sharing = backend.beam_sharing();
  });
  return e;
}

// Every sequence computed whole, every continuation of each considered.
class PlainSearch {
 public:
  explicit PlainSearch(const std::string& family)
      : model_(read_hf_config(small_config(family), "test", "small")),
        numerics_(read_numerics(small_config(family), model_, 256, "test")),
        weights_(synthetic_checkpoint(model_, numerics_, kWeightSeed)) {}

  Tokens best(const Tokens& prompt, std::size_t width, std::int64_t output) const {
    std::vector<Hypothesis> kept{{prompt, 0}};
    for (std::int64_t i = 0; i < output; ++i) {
      std::vector<Hypothesis> all;
      for (const Hypothesis& h : kept) {
        const std::vector<double> logits = plain_forward(model_, numerics_, *weights_, h.tokens).back();
        double sum = 0;
        for (const double l : logits) sum += std::exp(l);
        for (std::size_t t = 0; t < logits.size(); ++t) {
          all.push_back({h.tokens, h.log_probability + logits[t] - std::log(sum)});
          all.back().tokens.push_back(static_cast<std::int32_t>(t));
        }
      }
      std::stable_sort(all.begin(), all.end(), [](const Hypothesis& a, const Hypothesis& b) {
        return a.log_probability > b.log_probability;
      });
      kept.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(width));
    }
    return {kept.front().tokens.begin() + static_cast<std::ptrdiff_t>(prompt.size()),
            kept.front().tokens.end()};
  }

 private:
  struct Hypothesis {
    Tokens tokens;
    double log_probability;
  };
  ModelConfig model_;
  Numerics numerics_;
  std::unique_ptr<Checkpoint> weights_;
};

class BeamSearch : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Families, BeamSearch, testing::Values("dense", "moe", "latent", "window"));

TEST_P(BeamSearch, FindsWhatAPlainSearchFinds) {
  const PlainSearch plain(GetParam());
  const Json few{{"num_prompts", 4},
                 {"input_len", {{"distribution", "uniform"}, {"min", 5}, {"max", 40}}},
                 {"output_len", {{"distribution", "uniform"}, {"min", 6}, {"max", 12}}}};
  const auto greedy = execute(scenario(GetParam(), 1, Json::object(), few)).tokens;
  int other = 0;
  for (const int width : {2, 3, 5}) {
    const Executed e = execute(scenario(GetParam(), width, {{"block_size", 4}}, few));
    for (const auto& [id, tokens] : e.tokens) {
      EXPECT_EQ(tokens, plain.best(e.prompts.at(id), static_cast<std::size_t>(width),
                                   static_cast<std::int64_t>(tokens.size())))
          << width << " beams, request " << id;
      other += tokens != greedy.at(id);
    }
  }
  EXPECT_GT(other, 3) << "the likeliest sequence does not begin with the likeliest tokens";
}

TEST_P(BeamSearch, OneBeamIsGreedy) {
  const Executed none = execute(scenario(GetParam(), 0)), one = execute(scenario(GetParam(), 1));
  EXPECT_EQ(none.tokens, one.tokens);
  EXPECT_EQ(none.served.metrics.num_steps, one.served.metrics.num_steps);
  EXPECT_EQ(one.sharing.unshared, 0);
}

TEST_P(BeamSearch, BatchingChunkingAndBlocksDoNotChangeTokens) {
  const auto tokens = execute(scenario(GetParam(), 4)).tokens;
  EXPECT_EQ(tokens, execute(scenario(GetParam(), 4, {{"max_num_seqs", 4}})).tokens) << "one after the other";
  EXPECT_EQ(tokens, execute(scenario(GetParam(), 4, {{"max_num_batched_tokens", 29}})).tokens);
  EXPECT_EQ(tokens, execute(scenario(GetParam(), 4,
                                     {{"max_num_batched_tokens", 256}, {"enable_chunked_prefill", false}}))
                        .tokens);
  for (const int block : {1, 5, 64})
    EXPECT_EQ(tokens, execute(scenario(GetParam(), 4,
                                       {{"block_size", block}, {"num_gpu_blocks_override", 6000 / block}}))
                          .tokens)
        << block;
  EXPECT_EQ(tokens,
            execute(scenario(GetParam(), 4, {{"behavior", "vllm-0.19"}, {"enforce_eager", true}})).tokens);
}

TEST_P(BeamSearch, PreemptedRequestsGoOnAsIfNothingHadHappened) {
  const Json many{{"num_prompts", 16}, {"output_len", {{"value", 40}}}};
  const Executed roomy = execute(scenario(GetParam(), 3, Json::object(), many));
  EXPECT_EQ(roomy.served.metrics.preemptions, 0);
  for (const bool caching : {false, true}) {
    const Json tight{{"num_gpu_blocks_override", 60}, {"enable_prefix_caching", caching}};
    const Executed preempted = execute(scenario(GetParam(), 3, tight, many));
    EXPECT_GT(preempted.served.metrics.preemptions, 0);
    EXPECT_GT(preempted.served.discarded_tokens, 0);
    EXPECT_EQ(roomy.tokens, preempted.tokens);
    Json small = tight;
    small["max_num_batched_tokens"] = 25;
    EXPECT_EQ(roomy.tokens, execute(scenario(GetParam(), 3, small, many)).tokens) << "and in small pieces";
  }
}

TEST_P(BeamSearch, AHitInThePrefixCacheIsAColdPrompt) {
  const Json shared{{"shared_prefix", {{"groups", 2}, {"users_per_group", 4}, {"prefix_len", 44}}},
                    {"input_len", {{"value", 48}}}};  // whole blocks, and less than all of the prompt
  const Executed hit = execute(scenario(GetParam(), 3, {{"enable_prefix_caching", true}}, shared)),
                 cold = execute(scenario(GetParam(), 3, {{"enable_prefix_caching", false}}, shared));
  EXPECT_GT(hit.served.reused_tokens, 0);
  EXPECT_EQ(hit.tokens, cold.tokens);
  // A conversation repeats the best beam.
  const Json turns = one_conversation();
  const Executed again = execute(scenario(GetParam(), 3, {{"enable_prefix_caching", true}}, turns));
  EXPECT_GT(again.served.reused_tokens, 0);
  EXPECT_EQ(again.tokens, execute(scenario(GetParam(), 3, {{"enable_prefix_caching", false}}, turns)).tokens);
}

TEST_P(BeamSearch, ThreadsAndRanksAgree) {
  const auto tokens = execute(scenario(GetParam(), 3)).tokens;
  ExecutorOptions threads;
  threads.threads = 2;
  EXPECT_EQ(tokens, execute(scenario(GetParam(), 3), threads).tokens);
  Json two = scenario(GetParam(), 3, {{"data_parallel_size", 2}});
  two["hardware"].update(Json{{"count", 2}, {"devices_per_node", 2}, {"scaleup_bandwidth", "10 GB/s"}});
  EXPECT_EQ(tokens, execute(two).tokens) << "two engines";
  if (std::string(GetParam()) == "moe") {
    two["engine"]["enable_expert_parallel"] = true;
    EXPECT_EQ(tokens, execute(two).tokens) << "two ranks that share experts";
  }
  two["engine"] = scenario(GetParam(), 3, {{"tensor_parallel_size", 2}})["engine"];
  std::size_t same = 0;  // sums over two ranks differ in their last bits
  for (const auto& [id, t] : execute(two).tokens) same += t == tokens.at(id);
  EXPECT_GE(same, tokens.size() - 1);
}

TEST_P(BeamSearch, TheExecutedScheduleIsTheSimulatedOne) {
  const Json json = scenario(GetParam(), 3, {{"num_gpu_blocks_override", 60}},
                             {{"num_prompts", 16}, {"output_len", {{"value", 40}}}});
  const Executed e = execute(json);
  EXPECT_GT(e.served.metrics.preemptions, 0);
  expect_the_same_schedule(e.served, e.recording, json);
}

// Sharing prompts alone is what the scheduler counts on; beams have more in common than that.
TEST_P(BeamSearch, BeamsShareMoreThanTheirPrompts) {
  const Json longer{{"input_len", {{"value", 30}}}, {"output_len", {{"value", 60}}}};
  double before = 0;
  for (const int width : {2, 4, 6}) {
    const Executed e = execute(scenario(GetParam(), width, {{"block_size", 4}}, longer));
    EXPECT_GT(e.sharing.share(), e.served.shared_block_share()) << width;
    EXPECT_LT(e.sharing.share(), 1 - 1.0 / width);
    EXPECT_GT(e.sharing.share(), before) << "the more beams, the more they share";
    before = e.sharing.share();
  }
}

TEST(Adapters, BeamsHaveThatOfTheirRequest) {
  const Json lora{{"lora", {{"max_loras", 2}, {"max_lora_rank", 8}, {"num_adapters", 4}}}};
  Json alone = lora;
  alone["max_num_seqs"] = 3;
  const auto tokens = execute(scenario("dense", 3, lora)).tokens;
  EXPECT_EQ(tokens, execute(scenario("dense", 3, alone)).tokens);
  EXPECT_NE(tokens, execute(scenario("dense", 3)).tokens);
}

// Blocks of 2 tokens, a prompt of 3 (blocks 10 and 11), two beams: groups {11, 12}, {13, 14}.
TEST(Beams, PermuteTheirBlocksAndCopyOnlyTheLast) {
  Beams beams(2, 2, 3);
  EXPECT_THAT(beams.log_probabilities(), ElementsAre(0));
  std::vector<BlockCopy> copies;
  const auto blocks = [&](int beam) {
    return Tokens(beams.blocks(beam), beams.blocks(beam) + beams.columns());
  };
  const auto take = [&](std::vector<Continuation> best) { beams.take(best); };
  Tokens held{10, 11, 12};

  take({{0, 7, -1}, {0, 8, -2}});  // both go on from the prompt: the second in a copy of its last block
  beams.prepare(held, 3, 1, copies);
  ASSERT_EQ(copies.size(), 1u);
  EXPECT_EQ(copies[0].from, 11);
  EXPECT_EQ(copies[0].to, 12);
  EXPECT_EQ(blocks(0), (Tokens{10, 11}));
  EXPECT_EQ(blocks(1), (Tokens{10, 12}));
  EXPECT_THAT(beams.tokens(1), ElementsAre(8));
  EXPECT_EQ(beams.distinct_blocks(), 3);

  copies.clear();
  take({{1, 5, -3}, {1, 6, -4}});  // both from the second, whose block is full: it is shared, not copied
  held.insert(held.end(), {13, 14});
  beams.prepare(held, 4, 1, copies);
  EXPECT_THAT(copies, IsEmpty());
  EXPECT_EQ(blocks(0), (Tokens{10, 12, 13}));
  EXPECT_EQ(blocks(1), (Tokens{10, 12, 14}));
  EXPECT_EQ(beams.distinct_blocks(), 4);

  take({{1, 3, -5}, {0, 4, -6}});  // they change places: tables do, too
  beams.prepare(held, 5, 1, copies);
  EXPECT_THAT(copies, IsEmpty());
  EXPECT_EQ(blocks(0), (Tokens{10, 12, 14}));
  EXPECT_EQ(blocks(1), (Tokens{10, 12, 13}));
  Tokens best;
  beams.best(best);
  EXPECT_THAT(best, ElementsAre(8, 6, 3));

  // Computed again after preemption, in other blocks, all three tokens at once: nothing is shared but the
  // prompt.
  const Tokens other{20, 21, 22, 23, 24};
  beams.prepare(other, 3, 3, copies);
  ASSERT_EQ(copies.size(), 1u);
  EXPECT_EQ(blocks(1), (Tokens{20, 22, 24}));
  EXPECT_THAT(beams.tokens(0), ElementsAre(8, 6, 3));
  EXPECT_THAT(beams.tokens(1), ElementsAre(8, 5, 4));
  EXPECT_ANY_THROW(beams.prepare(other, 4, 3, copies)) << "a token that was not produced";
  EXPECT_ANY_THROW(beams.prepare(std::span(other).first(4), 3, 3, copies)) << "too few blocks";
}

}  // namespace
}  // namespace foretoken
