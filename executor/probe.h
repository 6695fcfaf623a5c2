// How fast this machine is right now: a fixed piece of work, half arithmetic, half reading, run between the
// steps. A shared machine drifts by a tenth within minutes; its probes drift with it.
#pragma once

#include <array>
#include <vector>

#include "executor/arena.h"
#include "executor/kernels.h"
#include "model/operator.h"

namespace foretoken {

class MachineProbe {
 public:
  explicit MachineProbe(const Kernels& kernels);
  static std::size_t bytes_needed(const Kernels& kernels);  // of the kernels' memory
  // Runs it once; the median of the latest runs in seconds.
  double run();
  static Op op();  // as which its time is kept in the hardware database

 private:
  struct Sizes;
  static constexpr std::size_t kLatest = 15;
  const Kernels& kernels_;
  Threads one_{1};
  Arena memory_;
  Matrix dense_;
  std::vector<Matrix> wide_;
  float *x_ = nullptr, *y_ = nullptr;
  std::byte* scratch_ = nullptr;
  std::array<double, kLatest> latest_{};
  std::size_t runs_ = 0;
};

}  // namespace foretoken
