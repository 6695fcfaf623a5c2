// What beam search is predicted to cost: one beam is none, more beams are never faster, and a step of w beams
// is one of w sequences that ranks its logits.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fixtures.h"
#include "simulator/estimate.h"
#include "simulator/report.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

std::string scenario(const std::string& workload, const std::string& engine = "", int concurrency = 8) {
  return fmt::format(R"({{"model": "llama-3.1-8b", "hardware": {{"device": "h100"}},
      "engine": {{"max_num_seqs": 64{}}},
      "workload": {{"max_concurrency": {}, "num_prompts": 40, "input_len": {{"value": 500}},
                    "output_len": {{"value": 200}}{}}}}})",
                     engine, concurrency, workload);
}
std::string with_beams(int width) { return scenario(fmt::format(R"(, "beam_width": {})", width)); }

struct Answer {
  Simulation simulation;
  Estimate estimate;
  std::string json;
};
Answer run(const std::string& json, bool spans = true, bool measured = true) {
  const Priced p(resolve_or_fail(json), measured);
  SimulateOptions o;
  o.intervals = false, o.keep_records = true, o.use_spans = spans;
  const auto workload = make_workload(p.deployment.scenario.workload, "", "");
  Answer a{simulate(p.deployment, p.cost, test_resources(), o),
           estimate(p.deployment, p.cost, workload->means(), 8), ""};
  a.json = simulation_json(p.deployment, a.simulation, true).dump();
  return a;
}

TEST(BeamSearch, OneBeamIsNone) {
  EXPECT_EQ(run(with_beams(1)).json, run(scenario("")).json);
  EXPECT_EQ(run(with_beams(1)).estimate.e2el_ms, run(scenario("")).estimate.e2el_ms);
}

// By the roofline: measured kernels are a little faster with 16 rows than with 8.
TEST(BeamSearch, MoreBeamsAreNeverFaster) {
  double tpot = 0, e2el = 0, estimated = 0;
  for (const int width : {1, 2, 3, 4, 8}) {
    const Answer a = run(with_beams(width), true, false);
    const ServingMetrics& m = a.simulation.served.metrics;
    EXPECT_GT(m.tpot.mean, tpot) << width;
    EXPECT_GT(m.e2el.mean, e2el) << width;
    EXPECT_GT(a.estimate.e2el_ms, estimated) << width;
    tpot = m.tpot.mean, e2el = m.e2el.mean, estimated = a.estimate.e2el_ms;
  }
}

// The beams of 8 requests cost what as many requests of one sequence do, but for the prompts, which they
// share, and for the ranking of their logits.
TEST(BeamSearch, AStepOfBeamsIsAStepOfSequences) {
  const Answer beams = run(with_beams(4)), sequences = run(scenario("", "", 32));
  const double a = beams.simulation.served.metrics.itl.median,
               b = sequences.simulation.served.metrics.itl.median;
  EXPECT_GT(a, b) << "log probabilities of all tokens";
  EXPECT_LT(a, 1.1 * b);
}

TEST(BeamSearch, SpansAreSingleSteps) {
  const Answer with = run(with_beams(3)), without = run(with_beams(3), false);
  ASSERT_EQ(with.simulation.served.records.size(), without.simulation.served.records.size());
  for (std::size_t i = 0; i < with.simulation.served.records.size(); ++i)
    EXPECT_EQ(with.simulation.served.records[i].finish, without.simulation.served.records[i].finish);
}

// 500 + 199 tokens in blocks of 16: 31 shared ones, 13 of each beam's own, instead of 44 a beam.
TEST(BeamSearch, ReportsTheBlocksThatSharingPromptsSaves) {
  const Answer a = run(with_beams(4));
  EXPECT_EQ(a.simulation.served.beam_blocks, 40 * (31 + 4 * 13));
  EXPECT_EQ(a.simulation.served.unshared_beam_blocks, 40 * 4 * 44);
  EXPECT_THAT(a.json, testing::HasSubstr("shared_block_share"));
}

}  // namespace
}  // namespace foretoken
