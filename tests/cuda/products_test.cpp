// Products of the CUDA set against the reference: every storage, every kernel that may take a product, shapes
// that fill no tile; rows of tables to the bit; the experts of a mixture.
#include "executor/cuda/products.h"

#include <algorithm>

#include "executor/storage.h"
#include "tests/cuda/on_device.h"
#ifdef FORETOKEN_EMULATED
#include "executor/cuda/emulation.h"
#endif

namespace foretoken {
namespace {

using cuda::Path;

const Storage kAll[] = {Storage::kF32,  Storage::kBf16, Storage::kF16,
                        Storage::kInt8, Storage::kInt4, Storage::kFp8};

// Of exactly its size, so that what reads beyond it is found.
template <class T>
class Device {
 public:
  explicit Device(const std::vector<T>& values) : size_(values.size()), memory_(size_ * sizeof(T)) {
    cuda_set().memory().copy(memory_.data(), values.data(), size_ * sizeof(T));
  }
  explicit Device(std::size_t size) : size_(size), memory_(size * sizeof(T)) {}
  T* data() const { return memory_.template as<T>(); }
  std::vector<T> back() const {
    std::vector<T> values(size_);
    cuda_set().memory().copy(values.data(), memory_.data(), size_ * sizeof(T));
    return values;
  }

