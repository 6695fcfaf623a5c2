// Products of warpgroups beside the sums that they stand for (see the header).
#include "executor/cuda/launch.h"
#include "executor/cuda/warpgroup.cuh"
#include "executor/cuda/warpgroup_check.h"

namespace foretoken::cuda {
namespace {

constexpr int kRows = 64, kDepth = 2 * kPanelColumns, kColumns = 256, kThreads = 256;
// a [64, 128] and b [256, 128] as rows, and the same b as columns, [128, 256].
constexpr int kA = 0, kRowsB = kA + kDepth / kPanelColumns * kRows * kPanelRow,
              kColumnsB = kRowsB + kDepth / kPanelColumns * kColumns * kPanelRow,
              kBytes = kColumnsB + kColumns / kPanelColumns * kDepth * kPanelRow;

FORETOKEN_DEVICE int number_a(int row, int k) { return (row * 3 + k * 5 + row * k) % 7 - 3; }
FORETOKEN_DEVICE int number_b(int column, int k) { return (column * 5 + k * 2 + column * k) % 9 - 4; }

FORETOKEN_DEVICE void put(std::byte* panels, int rows, int row, int column, int number) {
  std::byte* panel = panels + column / kPanelColumns * rows * kPanelRow;
  *reinterpret_cast<bf16*>(panel + swizzled(row, column % kPanelColumns / 8) + column % 8 * 2) =
      from_float<bf16>(static_cast<float>(number));
}

// Adds to `wrong` how many of d[64, N] from column `first` on are not what they should be. By way of memory,
// as registers in a loop would have to be written out. A block function: either warpgroup has its own d and
// `out`.
template <int N, class Sum>
FORETOKEN_DEVICE void compare(const Sum (&d)[N / 2], int first, int times, float* out, int* wrong) {
  const int g = static_cast<int>(lane()) / 4, t = static_cast<int>(lane()) % 4,
            own = static_cast<int>(thread()) % 128;
  out += static_cast<int>(thread()) / 128 * kRows * kColumns;
#pragma unroll
  for (int i = 0; i < N / 2; ++i)
    out[(own / 32 * 16 + g + 8 * (i / 2 % 2)) * N + 8 * (i / 4) + 2 * t + i % 2] = static_cast<float>(d[i]);
  sync_threads();
  int found = 0;
#pragma unroll 1
  for (int i = own; i < kRows * N; i += 128) {
    int sum = 0;
#pragma unroll 1
    for (int k = 0; k < kDepth; ++k) sum += number_a(i / N, k) * number_b(first + i % N, k);
    found += out[i] != static_cast<float>(times * sum);
  }
  if (found > 0) atomic_add(wrong, found);
  sync_threads();
}

// Both warpgroups, each with columns of its own; a from shared memory, then from registers on top of it.
template <int N, class B>
FORETOKEN_DEVICE void multiply(const std::byte* a, B b, int next_panel, int next_16, int first, float* out,
                               int* wrong) {
  float d[N / 2];
  products_begin();
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k)
    product_bf16<N>(d, rows_operand(a).advanced(k / 4 * kRows * kPanelRow + k % 4 * 32),
                    b.advanced(k / 4 * next_panel + k % 4 * next_16), k > 0);
  products_commit();
  products_wait<0>();
  compare<N>(d, first, 1, out, wrong);

  const int g = static_cast<int>(lane()) / 4, t = static_cast<int>(lane()) % 4;
  const int row = static_cast<int>(warp()) % 4 * 16 + g;
  std::uint32_t own[kDepth / 16][4];
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const int r = row + 8 * (word % 2), at = k * 16 + 2 * t + 8 * (word / 2);
      own[k][word] =
          pack_bf16x2(static_cast<float>(number_a(r, at)), static_cast<float>(number_a(r, at + 1)));
    }
  }
  products_begin();
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k)
    product_bf16<N>(d, own[k], b.advanced(k / 4 * next_panel + k % 4 * next_16), true);
  products_commit();
  products_wait<0>();
  compare<N>(d, first, 2, out, wrong);
}

