// Small models of every family, scenarios that the executor serves in milliseconds, and the replay of what it
// did.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <vector>

#include "executor/executed_backend.h"
#include "executor/processes.h"
#include "fixtures.h"
#include "serving/timeline.h"
#include "simulator/simulate.h"

namespace foretoken {

// A model of 64 dimensions: dense, moe, window, latent or linear (every second layer has a recurrent state).
inline Json small_config(const std::string& family, int vocab = 64, int layers = 2) {
  Json c = Json::parse(R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false,
    "torch_dtype": "float32"})");
  c["vocab_size"] = vocab, c["num_hidden_layers"] = layers;
  if (family == "moe")
    c.update(Json::parse(R"({"model_type": "qwen3_moe", "moe_intermediate_size": 32, "num_experts": 8,
      "num_experts_per_tok": 2, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
      "head_dim": 16})"));
  if (family == "window") c["model_type"] = "mistral", c["sliding_window"] = 24;
  if (family == "latent")
    c.update(Json::parse(R"({"model_type": "deepseek_v3", "q_lora_rank": 32, "kv_lora_rank": 32,
      "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "num_key_value_heads": 4,
      "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
      "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2, "topk_method": "noaux_tc",
      "scoring_func": "sigmoid", "norm_topk_prob": true, "routed_scaling_factor": 2.5, "moe_layer_freq": 1})"));
  if (family == "linear")
    c.update(Json::parse(R"({"model_type": "qwen3_next", "head_dim": 16, "full_attention_interval": 2,
      "num_experts": 0, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
      "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4})"));
  return c;
}

// Twelve requests at once; what is given stands.
inline Json small_scenario(const Json& config, const Json& engine, const Json& workload) {
  Json s = Json::parse(R"({"name": "small",
    "hardware": {"device": "epyc-9654", "count": 1, "host_memory": "64 GiB"},
    "engine": {"behavior": "foretoken", "dtype": "float32", "max_model_len": 256, "max_num_seqs": 8,
               "max_num_batched_tokens": 64, "block_size": 16, "num_gpu_blocks_override": 200},
    "workload": {"request_rate": 1000000, "num_prompts": 12, "seed": 3,
                 "input_len": {"distribution": "uniform", "min": 5, "max": 90},
                 "output_len": {"distribution": "uniform", "min": 3, "max": 30}}})");
  s["model"] = Json{{"config", config}};
  s["engine"].update(engine);
  s["workload"].update(workload);
  return s;
}

// Three turns of one user; each prompt repeats what was said.
inline Json one_conversation() {
  return Json::parse(R"({"request_rate": 400, "num_prompts": 6,
    "shared_prefix": {"groups": 1, "users_per_group": 1, "prefix_len": 16, "multi_turn": true, "turns": 3},
    "input_len": {"value": 24}, "output_len": {"value": 12}})");
}

// A job of two that exchanges nothing: what is asked of it is refused first.
struct SilentJob final : Processes {
  int rank() const override { return 0; }
  int size() const override { return 2; }
  void all_gather(std::span<const float>, float*) override {}
  void maximum(std::span<double>) override {}
  std::vector<std::string> gather(const std::string&) override { return {}; }
  std::string broadcast(std::string text) override { return text; }
};

inline constexpr std::uint64_t kWeightSeed = 5;

namespace test {
const Kernels& tested_kernels();  // the set that a test program is about; each defines it
}

// The roofline's prices, for policies that decide by predicted times.
inline std::optional<Priced> predictions(const Deployment& d) {
  const SchedulerPolicy policy = d.scheduler.policy;
  if (policy != SchedulerPolicy::kLoongserve && policy != SchedulerPolicy::kInfiniteLlm &&
      d.scenario.cluster.router != "mooncake" && !d.scheduler.kv_tiers.by_cost)
    return std::nullopt;
  return std::make_optional<Priced>(d);
}