 private:
  std::size_t size_;
  cuda::DeviceMemory memory_;
};
using DeviceBytes = Device<std::byte>;

auto reader(const Floats& w, std::int64_t k) {
  return [&w, k](std::int64_t row, float* out) { std::copy_n(w.data() + row * k, k, out); };
}

// The same matrix packed by both.
struct Both {
  DeviceBytes memory;
  Memory reference_memory;
  Matrix device, reference;
  Both(Storage storage, std::int64_t n, std::int64_t k, const Floats& w)
      : memory(cuda_set().packed_bytes(storage, n, k)),
        reference_memory(reference_kernels().packed_bytes(storage, n, k)),
        device(cuda_set().pack(storage, n, k, reader(w, k), memory.data())),
        reference(reference_kernels().pack(storage, n, k, reader(w, k), reference_memory.data())) {}
};

struct Case {
  std::int64_t m = 1;
  const Floats *x = nullptr, *bias = nullptr, *start = nullptr;  // dense
  // Floats in front of x and y, and between rows of x, on the device.
  std::int64_t x_before = 0, x_gap = 0, y_before = 1;
};

Floats reference_product(const Matrix& w, const Case& c) {
  Threads threads;
  Floats y(static_cast<std::size_t>(c.m * w.n), kPoison);
  if (c.start) std::copy_n(c.start->data(), y.size(), y.data());
  Memory scratch(reference_kernels().gemm_scratch(w, c.m));
  reference_kernels().gemm(w, c.x->data(), w.k, c.m, c.bias ? c.bias->data() : nullptr, c.start != nullptr,
                           y.data(), w.n, scratch.data(), threads);
  return y;
}

// multiply(x, x_stride, bias, y, y_stride). y has a guard around it, all of which must stay; what lies around
// x spoils what takes it.
template <class F>
Floats with_guards(const Matrix& w, const Case& c, const F& multiply) {
  const std::int64_t stride = w.n + 3, before = stride + c.y_before;
  Floats y(static_cast<std::size_t>((c.m + 2) * stride), kPoison), out;
  for (std::int64_t r = 0; c.start && r < c.m; ++r)
    std::copy_n(c.start->data() + r * w.n, w.n, y.data() + before + r * stride);
  const std::int64_t x_stride = w.k + c.x_gap;
  Floats x(static_cast<std::size_t>(c.x_before + c.m * x_stride + 16), kPoison);
  for (std::int64_t r = 0; r < c.m; ++r)
    std::copy_n(c.x->data() + r * w.k, w.k, x.data() + c.x_before + r * x_stride);
  const Device<float> on_x(x), on_device(y), bias(c.bias ? *c.bias : Floats{0});
  multiply(on_x.data() + c.x_before, x_stride, c.bias ? bias.data() : nullptr, on_device.data() + before,
           stride);
  y = on_device.back();
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(y.size()); ++i) {
    const std::int64_t row = (i - before) / stride, column = (i - before) % stride;
    if (i >= before && row < c.m && column < w.n)
      out.push_back(y[static_cast<std::size_t>(i)]);
    else
      EXPECT_TRUE(std::isnan(y[static_cast<std::size_t>(i)])) << "written beside y at " << i - before;
  }
  return out;
}

Floats by_path(Path path, const Matrix& w, const Case& c,
               const cuda::DeviceProperties& device = cuda_set().device()) {
  return with_guards(
      w, c, [&](const float* x, std::int64_t x_stride, const float* bias, float* y, std::int64_t y_stride) {
        cuda::Product p = cuda::product_of(w);
        p.x = x, p.x_stride = x_stride, p.m = c.m;
        p.bias = bias, p.accumulate = c.start != nullptr;
        p.y = y, p.y_stride = y_stride;
        // As if for more rows than the streams take: it is that much at least.
        const DeviceBytes scratch(cuda::product_scratch(w.storage, w.n, w.k, std::max<std::int64_t>(c.m, 9),
                                                        device.multiprocessors));
        cuda::run_product(path, p, scratch.data(), device, cuda_set().stream());
        cuda_set().memory().wait();
      });
}

Floats by_gemm(const Matrix& w, const Case& c) {
  return with_guards(
      w, c, [&](const float* x, std::int64_t x_stride, const float* bias, float* y, std::int64_t y_stride) {
        Threads threads;
        const DeviceBytes scratch(cuda_set().gemm_scratch(w, c.m));
        cuda_set().gemm(w, x, x_stride, c.m, bias, c.start != nullptr, y, y_stride, scratch.data(), threads);
        cuda_set().memory().wait();
      });
}

// Both round x and w alike; sums differ.
constexpr double kClose = 3e-6;

std::vector<Path> paths_of(Storage storage, std::int64_t m) {
  std::vector<Path> paths = {storage == Storage::kF32 ? Path::kFloatTiles : Path::kTiles};
  if (m <= cuda::kStreamRows)
    paths.push_back(cuda::exact_product(storage) ? Path::kFloatStream : Path::kStream);
  if (storage == Storage::kBf16) paths.push_back(Path::kCublas);
  return paths;
}

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
                         : storage == Storage::kFp8  ? 4e-2
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

// Blocks that take several tiles by turns, and x in pieces where it is too long for shared memory.
TEST(CudaProducts, StreamsInTurnsAndPieces) {
  for (const Storage storage : {Storage::kBf16, Storage::kInt8, Storage::kInt4, Storage::kFp8})
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

// ---- Experts ---------------------------------------------------------------------------------------------

struct ExpertCase {
  Storage up = Storage::kBf16, down = Storage::kBf16;
  std::int64_t hidden = 40, inter = 24, count = 4, first = 0, of = 4, rows = 5, top_k = 2;
  ActivationArgs activation;
  bool biases = false;
  int skipped = -1;  // an expert that nothing is for
};

struct Packing {
  std::vector<std::byte> host;
  std::unique_ptr<DeviceBytes> device;
  Experts experts;
};

// Matrices and biases of all experts behind one another, a distance of 64 bytes' multiples apart.
Packing pack_experts(const Kernels& kernels, const ExpertCase& c, const std::vector<Floats>& weights) {
  const bool on_device = &kernels == &cuda_set();
  const std::int64_t inter = c.activation.gated ? 2 * c.inter : c.inter;
  const auto padded = [](std::size_t bytes) { return (bytes + 63) / 64 * 64; };
  const std::size_t up = padded(kernels.packed_bytes(c.up, inter, c.hidden)),
                    down = padded(kernels.packed_bytes(c.down, c.hidden, c.inter)),
                    up_bias = padded(static_cast<std::size_t>(inter) * 4),
                    down_bias = padded(static_cast<std::size_t>(c.hidden) * 4);
  Packing p;
  const std::size_t stride = up + down + up_bias + down_bias;
  std::byte* base = nullptr;
  if (on_device) {
    p.device = std::make_unique<DeviceBytes>(stride * static_cast<std::size_t>(c.count));
    base = p.device->data();
  } else {
    p.host.resize(stride * static_cast<std::size_t>(c.count) + 64);
    base = p.host.data() + (64 - reinterpret_cast<std::uintptr_t>(p.host.data()) % 64) % 64;
  }
  for (std::int64_t e = 0; e < c.count; ++e) {
    std::byte* const at = base + stride * static_cast<std::size_t>(e);
    const Floats* const own = &weights[static_cast<std::size_t>(4 * e)];
    const Matrix u = kernels.pack(c.up, inter, c.hidden, reader(own[0], c.hidden), at),
                 d = kernels.pack(c.down, c.hidden, c.inter, reader(own[1], c.inter), at + up);
    kernels.memory().copy(at + up + down, own[2].data(), own[2].size() * 4);
    kernels.memory().copy(at + up + down + up_bias, own[3].data(), own[3].size() * 4);
    if (e > 0) continue;
    p.experts.gate_up = u, p.experts.down = d;
    if (c.biases) {
      p.experts.gate_up_bias = reinterpret_cast<const float*>(at + up + down);
      p.experts.down_bias = reinterpret_cast<const float*>(at + up + down + up_bias);
    }
  }
  p.experts.stride = stride;
  p.experts.first = c.first, p.experts.count = c.count;
  return p;
}

void experts_are_the_references(const ExpertCase& c, double limit) {
  SCOPED_TRACE(testing::Message() << "storages " << static_cast<int>(c.up) << ", " << static_cast<int>(c.down)
                                  << " hidden " << c.hidden << " inter " << c.inter << " rows " << c.rows
                                  << " experts " << c.first << " + " << c.count << " of " << c.of);
  const std::int64_t inter = c.activation.gated ? 2 * c.inter : c.inter, pairs = c.rows * c.top_k;
  const auto size = [](std::int64_t a, std::int64_t b) { return static_cast<std::size_t>(a * b); };
  std::vector<Floats> weights;
  for (unsigned e = 0; e < c.count; ++e) {
    weights.push_back(normal(size(inter, c.hidden), 20 + 4 * e));
    weights.push_back(normal(size(c.hidden, c.inter), 21 + 4 * e));
    weights.push_back(normal(size(inter, 1), 22 + 4 * e));
    weights.push_back(normal(size(c.hidden, 1), 23 + 4 * e));
  }
  const Packing mine = pack_experts(cuda_set(), c, weights),
                theirs = pack_experts(reference_kernels(), c, weights);
  const auto x = normal(size(c.rows, c.hidden), 14);
  std::mt19937 random(15);
  std::vector<std::int32_t> chosen;
  for (std::int64_t r = 0; r < c.rows; ++r) {
    std::vector<std::int32_t> all;
    for (std::int32_t e = 0; e < c.of; ++e)
      if (e != c.skipped) all.push_back(e);
    std::shuffle(all.begin(), all.end(), random);
    chosen.insert(chosen.end(), all.begin(), all.begin() + c.top_k);
  }

  // The reference, and what it leaves.
  Floats in(size(pairs, c.hidden)), mid(size(pairs, inter)), act(size(pairs, c.inter)),
      out(size(pairs, c.hidden), kPoison);
  std::vector<std::int32_t> place(size(pairs, 1)), order(size(pairs, 1)), begin(size(c.count + 1, 1));
  Threads threads;
  Memory scratch(reference_kernels().expert_scratch(theirs.experts, pairs));
  reference_kernels().run_experts(
      theirs.experts, c.activation, x.data(), chosen.data(), c.rows, c.top_k,
      {in.data(), mid.data(), act.data(), out.data(), place.data(), order.data(), begin.data()},
      scratch.data(), threads);

  const Device<float> on_x(x), on_in(size(pairs, c.hidden)), on_mid(size(pairs, inter)),
      on_act(size(pairs, c.inter)), on_out(Floats(out.size(), kPoison));
  const Device<std::int32_t> on_chosen(chosen), on_place(std::vector<std::int32_t>(place.size(), -9)),
      on_order(std::vector<std::int32_t>(order.size(), -9)), on_begin(begin.size());
  const DeviceBytes on_scratch(cuda_set().expert_scratch(mine.experts, pairs));
  cuda_set().run_experts(mine.experts, c.activation, on_x.data(), on_chosen.data(), c.rows, c.top_k,
                         {on_in.data(), on_mid.data(), on_act.data(), on_out.data(), on_place.data(),
                          on_order.data(), on_begin.data()},
                         on_scratch.data(), threads);
  EXPECT_EQ(on_place.back(), place);
  EXPECT_EQ(on_begin.back(), begin);
  const auto local = static_cast<std::size_t>(begin.back());
  const auto got_order = on_order.back();
  EXPECT_TRUE(std::equal(order.begin(), order.begin() + static_cast<std::int64_t>(local), got_order.begin()));
  EXPECT_TRUE(std::all_of(got_order.begin() + static_cast<std::int64_t>(local), got_order.end(),
                          [](std::int32_t o) { return o == -9; }));
  const auto got = on_out.back();
  const std::size_t values = local * static_cast<std::size_t>(c.hidden);
  for (std::size_t i = values; i < got.size(); ++i) EXPECT_TRUE(std::isnan(got[i])) << i;
  if (values == 0) return;
  EXPECT_LT(distance({got.begin(), got.begin() + static_cast<std::int64_t>(values)},
                     {out.begin(), out.begin() + static_cast<std::int64_t>(values)}),
            limit);
}

double limit_of(Storage storage) {  // where activations are rounded, a few round the other way
  return cuda::exact_product(storage) ? 3e-6 : 2.5e-3;
}

TEST(CudaExperts, OfEveryStorage) {
  for (const Storage storage : kAll)
    for (const std::int64_t rows : {1, 3, 20, 45, 90, 180}) {
      ExpertCase c;
      c.up = c.down = storage;
      c.rows = rows;
      experts_are_the_references(c, limit_of(storage));
    }
}

TEST(CudaExperts, OfOddWidths) {
  for (const Storage storage : kAll)
    for (const auto& [hidden, inter] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 70}, {75, 3}, {130, 133}})
      for (const std::int64_t rows : {2, 31}) {
        ExpertCase c;
        c.up = c.down = storage;
        c.hidden = hidden, c.inter = inter, c.rows = rows;
        c.biases = true;
        experts_are_the_references(c, limit_of(storage));
      }
}

