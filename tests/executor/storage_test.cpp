// Stored numbers: published bit patterns, every representable value comes back, rounding goes to the nearest.
#include "executor/storage.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "executor/stored_rows.h"

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

// By definition, in float64: the nearest number with `fraction` bits after the point and exponents from
// `lowest` (where denormals begin), by the rounding of the processor.
float nearest(float value, int fraction, int lowest) {
  int exponent;
  std::frexp(value, &exponent);  // value = f 2^exponent, f in [1/2, 1)
  const int step = std::max(exponent - 1, lowest) - fraction;
  return static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(static_cast<double>(value), -step)), step));
}

TEST(Storage, FloatsOfAllSizesGoToTheNearest) {
  constexpr std::uint32_t kStride = 1021;  // a prime: all exponents, signs and places
  for (std::uint64_t i = 0; i < std::uint64_t{1} << 32; i += kStride) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(i));
    const std::uint16_t half = float_to_f16(value);
    const std::uint8_t byte = float_to_fp8(value);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(f16_to_float(half)) && std::isnan(fp8_to_float(byte))) << i;
      continue;
    }
    ASSERT_EQ(std::signbit(value), half >> 15 == 1) << value;
    ASSERT_EQ(std::signbit(value), byte >> 7 == 1) << value;
    if (std::fabs(value) < 65520) {
      ASSERT_EQ(f16_to_float(half), nearest(value, 10, -14)) << value;
    } else {
      ASSERT_TRUE(std::isinf(f16_to_float(half))) << value;
    }
    const float limited = std::min(std::max(value, -kFp8Largest), kFp8Largest);
    ASSERT_EQ(fp8_to_float(byte), nearest(limited, 3, -6)) << value;
  }
}

// Rows whose length is no multiple of a vector's, with whatever lies beside them.
TEST(StoredRows, AreTheirElementsAndScales) {
  for (const Storage storage : {Storage::kF32, Storage::kBf16, Storage::kF16, Storage::kInt8, Storage::kInt4,
                                Storage::kFp8, Storage::kFp8Block})
    for (const std::int64_t count : {1, 7, 16, 127, 128, 129, 300}) {
      SCOPED_TRACE(testing::Message() << "storage " << static_cast<int>(storage) << ", " << count);
      std::vector<float> row(static_cast<std::size_t>(count) + 1);
      for (std::int64_t i = 0; i <= count; ++i)
        row[static_cast<std::size_t>(i)] =
            static_cast<float>((i * 37 + count) % 101 - 50) * (i % 5 == 0 ? 0.01f : 0.3f);
      row.back() = 1e9f;  // not of the row
      const std::int64_t scales = scales_of_row(storage, count), group = scale_group(storage, count),
                         width = element_bytes(storage);
      std::vector<std::byte> elements(static_cast<std::size_t>(count * width) + 1, std::byte{0x55});
      std::vector<float> of_row(static_cast<std::size_t>(scales) + 1, -1);
      encode_row(storage, row.data(), count, elements.data(), of_row.data());
      EXPECT_EQ(elements.back(), std::byte{0x55});
      EXPECT_EQ(of_row.back(), -1);
      for (std::int64_t i = 0; i < count; ++i) {
        const float value = row[static_cast<std::size_t>(i)],
                    stored = stored_value(storage, elements.data() + i * width);
        if (scales == 0) {
          EXPECT_EQ(stored, storage == Storage::kF32    ? value
                            : storage == Storage::kBf16 ? round_to_bf16(value)
                                                        : nearest(value, 10, -14));
          continue;
        }
        float largest = 0;
        for (std::int64_t j = i / group * group; j < std::min(count, (i / group + 1) * group); ++j)
          largest = std::max(largest, std::fabs(row[static_cast<std::size_t>(j)]));
        const float top = is_fp8(storage)             ? kFp8Largest
                          : storage == Storage::kInt8 ? 127
                                                      : 7,
                    scale = largest > 0 ? largest / top : 1;
        EXPECT_EQ(of_row[static_cast<std::size_t>(i / group)], scale);
        EXPECT_EQ(stored, is_fp8(storage) ? nearest(value / scale, 3, -6) : std::nearbyint(value / scale));
      }
    }
}

// The largest of a block of 128 x 128 decides, whichever row has it; a block of zeros has a scale of one.
TEST(StoredRows, BlocksShareAScale) {
  constexpr std::int64_t n = 200, k = 300;
  std::vector<float> w(n * k);
  for (std::int64_t r = 0; r < n; ++r)
    for (std::int64_t c = 0; c < k; ++c)
      if (r < 128 || c < 256)
        w[static_cast<std::size_t>(r * k + c)] = static_cast<float>((r * 31 + c * 17) % 201 - 100);
  Threads threads(2);
  const auto read = [&](std::int64_t row, float* out) { std::copy_n(w.data() + row * k, k, out); };
  const RowEncoder encoder(Storage::kFp8Block, n, k, read, threads);
  for (std::int64_t r = 0; r < n; ++r) {
    std::vector<std::byte> elements(k);
    float scales[3];
    encoder.encode(r, w.data() + r * k, elements.data(), scales);
    for (std::int64_t c = 0; c < k; ++c) {
      float largest = 0;
      for (std::int64_t i = r / 128 * 128; i < std::min(n, (r / 128 + 1) * 128); ++i)
        for (std::int64_t j = c / 128 * 128; j < std::min(k, (c / 128 + 1) * 128); ++j)
          largest = std::max(largest, std::fabs(w[static_cast<std::size_t>(i * k + j)]));
      ASSERT_EQ(scales[c / 128], largest > 0 ? largest / kFp8Largest : 1) << r << ", " << c;
      ASSERT_EQ(stored_value(Storage::kFp8Block, elements.data() + c),
                nearest(w[static_cast<std::size_t>(r * k + c)] / scales[c / 128], 3, -6));
      if (c % 128 == 0) c = std::min(c + 126, k - 2);  // the block's corners, not all of it
    }
  }
}

TEST(StoredRows, ZerosHaveAScaleOfOneAndNibblesTheirOrder) {
  const float zeros[3] = {};
  std::byte elements[3];
  float scale = 0;
  encode_row(Storage::kFp8, zeros, 3, elements, &scale);
  EXPECT_EQ(scale, 1);
  std::byte eight[8];
  for (int i = 0; i < 8; ++i) eight[i] = static_cast<std::byte>(i == 7 ? -2 : i);
  EXPECT_EQ(pack_nibbles(eight), 0xe5316420u);
}

}  // namespace
}  // namespace foretoken
