// Stored numbers: published bit patterns, every representable value comes back, rounding goes to the nearest.
#include "executor/storage.h"

#include <gtest/gtest.h>

#include <cmath>

namespace foretoken {
namespace {

TEST(Storage, PublishedBitPatterns) {
  EXPECT_EQ(float_to_bf16(1.0f), 0x3f80);
  EXPECT_EQ(float_to_f16(1.0f), 0x3c00);
  EXPECT_EQ(float_to_f16(65504.0f), 0x7bff);
  EXPECT_EQ(float_to_f16(5.9604644775390625e-8f), 0x0001);
  EXPECT_EQ(float_to_f16(1e6f), 0x7c00);
  EXPECT_EQ(fp8_to_float(0x7e), 448.0f);
  EXPECT_EQ(fp8_to_float(0x08), 0.015625f);     // 2^-6, the least normal
  EXPECT_EQ(fp8_to_float(0x01), 0.001953125f);  // 2^-9
  EXPECT_EQ(float_to_fp8(1000.0f), 0x7e);
  EXPECT_EQ(float_to_fp8(-448.0f), 0xfe);
  EXPECT_TRUE(std::isnan(fp8_to_float(0x7f)));
}

TEST(Storage, EveryValueComesBack) {
  for (int i = 0; i < 0x10000; ++i) {
    const auto v = static_cast<std::uint16_t>(i);
    if (!std::isnan(bf16_to_float(v))) {
      EXPECT_EQ(float_to_bf16(bf16_to_float(v)), v);
    }
    if (!std::isnan(f16_to_float(v))) {
      EXPECT_EQ(float_to_f16(f16_to_float(v)), v);
    }
  }
  for (int i = 0; i < 0x100; ++i) {
    const auto v = static_cast<std::uint8_t>(i);
    if ((v & 0x7f) != 0x7f) {
      EXPECT_EQ(float_to_fp8(fp8_to_float(v)), v);
    }
  }
}

// A value goes to a neighbour that is no farther than half their distance; ties go to the even one.
TEST(Storage, RoundsToTheNearest) {
  for (int i = 0; i < 0x7bff; ++i) {
    const auto low = static_cast<std::uint16_t>(i), high = static_cast<std::uint16_t>(i + 1);
    const float middle = (f16_to_float(low) + f16_to_float(high)) / 2;
    EXPECT_EQ(float_to_f16(middle), i % 2 ? high : low);
    EXPECT_EQ(float_to_f16(std::nextafter(middle, 1e9f)), high);
    EXPECT_EQ(float_to_f16(std::nextafter(middle, 0.0f)), low);
  }
  for (int i = 0; i < 0x7e; ++i) {
    const auto low = static_cast<std::uint8_t>(i), high = static_cast<std::uint8_t>(i + 1);
    const float middle = (fp8_to_float(low) + fp8_to_float(high)) / 2;
    EXPECT_EQ(float_to_fp8(middle), i % 2 ? high : low) << i;
    EXPECT_EQ(float_to_fp8(std::nextafter(middle, 1e9f)), high) << i;
  }
  EXPECT_EQ(float_to_bf16(1.00390625f), 0x3f80);  // half a place: to even
  EXPECT_EQ(float_to_bf16(1.01171875f), 0x3f82);
}

}  // namespace
}  // namespace foretoken