template <int N>
FORETOKEN_DEVICE void multiply_both(const std::byte* shared, float* out, int* wrong) {
  const int first = static_cast<int>(thread()) / 128 * (kColumns / 2) % (kColumns - N + 1);
  multiply<N>(shared + kA, rows_operand(shared + kRowsB + first * kPanelRow), kColumns * kPanelRow, 32, first,
              out, wrong);
  multiply<N>(
      shared + kA,
      columns_operand(shared + kColumnsB + first / kPanelColumns * kDepth * kPanelRow, kDepth * kPanelRow),
      kPanelColumns * kPanelRow, 16 * kPanelRow, first, out, wrong);
}

// Bytes: 128 of k in one panel; of int8 where sums are Sum = std::int32_t, else of e4m3.
template <class Sum>
inline constexpr bool kIntegers = std::is_same_v<Sum, std::int32_t>;
template <class Sum>
FORETOKEN_DEVICE void put_byte(std::byte* panel, int row, int k, int number) {
  const float4 four = make_float4(static_cast<float>(number), 0, 0, 0);
  panel[swizzled(row, k / 16) + k % 16] =
      static_cast<std::byte>((kIntegers<Sum> ? pack_int8x4(four) : pack_e4m3x4(four)) & 0xff);
}
template <class Sum>
FORETOKEN_DEVICE void multiply_bytes(std::byte* shared, float* out, int* wrong) {
  for (int i = static_cast<int>(thread()); i < kRows * kDepth; i += kThreads)
    put_byte<Sum>(shared + kA, i / kDepth, i % kDepth, number_a(i / kDepth, i % kDepth));
  for (int i = static_cast<int>(thread()); i < kColumns * kDepth; i += kThreads)
    put_byte<Sum>(shared + kRowsB, i / kDepth, i % kDepth, number_b(i / kDepth, i % kDepth));
  show_to_products();
  sync_threads();
  const int first = static_cast<int>(thread()) / 128 * (kColumns / 2);
  Sum d[64];
  for (int times = 1; times < 3; ++times) {
    products_begin();
#pragma unroll
    for (int k = 0; k < kDepth / 32; ++k) {
      const RowsOperand a = rows_operand(shared + kA).advanced(k * 32),
                        b = rows_operand(shared + kRowsB + first * kPanelRow).advanced(k * 32);
      if constexpr (kIntegers<Sum>)
        product_s8<128>(d, a, b, k > 0 || times > 1);
      else
        product_e4m3<128>(d, a, b, k > 0 || times > 1);
    }
    products_commit();
    products_wait<0>();
    if constexpr (kIntegers<Sum>) products_end(d);
    compare<128>(d, first, times, out, wrong);
  }
}

__global__ void __launch_bounds__(kThreads, 1) warpgroup_check(float* out, int* wrong) {
  grid_dependency_wait();
  std::byte* shared = aligned_panels(dynamic_shared());
  for (int i = static_cast<int>(thread()); i < kRows * kDepth; i += kThreads)
    put(shared + kA, kRows, i / kDepth, i % kDepth, number_a(i / kDepth, i % kDepth));
  for (int i = static_cast<int>(thread()); i < kColumns * kDepth; i += kThreads) {
    const int column = i / kDepth, k = i % kDepth, number = number_b(column, k);
    put(shared + kRowsB, kColumns, column, k, number);
    put(shared + kColumnsB, kDepth, k, column, number);
  }
  show_to_products();
  sync_threads();
  multiply_both<32>(shared, out, wrong);
  multiply_both<64>(shared, out, wrong);
  multiply_both<128>(shared, out, wrong);
  multiply_both<256>(shared, out, wrong);
  multiply_bytes<float>(shared, out, wrong);
  multiply_bytes<std::int32_t>(shared, out, wrong);
}

}  // namespace

bool warpgroup_products_are_right(Stream& stream) {
  const DeviceMemory wrong(sizeof(int)), out(2 * kRows * kColumns * sizeof(float));
  fill(stream, wrong.data(), 0, sizeof(int));
  launch(warpgroup_check,
         {.grid = dim3(1),
          .block = dim3(kThreads),
          .shared = kBytes + kPanelAlignment,
          .name = "warpgroup_check"},
         stream, reinterpret_cast<float*>(out.data()), reinterpret_cast<int*>(wrong.data()));
  int found = 0;
  copy(stream, &found, wrong.data(), sizeof found);
  stream.synchronize();
  return found == 0;
}

}  // namespace foretoken::cuda
