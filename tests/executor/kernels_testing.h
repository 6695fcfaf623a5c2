// What the tests of kernels share: the sets that this machine runs, random values, distances.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "executor/kernels.h"

namespace foretoken {

using Floats = std::vector<float>;
inline constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

inline Floats normal(std::size_t count, unsigned seed) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> values;
  Floats out(count);
  for (auto& v : out) v = values(bits);
  return out;
}

inline double distance(const Floats& got, const Floats& expected) {  // relative; NaN never passes a limit
  EXPECT_EQ(got.size(), expected.size());
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference += (double{got[i]} - expected[i]) * (double{got[i]} - expected[i]);
    size += double{expected[i]} * expected[i];
  }
  return std::sqrt(difference / size);
}

inline bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// 64-aligned memory.
class Memory {
 public:
  explicit Memory(std::size_t bytes) : bytes_(bytes + 64) {}
  std::byte* data() {
    const auto at = reinterpret_cast<std::uintptr_t>(bytes_.data());
    return bytes_.data() + (64 - at % 64) % 64;
  }

 private:
  std::vector<std::byte> bytes_;
};

// Every set of this machine but the reference.
class EverySet : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    kernels = cpu_kernels(GetParam());
    if (!kernels) GTEST_SKIP() << "this processor has no " << GetParam();
  }
  const Kernels* kernels = nullptr;
  const Kernels& reference = reference_kernels();
};

}  // namespace foretoken
