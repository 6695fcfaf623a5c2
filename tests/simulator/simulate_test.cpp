// Whole simulations: spans change nothing, the same input gives the same result, load raises latency.
#include "simulator/simulate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tbb/global_control.h>

#include <set>

#include "fixtures.h"
#include "simulator/report.h"

namespace foretoken {
namespace {

Simulation run(const std::string& json, bool spans = true, bool intervals = false) {
  const Priced p(resolve_or_fail(json), true);
  SimulateOptions o;
  o.use_spans = spans;
  o.keep_records = true;
  o.intervals = intervals;
  return simulate(p.deployment, p.cost, test_resources(), o);
}

void expect_same(const Simulation& a, const Simulation& b) {
  ASSERT_EQ(a.served.records.size(), b.served.records.size());
  for (std::size_t i = 0; i < a.served.records.size(); ++i) {
    const RequestRecord &x = a.served.records[i], &y = b.served.records[i];
    ASSERT_EQ(x.scheduled, y.scheduled) << "request " << i;
    ASSERT_EQ(x.first_token, y.first_token) << "request " << i;
    ASSERT_EQ(x.finish, y.finish) << "request " << i;
    ASSERT_EQ(x.preemptions, y.preemptions) << "request " << i;
    ASSERT_EQ(x.cached_tokens, y.cached_tokens) << "request " << i;
  }
  EXPECT_EQ(a.served.metrics.num_steps, b.served.metrics.num_steps);
  EXPECT_EQ(a.served.metrics.itl.p99, b.served.metrics.itl.p99);
  EXPECT_EQ(a.basis.share, b.basis.share);
  EXPECT_EQ(a.basis.host_share, b.basis.host_share);
  EXPECT_EQ(a.basis.relative_error, b.basis.relative_error);
}

const char* const kScenarios[] = {
    // A real trace, one replica.
    R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
        "workload": {"trace": "traces/azure-conv-2023.csv.gz", "num_prompts": 1500}})",
    // Several replicas, least outstanding.
    R"({"model": "llama-3.1-8b", "hardware": {"device": "h100", "count": 3},
        "cluster": {"router": "least_outstanding"},
        "workload": {"request_rate": 30, "num_prompts": 900, "input_len": {"value": 700},
                     "output_len": {"distribution": "uniform", "min": 20, "max": 400}}})",
    // A small cache: preemptions.
    R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"}, "engine": {"num_gpu_blocks_override": 1500},
        "workload": {"max_concurrency": 64, "num_prompts": 300, "input_len": {"value": 500}, "output_len": {"value": 400}}})",
    // Sliding windows.
    R"({"model": "gpt-oss-20b", "hardware": {"device": "h100"},
        "workload": {"request_rate": 8, "num_prompts": 400, "input_len": {"value": 90}, "output_len": {"value": 200}}})",
    // Conversations with shared prefixes.
    R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
        "workload": {"request_rate": 3, "num_prompts": 300, "input_len": {"value": 300}, "output_len": {"value": 120},
                     "shared_prefix": {"groups": 4, "users_per_group": 5, "prefix_len": 200, "multi_turn": true}}})",
    // Attention data-parallel ranks that share experts.
    R"({"model": "qwen3-30b-a3b", "hardware": {"device": "h100", "count": 4},
        "engine": {"data_parallel_size": 4, "expert_parallel_size": 4},
        "workload": {"request_rate": 20, "num_prompts": 400, "input_len": {"value": 600}, "output_len": {"value": 150}}})",
    // Prompts on engines of their own, moved over a slow link; a pipeline that decodes.
    R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
        "cluster": {"prefill": {"replicas": 2}, "decode": {"num_gpu_blocks_override": 1200},
                    "kv_link": {"bandwidth": "4 GB/s"}},
        "workload": {"request_rate": 12, "num_prompts": 400, "input_len": {"value": 600}, "output_len": {"value": 150}}})",
    R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
        "cluster": {"prefill": {"tensor_parallel_size": 2}, "decode": {"pipeline_parallel_size": 2},
                    "first_token": "decode"},
        "workload": {"trace": "traces/azure-conv-2023.csv.gz", "num_prompts": 600}})",
};

