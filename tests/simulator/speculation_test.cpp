// What speculative decoding is predicted to be worth: closed forms, limits, and the price of its steps.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "fixtures.h"
#include "simulator/closed_forms.h"
#include "simulator/estimate.h"
#include "simulator/simulate.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

std::string scenario(const std::string& speculative, int concurrency = 4) {
  return fmt::format(
      R"({{"model": "llama-3.1-70b", "hardware": {{"device": "h200"}},
          "engine": {{"tensor_parallel_size": 2{}}},
          "workload": {{"max_concurrency": {}, "num_prompts": 40, "input_len": {{"value": 500}},
                       "output_len": {{"value": 300}}}}}})",
      speculative.empty() ? "" : R"(, "speculative_config": {"model": "llama-3.2-1b", )" + speculative + "}",
      concurrency);
}

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

struct Answer {
  Simulation simulation;
  Estimate estimate;
};
Answer run(const std::string& json) {
  const Priced p(resolve_or_fail(json), true);
  SimulateOptions o;
  o.intervals = false, o.keep_records = true;
  const auto workload = make_workload(p.deployment.scenario.workload, "", "");
  return {simulate(p.deployment, p.cost, test_resources(), o),
          estimate(p.deployment, p.cost, workload->means(), 4)};
}

TEST(Speculation, YieldsTheTokensThatTheClosedFormSays) {
  for (const double a : {0.0, 0.5, 0.8}) {
    const Answer r = run(scenario(fmt::format(R"("num_speculative_tokens": 4, "acceptance_rate": [{}])", a)));
    EXPECT_DOUBLE_EQ(r.estimate.tokens_per_step, speculative_tokens(a, 4));
    EXPECT_NEAR(r.simulation.served.metrics.speculation.tokens_per_step(), speculative_tokens(a, 4), 0.03);
  }
}

TEST(Speculation, LimitsAreNothingAndEverythingAccepted) {
  const Answer plain = run(scenario("")),
               none = run(scenario(R"("num_speculative_tokens": 3, "acceptance_rate": [0])")),
               all = run(scenario(R"("num_speculative_tokens": 3, "acceptance_rate": [1])"));
  const ServingMetrics &p = plain.simulation.served.metrics, &n = none.simulation.served.metrics,
                       &m = all.simulation.served.metrics;
  // The same steps, each with a draft model's three passes on top and more rows to verify.
  EXPECT_EQ(p.num_steps, n.num_steps);
  EXPECT_GT(n.tpot.mean, 1.02 * p.tpot.mean);
  EXPECT_LT(n.tpot.mean, 2 * p.tpot.mean);
  EXPECT_DOUBLE_EQ(m.speculation.tokens_per_step(), 4);
  EXPECT_NEAR(m.tpot.mean / n.tpot.mean, 0.25, 0.02);
  EXPECT_NEAR(all.estimate.tpot_ms / none.estimate.tpot_ms, 0.25, 0.04) << "prompts of others hold it up";
}

TEST(Speculation, MoreAcceptanceIsNeverSlower) {
  double simulated = 1e9, estimated = 1e9;
  for (const double a : {0.0, 0.3, 0.6, 0.8, 0.9, 1.0}) {
    const Answer r = run(scenario(fmt::format(R"("num_speculative_tokens": 3, "acceptance_rate": [{}])", a)));
    EXPECT_LT(r.simulation.served.metrics.e2el.mean, simulated);
    EXPECT_LT(r.estimate.tpot_ms, estimated);
    simulated = r.simulation.served.metrics.e2el.mean;
    estimated = r.estimate.tpot_ms;
    EXPECT_NEAR(r.estimate.tpot_ms / r.simulation.served.metrics.tpot.mean, 1, 0.25) << a;
  }
}

// A step of small batches is bound by the weights: drafts ride along. One of large batches is not.
TEST(Speculation, IsWorthLessAtLargerBatches) {
  const auto gain = [](int concurrency) {
    return run(scenario("", concurrency)).simulation.served.metrics.tpot.mean /
           run(scenario(R"("num_speculative_tokens": 4, "acceptance_rate": [0.7])", concurrency))
               .simulation.served.metrics.tpot.mean;
  };
  const double small = gain(1), large = gain(40);
  EXPECT_GT(small, 1.5);
  EXPECT_LT(large, small);
}

TEST(Speculation, AStepIsTheTargetsVerificationAndTheDraftModelsPasses) {
  const Priced p(resolve_or_fail(scenario(R"("tree_widths": [3, 2, 1], "acceptance_rate": [0.5])")), true);
  const Deployment& d = p.deployment;
  Batch b;
  b.decode_sequences = 8;
  b.drafted = 8 * 15;
  b.sampled_rows = 8 * 16;
  b.contexts[0] = 8 * 900;
  PredictedBackend backend(d, p.cost);
  const Step step{0, 0, {&b, 1}};
  const double whole = to_seconds(backend.run(step).tokens_out).value;
  const auto priced = [&](const Batch& batch, const Deployment& model) {
    return price_work(model, p.cost, work(batch, model, padded_rows(batch.tokens(), true, model))).seconds;
  };
  double sum = priced(b, d);
  std::vector<DraftPass> passes;
  draft_passes(b, d, passes);
  ASSERT_EQ(passes.size(), 3u);
  for (const DraftPass& pass : passes)
    sum += static_cast<double>(pass.times) * priced(pass.batch, *d.speculation->draft);
  EXPECT_GT(whole, sum) << "the host's share comes on top";
  EXPECT_LT(whole, 1.25 * sum);
}

