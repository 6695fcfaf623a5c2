// Boxes that came by tensor maps beside what they should be, and their products beside sums (see the header).
#include "executor/cuda/launch.h"
#include "executor/cuda/tensor_check.h"
#include "executor/cuda/tensor_copies.cuh"

namespace foretoken::cuda {
namespace {

// Of a matrix of 160 x 136 the tile that begins with row 32: 128 x 192, of which the last columns are beyond
// the matrix, in boxes of 8 to 128 rows. Sizes take turns in two stages; the map of every other one says that
// the matrix has 96 rows, the others say nothing of its end, as those of caches do.
constexpr int kMatrixRows = 160, kFewRows = 96, kColumns = 136, kFirst = 32, kRows = 128, kPanels = 3,
              kSizes = 5, kThreads = 256;
constexpr int kPanel = kRows * kPanelRow, kTile = kPanels * kPanel, kBarriers = 2 * kTile,
              kBytes = kBarriers + 64;
constexpr int kLooks = 1 << 20;

struct CheckedMaps {
  TensorMap of[kSizes];
};

constexpr bool ends(int size) { return size % 2 == 0; }

FORETOKEN_DEVICE int number(int row, int column) { return (row * 3 + column * 5 + row * column) % 7 - 3; }
// rows: that the map knows of.
FORETOKEN_DEVICE int number_of_tile(int row, int column, int rows) {
  return kFirst + row < rows && column < kColumns ? number(kFirst + row, column) : 0;
}

__global__ void write_matrix(bf16* to) {
  grid_dependency_wait();
  for (int i = static_cast<int>(thread()); i < kMatrixRows * kColumns; i += kThreads)
    to[i] = from_float<bf16>(static_cast<float>(number(i / kColumns, i % kColumns)));
}

// How many of the warpgroup's d[64, 64] aren't sums over k < depth of a(row, k) b(column, k).
template <class A, class B>
FORETOKEN_DEVICE int wrong_sums(const float (&d)[32], int depth, A a, B b) {
  int found = 0;
  const int row = static_cast<int>(warp()) % 4 * 16 + static_cast<int>(lane()) / 4,
            column = static_cast<int>(lane()) % 4 * 2;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    int sum = 0;
#pragma unroll 1
    for (int k = 0; k < depth; ++k) sum += a(row + 8 * (i / 2 % 2), k) * b(column + 8 * (i / 4) + i % 2, k);
    found += d[i] != static_cast<float>(sum) ? 1 : 0;
  }
  return found;
}

FORETOKEN_DEVICE int wrong_in_tile(const std::byte* tile, int rows) {
  int found = 0;
  for (int i = static_cast<int>(thread()); i < kRows * kPanels * kPanelColumns; i += kThreads) {
    const int row = i / (kPanels * kPanelColumns), column = i % (kPanels * kPanelColumns);
    const auto* at = reinterpret_cast<const bf16*>(tile + column / kPanelColumns * kPanel +
                                                   swizzled(row, column % kPanelColumns / 8)) +
                     column % 8;
    found += to_float(*at) != static_cast<float>(number_of_tile(row, column, rows)) ? 1 : 0;
  }
  const int first = static_cast<int>(thread()) / 128 * 64;  // row of the warpgroup
  float d[32];
  products_begin();
#pragma unroll
  for (int k = 0; k < kPanels * 4; ++k)
    product_bf16<64>(d, rows_operand(tile + first * kPanelRow).advanced(k / 4 * kPanel + k % 4 * 32),
                     rows_operand(tile).advanced(k / 4 * kPanel + k % 4 * 32), k > 0);
  products_commit();
  products_wait<0>();
  settled(d);
  found += wrong_sums(
      d, kPanels * kPanelColumns, [=](int row, int k) { return number_of_tile(first + row, k, rows); },
      [=](int column, int k) { return number_of_tile(column, k, rows); });
  products_begin();
#pragma unroll
  for (int k = 0; k < 4; ++k)
    product_bf16<64>(d, rows_operand(tile + first * kPanelRow).advanced(k * 32),
                     columns_operand(tile + kPanel, kPanel).advanced(k * 16 * kPanelRow), k > 0);
  products_commit();
  products_wait<0>();
  settled(d);
  return found + wrong_sums(
                     d, kPanelColumns, [=](int row, int k) { return number_of_tile(first + row, k, rows); },
                     [=](int column, int k) { return number_of_tile(k, kPanelColumns + column, rows); });
}

// The last warp asks for tiles, one ahead, and all look at them.
__global__ void __launch_bounds__(kThreads, 1)
    tensor_check(const __grid_constant__ CheckedMaps maps, int* wrong) {
  grid_dependency_wait();
  std::byte* tiles = aligned_panels(dynamic_shared());
  auto* full = reinterpret_cast<Barrier*>(tiles + kBarriers);  // of a stage
  Barrier* empty = full + 2;
  if (thread() == 0) {
    for (int i = 0; i < 2; ++i) barrier_init(full + i, 1), barrier_init(empty + i, kThreads / 32);
    show_barriers();
  }
  sync_threads();
  const auto ask = [&](int size) {
    const int stage = size % 2, rows = 8 << size;
    if (warp() != kThreads / 32 - 1) return true;
    if (!barrier_wait_bounded(empty + stage, static_cast<unsigned>(size / 2 + 1) % 2, kLooks)) return false;
    if (lane() == 0) {
      show_memory_to_copies();
      barrier_arrive_expecting(full + stage, kTile);
      for (int row = 0; row < kRows; row += rows)
        for (int panel = 0; panel < kPanels; ++panel)
          copy_box(tiles + stage * kTile + panel * kPanel + row * kPanelRow, maps.of[size], kFirst + row,
                   panel * kPanelColumns, full + stage);
    }
    sync_warp();
    return true;
  };
  bool came = ask(0);
  for (int size = 0; size < kSizes; ++size) {
    if (size + 1 < kSizes) came = ask(size + 1) && came;
    const auto arrived = [&](int of) {
      return barrier_wait_bounded(full + of % 2, static_cast<unsigned>(of / 2) % 2, kLooks);
    };
    came = arrived(size) && came;
    if (block_sum(came ? 0 : 1) > 0) {           // the same in all threads
      if (size + 1 < kSizes) arrived(size + 1);  // no copy outlives its block
      if (thread() == 0) atomic_add(wrong, 1);
      return;
    }
    const int stage = size % 2;
    if (const int found = wrong_in_tile(tiles + stage * kTile, ends(size) ? kFewRows : kMatrixRows);
        found > 0)
      atomic_add(wrong, found);
    show_to_products();
    warp_arrive(empty + stage);
  }
}

}  // namespace

bool tensor_copies_are_right(Stream& stream) {
  const DeviceMemory wrong(sizeof(int)), matrix(kMatrixRows * kColumns * sizeof(bf16));
  CheckedMaps maps;
  for (int size = 0; size < kSizes; ++size) {
    const auto map =
        make_tensor_map(matrix.data(), kColumns, ends(size) ? kFewRows : kMostMapRows, 8 << size);
    if (!map) return false;
    maps.of[size] = *map;
  }
  fill(stream, wrong.data(), 0, sizeof(int));
  launch(write_matrix, {.grid = dim3(1), .block = dim3(kThreads), .name = "write_matrix"}, stream,
         matrix.as<bf16>());
  launch(
      tensor_check,
      {.grid = dim3(1), .block = dim3(kThreads), .shared = kBytes + kPanelAlignment, .name = "tensor_check"},
      stream, maps, wrong.as<int>());
  int found = 0;
  copy(stream, &found, wrong.data(), sizeof found);
  stream.synchronize();
  return found == 0;
}

}  // namespace foretoken::cuda
