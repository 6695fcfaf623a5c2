// estimate() of engines of several kinds: what each pool answers, and what they do together.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "simulator/estimate.h"

namespace foretoken {

struct PoolEstimate {
  double share = 1;         // of the requests
  double request_rate = 0;  // that reach it, requests/s; 0: closed loop
  // As of a deployment of this pool alone. Prefill and decode engines have the steps and the times that are
  // theirs.
  Estimate estimate;
};

struct PoolsEstimate {
  std::vector<PoolEstimate> pools;               // in the order of Deployment::kinds()
  double transfer_ms = 0;                        // of a mean prompt's cache, prefill to decode
  double utilization = 0;                        // as Estimate's; of the pool that is full first
  double ttft_ms = 0, tpot_ms = 0, e2el_ms = 0;  // over all requests
  double output_throughput = 0, capacity_requests_per_s = 0, usd_per_million_tokens = 0;
};

// "prefill" or "decode", or "pool 0": how reports name the i-th of Deployment::kinds().
std::string pool_name(const Deployment& deployment, std::size_t i);

// Of a deployment whose kinds() are several, costs by kind. Routers that look at loads give each pool
// requests in proportion to what it can serve, others in proportion to its engines and their weights. Prefill
// engines compute one prompt after the other. Under splitwise machines of the side that has time left do the
// other's work, which bounds what all can serve; under tetriinfer, whose engines change sides when they were
// idle, which a steady load leaves none for long, each stays on the side where it begins.
PoolsEstimate estimate_pools(const Deployment& deployment, std::span<const CostModel> costs,
                             const Workload::Means& workload, std::int64_t concurrency);

}  // namespace foretoken
