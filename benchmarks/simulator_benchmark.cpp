// How fast the simulator answers: estimates a second, requests and steps a second of simulated serving.
#include <benchmark/benchmark.h>

#include <filesystem>

#include "base/json_full.h"
#include "simulator/estimate.h"
#include "simulator/plan.h"
#include "simulator/simulate.h"

namespace foretoken {
namespace {

const Database& database() {
  static const Database d =
      Database::open(std::filesystem::path(FORETOKEN_BINARY_DIR) / "share/foretoken/foretoken.sqlite");
  return d;
}

Resources resources() {
  Resources r;
  r.database = &database();
  r.preset_folder = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model/presets";
  r.scenario_folder = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "scenarios";
  r.scenario_file = "benchmark";
  return r;
}

struct Prepared {
  explicit Prepared(const std::string& json) : Prepared(scenario_from_json(Json::parse(json), "benchmark")) {}
  explicit Prepared(const Scenario& scenario)
      : model(load_scenario_model(scenario, resources())),
        deployment(std::get<Deployment>(resolve(scenario, resources(), model, 1366, 8192))),
        kernels(database().kernels(deployment.device)),
        cost(deployment.device, deployment.topology, kernels) {}
  ModelConfig model;
  Deployment deployment;
  KernelTable kernels;
  CostModel cost;
};

void estimate_benchmark(benchmark::State& state, const std::string& scenario) {
  const Prepared p(scenario);
  Workload::Means load;
  load.input_len = 1155;
  load.output_len = 211;
  load.request_rate = 5;
  for (auto _ : state) benchmark::DoNotOptimize(estimate(p.deployment, p.cost, load, 0, false));
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK_CAPTURE(estimate_benchmark, llama_8b,
                  R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"}})");
BENCHMARK_CAPTURE(
    estimate_benchmark, llama_70b_tp4,
    R"({"model": "llama-3.3-70b", "hardware": {"device": "h200"}, "engine": {"tensor_parallel_size": 4}})");
BENCHMARK_CAPTURE(estimate_benchmark, deepseek_v3_ep16,
                  R"({"model": "deepseek-v3", "hardware": {"device": "h200"},
                      "engine": {"data_parallel_size": 16, "expert_parallel_size": 16}})");

void resolve_benchmark(benchmark::State& state) {
  const Scenario s = scenario_from_json(
      Json::parse(
          R"({"model": "llama-3.3-70b", "hardware": {"device": "h200"}, "engine": {"tensor_parallel_size": 4}})"),
      "benchmark");
  const Resources r = resources();
  const ModelConfig model = load_scenario_model(s, r);
  for (auto _ : state) benchmark::DoNotOptimize(resolve(s, r, model, 1366, 8192));
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(resolve_benchmark);

void simulate_benchmark(benchmark::State& state, const std::string& scenario, bool spans) {
  const Prepared p(scenario);
  std::int64_t requests = 0, steps = 0;
  for (auto _ : state) {
    SimulateOptions o;
    o.intervals = false;
    o.use_spans = spans;
    const Simulation s = simulate(p.deployment, p.cost, resources(), o);
    requests += s.served.metrics.completed;
    steps += s.served.metrics.num_steps;
  }
  state.SetItemsProcessed(requests);
  state.counters["steps/s"] = benchmark::Counter(static_cast<double>(steps), benchmark::Counter::kIsRate);
}
const char* const kAzure = R"({"model": "llama-3.1-8b", "hardware": {"device": "h200"},
    "workload": {"trace": "traces/azure-conv-2023.csv.gz"}})";
const char* const kMillion = R"({"model": "llama-3.1-8b", "hardware": {"device": "h200", "count": 64},
    "workload": {"request_rate": 640, "num_prompts": 1000000, "input_len": {"value": 512}, "output_len": {"value": 128}}})";
BENCHMARK_CAPTURE(simulate_benchmark, azure_one_replica, kAzure, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(simulate_benchmark, azure_one_replica_step_by_step, kAzure, false)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(simulate_benchmark, million_requests_64_replicas, kMillion, true)
    ->Unit(benchmark::kMillisecond)
    ->Iterations(1);

// A large deployment's engine (docs/speed.md): at the trace's own rate, and as fast as it can be served.
const char* const kLarge = R"({"model": "llama-3.3-70b", "hardware": {"device": "h200", "count": 4},
    "engine": {"tensor_parallel_size": 4, "quantization": "fp8", "max_num_seqs": 256, "enable_prefix_caching": false},
    "workload": {"trace": "traces/azure-conv-2023.csv.gz"}})";
