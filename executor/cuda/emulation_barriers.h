// The emulated barriers of tensor_copies.cuh, of a block: how many threads and bytes a phase still lacks, and
// the boxes that are on their way. Who waits and who runs is emulation.cpp's.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "executor/cuda/tensor_map.h"

namespace foretoken::cuda::emulation {

class Barriers {
 public:
  // Each names its fault, or is empty.
  std::string init(const void* at, unsigned arrivals);
  std::string arrive(const void* at, long long bytes);
  std::string copy(const void* at, std::byte* to, const TensorMap& map, int row, int column);
  // What may have come has come: passed: whether the phase is complete that has this parity and is the
  // current one or the one before.
  std::string look(const void* at, unsigned parity, bool& passed);
  // Whether a look would find the current phase complete, or too much in it.
  bool may_pass(const void* at) const;
  std::string lacks(const void* at) const;  // "phase 3 lacks 1 arrivals and 64 bytes"
  std::string end();                        // of the block
  void clear() { barriers_.clear(); }

 private:
  struct Copy {
    std::byte* to;
    TensorMap map;
    int row, column;
  };
  struct State {
    unsigned arrivals, pending, phase = 0;
    long long bytes = 0;  // expected that haven't come
    std::vector<Copy> copies;
  };
  std::string settle(State& state);

  std::map<const void*, State> barriers_;
};

// What runtime_emulated.cpp makes of a map.
TensorMap encode(const void* first, std::int64_t columns, std::int64_t rows, int box_rows);

}  // namespace foretoken::cuda::emulation
