// Products of the CUDA set against the reference: every storage, every kernel that may take a product, shapes
// that fill no tile; rows of tables to the bit.
#include "tests/cuda/on_device_products.h"

namespace foretoken {
namespace {

TEST(CudaProducts, AreTheReferencesByEveryPath) {
  const std::int64_t shapes[][2] = {{1, 1}, {3, 8}, {17, 33}, {70, 257}, {130, 100}, {33, 390}, {5, 136}};
  for (const Storage storage : kAll)
    for (const auto& [n, k] : shapes) {
      const auto w = normal(static_cast<std::size_t>(n * k), 1);
      const Both packed(storage, n, k, w);
      for (const std::int64_t m : {1, 2, 3, 8, 9, 17, 33, 64, 65, 130}) {
        SCOPED_TRACE(testing::Message()
                     << "storage " << static_cast<int>(storage) << " m " << m << " n " << n << " k " << k);
        Case c;
        c.m = m;
        const auto x = normal(static_cast<std::size_t>(m * k), 2);
        const auto bias = normal(static_cast<std::size_t>(n), 3);
        const auto start = normal(static_cast<std::size_t>(m * n), 4);
        c.x = &x;
        // Every combination of both occurs with every path.
        if ((m + n) % 2 == 0) c.bias = &bias;
        if ((m + k) % 3 > 0) c.start = &start;
        c.y_before = m % 4;
        const auto expected = reference_product(packed.reference, c);
        for (const Path path : paths_of(storage, m))
          for (const int alignment : {0, 1, 2}) {  // neither address nor stride, the stride, both
            if (alignment > 0 && m > 9) continue;
            c.x_before = alignment == 2 ? 4 : alignment == 1 ? 1 : m % 4;
            c.x_gap = alignment > 0 ? (4 - k % 4) % 4 : m % 5;
            EXPECT_LT(distance(by_path(path, packed.device, c), expected), kClose)
                << "path " << static_cast<int>(path) << " alignment " << alignment;
          }
      }
    }
}

// Against the values before they were stored: what the format loses, and no more.
TEST(CudaProducts, LoseWhatTheFormatLoses) {
  const std::int64_t m = 12, n = 48, k = 640;
  const auto w = normal(static_cast<std::size_t>(n * k), 5), x = normal(static_cast<std::size_t>(m * k), 6);
  const Both exact(Storage::kF32, n, k, w);
  Case c;
  c.m = m, c.x = &x;
  const auto expected = reference_product(exact.reference, c);
  for (const Storage storage : kAll) {
    const double limit = storage == Storage::kF32    ? 1e-6
                         : storage == Storage::kInt8 ? 1.5e-2
                         : is_fp8(storage)           ? 4e-2
                         : storage == Storage::kInt4 ? 0.2
                                                     : 8e-3;
    const Both packed(storage, n, k, w);
    const auto got = by_gemm(packed.device, c);
    EXPECT_LT(distance(got, expected), limit) << "storage " << static_cast<int>(storage);
    EXPECT_LT(distance(got, reference_product(packed.reference, c)), kClose);
  }
}

// Matrices so small that k is split among blocks, whose sums are added in one order.
TEST(CudaProducts, SplitAlongK) {
  for (const Storage storage : kAll)
    for (const std::int64_t m : {5, 12, 40, 100}) {
      const std::int64_t n = 37, k = storage == Storage::kInt4 ? 1500 : 700;
      const auto w = normal(static_cast<std::size_t>(n * k), 7),
                 x = normal(static_cast<std::size_t>(m * k), 8),
                 bias = normal(static_cast<std::size_t>(n), 9);
      const Both packed(storage, n, k, w);
      Case c;
      c.m = m, c.x = &x, c.bias = &bias;
      const auto expected = reference_product(packed.reference, c);
      const Path path = storage == Storage::kF32 ? Path::kFloatTiles : Path::kTiles;
      for (const int multiprocessors : {1, 3, 8}) {
        cuda::DeviceProperties device = cuda_set().device();
        device.multiprocessors = multiprocessors;
        const auto once = by_path(path, packed.device, c, device);
        EXPECT_LT(distance(once, expected), kClose)
            << "storage " << static_cast<int>(storage) << " m " << m << ", " << multiprocessors;
        EXPECT_TRUE(same_bits(once, by_path(path, packed.device, c, device)));
      }
    }
}

// More tiles than multiprocessors, which are larger ones then.
TEST(CudaProducts, OfManyTiles) {
  for (const Storage storage : kAll)
    for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{300, 150}, {257, 600}}) {
      const std::int64_t m = 140;
      const auto w = normal(static_cast<std::size_t>(n * k), 25),
                 x = normal(static_cast<std::size_t>(m * k), 26),
                 bias = normal(static_cast<std::size_t>(n), 27);
      const Both packed(storage, n, k, w);
      Case c;
      c.m = m, c.x = &x, c.bias = &bias;
      cuda::DeviceProperties device = cuda_set().device();
      device.multiprocessors = 1;
      const Path path = storage == Storage::kF32 ? Path::kFloatTiles : Path::kTiles;
      const auto expected = reference_product(packed.reference, c);
      EXPECT_LT(distance(by_path(path, packed.device, c, device), expected), kClose)
          << "storage " << static_cast<int>(storage) << " n " << n << " k " << k;
      device.shared_bytes = 99 << 10;  // too few for large tiles
      EXPECT_LT(distance(by_path(path, packed.device, c, device), expected), kClose);
    }
}

