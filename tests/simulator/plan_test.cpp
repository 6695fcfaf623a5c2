// Plans: nothing is lost between the counts, the winner wins, threads don't matter.
#include "simulator/plan.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>

#include "base/error.h"
#include "base/json_full.h"
#include "fixtures.h"
#include "simulator/report.h"
#include "simulator/search_space.h"

namespace foretoken {
namespace {

const char* const kPlan = R"({
  "model": "llama-3.1-8b", "hardware": {"device": "h100", "count": 8},
  "workload": {"request_rate": 25, "num_prompts": 500, "input_len": {"value": 800},
               "output_len": {"distribution": "lognormal", "mean": 180, "p99": 700}},
  "slo": {"ttft_ms": 1500, "tpot_ms": 60, "percentile": 95},
  "plan": {"search": {"device": ["h100", "l40s"], "tensor_parallel_size": [1, 2, 8, 16], "kv_cache_dtype": ["auto", "fp8"]}}})";

PlanResult plan_of(const std::string& json, int threads = 0) {
  PlanOptions o;
  o.threads = threads;
  // Prices of this test, not of the database.
  Scenario s = test_scenario(json);
  if (!s.hardware.usd_per_device_hour) s.hardware.usd_per_device_hour = 2.0;
  const Resources resources = test_resources();
  return plan(s, resources, o);
}

TEST(Plan, SameBytesForAnyNumberOfThreads) {
  const std::string one = dump_json(plan_json(plan_of(kPlan, 1))),
                    two = dump_json(plan_json(plan_of(kPlan, 2)));
  EXPECT_EQ(one, two);
}

// With priorities under every system that has them, in pipelines and behind routers.
TEST(Plan, SameBytesForAnyNumberOfThreadsByPriority) {
  for (const char* engine : {R"("behavior": "vllm-0.7", "scheduling_policy": "priority")",
                             R"("behavior": "vllm-0.10", "scheduling_policy": "priority")",
                             R"("behavior": "sglang-0.5", "enable_priority_scheduling": true)"}) {
    const std::string json =
        std::string(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100", "count": 4},
      "cluster": {"router": "least_tokens"}, "engine": {"max_num_seqs": 8, )") +
        engine + R"(},
      "workload": {"request_rate": 40, "num_prompts": 60, "input_len": {"value": 300}, "output_len": {"value": 40},
                   "priority_classes": [{"priority": 0, "share": 0.5}, {"priority": 20, "share": 0.5}]},
      "slo": {"ttft_ms": 1500, "tpot_ms": 60, "percentile": 95},
      "plan": {"search": {"tensor_parallel_size": [1, 2], "pipeline_parallel_size": [1, 2]}}})";
    EXPECT_EQ(dump_json(plan_json(plan_of(json, 1))), dump_json(plan_json(plan_of(json, 3)))) << engine;
  }
}

TEST(Plan, PrefillAndDecodeAreTriedInEveryNumber) {
  const PlanResult p = plan_of(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
    "cluster": {"prefill": {"replicas": 2}, "decode": {"replicas": 3}, "kv_link": {"bandwidth": "50 GB/s"}},
    "workload": {"request_rate": 2, "num_prompts": 50, "input_len": {"value": 800}, "output_len": {"value": 50}},
    "slo": {"ttft_ms": 5000}, "plan": {"objective": "devices", "search": {}}})");
  std::set<std::pair<int, int>> tried;
  for (const auto* candidates : {&p.ranked, &p.missed})
    for (const Candidate& c : *candidates) {
      const Json cluster = Json::parse(c.patch)["cluster"];
      const int prefill = cluster["prefill"]["replicas"], decode = cluster["decode"]["replicas"];
      EXPECT_TRUE(tried.insert({prefill, decode}).second);
      EXPECT_EQ(c.devices, prefill + decode);
    }
  EXPECT_EQ(p.searched, 6);
  EXPECT_LE(tried.size() + static_cast<std::size_t>(p.pruned), 6u);
  EXPECT_TRUE(tried.contains({1, 1}));
  EXPECT_EQ(p.ranked.front().devices, 2);
}

