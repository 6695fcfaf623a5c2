#include "simulator/nano_batches.h"

#include <algorithm>
#include <limits>
#include <span>

namespace foretoken {
namespace {

struct Share {
  double given, speed;  // R and P
};
// efeslab/Nanoflow at d1bbe27, autosearch/trace/gemv_interference.csv and net_interference.csv (A100). With
// the whole device an operator runs as it does alone.
constexpr Share kMemory[] = {{0.1, 0.25}, {0.2, 0.4},  {0.3, 0.5}, {0.4, 0.6},  {0.5, 0.7},
                             {0.6, 0.8},  {0.7, 0.85}, {0.8, 0.9}, {0.9, 0.95}, {1, 1}};
constexpr Share kNetwork[] = {{0.1, 0.4}, {0.2, 0.6}, {0.3, 0.7}, {0.4, 0.8}, {0.5, 0.9}, {1, 1}};

// pipeline/config/2048.json there: nanobatch_1_size of global_batch_size.
constexpr std::int64_t kFirst = 640, kAll = 2048;

}  // namespace

std::array<std::int64_t, 2> nano_batches(std::int64_t rows) {
  const std::int64_t first = rows * kFirst / kAll;
  return {first, rows - first};
}

// While a memory-bound operator runs, for memory / P, matrix products lose R of their speed: they end R x
// memory / P later. The same holds for the network.
double overlapped(double compute, double memory, double network) {
  double best = compute + memory + network;
  for (const Share& m : memory > 0 ? std::span<const Share>(kMemory) : std::span(kMemory).first(1))
    for (const Share& n : network > 0 ? std::span<const Share>(kNetwork) : std::span(kNetwork).first(1)) {
      const double reading = memory / m.speed, sending = network / n.speed;
      // Not at once where they would take more than all of the device.
      const double both = m.given + n.given > 1 ? reading + sending : std::max(reading, sending);
      best = std::min(best, std::max(compute + m.given * reading + n.given * sending, both));
    }
  return best;
}

}  // namespace foretoken
