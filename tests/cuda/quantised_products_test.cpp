// Products that round x to their weights' 8 bits: the rows to the bit as the host has them, products against
// the reference by every path, and cuBLASLt's part as the emulated library does it.
#include "executor/cuda/packed.h"
#include "executor/stored_rows.h"
#include "tests/cuda/on_device_products.h"

namespace foretoken {
namespace {

const Storage kOf8Bits[] = {Storage::kInt8, Storage::kFp8, Storage::kFp8Block};

struct Quantised : Both {
  Quantised(Storage storage, std::int64_t n, std::int64_t k, const Floats& w) : Both(storage, n, k, w) {
    device.quantised_x = reference.quantised_x = true;
  }
};

// One scale of w, and x_scale of x; 0: that of all its rows.
struct OneScale : Both {
  OneScale(std::int64_t n, std::int64_t k, const Floats& w, float x_scale)
      : Both(Storage::kFp8, n, k, w, 0.01f) {
    for (Matrix* m : {&device, &reference}) m->quantised_x = m->one_x_scale = true, m->x_scale = x_scale;
  }
};

// Rows of every magnitude, one of zeros.
Floats rows_of_all_magnitudes(std::int64_t rows, std::int64_t k) {
  Floats x = normal(static_cast<std::size_t>(rows * k), 41);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < k; ++i) {
      float& value = x[static_cast<std::size_t>(r * k + i)];
      value = r == 1 ? 0.0f : std::ldexp(value, static_cast<int>((r - 2) * 25));
    }
  return x;
}

TEST(CudaQuantised, RowsAreTheHosts) {
  const std::int64_t rows = 5;
  for (const Storage storage : kOf8Bits)
    for (const std::int64_t k : {1, 7, 8, 33, 64, 100, 390, 4100, 16392, 21003})
      for (const std::int64_t shift : {0, 1}) {
        SCOPED_TRACE(testing::Message()
                     << "storage " << static_cast<int>(storage) << " k " << k << " shift " << shift);
        const Floats x = rows_of_all_magnitudes(rows, k);
        Floats shifted(static_cast<std::size_t>(shift), kPoison);
        shifted.insert(shifted.end(), x.begin(), x.end());
        const Device<float> on_x(shifted);
        const std::int64_t width = cuda::rounded_stride(storage, k),
                           bytes = cuda::PackedLayout(storage, 1, k).row_bytes;
        const Device<std::uint16_t> pairs(static_cast<std::size_t>(rows * width));
        const DeviceBytes packed(static_cast<std::size_t>(rows * bytes));
        const std::int64_t groups = scales_of_row(storage, k);
        const Device<float> scales(static_cast<std::size_t>(rows * groups)),
            again(static_cast<std::size_t>(rows * groups));
        cuda::launch_quantise(storage, on_x.data() + shift, k, rows, k, pairs.data(), scales.data(), nullptr,
                              cuda_set().stream());
        cuda::launch_quantise(storage, on_x.data() + shift, k, rows, k, packed.data(), again.data(), nullptr,
                              cuda_set().stream());
        std::vector<std::uint16_t> expected_pairs(static_cast<std::size_t>(rows * width));
        std::vector<std::byte> expected_bytes(static_cast<std::size_t>(rows * bytes));
        Floats expected_scales(static_cast<std::size_t>(rows * groups)), numbers(static_cast<std::size_t>(k)),
            of_row(static_cast<std::size_t>(groups)), as_packed(of_row);
        for (std::int64_t r = 0; r < rows; ++r) {
          const float* row = x.data() + r * k;
          quantise_row(storage, row, k, numbers.data(), of_row.data());
          for (std::int64_t g = 0; g < groups; ++g)
            expected_scales[static_cast<std::size_t>(g * rows + r)] = of_row[static_cast<std::size_t>(g)];
          for (std::int64_t i = 0; i < k; ++i) {
            const float number = numbers[static_cast<std::size_t>(i)];
            expected_pairs[static_cast<std::size_t>(r * width + i)] = float_to_bf16(number);
            EXPECT_EQ(round_to_bf16(number), number) << "bfloat16 has every number of 8 bits";
          }
          // As weights are packed, a row of x is.
          cuda::pack_row(storage, row, k, expected_bytes.data() + r * bytes, as_packed.data());
          EXPECT_EQ(as_packed, of_row);
        }
        EXPECT_EQ(pairs.back(), expected_pairs);
        EXPECT_EQ(packed.back(), expected_bytes);
        EXPECT_TRUE(same_bits(scales.back(), expected_scales));
        EXPECT_TRUE(same_bits(again.back(), expected_scales));
      }
}

TEST(CudaQuantised, RowsOfOneScaleAreTheHosts) {
  const std::int64_t rows = 5;
  for (const std::int64_t k : {1, 33, 390, 16392})
    for (const float scale : {0.0f, 0.004f}) {
      SCOPED_TRACE(testing::Message() << "k " << k << " scale " << scale);
      const Floats x = rows_of_all_magnitudes(rows, k);
      const Device<float> on_x(x), scales(Floats(rows + 1, kPoison));
      const std::int64_t width = cuda::rounded_stride(Storage::kFp8, k),
                         bytes = cuda::PackedLayout(Storage::kFp8, 1, k).row_bytes;
      const Device<std::uint16_t> pairs(static_cast<std::size_t>(rows * width));
      const DeviceBytes packed(static_cast<std::size_t>(rows * bytes));
      cuda::launch_quantise(Storage::kFp8, on_x.data(), k, rows, k, pairs.data(), scales.data(), nullptr,
                            cuda_set().stream(), {true, scale});
      const Matrix w{.storage = Storage::kFp8, .k = k, .one_x_scale = true, .x_scale = scale};
      const float expected = scale_of_x(w, x.data(), k, rows);
      for (std::int64_t r = 0; r < rows; ++r) {
        Floats numbers(static_cast<std::size_t>(k));
        float own;
        quantise_row(Storage::kFp8, x.data() + r * k, k, numbers.data(), &own, expected);
        EXPECT_EQ(own, expected);
        EXPECT_EQ(scales.back()[static_cast<std::size_t>(r)], expected);
        const auto got = pairs.back();
        for (std::int64_t i = 0; i < k; ++i)
          ASSERT_EQ(got[static_cast<std::size_t>(r * width + i)],
                    float_to_bf16(numbers[static_cast<std::size_t>(i)]));
      }
      cuda::launch_quantise(Storage::kFp8, on_x.data(), k, rows, k, packed.data(), scales.data(), nullptr,
                            cuda_set().stream(), {true, scale});
      // A row of x is packed as weights are.
      const DeviceBytes as_weights(cuda_set().packed_bytes(Storage::kFp8, rows, k));
      Threads one;
      cuda_set().pack(Storage::kFp8, rows, k, reader(x, k), as_weights.data(), one, expected);
      const auto theirs = as_weights.back(), ours = packed.back();
      EXPECT_TRUE(std::equal(ours.begin(), ours.end(), theirs.begin()));
    }
}

// Rows beyond those that the device counts are left alone.
TEST(CudaQuantised, OnlyTheRowsThatThereAre) {
  const std::int64_t rows = 4, k = 20, width = cuda::rounded_stride(Storage::kInt8, k);
  const Device<float> x(normal(static_cast<std::size_t>(rows * k), 42)), scales(Floats(4, kPoison));
  const Device<std::uint16_t> to(std::vector<std::uint16_t>(static_cast<std::size_t>(rows * width), 7));
  const Device<std::int32_t> count(std::vector<std::int32_t>{3});
  cuda::launch_quantise(Storage::kInt8, x.data(), k, rows, k, to.data(), scales.data(), count.data(),
                        cuda_set().stream());
  const auto got = to.back();
  EXPECT_TRUE(std::all_of(got.end() - width, got.end(), [](std::uint16_t v) { return v == 7; }));
  EXPECT_FALSE(std::isnan(scales.back()[2]));
  EXPECT_TRUE(std::isnan(scales.back()[3]));
}

// Made by a norm or a gate, with their products: the bits of both apart. Rows of a warp each and of a block
// each, short of a group or a unit, and longer than a block's registers elsewhere.
TEST(CudaQuantised, WhatIsMadeSoIsWhatTheProductMakes) {
  const std::int64_t n = 24;
  Threads threads;
  for (const Storage storage : kOf8Bits)
    for (const std::int64_t width : {7, 64, 100, 332, 1028, 4104, 12008, 16640})
      for (const std::int64_t m : {1, 8, 9, 140, 270}) {
        // 270: many for a device.
        if (width > 400 ? m != 9 && m != 270 : m == 270) continue;
        if (m == 270 && (width != 1028 || storage != Storage::kInt8)) continue;
        if (m == 8 && width != 100) continue;
        SCOPED_TRACE(testing::Message()
                     << "storage " << static_cast<int>(storage) << " width " << width << " rows " << m);
        const Quantised packed(storage, n, width, normal(static_cast<std::size_t>(n * width), 61));
        const auto size = static_cast<std::size_t>(m * width);
        const Floats bias = normal(static_cast<std::size_t>(width), 64), stream = normal(size, 65),
                     gates = normal(2 * size, 66);
        const Device<float> weight(normal(static_cast<std::size_t>(width), 63)), on_bias(bias),
            added(normal(size, 62)), x(size), y(static_cast<std::size_t>(m * n)), on_gates(gates);
        const DeviceBytes made(cuda_set().quantised_bytes(storage, m, width)),
            scratch(cuda_set().gemm_scratch(packed.device, m));
        const auto apart = [&] {
          cuda_set().gemm(packed.device, x.data(), width, m, nullptr, false, y.data(), n, scratch.data(),
                          threads);
          return y.back();
        };
        const auto together = [&] {
          cuda_set().gemm_quantised(packed.device, made.data(), m, nullptr, false, y.data(), n,
                                    scratch.data(), threads);
          return y.back();
        };
        const auto expect_same = [&](const Floats& a, const Floats& b, const char* what) {
#ifdef FORETOKEN_EMULATED
          EXPECT_TRUE(same_bits(a, b)) << what;
#else
          EXPECT_LT(distance(a, b), 2e-3) << what;  // another of the library's kernels
#endif
        };
        for (const auto kind : {NormKind::kRms, NormKind::kLayer})
          for (const bool adds : {false, true}) {
            if (width > 400 && (kind == NormKind::kRms || !adds)) continue;
            const NormArgs args{kind, 1e-5f, 1, weight.data(),
                                kind == NormKind::kLayer ? on_bias.data() : nullptr};
            const Device<float> sum(stream), sum_apart(stream);
            cuda_set().norm_quantised(args, adds ? added.data() : nullptr, m, width, sum.data(), storage,
                                      made.data());
            const Floats got = together();
            if (adds)
              cuda_set().add_norm(args, added.data(), m, width, sum_apart.data(), x.data());
            else
              cuda_set().norm(args, sum_apart.data(), width, m, width, x.data(), width);
            expect_same(got, apart(), "norm");
            EXPECT_TRUE(same_bits(sum.back(), sum_apart.back()));
          }
        for (const bool gated : {true, false}) {
          if (width > 400 && !gated) continue;
          ActivationArgs args;
          args.gated = gated;
          cuda_set().activation_quantised(args, on_gates.data(), m, width, storage, made.data());
          const Floats got = together();
          cuda_set().activation(args, on_gates.data(), m, width, x.data());
          expect_same(got, apart(), "activation");
        }
      }
}

// Tensor cores keep fewer bits of a sum of fp8 products than of others.
double limit_of([[maybe_unused]] Storage storage) {
#ifdef FORETOKEN_EMULATED
  return kClose;
#else
  return is_fp8(storage) ? 2e-3 : kClose;
#endif
}

void products_are_the_references(std::int64_t least_rows) {
  const std::int64_t shapes[][2] = {{1, 1}, {3, 8}, {17, 33}, {72, 256}, {130, 100}, {5, 390}};
  for (const Storage storage : kOf8Bits)
    for (const auto& [n, k] : shapes) {
      const Quantised packed(storage, n, k, normal(static_cast<std::size_t>(n * k), 43));
      const auto bias = normal(static_cast<std::size_t>(n), 44);
      for (const std::int64_t m : {1, 2, 5, 8, 9, 17, 65, 300}) {
        if (m < least_rows) continue;
        SCOPED_TRACE(testing::Message()
                     << "storage " << static_cast<int>(storage) << " m " << m << " n " << n << " k " << k);
        const auto x = normal(static_cast<std::size_t>(m * k), 45),
                   start = normal(static_cast<std::size_t>(m * n), 46);
        Case c;
        c.m = m, c.x = &x;
        for (const bool with_bias : {false, true})
          for (const bool accumulate : {false, true}) {
            c.bias = with_bias ? &bias : nullptr, c.start = accumulate ? &start : nullptr;
            c.x_before = accumulate ? 1 : 0, c.x_gap = with_bias ? 3 : 0, c.y_before = accumulate ? 4 : 1;
            EXPECT_LT(distance(by_gemm(packed.device, c), reference_product(packed.reference, c)),
                      limit_of(storage))
                << "bias " << with_bias << " accumulate " << accumulate;
          }
      }
    }
}

TEST(CudaQuantised, ProductsAreTheReferences) { products_are_the_references(1); }

TEST(CudaQuantised, EveryPathHasTheSameNumbers) {
  const std::int64_t n = 70, k = 200;
  for (const Storage storage : kOf8Bits) {
    const Quantised packed(storage, n, k, normal(static_cast<std::size_t>(n * k), 47));
    for (const std::int64_t m : {3, 7, 40, 260}) {
      const auto x = normal(static_cast<std::size_t>(m * k), 48);
      Case c;
      c.m = m, c.x = &x;
      const auto expected = reference_product(packed.reference, c);
      std::vector<Path> paths = {Path::kTiles};
      if (m <= cuda::kStreamRows) paths.push_back(Path::kStream);
      if (m > cuda::kStreamRows) paths.push_back(Path::kQuantised);
      if (m >= cuda::kExpandRows && !in_groups(storage)) paths.push_back(Path::kExpand);
      for (const Path path : paths)
        EXPECT_LT(distance(by_path(path, packed.device, c), expected), limit_of(storage))
            << "storage " << static_cast<int>(storage) << " m " << m << " path " << static_cast<int>(path);
      Matrix plain = packed.reference;
      plain.quantised_x = false;
      EXPECT_GT(distance(expected, reference_product(plain, c)), 1e-3) << "x is rounded";
    }
  }
}

// Few rows, tiles, bf16 in memory and, emulated, both of the library's ways.
TEST(CudaQuantised, OneScaleIsTheReferences) {
  const std::int64_t n = 130, k = 200;
  for (const float x_scale : {0.0f, 0.004f}) {
    const OneScale packed(n, k, normal(static_cast<std::size_t>(n * k), 71), x_scale);
    const auto bias = normal(static_cast<std::size_t>(n), 72);
    for (const std::int64_t m : {1, 8, 9, 65, 300})
      for (const bool with_bias : {false, true}) {
        SCOPED_TRACE(testing::Message() << "scale " << x_scale << " m " << m << " bias " << with_bias);
        const auto x = normal(static_cast<std::size_t>(m * k), 73);
        Case c;
        c.m = m, c.x = &x, c.x_gap = m == 65 ? 3 : 0;
        if (with_bias) c.bias = &bias;
        const auto expected = reference_product(packed.reference, c);
        EXPECT_LT(distance(by_gemm(packed.device, c), expected), limit_of(Storage::kFp8));
#ifdef FORETOKEN_EMULATED
        for (const int offer : {0, 1}) {
          if (m <= cuda::kStreamRows) continue;
          cuda::emulation::settings().cublas_offer = offer;
          EXPECT_LT(distance(by_gemm(packed.device, c), expected), kClose) << offer;
        }
        cuda::emulation::settings() = {};
#endif
      }
  }
}

// Norms and gates have the scale before they begin: the bits of both apart. Rows of a warp and of a block,
// and such as are longer than its registers.
TEST(CudaQuantised, WhatIsMadeWithAFixedScaleIsWhatTheProductMakes) {
  const std::int64_t n = 24;
  const float x_scale = 0.004f;
  Threads threads;
  for (const auto& [width, m] : {std::pair<std::int64_t, std::int64_t>{100, 3}, {1028, 9}, {16640, 9}}) {
    SCOPED_TRACE(width);
    const OneScale packed(n, width, normal(static_cast<std::size_t>(n * width), 74), x_scale);
    const auto size = static_cast<std::size_t>(m * width);
    const Device<float> added(normal(size, 75)), gates(normal(2 * size, 76)), x(size),
        y(static_cast<std::size_t>(m * n));
    const DeviceBytes made(cuda_set().quantised_bytes(Storage::kFp8, m, width)),
        scratch(cuda_set().gemm_scratch(packed.device, m));
    const auto expect_same = [&](const char* what) {
      cuda_set().gemm_quantised(packed.device, made.data(), m, nullptr, false, y.data(), n, scratch.data(),
                                threads);
      const Floats together = y.back();
      cuda_set().gemm(packed.device, x.data(), width, m, nullptr, false, y.data(), n, scratch.data(),
                      threads);
#ifdef FORETOKEN_EMULATED
      EXPECT_TRUE(same_bits(together, y.back())) << what;
#else
      EXPECT_LT(distance(together, y.back()), 2e-3) << what;
#endif
    };
    const Device<float> stream(normal(size, 77)), stream_apart(normal(size, 77));
    cuda_set().norm_quantised({}, added.data(), m, width, stream.data(), Storage::kFp8, made.data(), x_scale);
    cuda_set().add_norm({}, added.data(), m, width, stream_apart.data(), x.data());
    expect_same("norm");
    cuda_set().activation_quantised({}, gates.data(), m, width, Storage::kFp8, made.data(), x_scale);
    cuda_set().activation({}, gates.data(), m, width, x.data());
    expect_same("activation");
  }
}

// By warpgroups, which take both sides as bytes, and without: k of half a block, of whole ones, and of
// neither; tiles that aren't whole.
TEST(CudaQuantised, BytesByWarpgroupsAndWithout) {
#ifdef FORETOKEN_EMULATED
  ASSERT_TRUE(cuda_set().warpgroups()) << "their products failed the check of when the set was made";
#endif
  if (!cuda_set().warpgroups()) GTEST_SKIP() << "the device has no products of warpgroups";
  const std::int64_t m = 150, n = 530;
  for (const Storage storage : kOf8Bits)
    for (const std::int64_t k : {64, 330, 1024}) {
      if (storage != Storage::kFp8Block && k == 1024) continue;
      const Quantised packed(storage, n, k, normal(static_cast<std::size_t>(n * k), 53));
      const auto x = normal(static_cast<std::size_t>(m * k), 56);
      const auto bias = normal(static_cast<std::size_t>(n), 54),
                 start = normal(static_cast<std::size_t>(m * n), 55);
      Case c;
      c.m = m, c.x = &x, c.bias = &bias;
      if (k != 330) c.start = &start;
      const auto expected = reference_product(packed.reference, c);
      for (const bool use : {true, false}) {
        if (!use && storage != Storage::kFp8Block) continue;  // EveryPathHasTheSameNumbers
        cuda_set().use_warpgroups(use);
        cuda::Product p = cuda::product_of(packed.device);
        p.m = m, p.warpgroups = cuda_set().warpgroups();
        auto device = cuda_set().device();
        device.multiprocessors = storage == Storage::kInt8 ? 6 : 11;
        EXPECT_EQ(cuda::takes_bytes(p, device), use);
        EXPECT_LT(distance(by_path(Path::kTiles, packed.device, c, device), expected), limit_of(storage))
            << "storage " << static_cast<int>(storage) << " k " << k << " warpgroups " << use;
      }
      cuda_set().use_warpgroups(true);
    }
}

// Sums of int8 are whole numbers, rounded once.
TEST(CudaQuantised, IntegersAreExact) {
  if (!cuda_set().warpgroups()) GTEST_SKIP() << "the device has no products of warpgroups";
  const std::int64_t m = 130, n = 260, k = 4100;
  Floats w(static_cast<std::size_t>(n * k)), x(static_cast<std::size_t>(m * k));
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i * 37 % 255) - 127.0f;
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 91 % 255) - 127.0f;
  for (std::int64_t row = 0; row < n; ++row) w[static_cast<std::size_t>(row * k)] = 127;
  for (std::int64_t row = 0; row < m; ++row) x[static_cast<std::size_t>(row * k)] = 127;
  const Quantised packed(Storage::kInt8, n, k, w);
  Case c;
  c.m = m, c.x = &x;
  auto device = cuda_set().device();
  device.multiprocessors = 4;
  const Floats got = by_path(Path::kTiles, packed.device, c, device);
  for (const auto& [row, column] : {std::pair<std::int64_t, std::int64_t>{0, 0}, {129, 259}, {64, 128}}) {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < k; ++i)
      sum += static_cast<std::int64_t>(x[static_cast<std::size_t>(row * k + i)]) *
             static_cast<std::int64_t>(w[static_cast<std::size_t>(column * k + i)]);
    EXPECT_EQ(got[static_cast<std::size_t>(row * n + column)], static_cast<float>(sum));
  }
}

