// Devices and links as facts from datasheets: dense peaks, memory, power, price; each with its source.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "model/dtype.h"

namespace foretoken {

struct Device {
  std::string name;                              // "H200-SXM-141GB"
  std::string vendor, architecture, generation;  // NVIDIA, Hopper, "9.0"
  int sm_count = 0;
  double boost_mhz = 0;
  // Dense peaks with 32-bit accumulation; 0 where the device lacks the type.
  FlopsPerSecond fp32_peak, tf32_peak, fp16_peak, fp8_peak, int8_peak, int4_peak, fp4_peak;
  Bytes memory;  // what the driver reports, or the marketing figure where that is unknown
  bool memory_reported = false;
  BytesPerSecond memory_bandwidth;
  Bytes last_level_cache;
  BytesPerSecond scaleup_bandwidth;  // one direction, one device
  int scaleup_domain = 1;            // devices that reach each other at that speed
  BytesPerSecond pcie_bandwidth;     // one direction
  BytesPerSecond storage_bandwidth;  // reading; a scenario says it, the database does not
  double tdp_watts = 0;
  double system_kw = 0;                // 0: unknown
  std::optional<double> usd_per_hour;  // 3-year rental where known, else owner's cost
  std::string price_source, source, confidence, notes;
  std::string scaleup_link, host_link, network_link;  // names in the table of links

  // Dense peak for a matrix type; falls back to the next wider type that the device has.
  FlopsPerSecond peak(DType t) const;
  bool has_fp4() const { return fp4_peak.value > 0; }
};

// Between devices: alpha-beta with NCCL's own base latencies where the link is NVLink, PCIe or a network.
struct Link {
  enum class Kind { kScaleUp, kPcie, kNetwork } kind = Kind::kScaleUp;
  std::string name;          // "NVLink4", "PCIe5 x16", "InfiniBand NDR"
  BytesPerSecond bandwidth;  // one direction, one device
  Seconds latency;
  std::string source;
  bool reduces_in_network = false;  // the switch adds up: an all-reduce sends each byte once
};

// How the devices of a deployment are joined.
struct Topology {
  int devices_per_node = 8;
  Link intra_node, inter_node;
};

}  // namespace foretoken
