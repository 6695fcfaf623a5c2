// Collectives of processes that have a device each, by NCCL, which is opened when it is needed.
#pragma once

#include <memory>
#include <span>

#include "executor/cuda/runtime.h"
#include "executor/processes.h"

namespace foretoken::cuda {

class Communicator {
 public:
  virtual ~Communicator() = default;
  // Processes::all_gather() of device memory, in the order of the stream.
  virtual void all_gather(std::span<const float> mine, float* all, Stream& stream) = 0;
};

// Null where two of them would share a device (NCCL refuses that), or where there is no NCCL. All call it
// together.
std::unique_ptr<Communicator> make_communicator(Processes& processes);

}  // namespace foretoken::cuda