TEST(Speculation, LookedUpDraftsCostTheirVerificationAlone) {
  std::string json = scenario(R"("num_speculative_tokens": 3, "acceptance_rate": [0])");
  const std::string model = R"("model": "llama-3.2-1b")", method = R"("method": "ngram")";
  const double drafted = run(json).simulation.served.metrics.tpot.mean;
  json.replace(json.find(model), model.size(), method);
  const double looked_up = run(json).simulation.served.metrics.tpot.mean;
  EXPECT_LT(looked_up, drafted);
  EXPECT_GT(looked_up, run(scenario("")).simulation.served.metrics.tpot.mean);
}

// Of n steps each drafts with p and then yields 1 + a more.
TEST(Speculation, WhatIsNotFoundIsNotDrafted) {
  std::string json =
      scenario(R"("num_speculative_tokens": 1, "acceptance_rate": [0.5], "proposal_rate": 0.3)");
  const std::string model = R"("model": "llama-3.2-1b")", method = R"("method": "ngram")";
  json.replace(json.find(model), model.size(), method);
  const SpeculationCounts n = run(json).simulation.served.metrics.speculation;
  ASSERT_GT(n.asked, 1000);
  EXPECT_NEAR(static_cast<double>(n.proposed) / static_cast<double>(n.asked), 0.3, 0.03);
  EXPECT_NEAR(n.acceptance_rate(), 0.5, 0.05);
  EXPECT_LT(std::abs(n.verifications - n.proposed), n.proposed / 10) << "but for those at an end";
}

// Where nothing is ever found an estimate is that of plain decoding.
TEST(Speculation, AnEstimatePaysForWhatIsDraftedAlone) {
  const auto estimated = [](const char* rate) {
    std::string json = scenario(
        fmt::format(R"("num_speculative_tokens": 5, "acceptance_rate": [0.5], "proposal_rate": {})", rate));
    const std::string model = R"("model": "llama-3.2-1b")", method = R"("method": "ngram")";
    json.replace(json.find(model), model.size(), method);
    return run(json).estimate;
  };
  std::string plain = scenario("");
  const std::string tp = R"("tensor_parallel_size": 2)";
  plain.replace(plain.find(tp), tp.size(), tp + R"(, "async_scheduling": false)");
  const Estimate none = estimated("0"), half = estimated("0.5"), all = estimated("1"),
                 without = run(plain).estimate;
  EXPECT_DOUBLE_EQ(none.tpot_ms, without.tpot_ms);
  EXPECT_NEAR(none.capacity_requests_per_s / without.capacity_requests_per_s, 1, 0.01)
      << "logits of drafts take memory all the same";
  EXPECT_LT(all.tpot_ms, half.tpot_ms);
  EXPECT_LT(half.tpot_ms, none.tpot_ms);
}

// Top-k and top-p order the logits; a temperature alone and greedy sampling don't.
TEST(Sampling, CostsMoreWhereLogitsAreOrdered) {
  const auto tpot = [](const char* keys) {
    std::string json = scenario("", 32);
    json.insert(json.find("\"max_concurrency\""), keys);
    return run(json).simulation.served.metrics.tpot.mean;
  };
  const double greedy = tpot("");
  EXPECT_EQ(tpot(R"("temperature": 0.7, )"), greedy);
  EXPECT_EQ(tpot(R"("temperature": 0, "top_p": 0.9, )"), greedy);
  EXPECT_GT(tpot(R"("temperature": 0.7, "top_p": 0.9, )"), greedy);
  EXPECT_EQ(tpot(R"("temperature": 0.7, "top_k": 40, )"), tpot(R"("temperature": 0.7, "top_p": 0.9, )"));
}

TEST(Speculation, NeedsAnAcceptanceToPredict) {
  EXPECT_THAT(error_of([] { run(scenario(R"("num_speculative_tokens": 3)")); }),
              testing::HasSubstr("acceptance_rate"));
}

// A place of a request is accepted or not by a draw of its own, whatever is served beside it.
TEST(Speculation, DrawsDoNotDependOnTheBatch) {
  const std::string speculative = R"("num_speculative_tokens": 3, "acceptance_rate": [0.6])";
  const Answer a = run(scenario(speculative, 1)), b = run(scenario(speculative, 16)),
               c = run(scenario(speculative, 16));
  EXPECT_EQ(a.simulation.served.metrics.speculation.accepted,
            b.simulation.served.metrics.speculation.accepted);
  EXPECT_EQ(b.simulation.served.metrics.e2el.mean, c.simulation.served.metrics.e2el.mean);
}

}  // namespace
}  // namespace foretoken
