// What a faster part would change: memory bandwidth, arithmetic, links, host; each by a factor, one at a
// time.
#pragma once

#include <string>
#include <vector>

#include "simulator/estimate.h"

namespace foretoken {

struct Sensitivity {
  std::string part;            // "memory bandwidth", "arithmetic", "links", "host"
  double factor = 1.1;         // how much faster
  std::vector<double> change;  // of each of the estimate's steps: new over old seconds, minus 1
};
std::vector<Sensitivity> sensitivities(const Deployment& deployment, const CostModel& cost,
                                       const Estimate& estimate, double factor = 1.1);

}  // namespace foretoken
