// Searches deployments: enumerates, rejects what doesn't fit, prunes by estimate, simulates the rest on all
// cores.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "deployment/deployment.h"
#include "simulator/simulate.h"

namespace foretoken {

struct Candidate {
  int index = 0;      // in order of enumeration
  std::string label;  // "8x H200 TP4 PP1 fp8 kv=fp8 x2 replicas"
  std::string patch;  // JSON merge patch
  std::string device;
  std::int64_t devices = 0, replicas = 0, tensor_parallel = 1, pipeline_parallel = 1, data_parallel = 1,
               expert_parallel = 1;
  std::string quantization, kv_cache_dtype;
  std::int64_t max_num_seqs = 0, max_num_batched_tokens = 0;
  ServingMetrics metrics;
  Interval p99_ttft_ms, p99_tpot_ms;  // of the winner only
  double usd_per_million_tokens = 0, usd_per_hour = 0;
  bool has_price = false;
  double tokens_per_s_per_device = 0, tokens_per_s_per_user = 0;
  double goodput_per_device = 0;  // requests/s within the SLO
  double slo_attainment = 1;
  bool meets_slo = true;
  double score = 0;     // the objective; smaller is better
  std::string command;  // vllm serve ...
};

struct PlanResult {
  std::int64_t searched = 0, infeasible = 0, pruned = 0, simulated = 0, feasible = 0;
  std::vector<Candidate> ranked;                 // feasible, best first
  std::vector<Candidate> missed;                 // simulated, but over the SLO; nearest to it first
  std::vector<Candidate> pareto;                 // tokens/s/device against tokens/s/user
  std::map<std::string, std::int64_t> rejected;  // reason -> count
  std::map<std::string, std::string> rejected_example;
  std::vector<std::string> why;  // why the winner wins, in sentences
  bool interrupted = false;
  std::string objective;
  std::string workload;
};

struct PlanOptions {
  int threads = 0;                                                      // 0: all cores
  std::function<void(std::int64_t done, std::int64_t total)> progress;  // from any thread
  const std::atomic<bool>* stop = nullptr;
};

PlanResult plan(const Scenario& scenario, const Resources& resources, const PlanOptions& options = {});

}  // namespace foretoken
