#include "executor/cuda/clocks.h"

#include <gtest/gtest.h>

namespace foretoken::cuda {
namespace {

TEST(Clocks, AreEmptyWithoutTheLibraryOrTheDevice) {
  const ClockReader reader("ffff:ff:1f.0");
  EXPECT_FALSE(reader.available());
  const Clocks clocks = reader.read();
  EXPECT_FALSE(clocks.sm_mhz || clocks.memory_mhz || clocks.power_w || clocks.temperature_c ||
               clocks.throttle_reasons);
}

TEST(Clocks, ReasonsAreNamed) {
  EXPECT_EQ(throttle_text(0), "");
  EXPECT_EQ(throttle_text(0x4 | 0x20), "power cap, thermal slowdown");
}

}  // namespace
}  // namespace foretoken::cuda
