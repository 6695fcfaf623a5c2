// An instant answer without events: memory, and the time of prefill and decode steps at the batches that
// matter.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "deployment/deployment.h"
#include "simulator/cost_model.h"

namespace foretoken {

struct OperatorCost {
  std::string name;
  std::int64_t count = 0;
  double seconds = 0, flops = 0, bytes = 0;  // of all `count` executions
  Basis basis = Basis::kRoofline;
  double relative_error = 0;
  std::string bound_by;
  double limit = 0;  // seconds that they take at the speed of light; 0: not stated
};

struct StepEstimate {
  std::string name;  // "prefill", "decode_1", "decode_expected", "decode_max"
  std::int64_t sequences = 0, tokens = 0, cached = 0;  // cached: prompt tokens before the prefill step's
  double context = 0;                                  // mean attended tokens of a sequence
  double seconds = 0, low = 0, high = 0;               // one step; 90 % interval
  double host_seconds = 0;                             // exposed host time in it
  std::string bound_by;                                // what most of the time is bound by
  double roofline_fraction = 0;                        // speed of light over predicted
  std::vector<OperatorCost> operators;
};

struct Estimate {
  std::vector<StepEstimate> steps;
  double tokens_per_step = 1;     // of a decoding sequence; above 1 with speculative decoding
  double expected_sequences = 0;  // running on each rank: Little's law, or the closed loop's concurrency
  double utilization = 0;  // offered load over what the replicas can serve; >= 1 is overload; 0: closed loop
  double ttft_ms = 0, tpot_ms = 0, e2el_ms = 0;  // without queueing, at the expected batch
  double output_throughput = 0;                  // tokens/s of the whole deployment at that batch
  double capacity_requests_per_s = 0;            // of the whole deployment, at the largest batch that fits
  double usd_per_million_tokens = 0;             // 0 when there is no price
  std::array<double, 4> basis{};                 // shares of the steps' time
};

// workload: its means; concurrency: of a closed loop, 0 otherwise.
Estimate estimate(const Deployment& deployment, const CostModel& cost, const Workload::Means& workload,
                  std::int64_t concurrency, bool with_operators = true);

}  // namespace foretoken