const char* const kLargeSaturated = R"({"model": "llama-3.3-70b", "hardware": {"device": "h200", "count": 4},
    "engine": {"tensor_parallel_size": 4, "quantization": "fp8", "max_num_seqs": 256, "enable_prefix_caching": false},
    "workload": {"trace": "traces/azure-conv-2023.csv.gz", "rate_scale": 100}})";
const char* const kMooncake = R"({"model": "llama-3.3-70b", "hardware": {"device": "h200", "count": 16},
    "engine": {"tensor_parallel_size": 4, "quantization": "fp8", "max_model_len": 131072},
    "cluster": {"router": "least_outstanding"},
    "workload": {"trace": "traces/mooncake-conversation.jsonl.gz"}})";
BENCHMARK_CAPTURE(simulate_benchmark, large_azure, kLarge, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(simulate_benchmark, large_azure_saturated, kLargeSaturated, true)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(simulate_benchmark, large_mooncake, kMooncake, true)->Unit(benchmark::kMillisecond);
// As many replicas as serve 100 million requests a day, for the first of these requests.
const char* const kFleet = R"({"model": "llama-3.3-70b", "hardware": {"device": "h200", "count": 10000},
    "engine": {"tensor_parallel_size": 8, "quantization": "fp8", "max_num_seqs": 256, "enable_prefix_caching": false},
    "cluster": {"router": "least_outstanding"},
    "workload": {"request_rate": 1157, "num_prompts": 1000000,
                 "input_len": {"distribution": "lognormal", "mean": 1155, "p99": 4142},
                 "output_len": {"distribution": "lognormal", "mean": 211, "p99": 601}}})";
BENCHMARK_CAPTURE(simulate_benchmark, fleet_of_1250_replicas, kFleet, true)
    ->Unit(benchmark::kMillisecond)
    ->Iterations(1);

// The peers' side-by-side workloads (docs/speed.md).
BENCHMARK_CAPTURE(simulate_benchmark, fixed_512_128_5000_requests,
                  R"({"model": "llama-2-7b-hf", "hardware": {"device": "a100"},
    "workload": {"request_rate": 8, "num_prompts": 5000, "input_len": {"value": 512}, "output_len": {"value": 128}}})",
                  true)
    ->Unit(benchmark::kMillisecond);

// A load that keeps a device half busy, under each scheduling policy.
const char* const kPolicies[] = {
    "vllm-0.19", "sglang-0.5",  "trtllm-1.2",         "foretoken",        "vllm-0.6", "vllm-0.7",
    "orca",      "sarathi",     "fastertransformer",  "triton",           "lightllm", "deepspeed-fastgen",
    "tgi",       "llama.cpp",   "lmdeploy-turbomind", "lmdeploy-pytorch", "nanoflow", "splitwise",
    "tgi-3",     "lightllm-1.0"};
const bool registered = [] {
  for (const std::string behavior : kPolicies) {
    // Static batches and one slot after another serve less.
    const bool slow = behavior == "fastertransformer" || behavior == "triton" || behavior == "llama.cpp";
    const std::string scenario = R"({"model": "llama-3.1-8b", "hardware": {"device": "h100"},
      "engine": {"max_model_len": 4096)" +
                                 std::string(behavior == "llama.cpp" ? R"(, "n_parallel": 64)" : "") +
                                 R"(, "behavior": ")" + behavior + R"("},
      "workload": {"request_rate": )" +
                                 (slow ? "4" : "15") + R"(, "num_prompts": 5000, "input_len": {"value": 512},
                   "output_len": {"value": 256}}})";
    benchmark::RegisterBenchmark(("simulate_policy/" + behavior).c_str(), simulate_benchmark, scenario, true)
        ->Unit(benchmark::kMillisecond);
    // The same engine as large_azure_saturated: as many run as may, the rest wait.
    const std::string saturated =
        R"({"model": "llama-3.3-70b", "hardware": {"device": "h200", "count": 4},
      "engine": {"tensor_parallel_size": 4, "quantization": "fp8", "max_model_len": 16384)" +
        std::string(behavior == "llama.cpp" ? R"(, "n_parallel": 64)" : R"(, "max_num_seqs": 256)") +
        R"(, "behavior": ")" + behavior + R"("},
      "workload": {"trace": "traces/azure-conv-2023.csv.gz", "rate_scale": 100}})";
    benchmark::RegisterBenchmark(("saturated_policy/" + behavior).c_str(), simulate_benchmark, saturated,
                                 true)
        ->Unit(benchmark::kMillisecond);
  }
  return true;
}();

}  // namespace
}  // namespace foretoken
