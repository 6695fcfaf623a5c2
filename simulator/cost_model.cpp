#include "simulator/cost_model.h"

#include <algorithm>

namespace foretoken {
namespace {

// Half-widths of 90 % intervals of the plain roofline: about twice the MAPE of rooflines on measured
// operators (formulas.md 3.5, 3.6): matrix products 0.35, attention 0.5, collectives 0.5, the rest 0.6.
constexpr double kLinkError = 0.5;
double roofline_error(const Op& op) {
  if (std::holds_alternative<GemmShape>(op.shape)) return 0.35;
  if (std::holds_alternative<AttentionShape>(op.shape)) return 0.5;
  if (std::holds_alternative<CollectiveShape>(op.shape) || std::holds_alternative<CopyShape>(op.shape))
    return kLinkError;
  return 0.6;
}

std::string_view bound(const Op& op, const Device& device, Seconds time, Seconds limit) {
  if (std::holds_alternative<CollectiveShape>(op.shape) || std::holds_alternative<CopyShape>(op.shape))
    return limit.value > 0.3 * time.value ? "link" : "latency";
  if (limit.value < 0.3 * time.value) return "latency";
  const DType t = compute_type(op, device.has_fp4());
  const FlopsPerSecond peak = device.peak(t);
  const Seconds compute = peak.value > 0 ? flops(op) / peak : Seconds(0);
  return compute > bytes(op) / device.memory_bandwidth ? "compute" : "memory";
}

}  // namespace

Price CostModel::price_measured(const Op& op, const OperatorTime& row) const {
  const Seconds limit = speed_of_light(op, *device_, *topology_);
  const Seconds time = std::max(row.time, limit);
  return {time, row.basis, row.relative_error, bound(op, *device_, time, limit), limit};
}

Price CostModel::price(const Op& op) const {
  Price p = price_alone(op);
  p.time = std::max(p.time + per_kernel_, p.limit);
  if (op.host_bytes > 0) {
    // The kernel reads its weights over the link as it computes.
    const Seconds link(op.host_bytes / (kHostLinkShare * device_->pcie_bandwidth.value));
    if (link > p.time)
      p = {link, Basis::kRoofline, kLinkError, "link", std::max(p.limit, link * kHostLinkShare)};
  }
  return p;
}

Price CostModel::price_alone(const Op& op) const {
  if (const auto row = kernels_->find(op)) return price_measured(op, *row);
  // A composite without a row of its own is the sum of its parts, where those were measured.
  if (std::holds_alternative<MoeShape>(op.shape)) {
    const std::vector<Op> parts = expand(op);
    Price sum;
    double weighted = 0;
    bool any = false;
    Basis worst = Basis::kMeasured;
    for (const Op& part : parts) {
      const auto row = kernels_->find(part);
      any |= row.has_value();
      const Price p = row ? price_measured(part, *row)
                          : Price{roofline_time(part, *device_, *topology_),
                                  Basis::kRoofline,
                                  roofline_error(part),
                                  {},
                                  {}};
      sum.time += static_cast<double>(part.count) * p.time;
      weighted += static_cast<double>(part.count) * p.time.value * p.relative_error;
      worst = std::max(worst, p.basis);
    }
    if (any && sum.time.value > 0) {
      sum.limit = speed_of_light(op, *device_, *topology_);
      sum.time = std::max(sum.time, sum.limit);
      sum.basis = worst;
      sum.relative_error = weighted / sum.time.value;
      sum.bound_by = bound(op, *device_, sum.time, sum.limit);
      return sum;
    }
  }
  const Seconds limit = speed_of_light(op, *device_, *topology_);
  const Seconds time = std::max(roofline_time(op, *device_, *topology_), limit);
  return {time, Basis::kRoofline, roofline_error(op), bound(op, *device_, time, limit), limit};
}

}  // namespace foretoken
