// Prices of what crosses the link to host memory: streamed layers against the event graph that they follow,
// offloaded weights, swapped blocks.
#include <gtest/gtest.h>

#include <deque>

#include "fixtures.h"
#include "simulator/predicted_backend.h"
#include "simulator/simulate.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

// Steps of `layers` equal streamed layers played out event by event, long enough to settle: a fetch begins
// when the one before has ended and its buffer is free, a layer when the one before it has computed and its
// weights are there. `outside` follows the last layer.
double period(std::int64_t layers, std::int64_t buffers, double fetch, double layer, double outside) {
  double fetched = 0, computed = 0, begun = 0;
  std::deque<double> freed(static_cast<std::size_t>(buffers), 0.0);
  constexpr int kSettling = 400, kSteps = 200;
  for (int step = 0; step < kSettling + kSteps; ++step) {
    if (step == kSettling) begun = computed;
    for (std::int64_t i = 0; i < layers; ++i) {
      fetched = std::max(fetched, freed.front()) + fetch;
      freed.pop_front();
      computed = std::max(computed, fetched) + layer;
      freed.push_back(computed);
    }
    computed += outside;
  }
  return (computed - begun) / kSteps;
}

TEST(Streaming, StepsFollowOneAnotherAsEventsSay) {
  for (const std::int64_t layers : {3, 4, 8, 32})
    for (const std::int64_t buffers : {1, 2, 3, 5})
      for (const double fetch : {100.0, 900.0, 1000.0, 1100.0, 4000.0})
        for (const double outside : {0.0, 300.0, 2500.0, 20000.0}) {
          if (buffers >= layers) continue;
          const double layer = 1000, computation = static_cast<double>(layers) * layer + outside;
          const Picoseconds stall = streaming_stall({layers, buffers, true}, layers,
                                                    std::llround(static_cast<double>(layers) * fetch),
                                                    std::llround(computation), std::llround(outside));
          EXPECT_NEAR(computation + static_cast<double>(stall),
                      period(layers, buffers, fetch, layer, outside), 1)
              << layers << " layers, " << buffers << " buffers, fetch " << fetch << ", outside " << outside;
          EXPECT_EQ(streaming_stall({layers, buffers, false}, layers, 77, 1000, 10), 77) << "taking turns";
        }
}

const char* const kStreamed = R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
    "engine": {"max_model_len": 1000, "layer_streaming": {"layers": 32}},
    "workload": {"request_rate": 1, "num_prompts": 30, "input_len": {"value": 300}, "output_len": {"value": 40}}})";

Json with(const std::string& base, const std::string& patch) {
  Json j = Json::parse(base);
  j.merge_patch(Json::parse(patch));
  return j;
}
double decode_seconds(const Json& scenario, std::int64_t sequences = 8) {
  const Priced p(resolve_or_fail(scenario.dump()));
  return StepPricer(p.deployment, p.cost).seconds({sequences, 500, {}});
}

TEST(Streaming, AStepIsNeverShorterThanComputationNorThanTheLink) {
  const Json streamed = Json::parse(kStreamed);
  const double resident = decode_seconds(with(kStreamed, R"({"engine": {"layer_streaming": null}})"));
  const Priced p(resolve_or_fail(streamed.dump()));
  const double link = (p.deployment.memory.outside_bytes) / p.deployment.device.pcie_bandwidth.value;
  const double t = decode_seconds(streamed),
               turns =
                   decode_seconds(with(kStreamed, R"({"engine": {"layer_streaming": {"overlap": false}}})"));
  EXPECT_GT(t, link);
  EXPECT_LT(t, turns);
  EXPECT_GT(turns, resident + link);
  double last = resident;
  for (const int layers : {4, 8, 16, 31}) {
    const double more = decode_seconds(
        with(kStreamed, R"({"engine": {"layer_streaming": {"layers": )" + std::to_string(layers) + "}}}"));
    EXPECT_GE(more, last) << layers;
    last = more;
  }
}

