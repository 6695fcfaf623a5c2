// What some threads read from memory: that which is bound by reading is divided by it.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "executor/arena.h"
#include "executor/threads.h"

namespace foretoken {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class MemoryReader {
 public:
  MemoryReader() : memory_(kWords * 8), words_(memory_.array<std::uint64_t>(kWords)), sums_(kWords / kShare) {
    std::memset(words_, 0, kWords * 8);
  }
  // Bytes a second of one pass over 128 MiB.
  double read(Threads& threads) {
    const double start = now();
    threads.run(kWords / kShare, [&](std::int64_t i) {
      std::uint64_t s[32] = {};
      const std::uint64_t* words = words_ + i * kShare;
      for (std::int64_t j = 0; j < kShare; j += 32)
        for (std::int64_t l = 0; l < 32; ++l) s[l] += words[j + l];
      for (std::int64_t l = 1; l < 32; ++l) s[0] += s[l];
      sums_[static_cast<std::size_t>(i)] = s[0];
    });
    const double seconds = now() - start;
    for (const std::uint64_t sum : sums_) seen_ = seen_ + sum;  // or nothing would have to be read
    return static_cast<double>(kWords) * 8 / seconds;
  }

 private:
  static constexpr std::int64_t kWords = std::int64_t{1} << 24, kShare = 1 << 16;
  Arena memory_;
  std::uint64_t* words_;
  std::vector<std::uint64_t> sums_;
  volatile std::uint64_t seen_ = 0;
};

}  // namespace foretoken