TEST(Plan, EveryCandidateIsAccountedFor) {
  const PlanResult p = plan_of(kPlan);
  EXPECT_EQ(p.searched, p.infeasible + p.pruned + p.simulated);
  std::int64_t rejected = 0;
  for (const auto& [reason, n] : p.rejected) rejected += n;
  EXPECT_EQ(p.searched, rejected + p.feasible);
  EXPECT_GT(p.infeasible, 0);
  EXPECT_GT(p.feasible, 0);
}

TEST(Plan, RanksByTheObjective) {
  for (const char* objective : {"devices", "usd_per_million_tokens", "goodput_per_device", "p99_e2el_ms"}) {
    Scenario s = test_scenario(kPlan);
    s.plan.objective = objective;
    s.hardware.usd_per_device_hour = 2.0;
    const Resources resources = test_resources();
    const PlanResult p = plan(s, resources);
    ASSERT_FALSE(p.ranked.empty()) << objective;
    for (std::size_t i = 1; i < p.ranked.size(); ++i)
      EXPECT_LE(p.ranked[i - 1].score, p.ranked[i].score) << objective;
    for (const Candidate& c : p.ranked) EXPECT_GE(c.slo_attainment, 0.95) << c.label;
    EXPECT_FALSE(p.why.empty());
    EXPECT_NE(p.ranked.front().command.find("vllm serve"), std::string::npos);
  }
}

TEST(Plan, ParetoFrontHasNoDominatedPoint) {
  const PlanResult p = plan_of(kPlan);
  ASSERT_FALSE(p.pareto.empty());
  for (const Candidate& a : p.pareto)
    for (const Candidate& b : p.ranked)
      EXPECT_FALSE(b.tokens_per_s_per_device > a.tokens_per_s_per_device &&
                   b.tokens_per_s_per_user > a.tokens_per_s_per_user)
          << b.label << " dominates " << a.label;
}

TEST(Plan, ImpossibleLimitsLeaveReasons) {
  Scenario s = test_scenario(kPlan);
  s.slo.tpot_ms = 0.01;
  s.hardware.usd_per_device_hour = 2.0;
  const Resources resources = test_resources();
  const PlanResult p = plan(s, resources);
  EXPECT_TRUE(p.ranked.empty());
  EXPECT_FALSE(p.rejected.empty());
  EXPECT_FALSE(plan_tables(p).empty());
}

TEST(Plan, RefusesCostWithoutAPrice) {
  Scenario s = test_scenario(kPlan);
  s.hardware.device = "l40s";
  s.plan.search.text.clear();
  const Resources resources = test_resources();
  try {
    plan(s, resources);
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("usd_per_device_hour"), std::string::npos) << e.what();
  }
}

TEST(SearchSpace, NamesWrongKeysAndValues) {
  auto failure = [](const std::string& search) -> std::string {
    Scenario s = test_scenario(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"}})");
    s.plan.search.text = search;
    try {
      search_space(s, "p.json:/plan/search");
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(failure(R"({"tensor_paralel_size": [1]})").find("tensor_parallel_size"), std::string::npos);
  EXPECT_NE(failure(R"({"tensor_parallel_size": [1, 0]})").find("/tensor_parallel_size/1"),
            std::string::npos);
  EXPECT_NE(failure(R"({"tensor_parallel_size": []})").find("empty"), std::string::npos);
  EXPECT_NE(failure(R"([1])").find("object"), std::string::npos);
  EXPECT_EQ(failure(R"({"tensor_parallel_size": [1, 2], "quantization": ["none", "fp8"]})"), "");
}

TEST(Plan, StopsWhenAsked) {
  const std::atomic<bool> stop{true};
  Scenario s = test_scenario(kPlan);
  s.hardware.usd_per_device_hour = 2.0;
  PlanOptions o;
  o.stop = &stop;
  const Resources resources = test_resources();
  const PlanResult p = plan(s, resources, o);
  EXPECT_TRUE(p.interrupted);
  EXPECT_TRUE(p.ranked.empty());
}

}  // namespace
}  // namespace foretoken
