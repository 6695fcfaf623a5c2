// What Splitwise (Patel et al., ISCA 2024) states of its clusters.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/random.h"
#include "fixtures.h"
#include "serving/trace_reader.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

// Sizes of a trace's first requests, Poisson arrivals.
class Sizes : public Workload {
 public:
  Sizes(const std::string& trace, std::int64_t count, double rate) : count_(count), rate_(rate) {
    WorkloadConfig config;
    config.trace = "traces/" + trace;
    const auto all = make_workload(config, test_resources().scenario_folder, "test");
    while (std::ssize(sizes_) < count) {
      const Request r = all->pop();
      if (r.input_len + r.output_len < 4096) sizes_.push_back({r.input_len, r.output_len});
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

Machines machines(const std::string& model, const std::string& cluster, const std::string& device) {
  const std::string scenario = R"({"model": ")" + model + R"(", "hardware": {"device": ")" + device + R"("},
    "engine": {"behavior": "splitwise", "dtype": "float16", "tensor_parallel_size": 8, "max_model_len": 4096},
    "cluster": )" + cluster + "}";
  Machines m{resolve_or_fail(test_scenario(scenario), 1400, 4096), {}, {}};
  for (const Deployment* kind : m.deployment.kinds())
    m.kernels.push_back(test_database().kernels(kind->device));
  m.costs = make_cost_models(m.deployment, m.kernels);
  return m;
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
    if (std::getenv("SHOW")) std::printf(" %.2f %.2f %.2f |", a, b, c);
    most = std::max({most, a, b, c});
  }
  return most;
}

TEST(Splitwise, Explore) {
  const std::string model = std::getenv("MODEL") ? std::getenv("MODEL") : "llama-2-70b";
  for (const std::string trace : {"azure-conv-2023.csv.gz", "azure-code-2023.csv.gz"}) {
    const auto alone = served(machines(model, "{}", "a100-sxm-80gb"), trace, 1500, 0.001);
    const std::string link = R"(, "router": "splitwise", "kv_link": {"bandwidth": "25 GB/s", "overlap": "layerwise", "layerwise_min_tokens": 512}})";
    const auto split = [&](int p, int t, const std::string& a, const std::string& b) {
      return machines(model,
                      "{\"prefill\": {\"replicas\": " + std::to_string(p) + ", \"device\": \"" + a +
                          "\"}, \"decode\": {\"replicas\": " + std::to_string(t) + ", \"device\": \"" + b + "\"}" +
                          link,
                      a);
    };
    const std::string A = "a100-sxm-80gb", H = "h100-sxm";
    const auto whole = [&](int n, const std::string& d) {
      return machines(model, "{\"router\": \"least_tokens\", \"replicas\": " + std::to_string(n) + "}", d);
    };
    struct Named {
      std::string name;
      Machines m;
    };
    std::vector<Named> all;
    all.push_back({"A100 14", whole(14, A)});
    all.push_back({"H100 8", whole(8, H)});
    for (int p : {7, 9, 11}) all.push_back({"AA " + std::to_string(p), split(p, 14 - p, A, A)});
    for (int p : {4, 5, 6, 7}) all.push_back({"HH " + std::to_string(p), split(p, 8 - p, H, H)});
    for (const Named& n : all)
      for (double rate : {6., 10., 14., 18., 22., 26., 30., 36.}) {
        std::printf("%s %s %.0f:", trace.substr(6, 4).c_str(), n.name.c_str(), rate);
        const double w = worst(served(n.m, trace, 1500, rate), alone);
        std::printf(" => %.2f\n", w);
        std::fflush(stdout);
        if (w > 1.3) break;
      }
  }
}

}  // namespace
}  // namespace foretoken