// Tiles that are not whole in any direction, some of them large; blocks that take several by turns.
TEST(CudaExperts, OfManyRows) {
  for (const Storage storage : kAll)
    for (const bool gated : {true, false})
      for (const std::int64_t rows : {5, 150}) {
        ExpertCase c;
        c.up = c.down = storage;
        c.activation.gated = gated;
        c.hidden = 330, c.inter = 290, c.count = 2, c.of = 2, c.rows = rows, c.top_k = 1;
        c.biases = gated;
        experts_are_the_references(c, limit_of(storage));
      }
}

TEST(CudaExperts, OfARange) {
  for (const Storage storage : {Storage::kF32, Storage::kBf16, Storage::kInt4})
    for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{3, 5}, {0, 3}, {8, 1}})
      for (const std::int64_t rows : {1, 4, 70}) {
        ExpertCase c;
        c.up = c.down = storage;
        c.first = first, c.count = count, c.of = 9, c.top_k = 3;
        c.rows = rows;
        c.skipped = 4;
        experts_are_the_references(c, limit_of(storage));
      }
}

// More pairs than threads of a block, and experts beyond a warp's lanes.
TEST(CudaExperts, OfManyPairs) {
  for (const std::int64_t count : {40, 2}) {
    ExpertCase c;
    c.hidden = 8, c.inter = 8;
    c.first = 1, c.count = count, c.of = 43, c.rows = 401, c.top_k = 4;
    experts_are_the_references(c, limit_of(c.up));
  }
}