// Serves the scenario on the executor; look(backend, result) sees both before the backend ends.
template <class Look>
void execute_scenario(const Json& json, ExecutorOptions options, Recording& recording, Look&& look) {
  const Scenario s = test_scenario(json.dump());
  const Resources resources = test_resources();
  const auto workload = make_workload(s.workload, resources.scenario_folder, "test.json:/workload");
  const Deployment d = resolve_or_fail(s, 100, 120);
  options.seed = kWeightSeed;
  if (options.isa.empty()) options.kernels = &test::tested_kernels();
  ExecutedBackend backend(d, *workload, scenario_model_text(s, resources), options);
  SimulateOptions o;
  o.use_spans = false, o.keep_records = true, o.timeline = &recording;
  const std::optional<Priced> priced = predictions(d);
  std::optional<PredictedBackend> prices;
  if (priced) o.costs = {&priced->cost, 1}, backend.set_prices(prices.emplace(d, priced->cost));
  const Simulation result = serve_with(backend, *workload, d, o);
  look(backend, result);
}

// The tokens of every request of the scenario, executed.
inline std::map<RequestId, std::vector<std::int32_t>> tokens_of(const Json& json, ServeResult& served,
                                                                Recording& recording) {
  std::map<RequestId, std::vector<std::int32_t>> tokens;
  execute_scenario(json, {}, recording, [&](ExecutedBackend& backend, const Simulation& result) {
    served = result.served;
    for (const RequestRecord& r : served.records) tokens[r.id] = backend.output(r.id);
  });
  return tokens;
}

// Whether blocks are loaded is decided anew, by the prices that the simulator has.
class PricedReplay : public ReplayBackend {
 public:
  PricedReplay(const Recording& recording, const Deployment& d, const std::optional<Priced>& priced)
      : ReplayBackend(recording) {
    if (priced) prices_.emplace(d, priced->cost);
  }
  bool worth_loading(const TierLoad& load) override {
    const bool worth = prices_->worth_loading(load);
    EXPECT_EQ(ReplayBackend::worth_loading(load), worth);
    return worth;
  }

 private:
  std::optional<PredictedBackend> prices_;
};

// Told how long the steps and the moves took, the loop decides the same at the same times.
inline void expect_the_same_schedule(const ServeResult& executed, const Recording& recording,
                                     const Json& json) {
  const Scenario s = test_scenario(json.dump());
  const Deployment d = resolve_or_fail(s, 100, 120);
  const auto workload = make_workload(s.workload, test_resources().scenario_folder, "test.json:/workload");
  const std::optional<Priced> priced = predictions(d);
  PricedReplay replay(recording, d, priced);
  SimulateOptions o;
  o.use_spans = false, o.keep_records = true;
  if (priced) o.costs = {&priced->cost, 1};
  const ServeResult again = serve_with(replay, *workload, d, o).served;
  ASSERT_EQ(again.records.size(), executed.records.size());
  for (std::size_t i = 0; i < again.records.size(); ++i) {
    EXPECT_EQ(again.records[i].first_token, executed.records[i].first_token);
    EXPECT_EQ(again.records[i].moved, executed.records[i].moved);
    EXPECT_EQ(again.records[i].finish, executed.records[i].finish);
  }
  EXPECT_EQ(again.metrics.num_steps, executed.metrics.num_steps);
  EXPECT_EQ(again.metrics.speculation.accepted, executed.metrics.speculation.accepted);
  EXPECT_EQ(again.discarded_tokens, executed.discarded_tokens);
  EXPECT_EQ(again.swapped_out_blocks, executed.swapped_out_blocks);
  EXPECT_EQ(again.beam_blocks, executed.beam_blocks);
  ASSERT_EQ(again.kv_tiers.size(), executed.kv_tiers.size());
  for (std::size_t t = 0; t < again.kv_tiers.size(); ++t) {
    EXPECT_EQ(again.kv_tiers[t].loaded, executed.kv_tiers[t].loaded);
    EXPECT_EQ(again.kv_tiers[t].written, executed.kv_tiers[t].written);
  }
}

}  // namespace foretoken
