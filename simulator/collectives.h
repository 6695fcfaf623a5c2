// Time of collectives from the links alone: NCCL's own latency-bandwidth tuning model and the custom one-shot
// and two-shot all-reduce of serving engines. Used where no measured row exists. formulas.md 2.7.
#pragma once

#include "base/units.h"
#include "hwdb/device.h"
#include "model/operator.h"

namespace foretoken {

// NCCL's choice (the fastest of its algorithms and protocols) for this message on this topology.
Seconds nccl_time(const CollectiveShape& c, const Device& device, const Topology& topology);
// Kernel of vLLM and TensorRT-LLM over peer-to-peer loads inside one NVLink domain; +inf where it can't run
// (several nodes, no NVLink, more than 8 ranks, over 8 MiB).
Seconds custom_all_reduce_time(const CollectiveShape& c, const Device& device, const Topology& topology);
// What a serving engine would get: the better of the two for all-reduce, NCCL for the rest.
Seconds collective_time(const CollectiveShape& c, const Device& device, const Topology& topology);

}  // namespace foretoken
