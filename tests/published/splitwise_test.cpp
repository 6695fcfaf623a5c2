// What Splitwise (Patel et al., ISCA 2024) states of its clusters.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.h"
#include "fixtures.h"
#include "serving/trace_reader.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

constexpr const char *kA100 = "a100-sxm-80gb", *kH100 = "h100-sxm";
constexpr std::int64_t kRequests = 1500, kLongest = 4096;

// Sizes of a trace's first requests, Poisson arrivals.
class Sizes : public Workload {
 public:
  Sizes(const std::string& trace, std::int64_t count, double rate) : count_(count), rate_(rate) {
    WorkloadConfig config;
    config.trace = "traces/" + trace;
    const auto all = make_workload(config, test_resources().scenario_folder, "test");
    while (std::ssize(sizes_) < count) {
      const Request r = all->pop();
      if (r.input_len + r.output_len < kLongest) sizes_.push_back({r.input_len, r.output_len});
    }
  }
  std::optional<Picoseconds> next_arrival() const override {
    if (next_ == count_) return std::nullopt;
    return to_picoseconds(Seconds(clock_));
  }
  Request pop() override {
    Request r;
    r.id = next_;
    r.arrival = *next_arrival();
    r.input_len = sizes_[static_cast<std::size_t>(next_)].first;
    r.output_len = sizes_[static_cast<std::size_t>(next_)].second;
    ++next_;
    clock_ += CounterRandom(1, 99, static_cast<std::uint64_t>(next_)).exponential() / rate_;
    return r;
  }
  void finished(const Request&, Picoseconds) override {}
  std::int64_t total_requests() const override { return count_; }
  std::span<const ContentRun> content(const Request&) const override { return {}; }
  std::string describe() const override { return "sizes"; }
  Means means() const override { return {}; }
  std::int64_t longest() const override { return 0; }

 private:
  std::int64_t count_, next_ = 0;
  double rate_, clock_ = 0;
  std::vector<std::pair<std::int32_t, std::int32_t>> sizes_;
};

struct Machines {
  Deployment deployment;
  std::vector<KernelTable> kernels;
  std::vector<CostModel> costs;
};

Machines machines(const std::string& cluster, const std::string& device) {
  const std::string scenario = R"({"model": "llama-2-70b", "hardware": {"device": ")" + device + R"("},
    "engine": {"behavior": "splitwise", "dtype": "float16", "tensor_parallel_size": 8, "max_model_len": 4096},
    "cluster": )" + cluster + "}";
  Machines m{resolve_or_fail(test_scenario(scenario), 1400, kLongest), {}, {}};
  for (const Deployment* kind : m.deployment.kinds())
    m.kernels.push_back(test_database().kernels(kind->device));
  m.costs = make_cost_models(m.deployment, m.kernels);
  return m;
}

// The paper's baselines: each serves whole requests, the one with the fewest tokens gets the next.
Machines whole(int replicas, const std::string& device) {
  return machines(R"({"router": "least_tokens", "replicas": )" + std::to_string(replicas) + "}", device);
}

Machines split(int prompts, int tokens, const std::string& device) {
  return machines(
      R"({"router": "splitwise", "prefill": {"replicas": )" + std::to_string(prompts) +
          R"(}, "decode": {"replicas": )" + std::to_string(tokens) +
          R"(}, "kv_link": {"bandwidth": "25 GB/s", "overlap": "layerwise", "layerwise_min_tokens": 512}})",
      device);
}

std::vector<RequestRecord> served(const Machines& m, const std::string& trace, std::int64_t count,
                                  double rate) {
  Sizes workload(trace, count, rate);
  PredictedBackend backend(m.deployment, m.costs);
  SimulateOptions options;
  options.keep_records = true;
  auto records = serve_with(backend, workload, m.deployment, options).served.records;
  std::sort(records.begin(), records.end(),
            [](const RequestRecord& a, const RequestRecord& b) { return a.id < b.id; });
  return records;
}

// Table 6: of the slowdowns against a DGX-A100 that has nothing else to do, at P50, P90 and P99.
constexpr double kTtft[] = {2, 3, 6}, kOthers[] = {1.25, 1.5, 5}, kQuantiles[] = {0.5, 0.9, 0.99};