// The larger tile with products of warpgroups, where there are any, and without.
TEST(CudaProducts, ByWarpgroupsAndWithout) {
  if (!cuda_set().warpgroups()) GTEST_SKIP() << "the device has no products of warpgroups";
  const std::int64_t m = 150, n = 530;
  for (const Storage storage : {Storage::kBf16, Storage::kInt8, Storage::kFp8})
    for (const std::int64_t k : {8, 330, 1000}) {
      const Both packed(storage, n, k, normal(static_cast<std::size_t>(n * k), 40));
      const auto x = normal(static_cast<std::size_t>(m * k), 41);
      const auto bias = normal(static_cast<std::size_t>(n), 42),
                 start = normal(static_cast<std::size_t>(m * n), 43);
      Case c;
      c.m = m, c.x = &x, c.bias = &bias;
      if (k != 330) c.start = &start;
      const auto expected = reference_product(packed.reference, c);
      for (const bool use : {true, false}) {
        cuda_set().use_warpgroups(use);
        EXPECT_LT(distance(by_path(Path::kTiles, packed.device, c), expected), kClose)
            << "storage " << static_cast<int>(storage) << " k " << k << " warpgroups " << use;
      }
      cuda_set().use_warpgroups(true);
    }
}

// Blocks that take several tiles by turns, and x in pieces where it is too long for shared memory.
TEST(CudaProducts, StreamsInTurnsAndPieces) {
  for (const Storage storage :
       {Storage::kBf16, Storage::kInt8, Storage::kInt4, Storage::kFp8, Storage::kFp8Block})
    for (const std::int64_t m : {1, 3, 4, 5, 8})
      for (const std::int64_t k : {70, 1100, 2200}) {
        const std::int64_t n = 230;
        const auto w = normal(static_cast<std::size_t>(n * k), 28),
                   x = normal(static_cast<std::size_t>(m * k), 29);
        const Both packed(storage, n, k, w);
        Case c;
        c.m = m, c.x = &x;
        const auto expected = reference_product(packed.reference, c);
        for (const int multiprocessors : {1, 3, 100})
          for (const std::size_t shared_kb : {72, 84, 227}) {
            cuda::DeviceProperties device = cuda_set().device();
            device.multiprocessors = multiprocessors;
            device.shared_bytes = shared_kb << 10;
            EXPECT_LT(distance(by_path(Path::kStream, packed.device, c, device), expected), kClose)
                << "storage " << static_cast<int>(storage) << " m " << m << " k " << k << ", "
                << multiprocessors << " multiprocessors, " << shared_kb << " KiB";
          }
      }
}

