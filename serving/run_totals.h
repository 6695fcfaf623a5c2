// How a run ends in the loops of systems that have one of their own (LoongServe, Infinite-LLM).
#pragma once

#include "serving/metrics.h"
#include "serving/serve.h"

namespace foretoken {

__extension__ using Integer128 = __int128;  // sums of picoseconds over engines

struct RunTotals {
  Picoseconds now = 0, first_arrival = -1;
  std::int64_t steps = 0;
  Integer128 running_time = 0, waiting_time = 0, busy = 0;  // of requests, and of replicas in steps
};

// Metrics, records and time averages into the result, whose engines are added up already.
void conclude_run(ServeResult& result, MetricsCollector& metrics, const ServeOptions& options,
                  const RunTotals& totals);

}  // namespace foretoken