TEST(CudaQuantised, BytesWhereTilesFillTheDevice) {
  const auto takes = [](Storage storage, std::int64_t m, std::int64_t n, std::int64_t k, bool quantised_x,
                        std::size_t shared_bytes = 227 << 10) {
    cuda::Product p;
    p.storage = storage, p.m = m, p.n = n, p.k = k, p.quantised_x = quantised_x, p.warpgroups = true;
    cuda::DeviceProperties device;
    device.multiprocessors = 132, device.shared_bytes = shared_bytes;
    return takes_bytes(p, device);
  };
  EXPECT_TRUE(takes(Storage::kFp8Block, 4096, 4096, 4096, true));
  EXPECT_FALSE(takes(Storage::kFp8Block, 4096, 4096, 4096, false)) << "x is of 16 bits";
  EXPECT_TRUE(takes(Storage::kFp8, 4096, 4096, 4096, true));
  EXPECT_TRUE(takes(Storage::kInt8, 4096, 4096, 4096, true));
  EXPECT_FALSE(takes(Storage::kInt8, 4096, 4096, 140000, true)) << "sums beyond int32";
  EXPECT_FALSE(takes(Storage::kInt8, 1024, 3584, 4096, true)) << "tiles of 256 by 128: 112";
  EXPECT_TRUE(takes(Storage::kFp8, 1024, 3584, 4096, true));
  EXPECT_FALSE(takes(Storage::kInt4, 4096, 4096, 4096, true));
  EXPECT_FALSE(takes(Storage::kFp8Block, 64, 65536, 4096, true)) << "tiles of 64 rows";
  EXPECT_FALSE(takes(Storage::kFp8Block, 128, 4096, 4096, true)) << "32 tiles";
  EXPECT_FALSE(takes(Storage::kFp8Block, 4096, 4096, 32, true));
  EXPECT_FALSE(takes(Storage::kFp8Block, 4096, 4096, 4096, true, 163 << 10));
}

