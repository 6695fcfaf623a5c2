// Matrix products of every storage against the reference, within what each format loses; the same bits
// whatever the batch and the threads.
#include <stdexcept>
#include <tuple>

#include "executor/storage.h"
#include "tests/executor/kernels_testing.h"

namespace foretoken {
namespace {

struct Packed {
  Memory memory;
  Matrix matrix;
  Packed(const Kernels& kernels, Storage storage, std::int64_t n, std::int64_t k, const Floats& w,
         float scale = 0)
      : memory(kernels.packed_bytes(storage, n, k)) {
    const auto read = [&](std::int64_t row, float* out) { std::copy_n(w.data() + row * k, k, out); };
    Threads one;
    matrix = kernels.pack(storage, n, k, read, memory.data(), one, scale);
  }
};

// y with a guard of two columns and two rows, all of which must stay.
Floats product(const Kernels& kernels, const Matrix& w, const Floats& x, std::int64_t m, const float* bias,
               const Floats* start, Threads& threads) {
  const std::int64_t stride = w.n + 2;
  Floats y(static_cast<std::size_t>((m + 2) * stride), kPoison), out;
  for (std::int64_t r = 0; start && r < m; ++r)
    std::copy_n(start->data() + r * w.n, w.n, y.data() + (r + 1) * stride + 1);
  Memory scratch(kernels.gemm_scratch(w, m));
  kernels.gemm(w, x.data(), w.k, m, bias, start != nullptr, y.data() + stride + 1, stride, scratch.data(),
               threads);
  for (std::int64_t r = 0; r < m + 2; ++r)
    for (std::int64_t c = 0; c < stride; ++c) {
      const float value = y[static_cast<std::size_t>(r * stride + c)];
      if (r > 0 && r <= m && c > 0 && c <= w.n)
        out.push_back(value);
      else
        EXPECT_TRUE(std::isnan(value)) << "written beside y at " << r << ", " << c;
    }
  return out;
}

const Storage kAll[] = {Storage::kF32,  Storage::kBf16, Storage::kF16,     Storage::kInt8,
                        Storage::kInt4, Storage::kFp8,  Storage::kFp8Block};

TEST_P(EverySet, ProductsAreTheReferences) {
  Threads threads(2);
  const std::int64_t shapes[][3] = {{1, 1, 1},      {1, 17, 33},   {3, 64, 128},
                                    {17, 100, 301}, {5, 200, 640}, {130, 70, 257},
                                    {2, 130, 131},  {4, 65, 390},  {8, 64, 1029}};
  for (const auto storage : kAll)
    for (const auto& [m, n, k] : shapes) {
      SCOPED_TRACE(testing::Message()
                   << "storage " << static_cast<int>(storage) << " m " << m << " n " << n << " k " << k);
      const auto w = normal(static_cast<std::size_t>(n * k), 1),
                 x = normal(static_cast<std::size_t>(m * k), 2);
      const auto bias = normal(static_cast<std::size_t>(n), 3),
                 start = normal(static_cast<std::size_t>(m * n), 4);
      Packed mine(*kernels, storage, n, k, w), theirs(reference, storage, n, k, w);
      const auto got = product(*kernels, mine.matrix, x, m, bias.data(), &start, threads);
      EXPECT_LT(distance(got, product(reference, theirs.matrix, x, m, bias.data(), &start, threads)), 3e-6);
      // Against the values before they were stored.
      Packed exact(reference, Storage::kF32, n, k, w);
      const double limit = storage == Storage::kF32    ? 1e-5
                           : storage == Storage::kInt8 ? 1.5e-2
                           : is_fp8(storage)           ? 4e-2
                           : storage == Storage::kInt4 ? 0.2
                                                       : 8e-3;
      EXPECT_LT(distance(got, product(reference, exact.matrix, x, m, bias.data(), &start, threads)), limit);
      for (std::int64_t row = 0; row < n; row += 7) {
        Floats a(static_cast<std::size_t>(k)), b(static_cast<std::size_t>(k));
        const std::int32_t id[] = {static_cast<std::int32_t>(row)};
        kernels->embed(mine.matrix, id, 0, 1, false, a.data(), nullptr);
        reference.embed(theirs.matrix, id, 0, 1, false, b.data(), nullptr);
        EXPECT_TRUE(same_bits(a, b)) << "row " << row;
      }
    }
}

TEST_P(EverySet, ProductsOfARowDoNotDependOnOthers) {
  Threads one(1), two(2), three(3);
  const std::int64_t m = 211, n = 150;
  for (const std::int64_t k : {1300, 515, 250, 127})
    for (const auto storage : kAll) {
      const auto w = normal(static_cast<std::size_t>(n * k), 5),
                 x = normal(static_cast<std::size_t>(m * k), 6);
      Packed p(*kernels, storage, n, k, w);
      const auto whole = product(*kernels, p.matrix, x, m, nullptr, nullptr, one);
      EXPECT_TRUE(same_bits(whole, product(*kernels, p.matrix, x, m, nullptr, nullptr, two)));
      EXPECT_TRUE(same_bits(whole, product(*kernels, p.matrix, x, m, nullptr, nullptr, three)));
      for (const std::int64_t count : {1, 2, 3, 4, 5, 6, 7, 8, 9, 97})
        for (const std::int64_t first : {0, 50, 113}) {
          const Floats part(x.begin() + first * k, x.begin() + (first + count) * k);
          const Floats expected(whole.begin() + first * n, whole.begin() + (first + count) * n);
          EXPECT_TRUE(same_bits(expected, product(*kernels, p.matrix, part, count, nullptr, nullptr, two)))
              << "storage " << static_cast<int>(storage) << ", " << count << " rows from " << first;
        }
    }
}

const Storage kOf8Bits[] = {Storage::kInt8, Storage::kFp8, Storage::kFp8Block};

// x rounded to the weights' format: within the sums' rounding of the reference, and by far another product
// than with x in bfloat16. Rows of zeros alone stay zeros.
TEST_P(EverySet, QuantisedRowsAreTheReferences) {
  Threads threads(2);
  const std::int64_t shapes[][3] = {{1, 1, 1},    {1, 17, 33},    {3, 64, 128},  {17, 100, 301},
                                    {8, 65, 390}, {130, 70, 257}, {40, 66, 1029}};
  for (const auto storage : kOf8Bits)
    for (const auto& [m, n, k] : shapes) {
      SCOPED_TRACE(testing::Message()
                   << "storage " << static_cast<int>(storage) << " m " << m << " n " << n << " k " << k);
      const auto w = normal(static_cast<std::size_t>(n * k), 21),
                 bias = normal(static_cast<std::size_t>(n), 23),
                 start = normal(static_cast<std::size_t>(m * n), 24);
      auto x = normal(static_cast<std::size_t>(m * k), 22);
      if (m > 2) std::fill_n(x.begin() + k, k, 0.0f);
      Packed mine(*kernels, storage, n, k, w), theirs(reference, storage, n, k, w);
      mine.matrix.quantised_x = theirs.matrix.quantised_x = true;
      const auto got = product(*kernels, mine.matrix, x, m, bias.data(), &start, threads),
                 expected = product(reference, theirs.matrix, x, m, bias.data(), &start, threads);
      EXPECT_LT(distance(got, expected), 3e-6);
      for (std::int64_t c = 0; m > 2 && c < n; ++c) {
        EXPECT_EQ(got[static_cast<std::size_t>(n + c)],
                  start[static_cast<std::size_t>(n + c)] + bias[static_cast<std::size_t>(c)]);
      }
      if (k < 33) continue;
      theirs.matrix.quantised_x = false;
      EXPECT_GT(distance(got, product(reference, theirs.matrix, x, m, bias.data(), &start, threads)), 1e-3);
    }
}

TEST_P(EverySet, AQuantisedRowDoesNotDependOnOthers) {
  Threads one(1), two(2);
  const std::int64_t m = 103, n = 70, k = 515;
  for (const auto storage : kOf8Bits) {
    const auto x = normal(static_cast<std::size_t>(m * k), 26);
    Packed p(*kernels, storage, n, k, normal(static_cast<std::size_t>(n * k), 25));
    p.matrix.quantised_x = true;
    const auto whole = product(*kernels, p.matrix, x, m, nullptr, nullptr, two);
    for (const std::int64_t count : {1, 2, 4, 7, 9, 50})
      for (const std::int64_t first : {0, 53}) {
        const Floats part(x.begin() + first * k, x.begin() + (first + count) * k);
        const Floats expected(whole.begin() + first * n, whole.begin() + (first + count) * n);
        EXPECT_TRUE(same_bits(expected, product(*kernels, p.matrix, part, count, nullptr, nullptr, one)))
            << "storage " << static_cast<int>(storage) << ", " << count << " rows from " << first;
      }
  }
}

// By hand. int8: x = (1, 0.5) has the scale 1/127 and becomes (127, 64), as 63.5 is rounded to even; w =
// (127, -64) has the scale 1. fp8: x = (896, 1.1) has the scale 2 and becomes (448, 0.5625), as numbers from
// 0.5 on are 1/16 apart; w = (448, 16) has the scale 1.
TEST_P(EverySet, QuantisedByHand) {
  Threads one;
  for (const Kernels* set : {kernels, &reference}) {
    Packed whole(*set, Storage::kInt8, 1, 2, {127, -64}), small(*set, Storage::kFp8, 1, 2, {448, 16});
    whole.matrix.quantised_x = small.matrix.quantised_x = true;
    EXPECT_FLOAT_EQ(product(*set, whole.matrix, {1, 0.5f}, 1, nullptr, nullptr, one)[0],
                    (127 * 127 - 64 * 64) / 127.0f);
    EXPECT_FLOAT_EQ(product(*set, small.matrix, {896, 1.1f}, 1, nullptr, nullptr, one)[0], 448 * 896 + 18);
  }
}

// By hand: blocks of 128 columns whose largest values are 448 and 4.48, x likewise with 896 and 8.96; what is
// beside them in the block is rounded with its scale (w: 1, 0.01; x: 2, 0.02), in its own block alone. A row
// beyond 128 has blocks of its own.
TEST_P(EverySet, BlocksByHand) {
  Threads one;
  constexpr std::int64_t n = 130, k = 256;
  Floats w(n * k), x(k);
  w[0] = 448, w[128] = 4.48f, w[k + 1] = 1.06f, w[k + 129] = 0.0106f, w[129 * k + 1] = 1.06f;
  x[0] = 896, x[1] = 2.12f, x[128] = 8.96f, x[129] = 0.0212f;
  const float kRounded = 1.0f;  // 1.06 between 1 and 1.125
  for (const Kernels* set : {kernels, &reference}) {
    Packed p(*set, Storage::kFp8Block, n, k, w);
    const auto plain = product(*set, p.matrix, x, 1, nullptr, nullptr, one);
    EXPECT_NEAR(plain[129], 1.06f * round_to_bf16(2.12f), 1e-6);  // the largest of its block
    p.matrix.quantised_x = true;
    const auto quantised = product(*set, p.matrix, x, 1, nullptr, nullptr, one);
    EXPECT_FLOAT_EQ(quantised[0], 448.0f * 896 + 4.48f * 8.96f);
    EXPECT_NEAR(quantised[1], kRounded * 2 * kRounded + 0.01 * kRounded * 0.02 * kRounded, 1e-6);
    EXPECT_NEAR(quantised[129], 1.06 * 2 * kRounded, 1e-6);
    EXPECT_EQ(quantised[2], 0);
  }
}

// By hand. w's scale is 1, so that its rows stay as they are; 1.06 is rounded to 1 and 1e9 to 448. x's is
// 2: 1.1 becomes 0.5625 x 2, and 2000 saturates at 896. Found, it is that of 1792, which is 4, for both
// rows: 1.1 becomes 0.28125 x 4.
TEST_P(EverySet, OneScaleByHand) {
  Threads one;
  const Floats x = {896, 1.1f, 1.1f, 2000}, alike = {1792, 1.1f, 1.1f, 4};
  for (const Kernels* set : {kernels, &reference}) {
    Packed p(*set, Storage::kFp8, 3, 2, {448, 16, 1, 1.06f, 1e9f, 2}, 1);
    EXPECT_TRUE(p.matrix.one_scale);
    p.matrix.quantised_x = p.matrix.one_x_scale = true, p.matrix.x_scale = 2;
    EXPECT_EQ(product(*set, p.matrix, x, 2, nullptr, nullptr, one),
              (Floats{448 * 896 + 16 * 1.125f, 896 + 1.125f, 448 * 896 + 2 * 1.125f, 448 * 1.125f + 16 * 896,
                      1.125f + 896, 448 * 1.125f + 2 * 896}));
    p.matrix.x_scale = 0;
    EXPECT_EQ(product(*set, p.matrix, alike, 2, nullptr, nullptr, one),
              (Floats{448 * 1792 + 16 * 1.125f, 1792 + 1.125f, 448 * 1792 + 2 * 1.125f, 448 * 1.125f + 16 * 4,
                      1.125f + 4, 448 * 1.125f + 2 * 4}));
  }
}

TEST_P(EverySet, OneScaleIsTheReferences) {
  Threads threads(2);
  for (const auto& [m, n, k] : {std::tuple{1, 17, 33}, {3, 64, 128}, {17, 100, 301}, {130, 70, 257}})
    for (const float x_scale : {0.0f, 0.004f}) {
      SCOPED_TRACE(testing::Message() << "m " << m << " n " << n << " k " << k << " scale " << x_scale);
      const auto w = normal(static_cast<std::size_t>(n * k), 21),
                 x = normal(static_cast<std::size_t>(m * k), 22),
                 bias = normal(static_cast<std::size_t>(n), 23);
      Packed mine(*kernels, Storage::kFp8, n, k, w, 0.01f), theirs(reference, Storage::kFp8, n, k, w, 0.01f);
      for (Matrix* matrix : {&mine.matrix, &theirs.matrix})
        matrix->quantised_x = matrix->one_x_scale = true, matrix->x_scale = x_scale;
      const auto got = product(*kernels, mine.matrix, x, m, bias.data(), nullptr, threads);
      EXPECT_LT(distance(got, product(reference, theirs.matrix, x, m, bias.data(), nullptr, threads)), 3e-6);
    }
}

// The numbers of a file with one scale come back from its floats, whatever their largest is.
TEST_P(EverySet, NumbersOfOneScaleStay) {
  Floats numbers;
  for (unsigned bits = 0; bits < 256; ++bits)
    if ((bits & 0x7f) < 0x70) numbers.push_back(fp8_to_float(static_cast<std::uint8_t>(bits)));
  const auto k = static_cast<std::int64_t>(numbers.size());
  for (const float scale : {1.0f, 0.0123f, 3.3e-4f, 57.0f}) {
    Floats w = numbers, got(numbers.size());
    for (float& value : w) value *= scale;
    Packed p(*kernels, Storage::kFp8, 1, k, w, scale);
    const std::int32_t row[] = {0};
    kernels->embed(p.matrix, row, 0, 1, false, got.data(), nullptr);
    EXPECT_EQ(got, w) << scale;
  }
}

// Bytes of a matrix that `threads` pack into memory that held something else.
std::vector<std::byte> packed(const Kernels& kernels, Storage storage, std::int64_t n, std::int64_t k,
                              const Floats& w, int threads) {
  Threads pool(threads);
  const std::size_t bytes = kernels.packed_bytes(storage, n, k);
  Memory memory(bytes);
  std::fill_n(memory.data(), bytes, static_cast<std::byte>(threads));
  const auto read = [&](std::int64_t row, float* out) { std::copy_n(w.data() + row * k, k, out); };
  kernels.pack(storage, n, k, read, memory.data(), pool);
  return {memory.data(), memory.data() + bytes};
}

TEST_P(EverySet, PackedBytesDoNotDependOnThreads) {
  for (const auto storage : kAll)
    for (const auto& [n, k] : {std::pair{1, 1}, {16, 8}, {130, 301}, {511, 129}, {70, 1000}}) {
      SCOPED_TRACE(testing::Message() << "storage " << static_cast<int>(storage) << " n " << n << " k " << k);
      const auto w = normal(static_cast<std::size_t>(n * k), 7);
      for (const Kernels* set : {kernels, &reference}) {
        const auto one = packed(*set, storage, n, k, w, 1);
        for (const int threads : {2, 5}) EXPECT_EQ(one, packed(*set, storage, n, k, w, threads)) << threads;
      }
    }
}

TEST_P(EverySet, AFailedReadEndsPacking) {
  Threads threads(3);
  Memory memory(kernels->packed_bytes(Storage::kInt8, 500, 40));
  const auto read = [](std::int64_t row, float* out) {
    if (row == 321) throw std::runtime_error("row 321");
    std::fill_n(out, 40, 1.0f);
  };
  for (const Kernels* set : {kernels, &reference})
    EXPECT_THROW(set->pack(Storage::kInt8, 500, 40, read, memory.data(), threads), std::runtime_error);
}

TEST(Reference, ProductByHand) {
  const Floats w = {1, 2, 3, -1, 0, 4}, x = {1, 10, 100}, bias = {0.5f, 1};
  Packed p(reference_kernels(), Storage::kBf16, 2, 3, w);
  Threads threads;
  EXPECT_EQ(product(reference_kernels(), p.matrix, x, 1, bias.data(), nullptr, threads),
            (Floats{321.5f, 400}));
}

TEST(Storage, KnownBits) {
  EXPECT_EQ(float_to_bf16(1), 0x3f80);
  EXPECT_EQ(float_to_bf16(1.00390625f), 0x3f80);  // halfway: to even
  EXPECT_EQ(float_to_bf16(1.01171875f), 0x3f82);
  EXPECT_EQ(float_to_f16(1), 0x3c00);
  EXPECT_EQ(float_to_f16(65504), 0x7bff);
  EXPECT_EQ(float_to_f16(65520), 0x7c00);
  EXPECT_EQ(float_to_f16(-0x1p-24f), 0x8001);
  EXPECT_EQ(float_to_fp8(1), 0x38);
  EXPECT_EQ(float_to_fp8(-448), 0xfe);
  EXPECT_EQ(float_to_fp8(1e9f), 0x7e);
  EXPECT_EQ(float_to_fp8(0x1p-9f), 0x01);
}

TEST(Storage, EveryNumberComesBack) {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    if ((bits & 0x7c00) != 0x7c00) {
      EXPECT_EQ(float_to_f16(f16_to_float(half)), half);
    }
    if ((bits & 0x7f80) != 0x7f80) {
      EXPECT_EQ(float_to_bf16(bf16_to_float(half)), half);
    }
    const auto byte = static_cast<std::uint8_t>(bits);
    if ((bits & 0x7f) != 0x7f) {
      EXPECT_EQ(float_to_fp8(fp8_to_float(byte)), byte);
    }
  }
}

}  // namespace
}  // namespace foretoken