// Weights of 8 bits that are made bf16 before they are multiplied: cuBLASLt's part is done by tiles here.
TEST(CudaProducts, ByExpandedWeights) {
  for (const Storage storage : {Storage::kInt8, Storage::kFp8})
    for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{37, 100}, {140, 328}}) {
      const std::int64_t m = 300;
      const auto w = normal(static_cast<std::size_t>(n * k), 31),
                 x = normal(static_cast<std::size_t>(m * k), 32),
                 bias = normal(static_cast<std::size_t>(n), 33);
      const Both packed(storage, n, k, w);
      Case c;
      c.m = m, c.x = &x, c.bias = &bias;
      const auto expected = reference_product(packed.reference, c);
      SCOPED_TRACE(testing::Message() << "storage " << static_cast<int>(storage) << " n " << n << " k " << k);
      EXPECT_LT(distance(by_path(Path::kExpand, packed.device, c), expected), kClose);
      c.start = &x;
      EXPECT_LT(distance(by_path(Path::kExpand, packed.device, c), reference_product(packed.reference, c)),
                kClose);
      c.start = nullptr;
      for (const std::int64_t before : {1, 4}) {
        c.y_before = before;
        const auto got = with_guards(
            packed.device, c,
            [&](const float* on_x, std::int64_t x_stride, const float* on_bias, float* y,
                std::int64_t y_stride) {
              cuda::Product p = cuda::product_of(packed.device);
              p.m = m, p.bias = on_bias;
              const Device<std::uint16_t> expanded(static_cast<std::size_t>(n * p.row_bytes));
              cuda::Product plain = p;
              plain.storage = Storage::kBf16, plain.elements = reinterpret_cast<std::byte*>(expanded.data());
              plain.row_bytes = 2 * p.row_bytes, plain.bias = nullptr;
              plain.x = on_x, plain.x_stride = x_stride, plain.y = y, plain.y_stride = y_stride;
              const cuda::DeviceProperties device = cuda_set().device();
              const DeviceBytes scratch(
                  cuda::product_scratch(Storage::kBf16, n, k, m, device.multiprocessors));
              cuda::launch_expand(p, expanded.data(), cuda_set().stream());
              cuda::run_product(Path::kTiles, plain, scratch.data(), device, cuda_set().stream());
              cuda::launch_scale(p, y, y_stride, cuda_set().stream());
              cuda_set().memory().wait();
            });
        EXPECT_LT(distance(got, expected), kClose) << before;
      }
    }
}

TEST(CudaProducts, ScaledColumns) {
  const std::int64_t n = 72, k = 5, m = 11;
  const Both packed(Storage::kInt8, n, k, normal(static_cast<std::size_t>(n * k), 34));
  const auto bias = normal(static_cast<std::size_t>(n), 35),
             sums = normal(static_cast<std::size_t>(m * n), 36);
  cuda::Product p = cuda::product_of(packed.device);
  p.m = m;
  std::vector<float> scales(static_cast<std::size_t>(n));
  cuda_set().memory().copy(scales.data(), p.scales, scales.size() * sizeof(float));
  const Device<float> on_bias(bias);
  for (const float* with : {static_cast<const float*>(nullptr), static_cast<const float*>(on_bias.data())}) {
    const Device<float> y(sums);
    p.bias = with;
    cuda::launch_scale(p, y.data(), n, cuda_set().stream());
    const auto got = y.back();
    for (std::size_t i = 0; i < got.size(); ++i) {
      const auto column = i % static_cast<std::size_t>(n);
      const float expected = sums[i] * scales[column] + (with != nullptr ? bias[column] : 0.0f);
      EXPECT_NEAR(got[i], expected, 1e-6f) << i;
    }
  }
}

