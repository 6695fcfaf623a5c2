// What DistServe (Zhong et al., OSDI 2024) states of its own system and model.
#include <gtest/gtest.h>

#include "fixtures.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

// Section 3.3: the cache of one 512-token request of OPT-66B is about 1.13 GB (of 2^30 bytes), so 10 requests
// a second take about 90 Gbit/s.
TEST(DistServe, BytesOfARequestOfOpt66b) {
  const Deployment d = resolve_or_fail(test_scenario(R"({"model": "opt-66b",
    "hardware": {"device": "a100-sxm-80gb"}, "engine": {"dtype": "float16", "tensor_parallel_size": 4},
    "cluster": {"prefill": {}, "decode": {}}})"),
                                       512, 1024);
  const double bytes = moved_bytes(*d.pools, 512) * 4;  // through four ports
  EXPECT_NEAR(bytes / kGiB, 1.13, 0.006);
  EXPECT_NEAR(10 * bytes * 8 / kGiB, 90, 0.5);
}

// Section 6.3: OPT-175B, prompts on 3 x 3 and the rest on 4 x 3 A100s, stages side by side in a node: more
// than 95 % of the moves take less than 30 ms. The longest prompt that the model takes, through NVLink's port
// of the busiest device, does; through the cluster's 25 Gbit/s it would not.
TEST(DistServe, MovesOfOpt175bInsideANode) {
  const auto seconds = [](const char* link) {
    const Deployment d = resolve_or_fail(
        test_scenario(std::string(R"({"model": "opt-175b", "hardware": {"device": "a100-sxm-80gb"},
    "engine": {"dtype": "float16", "enforce_eager": true},
    "cluster": {"prefill": {"tensor_parallel_size": 3, "pipeline_parallel_size": 3},
                "decode": {"tensor_parallel_size": 4, "pipeline_parallel_size": 3}, "kv_link": )") +
                      link + "}}"),
        800, 2048);
    return move_time(*d.pools, 2048).value;
  };
  EXPECT_LT(seconds(R"({"name": "NVLink3"})"), 0.030);
  EXPECT_GT(seconds(R"({"name": "NVLink3"})"), 0.002);
  EXPECT_GT(seconds(R"({"bandwidth": "3.125 GB/s"})"), 0.030);
}

// Section 3.1, equation 1: prompts of one length, one at a time, wait R D^2 / (2 (1 - R D)) on average.
TEST(DistServe, TimeToFirstTokenOfPromptsOfOneLength) {
  const std::string scenario = R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
    "engine": {"behavior": "vllm-0.19", "async_scheduling": false, "enable_prefix_caching": false,
               "host_times": {"ingress_ms": 0, "egress_ms": 0}},
    "cluster": {"prefill": {"max_num_seqs": 1, "max_num_batched_tokens": 2048}, "decode": {}},
    "workload": {"request_rate": RATE, "num_prompts": COUNT, "input_len": {"value": 2048}, "output_len": {"value": 8}}})";
  const auto ttft = [&](const std::string& rate, const std::string& count) {
    std::string text = scenario;
    text.replace(text.find("RATE"), 4, rate).replace(text.find("COUNT"), 5, count);
    const Priced p(resolve_or_fail(test_scenario(text), 2056, 2056), true);
    SimulateOptions o;
    o.intervals = false;
    return simulate(p.deployment, p.cost, test_resources(), o).served.metrics.ttft.mean / 1000;
  };
  const double service = ttft("0.01", "5");
  for (const double load : {0.3, 0.6}) {
    const double rate = load / service;
    const double expected = service + rate * service * service / (2 * (1 - rate * service));
    EXPECT_NEAR(ttft(std::to_string(rate), "60000") / expected, 1, 0.03) << load;
  }
}

}  // namespace
}  // namespace foretoken