class Simulate : public ::testing::TestWithParam<const char*> {};

TEST_P(Simulate, SpansGiveTheSameTimes) { expect_same(run(GetParam(), true), run(GetParam(), false)); }

TEST_P(Simulate, IsDeterministic) { expect_same(run(GetParam()), run(GetParam())); }

TEST_P(Simulate, ServesEveryRequestOnce) {
  const Simulation s = run(GetParam());
  EXPECT_EQ(s.served.metrics.completed, static_cast<std::int64_t>(s.served.records.size()));
  std::int64_t output = 0;
  for (const RequestRecord& r : s.served.records) {
    output += r.output_len;
    EXPECT_GE(r.scheduled, r.queued);
    EXPECT_GE(r.queued, r.arrival);
    EXPECT_GT(r.first_token, r.scheduled);
    EXPECT_GE(r.finish, r.first_token);
  }
  EXPECT_EQ(output, s.served.metrics.total_output_tokens);
  double shares = 0;
  for (const double share : s.basis.share) shares += share;
  EXPECT_NEAR(shares, 1.0, 1e-9);
  const auto& parts = s.served.metrics.ttft_parts;
  EXPECT_NEAR(parts.ingress + parts.queue + parts.prefill + parts.transfer + parts.first_step,
              s.served.metrics.ttft.mean, 1e-6 * s.served.metrics.ttft.mean);
}

INSTANTIATE_TEST_SUITE_P(Scenarios, Simulate, ::testing::ValuesIn(kScenarios));

TEST(SimulateScenario, IntervalsHoldThePrediction) {
  const Simulation s = run(kScenarios[1], true, true);
  EXPECT_GT(s.basis.relative_error, 0);
  ASSERT_FALSE(s.interval.empty());
  const Interval& tpot = s.interval.at("mean_tpot_ms");
  EXPECT_LT(tpot.low, s.served.metrics.tpot.mean);
  EXPECT_GT(tpot.high, s.served.metrics.tpot.mean);
}

TEST(SimulateScenario, IntervalsAreTheSameOnOneThread) {
  const std::string json = kScenarios[0];
  const Simulation many = run(json, true, true);
  const tbb::global_control one(tbb::global_control::max_allowed_parallelism, 1);
  const Simulation alone = run(json, true, true);
  ASSERT_FALSE(many.interval.empty());
  for (const auto& [key, interval] : many.interval) {
    EXPECT_EQ(interval.low, alone.interval.at(key).low) << key;
    EXPECT_EQ(interval.high, alone.interval.at(key).high) << key;
  }
}

TEST(SimulateScenario, LatencyGrowsWithLoadOverSeeds) {
  const Priced p(resolve_or_fail(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"}})"), true);
  LengthDistribution input, output;
  input.value = 800;
  output.value = 150;
  double last = 0;
  for (const double rate : {1.0, 4.0, 10.0, 20.0, 30.0}) {
    double mean = 0;
    for (int seed = 0; seed < 4; ++seed) {
      Deployment d = p.deployment;
      d.scenario.workload.request_rate = rate;
      d.scenario.workload.num_prompts = 400;
      d.scenario.workload.seed = seed;
      d.scenario.workload.input_len = input;
      d.scenario.workload.output_len = output;
      SimulateOptions o;
      o.intervals = false;
      mean += simulate(d, p.cost, test_resources(), o).served.metrics.e2el.mean;
    }
    EXPECT_GT(mean, last) << rate << " requests/s";
    last = mean;
  }
}

TEST(SimulateScenario, OverloadIsSaid) {
  const Simulation s = run(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
      "engine": {"max_num_seqs": 8},
      "workload": {"request_rate": 50, "num_prompts": 600, "input_len": {"value": 900}, "output_len": {"value": 200}}})");
  EXPECT_EQ(s.stability, "overloaded");
  EXPECT_FALSE(s.stability_reason.empty());
}

