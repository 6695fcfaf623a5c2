// Measured operator times of one device, in arrays ready for lookup. Measured points are returned exactly;
// between points utilisation (speed of light over measured time) is interpolated; outside nothing is
// invented.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/units.h"
#include "hwdb/device.h"
#include "model/operator.h"

namespace foretoken {

enum class Basis : std::uint8_t { kMeasured, kInterpolated, kTransferred, kRoofline };
std::string_view name_of(Basis b);

struct OperatorTime {
  Seconds time;
  Basis basis = Basis::kRoofline;
  double relative_error = 0;  // half-width of the 90 % interval over the value
};

// Physical limit of an operator on a device: the larger of FLOPs over peak and bytes over bandwidth
// (collectives: the link's). No prediction is below it.
Seconds speed_of_light(const Op& op, const Device& device, const Topology& topology);
// Time to stream an element-wise operator's activations, of which half of the last-level cache is read and
// written there and the rest at memory_share of memory's bandwidth.
Seconds activation_stream(Bytes bytes, const Device& device, double memory_share);

class KernelTable {
 public:
  KernelTable();
  ~KernelTable();
  KernelTable(KernelTable&&) noexcept;
  KernelTable& operator=(KernelTable&&) noexcept;

  // nullopt where no row is near enough (kind, dtype or shape not measured on this device, nor on the one
  // that it borrows from). Thread-safe.
  std::optional<OperatorTime> find(const Op& op) const;
  std::int64_t rows() const;
  std::string engine() const;  // "vllm 0.19.0": whose kernels were timed

  // What this device has no row for is taken from `other`, as far from the speed of light there as here.
  void borrow(const Device& device, const Topology& topology, const Device& other_device,
              const Topology& other_topology, KernelTable other);

  struct Index;  // private data, built by Database
  explicit KernelTable(std::unique_ptr<Index> index);

 private:
  struct Lender;
  std::unique_ptr<Index> index_;
  std::unique_ptr<Lender> lender_;
};

}  // namespace foretoken
