// Cosines and sines of every position in the kernels' memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "executor/arena.h"
#include "executor/numerics.h"
#include "executor/widths.h"

namespace foretoken {

struct RopeTable {
  Arena memory;
  const float *cosines = nullptr, *sines = nullptr;  // [position][pairs]
  std::int64_t pairs = 0;
  bool interleaved = false;
};

inline std::size_t rope_table_bytes(const Rope& rope, std::int64_t positions) {
  const auto pairs = static_cast<std::int64_t>(rope.inverse_frequencies.size());
  return 2 * Arena::padded(count_of(positions, pairs) * sizeof(float));
}

inline RopeTable rope_table(const Rope& rope, std::int64_t positions, const KernelMemory& memory) {
  RopeTable t;
  t.pairs = static_cast<std::int64_t>(rope.inverse_frequencies.size());
  t.interleaved = rope.interleaved;
  const std::size_t size = count_of(positions, t.pairs);
  std::vector<float> cosines(size), sines(size);
  for (std::int64_t p = 0; p < positions; ++p)
    for (std::int64_t i = 0; i < t.pairs; ++i) {
      const double angle = static_cast<double>(p) * rope.inverse_frequencies[static_cast<std::size_t>(i)];
      const auto at = static_cast<std::size_t>(p * t.pairs + i);
      cosines[at] = static_cast<float>(std::cos(angle) * rope.scale);
      sines[at] = static_cast<float>(std::sin(angle) * rope.scale);
    }
  t.memory = Arena(rope_table_bytes(rope, positions), memory);
  const auto put = [&](const std::vector<float>& from, const float*& to) {
    float* out = t.memory.array<float>(size);
    memory.copy(out, from.data(), size * sizeof(float));
    to = out;
  };
  put(cosines, t.cosines), put(sines, t.sines);
  return t;
}

}  // namespace foretoken