double worst(const std::vector<RequestRecord>& loaded, const std::vector<RequestRecord>& alone) {
  std::vector<double> ttft, tbt, e2e;
  for (std::size_t i = 0; i < loaded.size(); ++i) {
    const RequestRecord &x = loaded[i], &y = alone[i];
    const auto ratio = [](Picoseconds a, Picoseconds b) {
      return static_cast<double>(a) / static_cast<double>(b);
    };
    ttft.push_back(ratio(x.first_token - x.arrival, y.first_token - y.arrival));
    e2e.push_back(ratio(x.finish - x.arrival, y.finish - y.arrival));
    if (x.output_len > 1) tbt.push_back(ratio(x.finish - x.first_token, y.finish - y.first_token));
  }
  double most = 0;
  for (int q = 0; q < 3; ++q) {
    const auto at = [&](std::vector<double>& v) {
      std::sort(v.begin(), v.end());
      return v[static_cast<std::size_t>(kQuantiles[q] * static_cast<double>(v.size() - 1))];
    };
    const double a = at(ttft) / kTtft[q], b = at(tbt) / kOthers[q], c = at(e2e) / kOthers[q];
    most = std::max({most, a, b, c});
  }
  return most;
}

// The highest rate, from `low` in steps of 2, at which all nine hold.
double most(const Machines& m, const std::string& trace, const std::vector<RequestRecord>& alone,
            double low) {
  double rate = 0;
  for (double next = low; worst(served(m, trace, kRequests, next), alone) <= 1; next += 2) rate = next;
  return rate;
}

// Sections 6.2 and 6.3, conversations: on the same machines (so at the same power and cost) Splitwise-AA
// serves 2.15 times what Baseline-A100 does, and at the cost of Baseline-H100 1.4 times what that does.
// Here 2.2 and 1.2, with a fifth of the paper's machines, the split into pools that serves most (the paper
// searches it too), its prices of machines (2.21 and 4.76: 17 DGX-A100 for 8 DGX-H100) and Llama-2-70B; the
// paper has BLOOM-176B, which takes 2,048 positions, too few for half of the prompts. Requests beyond 4,096
// tokens are left out. Coding: Splitwise-HH serves more than Baseline-H100, as in the paper; Splitwise-AA
// doesn't here.
TEST(Splitwise, ThroughputWithinTheLatencyLimits) {
  const std::string conversations = "azure-conv-2023.csv.gz", code = "azure-code-2023.csv.gz";
  const auto alone = [](const std::string& trace) {
    return served(whole(1, kA100), trace, kRequests, 0.001);
  };
  const auto conv_alone = alone(conversations);
  const double a100 = most(whole(14, kA100), conversations, conv_alone, 16);
  const double aa = most(split(7, 7, kA100), conversations, conv_alone, 38);
  EXPECT_GE(a100, 16);
  EXPECT_NEAR(aa / a100, 2.15, 0.15 * 2.15);
  const double h100 = most(whole(8, kH100), conversations, conv_alone, 44);
  const double cheap = most(split(10, 7, kA100), conversations, conv_alone, 56);
  EXPECT_GE(h100, 44);
  EXPECT_NEAR(cheap / h100, 1.4, 0.2 * 1.4);
  // Splitwise-HHcap serves what Baseline-H100 does with a quarter less power: token machines capped at 70 %.
  // splitwise-sim has capped machines compute prompts 1.3 times slower and tokens as fast as others (its
  // rows are that factor, not measurements); here tokens are, and the prompts that they help with are taken
  // to be.
  double power = 8;
  for (const auto& [prompts, tokens] : {std::pair(3, 3), std::pair(4, 2), std::pair(4, 3), std::pair(5, 2)})
    if (worst(served(split(prompts, tokens, kH100), conversations, kRequests, h100), conv_alone) <= 1)
      power = std::min(power, prompts + 0.7 * tokens);
  RecordProperty("hhcap_power", std::to_string(power / 8));
  EXPECT_NEAR(power / 8, 0.75, 0.1);
  const auto code_alone = alone(code);
  EXPECT_GT(worst(served(whole(8, kH100), code, kRequests, 30), code_alone), 1);
  EXPECT_LT(worst(served(split(7, 1, kH100), code, kRequests, 50), code_alone), 1);
}

}  // namespace
}  // namespace foretoken