TEST(CudaExperts, OfTwoStorages) {
  for (const auto& [up, down] : {std::pair{Storage::kF32, Storage::kInt8},
                                 {Storage::kInt8, Storage::kF16},
                                 {Storage::kFp8, Storage::kInt4}})
    for (const std::int64_t rows : {2, 50}) {
      ExpertCase c;
      c.up = up, c.down = down, c.rows = rows;
      experts_are_the_references(c, 2.5e-3);
    }
}

TEST(CudaExperts, OfEveryActivation) {
  for (const Activation kind : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh,
                                Activation::kRelu, Activation::kReluSquared, Activation::kClampedSwiglu})
    for (const bool gated : {true, false}) {
      if (!gated && kind == Activation::kClampedSwiglu) continue;
      for (const Storage storage : {Storage::kF32, Storage::kBf16})
        for (const std::int64_t rows : {2, 20}) {
          ExpertCase c;
          c.up = c.down = storage;
          c.activation.kind = kind, c.activation.gated = gated;
          c.activation.limit = 1.5f;
          c.inter = 21, c.rows = rows;
          c.biases = true;
          experts_are_the_references(c, limit_of(storage));
        }
    }
}

TEST(CudaExperts, WithoutRows) {
  const Device<std::int32_t> begin(std::vector<std::int32_t>(4, -9));
  Experts experts;
  experts.gate_up = {Storage::kBf16, 16, 8, nullptr}, experts.down = {Storage::kBf16, 8, 8, nullptr};
  experts.count = 3;
  Threads threads;
  ExpertRows to;
  to.begin = begin.data();
  cuda_set().run_experts(experts, {}, nullptr, nullptr, 0, 2, to, nullptr, threads);
  EXPECT_EQ(begin.back(), (std::vector<std::int32_t>(4, 0)));
}

