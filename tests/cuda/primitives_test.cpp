// What executor/cuda/device.cuh, launch.h and runtime.h promise. Built twice: for the emulation, where every
// test runs in several orders of threads and blocks, and for the device, where all are skipped if there is
// none.
#include "primitives.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "executor/cuda/runtime.h"

#ifdef FORETOKEN_EMULATED
#include "executor/cuda/emulation.h"
#endif

namespace foretoken::cuda {
namespace {

// Draws that differ in every bit and need no library.
struct Draws {
  std::uint32_t state = 12345;
  std::uint32_t bits() {
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return state;
  }
  float symmetric() { return static_cast<float>(bits() >> 8) / static_cast<float>(1 << 23) - 1; }
};

struct RunOrder {
  std::string name;
  int threads = 0, blocks = 0;  // emulation::Order
  std::uint64_t seed = 1;
};
void PrintTo(const RunOrder& order, std::ostream* out) { *out << order.name; }

class Primitives : public testing::TestWithParam<RunOrder> {
 protected:
  void SetUp() override {
#ifdef FORETOKEN_EMULATED
    emulation::settings() = {};
    emulation::settings().threads = static_cast<emulation::Order>(GetParam().threads);
    emulation::settings().blocks = static_cast<emulation::Order>(GetParam().blocks);
    emulation::settings().seed = GetParam().seed;
#else
    if (device_count() == 0) GTEST_SKIP() << no_device_reason();
#endif
    stream = std::make_unique<Stream>();
  }
  void TearDown() override {
#ifdef FORETOKEN_EMULATED
    emulation::settings() = {};
#endif
  }

