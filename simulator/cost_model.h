// Price of one operator on one device: a measured row first, else the roofline with tile and wave
// quantisation, a bandwidth ramp and a launch floor. Every price says what it rests on and how far it may be
// off.
#pragma once

#include <string_view>

#include "hwdb/kernel_table.h"

namespace foretoken {

struct Price {
  Seconds time;  // of one execution
  Basis basis = Basis::kRoofline;
  double relative_error = 0;  // half-width of the 90 % interval
  std::string_view bound_by;  // "compute", "memory", "link", "latency"
  Seconds limit;              // speed of light
};

// Efficiencies of the roofline where nothing was measured; each with its source in roofline.cpp.
Seconds roofline_time(const Op& op, const Device& device, const Topology& topology);

// Of the link to host memory's bandwidth, what copies reach.
inline constexpr double kHostLinkShare = 0.85;

// Immutable and thread-safe; refers to the device, topology and table that it was made from.
class CostModel {
 public:
  // per_kernel: what an operator takes in a step beyond its time alone; below 0 where kernels overlap.
  // factor: what it takes of its predicted time, where one's own server was measured.
  CostModel(const Device& device, const Topology& topology, const KernelTable& kernels,
            Seconds per_kernel = Seconds(0), double factor = 1)
      : device_(&device),
        topology_(&topology),
        kernels_(&kernels),
        per_kernel_(per_kernel),
        factor_(factor) {}
  Price price(const Op& op) const;
  const Device& device() const { return *device_; }
  const Topology& topology() const { return *topology_; }

 private:
  Price price_alone(const Op& op) const;
  Price price_in_shared_call(const Op& op) const;
  Price without_quantising(const GemmShape& product, Price price) const;
  Price price_measured(const Op& op, const OperatorTime& row) const;
  const Device* device_;
  const Topology* topology_;
  const KernelTable* kernels_;
  Seconds per_kernel_;
  double factor_;
};

}  // namespace foretoken
