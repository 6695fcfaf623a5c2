// How a run went: requests, KV memory and replicas at regular times, a few hundred at the most.
#pragma once

#include <cstdint>
#include <vector>

#include "base/units.h"

namespace foretoken {

struct OverTime {
  struct Sample {
    Picoseconds time = 0;
    std::int64_t running = 0, waiting = 0, replicas = 0;  // replicas: that serve or end
    double mean_kv_usage = 0, most_kv_usage = 0;          // over these
    bool operator==(const Sample&) const = default;
  };
  std::vector<Sample> samples;
  Picoseconds period = 1'000'000'000;  // a millisecond at first, doubled whenever there are too many

  static constexpr std::size_t kMost = 256;
  Picoseconds next() const { return static_cast<Picoseconds>(samples.size()) * period; }
  void add(const Sample& sample) {
    samples.push_back(sample);
    if (samples.size() < kMost) return;
    for (std::size_t i = 0; 2 * i < samples.size(); ++i) samples[i] = samples[2 * i];
    samples.resize((samples.size() + 1) / 2);
    period *= 2;
  }
};

}  // namespace foretoken
