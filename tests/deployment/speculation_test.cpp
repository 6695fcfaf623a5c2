// Speculative decoding resolved: what it takes of memory, what the draft model runs, what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json_full.h"
#include "models.h"

namespace foretoken {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Scenario speculating(const char* speculative, int tp = 4) {
  Scenario s = scenario_from_json(
      Json::parse(R"({"model": "llama-3.1-70b", "hardware": {"device": "h100"}})"), "test.json");
  s.engine.tensor_parallel_size = tp;
  Json section = Json::parse(speculative);
  if (!section.contains("model") && !section.contains("method")) section["model"] = "llama-3.2-1b";
  return scenario_from_json(
      [&] {
        Json j = scenario_to_json(s);
        j["engine"]["speculative_config"] = section;
        return j;
      }(),
      "test.json");
}

std::variant<Deployment, Infeasible> resolved(const Scenario& s) {
  Resources r;
  r.preset_folder = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model/presets";
  r.scenario_file = "test.json";
  return resolve_on(s, r, load_scenario_model(s, r), h100(), nvlink_node(), 1000, 8192);
}
Deployment deployed(const Scenario& s) {
  auto verdict = resolved(s);
  if (const auto* no = std::get_if<Infeasible>(&verdict)) throw std::runtime_error(no->reason);
  return std::get<Deployment>(std::move(verdict));
}

TEST(Speculation, TheDraftModelSharesTheMemory) {
  Scenario plain = speculating(R"({"num_speculative_tokens": 3})");
  const Deployment with = deployed(plain);
  plain.engine.speculative_config.reset();
  const Deployment without = deployed(plain);
  const MemoryPlan &a = with.memory, &b = without.memory;
  // Llama-3.2-1B: 1,235,814,400 weights, its head tied to its embedding, on 4 ranks that hold the norms each;
  // 16 layers x 2 x 8 heads x 64 x 2 B = 32,768 B of cache a token.
  EXPECT_NEAR(a.draft_weights_bytes, 1235814400.0 * 2 / 4, 1e6);
  EXPECT_DOUBLE_EQ(a.weights_bytes, b.weights_bytes + a.draft_weights_bytes);
  EXPECT_DOUBLE_EQ(a.draft_block_bytes, 32768.0 * 16 / 4);
  EXPECT_DOUBLE_EQ(a.block_bytes, b.block_bytes + a.draft_block_bytes);
  EXPECT_LT(a.num_gpu_blocks, b.num_gpu_blocks);
  EXPECT_EQ(b.draft_weights_bytes, 0);
  EXPECT_EQ(with.scheduler.draft_tokens, 3);
  EXPECT_EQ(with.scheduler.lookahead, 3);
  EXPECT_EQ(without.scheduler.draft_tokens, 0);
  EXPECT_EQ(with.speculation->draft->mapping.tensor_parallel, 4);
  const Deployment ngram = deployed(speculating(R"({"method": "ngram", "num_speculative_tokens": 3})"));
  EXPECT_EQ(ngram.memory.weights_bytes, b.weights_bytes);
  EXPECT_EQ(ngram.scheduler.lookahead, 0);
  EXPECT_EQ(ngram.speculation->draft, nullptr);
}

TEST(Speculation, ATreeDraftsAllItsTokens) {
  const Deployment d = deployed(speculating(R"({"tree_widths": [3, 2, 1], "acceptance_rate": [0.8, 0.5]})"));
  const Speculation& s = *d.speculation;
  EXPECT_EQ(s.tokens(), 3 + 6 + 6);
  EXPECT_EQ(d.scheduler.draft_tokens, 15);
  EXPECT_EQ(*d.scenario.engine.speculative_config->num_speculative_tokens, 15);
  EXPECT_EQ(s.whole_levels(15), 3);
  EXPECT_EQ(s.whole_levels(14), 2);
  EXPECT_EQ(s.whole_levels(8), 1);
  EXPECT_EQ(s.whole_levels(2), 0);
  EXPECT_DOUBLE_EQ(expected_tokens(s), 1 + 0.8 + 0.8 * 0.5 + 0.8 * 0.5 * 0.5);
}

TEST(Speculation, AStepVerifiesAllRowsAndTheDraftModelFollows) {
  const Deployment d = deployed(speculating(R"({"num_speculative_tokens": 4})"));
  const PrefillPart prompt{7, 7, 100, 0, true}, part{8, 8, 50, 200, false};
  const PrefillPart parts[] = {prompt, part};
  Batch b;
  b.prefill = parts;
  b.decode_sequences = 10;
  b.drafted = 40;
  b.contexts[0] = 10'000;
  b.sampled_rows = 51;
  const Work w = work(b, d, 0);
  EXPECT_EQ(w.decode_queries, 5);
  EXPECT_EQ(w.tokens(), 150 + 50);
  EXPECT_EQ(w.sampled_rows, 51);
  std::vector<DraftPass> passes;
  draft_passes(b, d, passes);
  ASSERT_EQ(passes.size(), 2u);
  // vLLM's drafter takes all of the target's rows and one more a sequence, then one a sequence three times.
  EXPECT_EQ(passes[0].batch.tokens(), 200 + 11);
  EXPECT_EQ(passes[0].batch.sampled_rows, 11);
  EXPECT_EQ(passes[1].times, 3);
  EXPECT_EQ(passes[1].batch.tokens(), 11);
  EXPECT_EQ(passes[1].batch.contexts[0], 10'000 + 101 + 2 * 11);
  const Deployment tree = deployed(speculating(R"({"tree_widths": [4, 2, 1, 1]})"));
  draft_passes(b, tree, passes);
  ASSERT_EQ(passes.size(), 3u);
  EXPECT_EQ(passes[1].batch.tokens(), 11 * 4);
  EXPECT_EQ(passes[2].batch.tokens(), 11 * 8);
  EXPECT_EQ(passes[2].times, 2);
}

TEST(Speculation, IsRefusedByName) {
  const auto refused = [](const char* speculative, int tp = 4) {
    return error_of([&] { resolved(speculating(speculative, tp)); });
  };
  EXPECT_THAT(refused(R"({"method": "eagle3", "num_speculative_tokens": 3})"),
              AllOf(HasSubstr("speculative_config/method"), HasSubstr("eagle3"), HasSubstr("draft_model")));
  EXPECT_THAT(refused(R"({})"), HasSubstr("num_speculative_tokens"));
  EXPECT_THAT(refused(R"({"model": "qwen3-0.6b", "num_speculative_tokens": 3})"), HasSubstr("vocabulary"));
  EXPECT_THAT(refused(R"({"num_speculative_tokens": 3, "draft_tensor_parallel_size": 1})"),
              HasSubstr("draft_tensor_parallel_size"));
  EXPECT_THAT(refused(R"({"num_speculative_tokens": 3, "acceptance_rate": [0.5, 0.4, 0.3, 0.2]})"),
              HasSubstr("acceptance_rate"));
  EXPECT_THAT(refused(R"({"num_speculative_tokens": 3, "acceptance_rate": [1.5]})"),
              HasSubstr("acceptance_rate"));
  EXPECT_THAT(refused(R"({"num_speculative_tokens": 3, "tree_widths": [2, 2]})"), HasSubstr("contradicts"));
  EXPECT_THAT(refused(R"({"tree_widths": [64, 64]})"), HasSubstr("lower its widths"));
  EXPECT_THAT(refused(R"({"num_speculative_tokens": 3, "prompt_lookup_max": 2})"), HasSubstr("ngram"));
  EXPECT_THAT(refused(R"({"num_speculative_tokens": 3, "proposal_rate": 0.5})"), HasSubstr("ngram"));
  EXPECT_THAT(refused(R"({"method": "draft_model", "num_speculative_tokens": 3})"), HasSubstr("draft model"));
  EXPECT_THAT(refused(R"({"method": "ngram", "num_speculative_tokens": 3, "tree_widths": [2]})"),
              HasSubstr("chain"));
  EXPECT_THAT(refused(R"({"num_speculative_tokens": 3, "medusa": 1})"), HasSubstr("medusa"));
  Scenario other = speculating(R"({"num_speculative_tokens": 3})");
  other.engine.behavior = "sglang-0.5";
  other.engine.enable_mixed_chunk = true;
  EXPECT_THAT(error_of([&] { resolved(other); }), HasSubstr("enable_mixed_chunk"));
  other.engine.enable_mixed_chunk.reset();
  other.engine.async_scheduling = true;
  EXPECT_THAT(error_of([&] { resolved(other); }), HasSubstr("overlap"));
  other.engine.async_scheduling.reset();
  EXPECT_THAT(serve_command(deployed(other)),
              HasSubstr("3 drafted tokens a step from meta-llama/Llama-3.2-1B"));
  other.engine.behavior = "vllm";
  other.engine.pipeline_parallel_size = 2;
  EXPECT_THAT(error_of([&] { resolved(other); }), HasSubstr("pipeline_parallel_size"));
  const auto beside = [](const Json& engine, const char* speculative = R"({"num_speculative_tokens": 3})") {
    Json j = scenario_to_json(speculating(speculative));
    j["engine"].update(engine);
    j["hardware"]["host_link_bandwidth"] = "64 GB/s";
    return error_of([&] { resolved(scenario_from_json(j, "test.json")); });
  };
  EXPECT_THAT(beside({{"preemption_mode", "swap"}}),
              AllOf(HasSubstr("preemption_mode"), HasSubstr("draft model's cache")));
  EXPECT_THAT(beside({{"kv_layout", "contiguous"}}), AllOf(HasSubstr("kv_layout"), HasSubstr("paged")));
  EXPECT_THAT(beside({{"layer_streaming", {{"layers", 8}}}}),
              AllOf(HasSubstr("layer_streaming"), HasSubstr("draft model")));
  EXPECT_THAT(
      beside({{"layer_streaming", {{"layers", 8}}}}, R"({"method": "ngram", "num_speculative_tokens": 3})"),
      testing::Not(HasSubstr("layer_streaming: is not modelled")))
      << "nothing is drafted on the device";
  Json split = scenario_to_json(speculating(R"({"num_speculative_tokens": 3})"));
  split["cluster"]["prefill"] = Json{{"replicas", 1}};
  split["cluster"]["decode"] = Json{{"replicas", 1}};
  EXPECT_THAT(error_of([&] { resolved(scenario_from_json(split, "test.json")); }),
              AllOf(HasSubstr("speculative_config"), HasSubstr("prefill and decode")));
  EXPECT_THAT(error_of([&] {
                require_acceptance(*deployed(speculating(R"({"num_speculative_tokens": 3})")).speculation);
              }),
              HasSubstr("test.json:/engine/speculative_config/acceptance_rate"));
  // Both ways to say ngram are one.
  for (const char* ngram : {R"({"method": "ngram", "num_speculative_tokens": 3})",
                            R"({"model": "ngram", "num_speculative_tokens": 3})"}) {
    Scenario s = speculating(ngram);
    EXPECT_FALSE(*deployed(s).scenario.engine.async_scheduling) << ngram;
    s.engine.async_scheduling = true;
    EXPECT_THAT(error_of([&] { resolved(s); }), HasSubstr("async_scheduling")) << ngram;
  }
}

TEST(Speculation, IsReadFromAVllmCommandAndWrittenToOne) {
  const std::string patch = patch_from_vllm_command(
      R"(vllm serve meta-llama/Llama-3.1-70B --speculative-config '{"model": "llama-3.2-1b", "num_speculative_tokens": 5}')");
  const Json engine = Json::parse(patch)["engine"];
  EXPECT_EQ(engine["speculative_config"]["num_speculative_tokens"], 5);
  const Deployment d = deployed(speculating(engine["speculative_config"].dump().c_str()));
  EXPECT_EQ(d.speculation->tokens(), 5);
  EXPECT_EQ(*d.scenario.engine.speculative_config->method, "draft_model");
  const std::string command = vllm_command(d);
  EXPECT_THAT(command, AllOf(HasSubstr("--speculative-config"), HasSubstr(R"("method":"draft_model")"),
                             HasSubstr(R"("num_speculative_tokens":5)"), HasSubstr("Llama-3.2-1B")));
  const Deployment again = deployed(speculating(
      Json::parse(patch_from_vllm_command(command))["engine"]["speculative_config"].dump().c_str()));
  EXPECT_EQ(again.speculation->tokens(), 5);
  // Resolved scenarios resolve to themselves.
  const Json resolved_json = scenario_to_json(d.scenario);
  EXPECT_EQ(scenario_to_json(deployed(scenario_from_json(resolved_json, "again.json")).scenario),
            resolved_json);
}

// The draft model computes a prompt beside the target, and a row of each sequence for each token that it
// drafts; nothing while speculation is off.
TEST(Speculation, DraftPassesOfVllmV0) {
  Scenario s = speculating(R"({"num_speculative_tokens": 3})");
  s.engine.behavior = "vllm-0.7";
  const Deployment d = deployed(s);
  std::vector<DraftPass> passes;
  Batch prompts;
  const PrefillPart part{0, 0, 100, 0, true};
  prompts.prefill = std::span(&part, 1);
  prompts.sampled_rows = 1;
  draft_passes(prompts, d, passes);
  ASSERT_EQ(passes.size(), 1u);
  EXPECT_EQ(passes[0].times, 1);
  EXPECT_EQ(passes[0].batch.tokens(), 100);
  Batch decodes;  // two of three sequences draft
  decodes.decode_sequences = 3;
  decodes.drafted = 6;
  decodes.contexts[0] = 600;
  draft_passes(decodes, d, passes);
  ASSERT_EQ(passes.size(), 1u);
  EXPECT_EQ(passes[0].times, 3);
  EXPECT_EQ(passes[0].batch.tokens(), 2);
  EXPECT_EQ(passes[0].batch.contexts[0], 396) << "two tokens less than the target's each, on average";
  decodes.drafted = 0;
  decodes.skips_draft_model = prompts.skips_draft_model = true;
  for (const Batch& batch : {decodes, prompts}) {
    draft_passes(batch, d, passes);
    EXPECT_TRUE(passes.empty());
  }
}

}  // namespace
}  // namespace foretoken