  template <class T>
  DeviceMemory upload(const std::vector<T>& values) {
    DeviceMemory memory(values.size() * sizeof(T));
    copy(*stream, memory.data(), values.data(), memory.bytes());
    stream->synchronize();
    return memory;
  }
  template <class T>
  std::vector<T> download(const DeviceMemory& memory) {
    std::vector<T> values(memory.bytes() / sizeof(T));
    copy(*stream, values.data(), memory.data(), memory.bytes());
    stream->synchronize();
    return values;
  }
  std::unique_ptr<Stream> stream;
};

#ifdef FORETOKEN_EMULATED
INSTANTIATE_TEST_SUITE_P(Emulated, Primitives,
                         testing::Values(RunOrder{"forward", 0, 0, 1}, RunOrder{"reverse", 1, 1, 1},
                                         RunOrder{"shuffled_1", 2, 2, 1}, RunOrder{"shuffled_2", 2, 2, 2}),
                         [](const auto& of) { return of.param.name; });
#else
INSTANTIATE_TEST_SUITE_P(Device, Primitives, testing::Values(RunOrder{"device"}),
                         [](const auto& of) { return of.param.name; });
#endif

TEST_P(Primitives, ShufflesAndVotes) {
  std::vector<int> in(32);
  Draws draws;
  for (int& x : in) x = static_cast<int>(draws.bits());
  const DeviceMemory from = upload(in), to(kShuffles * 32 * sizeof(int));
  shuffle_lanes(*stream, from.as<int>(), to.as<int>());
  const auto out = download<int>(to);
  unsigned odd = 0;
  for (std::size_t l = 0; l < 32; ++l) odd |= (static_cast<unsigned>(in[l]) & 1) << l;
  for (std::size_t l = 0; l < 32; ++l) {
    EXPECT_EQ(out[l], in[(7 * l + 3) % 32]);
    EXPECT_EQ(out[32 + l], in[l ^ 5]);
    EXPECT_EQ(out[64 + l], in[l >= 3 ? l - 3 : l]);
    EXPECT_EQ(out[96 + l], in[l + 4 < 32 ? l + 4 : l]);
    EXPECT_EQ(static_cast<unsigned>(out[128 + l]), odd);
    EXPECT_EQ(out[160 + l], 1);
    EXPECT_EQ(out[192 + l], 0);
    EXPECT_EQ(out[224 + l], in[(l + 40) % 32]);
  }
}

TEST_P(Primitives, ShufflesOfDoubles) {
  std::vector<double> in(32);
  for (std::size_t l = 0; l < 32; ++l) in[l] = 1e200 / static_cast<double>(l + 3);
  const DeviceMemory from = upload(in), to(32 * sizeof(double));
  shuffle_doubles(*stream, from.as<double>(), to.as<double>());
  const auto out = download<double>(to);
  for (std::size_t l = 0; l < 32; ++l) EXPECT_EQ(out[l], in[l ^ 16]);
}

TEST_P(Primitives, Reductions) {
  const std::vector<std::array<unsigned, 3>> blocks = {{32, 1, 1}, {96, 1, 1}, {8, 4, 3}, {1024, 1, 1}};
  for (const auto& [x, y, z] : blocks) {
    const std::size_t count = x * y * z;
    std::vector<float> in(count);
    Draws draws;
    for (float& v : in) v = draws.symmetric() - 3;  // all negative: a wrong neutral value would show
    const DeviceMemory from = upload(in), to(count * kReductions * sizeof(float));
    reduce(*stream, x, y, z, from.as<float>(), to.as<float>());
    const auto out = download<float>(to);
    const double all = std::accumulate(in.begin(), in.end(), 0.0);
    const double squares = std::inner_product(in.begin(), in.end(), in.begin(), 0.0);
    const float largest = *std::max_element(in.begin(), in.end());
    for (std::size_t i = 0; i < count; ++i) {
      const auto group = [&](std::size_t size) { return in.begin() + static_cast<long>(i / size * size); };
      const float* got = out.data() + i * kReductions;
      EXPECT_NEAR(got[0], std::accumulate(group(32), group(32) + 32, 0.0), 2e-5);
      EXPECT_EQ(got[1], *std::max_element(group(32), group(32) + 32));
      EXPECT_EQ(got[2], *std::min_element(group(32), group(32) + 32));
      EXPECT_NEAR(got[3], std::accumulate(group(4), group(4) + 4, 0.0), 3e-6);
      EXPECT_EQ(got[4], *std::max_element(group(8), group(8) + 8));
      EXPECT_NEAR(got[5], all, 1e-6 * std::abs(all));
      EXPECT_NEAR(got[6], squares, 1e-6 * squares);
      EXPECT_EQ(got[7], largest);
      EXPECT_EQ(got[5], out[5]) << "the same bits in every thread";
    }
  }
}

TEST_P(Primitives, Coordinates) {
  const std::size_t count = 3 * 2 * 4 * 5 * 3 * 2;
  const DeviceMemory to(count * sizeof(int));
  coordinates(*stream, 3, 2, 4, 5, 3, 2, to.as<int>());
  std::vector<int> expected(count);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(download<int>(to), expected);
}

// Rounds by definition: the nearest of all values of the format, ties to the even one.
float nearest(float x, int fraction, int lowest_exponent, double largest) {
  const double magnitude = std::abs(static_cast<double>(x));
  if (magnitude == 0) return x;
  const int exponent = std::max(std::ilogb(magnitude), lowest_exponent);
  const double step = std::ldexp(1.0, exponent - fraction);
  const double rounded = std::nearbyint(magnitude / step) * step;
  return std::copysign(static_cast<float>(std::min(rounded, largest)), x);
}

TEST_P(Primitives, NumberFormats) {
  std::vector<float> in = {0,      -0.0f,  1,      -1,       448,        449,    464,
                           1e9f,   -1e9f,  0.5f,   1.5f,     2.5f,       -2.5f,  127.4999f,
                           127.5f, 200.0f, -200.f, 0x1p-10f, 0x1.8p-10f, 0x1p-9f};
  Draws draws;
  while (in.size() < 4000)
    in.push_back(std::ldexp(draws.symmetric(), static_cast<int>(draws.bits() % 30) - 16));
  const std::size_t count = in.size();
  const DeviceMemory from = upload(in), to(4 * count * sizeof(float)), pairs(4 * count * sizeof(float));
  round_trip(*stream, from.as<float>(), static_cast<int>(count), to.as<float>(), pairs.as<float>());
  const auto out = download<float>(to);
  for (std::size_t i = 0; i < count; ++i) {
    EXPECT_EQ(out[i], nearest(in[i], 7, -126, 3.4e38)) << in[i];
    if (std::abs(in[i]) < 65504) {
      EXPECT_EQ(out[count + i], nearest(in[i], 10, -14, 65504)) << in[i];
    }
    EXPECT_EQ(out[2 * count + i], nearest(in[i], 3, -6, 448)) << in[i];
    EXPECT_EQ(out[3 * count + i], std::clamp(std::nearbyint(in[i]), -128.0f, 127.0f)) << in[i];
  }
  const auto packed = download<float>(pairs);
  EXPECT_EQ(std::memcmp(packed.data(), out.data(), out.size() * sizeof(float)), 0);
}

TEST_P(Primitives, FastFunctions) {
  std::vector<float> in;
  for (float x = 0.01f; x < 20; x *= 1.05f) in.push_back(x);
  const std::size_t count = in.size();
  const DeviceMemory from = upload(in), to(8 * count * sizeof(float));
  fast_functions(*stream, from.as<float>(), static_cast<int>(count), to.as<float>());
  const auto out = download<float>(to);
  const auto near = [](float got, double expected, double error, float x) {
    EXPECT_NEAR(got, expected, error * std::max(1e-30, std::abs(expected))) << x;
  };
  for (std::size_t i = 0; i < count; ++i) {
    const double x = in[i];
    near(out[i], std::exp2(x), 1e-6, in[i]);
    near(out[count + i], std::exp(x), 4e-6, in[i]);
    EXPECT_NEAR(out[2 * count + i], std::log2(x), 1e-6 * std::max(1.0, std::abs(std::log2(x)))) << x;
    near(out[3 * count + i], 1 / x, 1e-6, in[i]);
    near(out[4 * count + i], 1 / std::sqrt(x), 1e-6, in[i]);
    near(out[5 * count + i], std::tanh(x), 0x1p-10, in[i]);
    const auto bits = std::bit_cast<std::uint32_t>(in[i]);
    EXPECT_EQ(out[6 * count + i], static_cast<float>(std::popcount(bits)));
    EXPECT_EQ(out[7 * count + i], static_cast<float>(std::countr_zero(bits)));
  }
}

// Elements that all formats hold exactly, so that products are exact too; asymmetric in rows and columns.
struct Product {
  std::size_t depth = 0;
  std::vector<int> a, b, d;  // a[16][depth], b[8][depth], d[16][8] before
  double expected(std::size_t row, std::size_t column) const {
    double sum = d[row * 8 + column];
    for (std::size_t k = 0; k < depth; ++k) sum += a[row * depth + k] * b[column * depth + k];
    return sum;
  }
};

Product make_product(std::size_t depth) {
  Product p;
  p.depth = depth;
  Draws draws;
  const auto small = [&draws] { return static_cast<int>(draws.bits() % 17) - 8; };
  for (std::size_t i = 0; i < 16 * depth; ++i) p.a.push_back(small());
  for (std::size_t i = 0; i < 8 * depth; ++i) p.b.push_back(small());
  for (std::size_t i = 0; i < 16 * 8; ++i) p.d.push_back(small());
  return p;
}

// An integer from -8 to 8 in the format of `kind`.
std::uint16_t encode(int kind, int value) {
  if (kind == 2) return static_cast<std::uint8_t>(static_cast<std::int8_t>(value));
  const unsigned sign = value < 0 ? 1 : 0;
  const int fraction = kind == 0 ? 7 : kind == 1 ? 10 : 3;
  const int bias = kind == 0 ? 127 : kind == 1 ? 15 : 7;
  const int width = kind == 3 ? 8 : 16;
  const unsigned magnitude = static_cast<unsigned>(std::abs(value));
  if (magnitude == 0) return 0;
  const int exponent = std::bit_width(magnitude) - 1;
  const unsigned rest = (magnitude << fraction >> exponent) & ((1u << fraction) - 1);
  return static_cast<std::uint16_t>(sign << (width - 1) | static_cast<unsigned>(exponent + bias) << fraction |
                                    rest);
}

template <class T>
std::vector<T> encode_all(int kind, const std::vector<int>& values, std::size_t rows, bool transposed) {
  std::vector<T> out(values.size());
  const std::size_t columns = values.size() / rows;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < columns; ++c)
      out[transposed ? c * rows + r : r * columns + c] =
          static_cast<T>(encode(kind, values[r * columns + c]));
  return out;
}

TEST_P(Primitives, MatrixProductsFromTheTableAndFromMatrices) {
  for (int kind = 0; kind < 4; ++kind) {
    const bool bytes = kind >= 2;
    const Product p = make_product(bytes ? 32 : 16);
    for (const Fragments from : {Fragments::kTable, Fragments::kMatrices, Fragments::kTransposed}) {
      const bool transposed = from == Fragments::kTransposed;
      if (bytes && transposed) continue;
      const DeviceMemory a = bytes ? upload(encode_all<std::uint8_t>(kind, p.a, 16, false))
                                   : upload(encode_all<std::uint16_t>(kind, p.a, 16, transposed));
      const DeviceMemory b = bytes ? upload(encode_all<std::uint8_t>(kind, p.b, 8, false))
                                   : upload(encode_all<std::uint16_t>(kind, p.b, 8, transposed));
      const DeviceMemory d = kind == 2 ? upload(p.d) : upload(std::vector<float>(p.d.begin(), p.d.end()));
      multiply(*stream, kind, from, a.data(), b.data(), d.data());
      std::vector<double> got;
      if (kind == 2)
        for (const int x : download<int>(d)) got.push_back(x);
      else
        for (const float x : download<float>(d)) got.push_back(x);
      for (std::size_t row = 0; row < 16; ++row)
        for (std::size_t column = 0; column < 8; ++column)
          EXPECT_EQ(got[row * 8 + column], p.expected(row, column))
              << "kind " << kind << " fragments " << static_cast<int>(from) << " at " << row << ", "
              << column;
    }
  }
}

TEST_P(Primitives, MatricesFromSharedMemory) {
  std::vector<std::uint16_t> in(4 * 64);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::uint16_t>(1000 + i);
  const DeviceMemory from = upload(in), to(12 * 32 * sizeof(std::uint32_t));
  load_matrices(*stream, from.as<std::uint16_t>(), to.as<std::uint32_t>());
  const auto out = download<std::uint32_t>(to);
  const auto at = [&](std::size_t m, std::size_t r, std::size_t c) -> std::uint32_t {
    return in[64 * m + 8 * r + c];
  };
  for (std::size_t l = 0; l < 32; ++l) {
    const std::size_t g = l / 4, t = l % 4;
    for (std::size_t m = 0; m < 4; ++m) {
      const std::uint32_t plain = at(m, g, 2 * t) | at(m, g, 2 * t + 1) << 16;
      const std::uint32_t transposed = at(m, 2 * t, g) | at(m, 2 * t + 1, g) << 16;
      EXPECT_EQ(out[m * 32 + l], plain);
      EXPECT_EQ(out[(4 + m) * 32 + l], transposed);
      if (m < 2) {
        EXPECT_EQ(out[(8 + m) * 32 + l], plain);
        EXPECT_EQ(out[(10 + m) * 32 + l], transposed);
      }
    }
  }
}

TEST_P(Primitives, TilesThroughAsynchronousCopies) {
  for (const int count : {128, 1000, 1024, 1001, 3, 5000}) {
    std::vector<float> x(static_cast<std::size_t>(count));
    Draws draws;
    for (float& v : x) v = static_cast<float>(draws.bits() % 100);
    const DeviceMemory from = upload(x), to(128 * sizeof(float));
    sum_tiles(*stream, from.as<float>(), count, to.as<float>());
    const auto y = download<float>(to);
    for (std::size_t t = 0; t < 128; ++t) {
      float expected = 0;
      for (std::size_t i = 127 - t; i < x.size(); i += 128) expected += x[i];
      EXPECT_EQ(y[t], expected) << count << " at " << t;
    }
  }
}

TEST_P(Primitives, Atomics) {
  const DeviceMemory out = upload(std::vector<int>{0, -5, 1 << 20, 0, 0}),
                     sum = upload(std::vector<float>{0});
  count_atomically(*stream, 5, 64, out.as<int>(), sum.as<float>());
  EXPECT_THAT(download<int>(out), testing::ElementsAre(320, 319, 0, 0x7fffffff, 320));
  EXPECT_EQ(download<float>(sum)[0], 319 * 320 / 2);
}

TEST_P(Primitives, DynamicSharedMemory) {
  for (const int floats : {7, 1000, 12000, 50000}) {  // the last two need more than 48 KiB
    const DeviceMemory out(static_cast<std::size_t>(1 + floats) * sizeof(float));
    fill_shared(*stream, floats, out.as<float>());
    const auto got = download<float>(out);
#ifdef FORETOKEN_EMULATED
    EXPECT_EQ(got[0], static_cast<float>(4 * floats)) << "0xFF in every byte";
#endif
    for (int i = 0; i < floats; ++i)
      EXPECT_EQ(got[static_cast<std::size_t>(1 + i)], static_cast<float>(floats - 1 - i));
  }
}

TEST_P(Primitives, TooMuchSharedMemoryIsAnError) {
  const DeviceMemory out(64);
  EXPECT_THROW(fill_shared(*stream, 1 << 20, out.as<float>()), Error);
}

TEST_P(Primitives, Vectors) {
  std::vector<float> x(1004);
  std::iota(x.begin(), x.end(), 1.0f);
  const DeviceMemory from = upload(x), to(sizeof(float));
  load_vectors(*stream, from.as<float>(), static_cast<int>(x.size()), to.as<float>());
  EXPECT_EQ(download<float>(to)[0], 1004.0f * 1005 / 2);
}

TEST_P(Primitives, KernelsThatOverlapComeInOrder) {
  const DeviceMemory x = upload(std::vector<float>(1000, 1));
  for (int i = 0; i < 10; ++i) double_and_add(*stream, x.as<float>(), 1000, 1);
  EXPECT_THAT(download<float>(x), testing::Each(2047));
}

TEST_P(Primitives, CopiesAndFills) {
  std::vector<int> rows(6 * 4);
  std::iota(rows.begin(), rows.end(), 0);
  const DeviceMemory from = upload(rows), to(5 * 4 * sizeof(int));
  fill(*stream, to.data(), 0, to.bytes());
  // 4 rows of 3 ints, of 6 to rows of 5.
  copy_rows(*stream, to.as<int>() + 1, 5 * sizeof(int), from.as<int>() + 2, 6 * sizeof(int), 3 * sizeof(int),
            4);
  const auto got = download<int>(to);
  for (int r = 0; r < 4; ++r)
    EXPECT_THAT(std::vector<int>(got.begin() + 5 * r, got.begin() + 5 * r + 5),
                testing::ElementsAre(0, 6 * r + 2, 6 * r + 3, 6 * r + 4, 0));
}

TEST_P(Primitives, GraphsReplayAndAreBroughtUpToDate) {
  PinnedMemory host(1000 * sizeof(float)), back(1000 * sizeof(float));
  std::fill_n(host.as<float>(), 1000, 1.0f);
  const DeviceMemory x(1000 * sizeof(float));
  const auto step = [&](float add, int kernels) {
    copy(*stream, x.data(), host.data(), host.bytes());
    for (int i = 0; i < kernels; ++i) double_and_add(*stream, x.as<float>(), 1000, add);
    copy(*stream, back.data(), x.data(), back.bytes());
  };
  const auto expect = [&](float value) {
    stream->synchronize();
    EXPECT_THAT(std::vector<float>(back.as<float>(), back.as<float>() + 1000), testing::Each(value));
  };
  Graph graph;
  EXPECT_TRUE(graph.empty());
  EXPECT_THROW(graph.launch(*stream), CudaError);
  std::fill_n(back.as<float>(), 1000, -1.0f);
  EXPECT_FALSE(graph.capture(*stream, [&] { step(1, 3); }));
  EXPECT_EQ(graph.nodes(), 5u);
  expect(-1);  // nothing has run
  graph.launch(*stream);
  expect(15);
  std::fill_n(host.as<float>(), 1000, 2.0f);  // what it copies is read when it runs
  graph.launch(*stream);
  graph.launch(*stream);
  expect(23);
  EXPECT_TRUE(graph.capture(*stream, [&] { step(0, 3); }));
  graph.launch(*stream);
  expect(16);
  EXPECT_FALSE(graph.capture(*stream, [&] { step(0, 4); }));
  graph.launch(*stream);
  expect(32);
  // An error while work is issued leaves the stream and the graph as they were.
  EXPECT_THROW(graph.capture(*stream,
                             [&] {
                               step(5, 1);
                               throw Error("", "stop");
                             }),
               Error);
  graph.launch(*stream);
  expect(32);
  step(1, 1);
  expect(5);
}

TEST_P(Primitives, StreamsWaitForEventsAlsoInAGraph) {
  Stream other;
  Event forked, joined, start, end;
  const DeviceMemory x = upload(std::vector<float>(100, 1)), y = upload(std::vector<float>(100, 0));
  const auto issue = [&] {
    start.record_time(*stream);
    double_and_add(*stream, x.as<float>(), 100, 0);
    forked.record(*stream);
    other.wait(forked);
    copy(other, y.data(), x.data(), x.bytes());
    double_and_add(other, y.as<float>(), 100, 1);
    joined.record(other);
    stream->wait(joined);
    double_and_add(*stream, y.as<float>(), 100, 0);
    end.record_time(*stream);
  };
  issue();
  EXPECT_THAT(download<float>(y), testing::Each(10));
  Graph graph;
  graph.capture(*stream, issue);
  EXPECT_THAT(download<float>(y), testing::Each(10));
  graph.launch(*stream);
  EXPECT_THAT(download<float>(y), testing::Each(18));
  EXPECT_TRUE(end.done());
  EXPECT_GE(end.milliseconds_since(start), 0);
  // The other stream is no longer captured with it.
  copy(other, y.data(), x.data(), x.bytes());
  other.synchronize();
  EXPECT_THAT(download<float>(y), testing::Each(4));
}

TEST_P(Primitives, Properties) {
  const DeviceProperties properties = device_properties();
  EXPECT_FALSE(properties.name.empty());
  EXPECT_GE(properties.compute_capability, 80);
  EXPECT_GT(properties.multiprocessors, 0);
  EXPECT_GE(properties.shared_bytes, 48u * 1024);
  EXPECT_GT(free_memory(), 0u);
  EXPECT_THROW(device_properties(99), CudaError);
}

}  // namespace
}  // namespace foretoken::cuda