// x of all magnitudes by weights of f16, which x is split and scaled for.
TEST(CudaProducts, RowsOfAllMagnitudes) {
  const std::int64_t m = 11, n = 20, k = 100;
  const auto w = normal(static_cast<std::size_t>(n * k), 23);
  const Both packed(Storage::kF16, n, k, w);
  auto x = normal(static_cast<std::size_t>(m * k), 24);
  for (std::int64_t r = 0; r < m; ++r)
    for (std::int64_t i = 0; i < k; ++i) {
      float& value = x[static_cast<std::size_t>(r * k + i)];
      value = r == 0 ? 0.0f : std::ldexp(value, static_cast<int>(r == 1 ? -125 : (r - 5) * 17));
      if (r > 7 && i % 3 > 0) value = std::ldexp(value, -12);  // beside larger ones
    }
  Case c;
  c.m = m, c.x = &x;
  const auto got = by_path(Path::kTiles, packed.device, c), expected = reference_product(packed.reference, c);
  for (std::int64_t r = 0; r < m; ++r) {
    const auto row = [&](const Floats& of) { return Floats(of.begin() + r * n, of.begin() + (r + 1) * n); };
    if (r == 0)
      EXPECT_EQ(row(got), Floats(static_cast<std::size_t>(n), 0.0f));
    else
      EXPECT_LT(distance(row(got), row(expected)), kClose) << "row " << r;
  }
}

TEST(CudaProducts, WideMatrices) {
  for (const Storage storage : kAll)
    for (const std::int64_t m : {1, 4, 7, 20}) {
      const std::int64_t n = 530, k = 200;
      const auto w = normal(static_cast<std::size_t>(n * k), 10),
                 x = normal(static_cast<std::size_t>(m * k), 11);
      const Both packed(storage, n, k, w);
      Case c;
      c.m = m, c.x = &x;
      EXPECT_LT(distance(by_gemm(packed.device, c), reference_product(packed.reference, c)), kClose)
          << "storage " << static_cast<int>(storage) << " m " << m;
    }
}

TEST(CudaProducts, OfNoRowsWriteNothing) {
  const Floats w(64, 1), x(8, 1);
  for (const Storage storage : kAll) {
    const Both packed(storage, 8, 8, w);
    Case c;
    c.m = 0, c.x = &x;
    EXPECT_TRUE(by_gemm(packed.device, c).empty());
  }
}

TEST(CudaProducts, ByHand) {
  const Floats w = {1, 2, 3, -1, 0, 4}, x = {1, 10, 100}, bias = {0.5f, 1}, start = {1000, 2000};
  const Both packed(Storage::kBf16, 2, 3, w);
  Case c;
  c.m = 1, c.x = &x, c.bias = &bias;
  EXPECT_EQ(by_gemm(packed.device, c), (Floats{321.5f, 400}));
  c.start = &start;
  EXPECT_EQ(by_gemm(packed.device, c), (Floats{1321.5f, 2400}));
}

// Every number of 8 and 4 bits, which is a factor of a product with the others zero.
TEST(CudaProducts, EveryStoredNumber) {
  for (const Storage storage : {Storage::kInt8, Storage::kFp8, Storage::kInt4}) {
    const std::int64_t n = 256, k = 129;
    Floats w(static_cast<std::size_t>(n * k), 0.0f);
    // The largest of each row fixes its scale; the other element of the row is the number.
    const float top = storage == Storage::kFp8 ? 448 : storage == Storage::kInt8 ? 127 : 7;
    for (std::int64_t r = 0; r < n; ++r) {
      const auto byte = static_cast<std::uint8_t>(r);
      const float value = storage == Storage::kFp8    ? ((byte & 0x7f) == 0x7f ? 0 : fp8_to_float(byte))
                          : storage == Storage::kInt8 ? std::max(-127.0f, static_cast<float>(r - 128))
                                                      : static_cast<float>(r % 15 - 7);
      w[static_cast<std::size_t>(r * k + r % 128)] = value;
      w[static_cast<std::size_t>(r * k + (r + 1) % 128)] = top;
    }
    const Both packed(storage, n, k, w);
    Floats x(static_cast<std::size_t>(2 * k), 0.0f);
    for (std::int64_t i = 0; i < k; ++i) {
      x[static_cast<std::size_t>(i)] = i % 2 == 0 ? 1.0f : 0.0f;
      x[static_cast<std::size_t>(k + i)] = i % 2 == 0 ? 0.0f : 1.0f;
    }
    Case c;
    c.m = 2, c.x = &x;
    const auto expected = reference_product(packed.reference, c);
    for (const Path path : {Path::kStream, Path::kTiles})
      EXPECT_TRUE(same_bits(by_path(path, packed.device, c), expected))
          << "storage " << static_cast<int>(storage) << " path " << static_cast<int>(path);
  }
}

