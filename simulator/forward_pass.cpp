#include "simulator/forward_pass.h"

#include <algorithm>
#include <cmath>

namespace foretoken {
namespace {

// From Python through the dispatcher to the queue of the device; x86 servers need 4 to 10 us a kernel.
constexpr double kEnqueue = 7e-6;

}  // namespace

Fusion eager_fusion(const ModelConfig& model) {
  Fusion f;
  f.norm_residual = f.gate_up = f.fused_moe = f.attention = f.activation = false;
  // GPT-2 and its kin hold q, k and v in one matrix, the others in three.
  for (const std::string_view type : {"gpt2", "gpt3", "gpt_bigcode", "bloom", "gpt_neox", "falcon", "mpt"})
    if (model.model_type == type) return f;
  f.qkv = false;
  return f;
}

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
  r.host_seconds = std::max(0.0, kernels * kEnqueue - r.seconds);
  r.seconds += r.host_seconds;
  return r;
}

}  // namespace foretoken