TEST(CudaQuantised, ManyRowsGoToTheLibrary) {
  EXPECT_EQ(cuda::choose_path(Storage::kFp8, 8, 64, 64, true), Path::kStream);
  EXPECT_EQ(cuda::choose_path(Storage::kFp8, 9, 64, 64, true), Path::kQuantised);
  EXPECT_EQ(cuda::choose_path(Storage::kInt8, 4096, 64, 64, true), Path::kQuantised);
  EXPECT_EQ(cuda::choose_path(Storage::kInt8, 4096, 64, 64, false), Path::kExpand);
  EXPECT_EQ(cuda::choose_path(Storage::kInt8, 4096, 7, 64, true), Path::kTiles);
}

#ifdef FORETOKEN_EMULATED
// As bytes to the library, to warpgroups, and widened, where a product takes them so.
TEST(CudaQuantised, WhatIsMadeSoGoesEveryWay) {
  const std::int64_t m = 140, n = 270, k = 152;
  for (const Storage storage : kOf8Bits) {
    const Quantised packed(storage, n, k, normal(static_cast<std::size_t>(n * k), 67));
    const Device<float> stream(normal(static_cast<std::size_t>(m * k), 68)),
        x(static_cast<std::size_t>(m * k));
    const DeviceBytes made(cuda_set().quantised_bytes(storage, m, k));
    cuda_set().norm_quantised({}, nullptr, m, k, stream.data(), storage, made.data());
    cuda_set().norm({}, stream.data(), k, m, k, x.data(), k);
    const cuda::QuantisedForm form(storage, m, k);
    ASSERT_TRUE(form.bytes);
    const auto run = [&](Path path, bool rounded, int multiprocessors) {
      cuda::Product p = cuda::product_of(packed.device);
      p.m = m, p.warpgroups = true;
      p.x = x.data(), p.x_stride = k;
      if (rounded) {
        p.quantised = made.data();
        p.x_scales = reinterpret_cast<const float*>(made.data() + form.scales_at);
      }
      auto device = cuda_set().device();
      device.multiprocessors = multiprocessors;
      const Device<float> y(static_cast<std::size_t>(m * n));
      p.y = y.data(), p.y_stride = n;
      const DeviceBytes scratch(cuda::product_scratch(storage, n, k, m, multiprocessors, true));
      cuda::run_product(path, p, scratch.data(), device, cuda_set().stream());
      return y.back();
    };
    for (const int multiprocessors : {4, 132})
      EXPECT_TRUE(
          same_bits(run(Path::kTiles, true, multiprocessors), run(Path::kTiles, false, multiprocessors)));
    for (const int offer : {-1, 0, 1}) {
      cuda::emulation::settings().cublas_offer = offer;
      EXPECT_TRUE(same_bits(run(Path::kQuantised, true, 132), run(Path::kQuantised, false, 132))) << offer;
    }
    cuda::emulation::settings() = {};
  }
}