TEST(CudaProducts, ScratchForMoreRowsIsEnoughForFewer) {
  for (const Storage storage : kAll)
    for (const std::int64_t k : {16, 4096}) {
      std::size_t most = 0;
      for (std::int64_t m = 1; m < 300; ++m) {
        const std::size_t bytes = cuda_set().gemm_scratch({storage, 300, k, nullptr}, m);
        EXPECT_GE(bytes, most) << m;
        most = std::max(most, bytes);
      }
    }
}

TEST(CudaProducts, WhichPath) {
  EXPECT_EQ(cuda::choose_path(Storage::kBf16, 1, 4096, 4096), Path::kStream);
  EXPECT_EQ(cuda::choose_path(Storage::kInt4, 8, 4096, 4096), Path::kStream);
  EXPECT_EQ(cuda::choose_path(Storage::kBf16, 9, 4096, 4096), Path::kCublas);
  EXPECT_EQ(cuda::choose_path(Storage::kBf16, 64, 4096, 4096), Path::kCublas);
  EXPECT_EQ(cuda::choose_path(Storage::kBf16, 65, 1, 4096), Path::kTiles);
  EXPECT_EQ(cuda::choose_path(Storage::kFp8, 255, 4096, 4096), Path::kTiles);
  EXPECT_EQ(cuda::choose_path(Storage::kFp8, 4096, 4096, 4096), Path::kExpand);
  EXPECT_EQ(cuda::choose_path(Storage::kInt4, 4096, 4096, 4096), Path::kTiles);
  EXPECT_EQ(cuda::choose_path(Storage::kFp8Block, 4096, 4096, 4096), Path::kTiles);
  EXPECT_EQ(cuda::choose_path(Storage::kFp8Block, 4096, 4096, 4096, true), Path::kQuantised);
  EXPECT_EQ(cuda::choose_path(Storage::kF32, 8, 256, 4096), Path::kFloatStream);
  EXPECT_EQ(cuda::choose_path(Storage::kF32, 9, 256, 4096), Path::kFloatTiles);
  EXPECT_EQ(cuda::choose_path(Storage::kF16, 8, 256, 4096), Path::kFloatStream);
  EXPECT_EQ(cuda::choose_path(Storage::kF16, 9, 256, 4096), Path::kTiles);
}

// k is split to fill the multiprocessors, not further than pays, and partial_bytes() is enough.
TEST(CudaProducts, HowOftenKIsSplit) {
  EXPECT_EQ(cuda::splits_for(224, 64, 132), 1);
  EXPECT_EQ(cuda::splits_for(32, 64, 132), 4);
  EXPECT_EQ(cuda::splits_for(48, 64, 132), 3);
  EXPECT_EQ(cuda::splits_for(1, 64, 132), 16);  // four steps each
  EXPECT_EQ(cuda::splits_for(1, 3, 132), 1);
  EXPECT_EQ(cuda::splits_for(224, 32, 3 * 132), 1);
  EXPECT_EQ(cuda::splits_for(32, 56, 3 * 132), 12);
  for (std::int64_t tiles = 1; tiles < 300; ++tiles) {
    const int splits = cuda::splits_for(tiles, 1 << 20, 132);
    EXPECT_TRUE(splits == 1 || 8 * splits * tiles <= 9 * 132) << tiles;
  }
}