// A step is recorded and run again with other values.
TEST(CudaExperts, RunAgainFromARecording) {
  const std::int64_t n = 33, k = 70, m = 12;
  const Both packed(Storage::kInt8, n, k, normal(static_cast<std::size_t>(n * k), 16));
  const auto first = normal(static_cast<std::size_t>(m * k), 17), second = normal(first.size(), 18);
  const Device<float> x(first), y(static_cast<std::size_t>(m * n));
  const DeviceBytes scratch(cuda_set().gemm_scratch(packed.device, m));
  const auto graphs = cuda_set().graphs();
  for (const Floats* values : {&first, &second}) {
    cuda_set().memory().copy(x.data(), values->data(), values->size() * sizeof(float));
    graphs->run(1, [&] {
      Threads threads;
      cuda_set().gemm(packed.device, x.data(), k, m, nullptr, false, y.data(), n, scratch.data(), threads);
    });
    Case c;
    c.m = m, c.x = values;
    EXPECT_LT(distance(y.back(), reference_product(packed.reference, c)), kClose);
  }
}

#ifdef FORETOKEN_EMULATED
// What follows holds whatever the order of threads and of blocks.
class CudaProductOrders : public testing::TestWithParam<cuda::emulation::Order> {
 protected:
  void SetUp() override {
    auto& settings = cuda::emulation::settings();
    settings.threads = settings.blocks = GetParam();
    settings.seed = 3;
  }
  void TearDown() override { cuda::emulation::settings() = {}; }
};

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

TEST_P(CudaProductOrders, Experts) {
  for (const Storage storage : kAll)
    for (const std::int64_t rows : {3, 30}) {
      ExpertCase c;
      c.up = c.down = storage;
      c.first = 1, c.of = 6, c.rows = rows;
      experts_are_the_references(c, limit_of(storage));
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
  ExpertCase c;
  experts_are_the_references(c, limit_of(c.up));
  cuda::emulation::settings() = {};
}
#endif

}  // namespace
}  // namespace foretoken
