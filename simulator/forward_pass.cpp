#include "simulator/forward_pass.h"

#include <algorithm>
#include <cmath>

#include "deployment/behavior.h"

namespace foretoken {
ForwardPass forward_pass(const ModelConfig& model, const CostModel& cost, std::int64_t batch,
                         std::int64_t length, const Precision& precision) {
  Work work;
  work.prefill = {{length, 0, batch}};
  work.sampled_rows = batch * length;
  ForwardPass r;
  double variance = 0, kernels = 0;
  for (const Op& op : operators(model, Shard{}, work, precision, eager_fusion(model)).ops) {
    if (std::holds_alternative<SamplingShape>(op.shape)) continue;  // the logits are the result
    const Price p = cost.price(op);
    const double t = p.time.value * static_cast<double>(op.count);
    r.seconds += t;
    r.basis[static_cast<std::size_t>(p.basis)] += t;
    variance += t * p.relative_error * t * p.relative_error;
    kernels += static_cast<double>(op.count);
  }
  if (r.seconds > 0) {
    for (double& share : r.basis) share /= r.seconds;
    r.relative_error = std::sqrt(variance) / r.seconds;
  }
  r.host_seconds = std::max(0.0, kernels * kPythonEnqueue.value - r.seconds);
  r.seconds += r.host_seconds;
  return r;
}

}  // namespace foretoken