// What the library is offered is the product, each way: fp8 with scales within (the first offer without a
// bias), fp8 and int8 with a pass after. Its order of k is that of packed rows.
TEST(CudaQuantised, EveryOfferIsTheProduct) {
  for (const int offer : {0, 1}) {
    cuda::emulation::settings().cublas_offer = offer;
    products_are_the_references(cuda::kStreamRows + 1);
  }
  cuda::emulation::settings() = {};
}

TEST(CudaQuantised, WithoutTheLibraryItIsSaidOnce) {
  const std::int64_t n = 16, k = 64, m = 20;
  const Quantised packed(Storage::kFp8, n, k, normal(static_cast<std::size_t>(n * k), 49));
  const auto x = normal(static_cast<std::size_t>(m * k), 50);
  Case c;
  c.m = m, c.x = &x;
  by_gemm(packed.device, c);
  const auto once = cuda_set().remarks();
  ASSERT_EQ(once.size(), 1u);
  EXPECT_NE(once[0].find("bfloat16"), std::string::npos) << once[0];
  by_gemm(packed.device, c);
  EXPECT_EQ(cuda_set().remarks(), once);
}

class CudaQuantisedOrders : public InOrders {};

TEST_P(CudaQuantisedOrders, Products) {
  for (const Storage storage : kOf8Bits)
    for (const std::int64_t m : {4, 30}) {
      const std::int64_t n = 40, k = 150;
      const Quantised packed(storage, n, k, normal(static_cast<std::size_t>(n * k), 51));
      const auto x = normal(static_cast<std::size_t>(m * k), 52);
      Case c;
      c.m = m, c.x = &x;
      EXPECT_LT(distance(by_gemm(packed.device, c), reference_product(packed.reference, c)), kClose);
    }
}

TEST_P(CudaQuantisedOrders, BytesByWarpgroups) {
  const std::int64_t m = 130, n = 140, k = 200;
  for (const Storage storage : kOf8Bits) {
    const Quantised packed(storage, n, k, normal(static_cast<std::size_t>(n * k), 57));
    const auto x = normal(static_cast<std::size_t>(m * k), 58);
    Case c;
    c.m = m, c.x = &x;
    auto device = cuda_set().device();
    device.multiprocessors = 2;
    EXPECT_LT(
        distance(by_path(Path::kTiles, packed.device, c, device), reference_product(packed.reference, c)),
        kClose);
  }
}

INSTANTIATE_TEST_SUITE_P(Orders, CudaQuantisedOrders,
                         testing::Values(cuda::emulation::Order::kReverse,
                                         cuda::emulation::Order::kShuffled));
#endif

}  // namespace
}  // namespace foretoken