TEST(CudaProducts, RowsOfTables) {
  for (const Storage storage : kAll)
    for (const std::int64_t k : {1, 7, 96, 390}) {
      const std::int64_t n = 23;
      const auto w = normal(static_cast<std::size_t>(n * k), 12);
      const Both packed(storage, n, k, w);
      const std::vector<std::int32_t> ids = {20, 0, 3, 3};
      const Device<std::int32_t> on_device(ids);
      const std::size_t values = ids.size() * static_cast<std::size_t>(k);
      Memory scratch(static_cast<std::size_t>(k) * sizeof(float));
      for (const bool accumulate : {false, true})
        for (const float scale : {1.0f, 5.3f}) {
          Floats expected = normal(values + 8, 13);
          Device<float> out(expected);
          cuda_set().embed(packed.device, {on_device.data(), ids.size()}, 2, scale, accumulate,
                           out.data() + 4, nullptr);
          reference_kernels().embed(packed.reference, ids, 2, scale, accumulate, expected.data() + 4,
                                    scratch.data());
          EXPECT_TRUE(same_bits(out.back(), expected))
              << "storage " << static_cast<int>(storage) << " k " << k << " scale " << scale;
        }
      cuda_set().embed(packed.device, {}, 0, 1, false, nullptr, nullptr);
    }
}

// More than a staging buffer, and rows longer than one.
// Emulated, no copy is done before somebody waits for it.
TEST(CudaProducts, PackingInPieces) {
#ifdef FORETOKEN_EMULATED
  cuda::emulation::settings().late_work = true;
#endif
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{7000, 1024}, {2, 3'000'000}}) {
    const DeviceBytes memory(cuda_set().packed_bytes(Storage::kBf16, n, k));
    const auto read = [&, width = k](std::int64_t row, float* out) {
      for (std::int64_t i = 0; i < width; ++i) out[i] = static_cast<float>((row * 7 + i) % 251);
    };
    const Matrix w = cuda_set().pack(Storage::kBf16, n, k, read, memory.data());
    const std::vector<std::int32_t> ids = {0, 1, static_cast<std::int32_t>(n / 2),
                                           static_cast<std::int32_t>(n - 1)};
    const Device<std::int32_t> on_device(ids);
    const Device<float> out(ids.size() * static_cast<std::size_t>(k));
    cuda_set().embed(w, {on_device.data(), ids.size()}, 0, 1, false, out.data(), nullptr);
    const auto got = out.back();
    Floats row(static_cast<std::size_t>(k));
    for (std::size_t i = 0; i < ids.size(); ++i) {
      read(ids[i], row.data());
      EXPECT_TRUE(std::equal(row.begin(), row.end(), got.begin() + static_cast<std::int64_t>(i) * k));
    }
  }
#ifdef FORETOKEN_EMULATED
  cuda::emulation::settings() = {};
#endif
}

#ifdef FORETOKEN_EMULATED
class CudaProductOrders : public InOrders {};

TEST_P(CudaProductOrders, Products) {
  for (const Storage storage : kAll)
    for (const std::int64_t m : {3, 7, 20, 70}) {
      const std::int64_t n = 150, k = 530;
      const auto w = normal(static_cast<std::size_t>(n * k), 19),
                 x = normal(static_cast<std::size_t>(m * k), 20);
      const Both packed(storage, n, k, w);
      Case c;
      c.m = m, c.x = &x;
      const auto expected = reference_product(packed.reference, c);
      for (const Path path : paths_of(storage, m))
        EXPECT_LT(distance(by_path(path, packed.device, c), expected), kClose)
            << "storage " << static_cast<int>(storage) << " m " << m << " path " << static_cast<int>(path);
    }
}

INSTANTIATE_TEST_SUITE_P(Orders, CudaProductOrders,
                         testing::Values(cuda::emulation::Order::kReverse,
                                         cuda::emulation::Order::kShuffled));

// Nothing but kernels and copies touches the device's memory.
TEST(CudaProducts, LeaveTheDevicesMemoryToIt) {
  cuda::emulation::settings().guard_memory = true;
  for (const Storage storage : {Storage::kF32, Storage::kInt4, Storage::kBf16})
    for (const std::int64_t m : {2, 20}) {
      const std::int64_t n = 20, k = 40;
      const auto w = normal(static_cast<std::size_t>(n * k), 21),
                 x = normal(static_cast<std::size_t>(m * k), 22);
      const Both packed(storage, n, k, w);
      Case c;
      c.m = m, c.x = &x;
      EXPECT_LT(distance(by_gemm(packed.device, c), reference_product(packed.reference, c)), kClose);
    }
  cuda::emulation::settings() = {};
}
#endif

}  // namespace
}  // namespace foretoken