// Of every system: at half of what it serves the queue doesn't grow, at twice as much it does. Batches that
// are formed when the one before has ended keep requests waiting at any load, and so does a queue that is
// looked at every ten steps.
TEST(SimulateScenario, VerdictsOfEverySystem) {
  std::set<SchedulerPolicy> seen;
  for (const std::string& name : modelled_behaviors()) {
    if (!seen.insert(find_behavior(name, "").policy).second) continue;
    SCOPED_TRACE(name);
    const bool several = name == "loongserve" || name == "infinite-llm";
    const Priced p(
        resolve_or_fail(test_scenario(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100", "count": 2},
      "engine": {"behavior": ")" + name +
                                      R"(", "max_model_len": 2048}, "cluster": {"replicas": )" +
                                      (several ? "2" : "1") +
                                      R"(}, "workload": {"num_prompts": 2000, "request_rate": 400,
        "input_len": {"distribution": "uniform", "min": 100, "max": 700},
        "output_len": {"distribution": "uniform", "min": 20, "max": 120}}})"),
                        470, 820),
        true);
    const auto at = [&](double rate) {
      Deployment d = p.deployment;
      d.scenario.workload.request_rate = rate;
      SimulateOptions o;
      o.intervals = false;
      return simulate(d, p.cost, test_resources(), o);
    };
    const Simulation flooded = at(1000);
    const double served = flooded.served.metrics.request_throughput;
    EXPECT_EQ(flooded.stability, "overloaded");
    EXPECT_EQ(at(2 * served).stability, "overloaded");
    const Simulation half = at(0.5 * served);
    const bool waits = name == "fastertransformer" || name == "loongserve";
    EXPECT_EQ(half.stability, waits ? "backlogged" : "stable") << half.stability_reason;
    EXPECT_THAT(half.stability_reason, testing::HasSubstr("requests wait on average while"));
  }
  EXPECT_GT(seen.size(), 17u);
}

// Who waits for company is not waiting for the engine.
TEST(SimulateScenario, AQueueDelayIsNoOverload) {
  const Simulation s = run(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
      "engine": {"behavior": "triton", "max_queue_delay_microseconds": 2000000},
      "workload": {"request_rate": 1, "num_prompts": 200, "input_len": {"value": 300}, "output_len": {"value": 10}}})");
  EXPECT_GT(s.served.metrics.mean_waiting, 2 * s.served.metrics.mean_running);
  EXPECT_EQ(s.stability, "stable") << s.stability_reason;
}

// One request at a time, so that each term shows alone: 1 prompt step and 9 decode steps a request.
TEST(Simulate, TermsOfTheEngineModel) {
  const auto with = [](const std::string& terms) {
    return run(R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
                   "engine": {"host_times": {)" +
               terms + R"(}},
                   "workload": {"max_concurrency": 1, "num_prompts": 5, "input_len": {"value": 500},
                                "output_len": {"value": 10}}})")
        .served.metrics;
  };
  const ServingMetrics plain = with("");
  const ServingMetrics late = with(R"("ingress_ms": 104)");  // 4 ms otherwise
  EXPECT_NEAR(late.ttft.mean - plain.ttft.mean, 100, 1e-6);
  EXPECT_NEAR(late.tpot.mean, plain.tpot.mean, 1e-6);
  const ServingMetrics slow_prompts = with(R"("prefill_step_ms": 7)");
  EXPECT_NEAR(slow_prompts.ttft.mean - plain.ttft.mean, 7, 1e-6);
  EXPECT_NEAR(slow_prompts.tpot.mean, plain.tpot.mean, 1e-6);
  // Overlapping kernels are never faster than light; ten more microseconds a kernel are ten each.
  EXPECT_LT(with(R"("kernel_us": -1)").tpot.mean, plain.tpot.mean);
  const double added = with(R"("kernel_us": 10)").tpot.mean - plain.tpot.mean;
  EXPECT_GT(added, 32 * 5 * 0.01) << "at least five kernels in each of 32 layers";
  EXPECT_LT(added, 32 * 20 * 0.01);
}

}  // namespace
}  // namespace foretoken
