// Packed weights of the CUDA set: where packed.h says that an element lies, and the same bytes whatever the
// number of threads that pack.
#include "executor/cuda/packed.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "executor/stored_rows.h"
#include "tests/cuda/on_device.h"

namespace foretoken {
namespace {

const Storage kAll[] = {Storage::kF32,  Storage::kBf16, Storage::kF16,     Storage::kInt8,
                        Storage::kInt4, Storage::kFp8,  Storage::kFp8Block};

// Element of a packed row, before its scale, by the words of packed.h: of a unit's 64 bytes lane t reads 16
// from 16 t on.
float element(Storage storage, const std::byte* row, std::int64_t at) {
  const std::int64_t within = at % cuda::unit_elements(storage), eight = within / 8, lane = eight % 4,
                     j = eight / 4, i = within % 8;
  const std::byte* const unit = row + at / cuda::unit_elements(storage) * cuda::kUnitBytes;
  switch (storage) {
    case Storage::kInt8:
    case Storage::kFp8:
    case Storage::kFp8Block: {
      constexpr std::int64_t kByte[] = {0, 2, 1, 3};  // of elements 0, 1, 2, 3
      return stored_value(storage, unit + 16 * lane + 4 * (2 * j + i / 4) + kByte[i % 4]);
    }
    case Storage::kInt4: {
      std::uint32_t word;
      std::memcpy(&word, unit + 16 * lane + 4 * j, sizeof word);
      const int nibble = static_cast<int>(word >> (16 * (i % 2) + 4 * (i / 2)) & 15);
      return static_cast<float>(nibble < 8 ? nibble : nibble - 16);
    }
    default:
      return stored_value(storage, unit + within * element_bytes(storage));
  }
}

TEST(CudaPacked, ElementsLieWhereTheyShould) {
  for (const Storage storage : kAll)
    for (const std::int64_t k : {1, 5, 64, 127, 129, 300}) {
      SCOPED_TRACE(testing::Message() << "storage " << static_cast<int>(storage) << ", " << k);
      const auto row = normal(static_cast<std::size_t>(k), 3);
      const cuda::PackedLayout layout(storage, 1, k);
      std::vector<std::byte> packed(static_cast<std::size_t>(layout.row_bytes), std::byte{0x55}),
          plain(static_cast<std::size_t>(k * element_bytes(storage)));
      std::vector<float> scales(static_cast<std::size_t>(layout.groups)), expected(scales.size());
      cuda::pack_row(storage, row.data(), k, packed.data(), scales.data());
      encode_row(storage, row.data(), k, plain.data(), expected.data());
      EXPECT_EQ(scales, expected);
      const std::int64_t padded = layout.row_bytes / cuda::kUnitBytes * cuda::unit_elements(storage);
      for (std::int64_t i = 0; i < padded; ++i)
        ASSERT_EQ(element(storage, packed.data(), i),
                  i < k ? stored_value(storage, plain.data() + i * element_bytes(storage)) : 0)
            << "element " << i;
    }
}

std::vector<std::byte> packed(Storage storage, std::int64_t n, std::int64_t k, const Floats& w, int threads) {
  Threads pool(threads);
  OnDevice<std::byte> memory(cuda_set().packed_bytes(storage, n, k), std::byte{0x55});
  cuda_set().pack(
      storage, n, k, [&](std::int64_t row, float* out) { std::copy_n(w.data() + row * k, k, out); },
      memory.data(), pool);
  return memory.back();
}

TEST(CudaPacked, BytesDoNotDependOnThreads) {
  for (const Storage storage : kAll)
    for (const auto& [n, k] : {std::pair{1, 1}, {33, 301}, {2000, 130}}) {
      SCOPED_TRACE(testing::Message() << "storage " << static_cast<int>(storage) << " n " << n << " k " << k);
      const auto w = normal(static_cast<std::size_t>(n * k), 7);
      const auto one = packed(storage, n, k, w, 1);
      EXPECT_EQ(one, packed(storage, n, k, w, 4));
      const cuda::PackedLayout layout(storage, n, k);
      std::vector<std::byte> row(static_cast<std::size_t>(layout.row_bytes));
      std::vector<float> scales(static_cast<std::size_t>(layout.groups));
      if (storage == Storage::kFp8Block) continue;  // a row of a block isn't packed alone
      for (std::int64_t r = 0; r < n; r += 31) {
        cuda::pack_row(storage, w.data() + r * k, k, row.data(), scales.data());
        EXPECT_EQ(std::memcmp(one.data() + r * layout.row_bytes, row.data(), row.size()), 0) << "row " << r;
        for (std::int64_t g = 0; g < layout.groups; ++g) {
          float scale;
          std::memcpy(&scale, one.data() + layout.scales_at + 4 * (g * layout.scale_stride + r),
                      sizeof scale);
          EXPECT_EQ(scale, scales[static_cast<std::size_t>(g)]) << "row " << r << ", group " << g;
        }
      }
    }
}

// Scales as cuBLASLt has those of blocks of 128 x 128: [row / 128][group], groups padded to 4.
TEST(CudaPacked, ScalesOfBlocks) {
  const std::int64_t n = 300, k = 700;
  Floats w(static_cast<std::size_t>(n * k), 0.5f);
  for (std::int64_t block = 0; block < 3; ++block)
    for (std::int64_t group = 0; group < 6; ++group)
      w[static_cast<std::size_t>((block * 128 + 17) * k + group * 128 + 3)] =
          448.0f * static_cast<float>(block * 10 + group + 1);
  const std::vector<std::byte> bytes = packed(Storage::kFp8Block, n, k, w, 2);
  const cuda::PackedLayout layout(Storage::kFp8Block, n, k);
  EXPECT_EQ(layout.scale_stride, 8);
  ASSERT_EQ(layout.scales(), 3 * 8);
  for (std::int64_t block = 0; block < 3; ++block)
    for (std::int64_t group = 0; group < 6; ++group) {
      float scale;
      std::memcpy(&scale, bytes.data() + layout.scales_at + 4 * (block * 8 + group), sizeof scale);
      EXPECT_EQ(scale, static_cast<float>(block * 10 + group + 1));
    }
}

// Matrices that fill the buffers on the way several times, and rows that are longer than one.
TEST(CudaPacked, LargeMatricesGoThroughBuffers) {
  for (const auto& [n, k] : {std::pair{700, 4096}, {3, 1100000}}) {
    const auto some = normal(static_cast<std::size_t>(k), 9);
    Floats w;
    for (int r = 0; r < n; ++r) {
      w.insert(w.end(), some.begin(), some.end());
      w[static_cast<std::size_t>(r) * some.size() + 1] = static_cast<float>(r);
    }
    const auto one = packed(Storage::kF32, n, k, w, 1);
    EXPECT_EQ(one, packed(Storage::kF32, n, k, w, 3));
    const cuda::PackedLayout layout(Storage::kF32, n, k);
    for (std::int64_t r = 0; r < n; ++r)
      ASSERT_EQ(
          std::memcmp(one.data() + r * layout.row_bytes, w.data() + r * k, static_cast<std::size_t>(4 * k)),
          0)
          << "row " << r;
  }
}

TEST(CudaPacked, AFailedReadEndsPackingAndTheNextIsWhole) {
  Threads threads(3);
  OnDevice<std::byte> memory(cuda_set().packed_bytes(Storage::kFp8, 500, 40), std::byte{0x55});
  const auto fails = [](std::int64_t row, float* out) {
    if (row == 321) throw std::runtime_error("row 321");
    std::fill_n(out, 40, 1.0f);
  };
  EXPECT_THROW(cuda_set().pack(Storage::kFp8, 500, 40, fails, memory.data(), threads), std::runtime_error);
  const auto w = normal(500 * 40, 11);
  EXPECT_EQ(packed(Storage::kFp8, 500, 40, w, 3), packed(Storage::kFp8, 500, 40, w, 1));
}

}  // namespace
}  // namespace foretoken