TEST(Offload, EveryStepReadsTheWeightsOverTheLink) {
  const Json some = with(kStreamed, R"({"engine": {"layer_streaming": null, "cpu_offload_gib": 5}})");
  const Priced p(resolve_or_fail(some.dump()));
  const double link = p.deployment.memory.outside_bytes / p.deployment.device.pcie_bandwidth.value;
  const double resident = decode_seconds(with(kStreamed, R"({"engine": {"layer_streaming": null}})"));
  const double offloaded = decode_seconds(some);
  EXPECT_GT(offloaded, link);
  EXPECT_LT(offloaded, resident + 1.3 * link);
  Work one;
  one.decode_sequences = 1;
  one.contexts = {10};
  double weights = 0;
  for (const Op& op :
       operators(p.deployment.model, p.deployment.mapping.stages[0], one, p.deployment.precision).ops)
    weights += op.host_bytes * static_cast<double>(op.count);
  EXPECT_NEAR(weights / p.deployment.memory.outside_bytes, 1, 1e-3) << "all matrices of the offloaded layers";
}

// Spans, where there are any, are single steps; and what a step costs is the same sum everywhere.
TEST(HostMemory, SpansAndEstimatesAgreeWithSingleSteps) {
  const Json swap = with(kStreamed, R"({"engine": {"layer_streaming": null, "preemption_mode": "swap",
      "num_gpu_blocks_override": 300}, "workload": {"request_rate": 100, "num_prompts": 60, "output_len": {"value": 200}}})");
  for (const Json& json :
       {Json::parse(kStreamed), swap,
        with(kStreamed, R"({"engine": {"layer_streaming": null, "cpu_offload_gib": 5}})")}) {
    const Priced p(resolve_or_fail(json.dump()));
    SimulateOptions o;
    o.intervals = false, o.keep_records = true;
    const Simulation spans = simulate(p.deployment, p.cost, test_resources(), o);
    o.use_spans = false;
    const Simulation single = simulate(p.deployment, p.cost, test_resources(), o);
    ASSERT_EQ(spans.served.records.size(), single.served.records.size());
    for (std::size_t i = 0; i < spans.served.records.size(); ++i)
      EXPECT_EQ(spans.served.records[i].finish, single.served.records[i].finish);
    EXPECT_EQ(spans.served.swapped_out_blocks, single.served.swapped_out_blocks);
    EXPECT_EQ(spans.served.swapped_out_blocks > 0, p.deployment.scheduler.num_host_blocks > 0);
    EXPECT_EQ(spans.basis.relative_error, single.basis.relative_error);
  }
}

// What was copied takes the link's time, and nothing else changes in the step that carries it.
TEST(Swap, CopiesAreAddedToTheirStep) {
  Priced p(resolve_or_fail(with(kStreamed, R"({"engine": {"layer_streaming": null, "preemption_mode": "swap",
      "async_scheduling": false, "host_times": {"kernel_us": 0}}})")
                               .dump()));
  PredictedBackend backend(p.deployment, p.cost);
  const std::vector<BlockCopy> copies(100);
  Batch batch;
  batch.decode_sequences = batch.sampled_rows = 4;
  batch.contexts[0] = 2000;
  batch.growing[0] = 4;
  const auto time = [&](const Batch& b) { return backend.run({0, 0, {&b, 1}}).tokens_out; };
  const Picoseconds plain = time(batch);
  Batch out = batch, both = batch, alone;
  out.swap_out = both.swap_out = both.swap_in = alone.swap_out = copies;
  const double bytes = 100 * 16 * 131072.0;
  const double link = 10e-6 + bytes / (0.85 * p.deployment.device.pcie_bandwidth.value);
  EXPECT_NEAR(to_seconds(time(out) - plain).value, link, 1e-9);
  EXPECT_NEAR(to_seconds(time(both) - plain).value, 2 * link, 1e-9);
  EXPECT_GE(to_seconds(time(alone)).value, link);
  EXPECT_EQ(backend.run_span({0, 0, {&out, 1}}, 10).steps, 0) << "the next step carries none";
  // Keys and values of 1000 tokens are read and written once.
  Batch shifted = batch;
  const KvShift shift{0, 300, 200, 1000, 100};
  shifted.shifts = {&shift, 1};
  const double seconds = to_seconds(time(shifted) - plain).value, least = 2 * 1000 * 131072.0 / 3.35e12;
  EXPECT_GT(seconds, least);
  EXPECT_LT(seconds, 3 * least);
  const Work w = work(out, p.deployment, 4);
  EXPECT_EQ(w.swap_out_tokens, 1600);
  EXPECT_NEAR(price_work(p.deployment, p.cost, w).seconds -
                  price_work(p.deployment, p.cost, work(batch, p.deployment, 4)).seconds,
              link, 1e-9);
}

}  // namespace
}  // namespace foretoken
