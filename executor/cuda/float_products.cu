// Products by float32 weights, of more rows than small_products.cu takes: sums of the plain float32 units, 16
// or 64 rows of x by 64 of w a block, through shared memory; what comes next waits in registers. Bound by
// those units (H200: 67 TFLOP/s). Where tiles are few, k is split among blocks.
#include <algorithm>

#include "executor/cuda/launch.h"
#include "executor/cuda/product_parts.cuh"

namespace foretoken::cuda {
namespace {

constexpr unsigned kTileN = 64, kStep = 16, kThreads = 256, kEdge = 4;
constexpr std::int64_t kMostSplitTiles = 4096;

__device__ unsigned float_parts_done[kMostSplitTiles];

template <unsigned tile_m, bool grouped>
__global__ void __launch_bounds__(kThreads) float_tile_product(Product p, unsigned tiles_n) {
  constexpr unsigned kM = tile_m / 16, kXEach = kStep * tile_m / kThreads;
  __shared__ __align__(16) float w_shared[kStep][kTileN + kEdge];
  __shared__ __align__(16) float x_shared[kStep][tile_m + kEdge];
  __shared__ std::int32_t x_rows[tile_m];
  __shared__ unsigned order;
  grid_dependency_wait();
  grid_dependency_launch();
  const std::int64_t place_m = blockIdx.x / tiles_n;
  const TileRows<2> rows(p, static_cast<std::int64_t>(blockIdx.x % tiles_n) * kTileN);
  ExpertTile mine;
  if constexpr (grouped) {
    mine = tile_at(p, place_m);
    if (mine.rows == 0) return;
  } else {
    mine.first = static_cast<std::int32_t>(place_m * tile_m);
    mine.rows = static_cast<std::int32_t>(p.m - mine.first < tile_m ? p.m - mine.first : tile_m);
  }
  if (thread() < tile_m) {
    std::int32_t from = -1;
    if (thread() < static_cast<unsigned>(mine.rows)) {
      from = mine.first + static_cast<std::int32_t>(thread());
      if (grouped && p.x_rows != nullptr) from = p.x_rows[from];
    }
    x_rows[thread()] = from;
  }
  sync_threads();

  const unsigned w_row = thread() / 4, w_chunk = thread() % 4;
  const std::int64_t w_at = rows.at(w_row);
  const std::byte* const w_from = p.elements + (grouped ? mine.expert * p.expert_stride : 0) +
                                  (w_at < 0 ? 0 : w_at) * p.row_bytes + w_chunk * 16;
  uint4 raw;
  float x[kXEach];
  const auto load = [&](unsigned k_tile) {
    raw = w_at < 0 ? uint4{0, 0, 0, 0} : load16(w_from + k_tile * std::int64_t{64});
#pragma unroll
    for (unsigned i = 0; i < kXEach; ++i) {
      const unsigned place = thread() + i * kThreads;
      const std::int32_t from = x_rows[place / kStep];
      const std::int64_t at = static_cast<std::int64_t>(k_tile) * kStep + place % kStep;
      x[i] = from >= 0 && at < p.k ? p.x[from * p.x_stride + at] : 0.0f;
    }
  };

  const auto k_tiles = static_cast<unsigned>(p.row_bytes / 64);
  const unsigned split = blockIdx.y, splits = static_cast<unsigned>(p.splits);
  const unsigned begin = k_tiles * split / splits, end = k_tiles * (split + 1) / splits;
  const unsigned n = thread() % 16, m = thread() / 16;
  float sums[kM][4] = {};
  if (begin < end) load(begin);
  for (unsigned k_tile = begin; k_tile < end; ++k_tile) {
    sync_threads();
    const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) w_shared[w_chunk * 4 + i][w_row] = as_float(words[i]);
#pragma unroll
    for (unsigned i = 0; i < kXEach; ++i) {
      const unsigned place = thread() + i * kThreads;
      x_shared[place % kStep][place / kStep] = x[i];
    }
    sync_threads();
    if (k_tile + 1 < end) load(k_tile + 1);
#pragma unroll
    for (unsigned k = 0; k < kStep; ++k) {
      const uint4 four = load16(&w_shared[k][4 * n]);
      const float w[4] = {as_float(four.x), as_float(four.y), as_float(four.z), as_float(four.w)};
      float of_m[kM];
      if constexpr (kM == 4) {
        const uint4 values = load16(&x_shared[k][4 * m]);
        of_m[0] = as_float(values.x), of_m[1] = as_float(values.y);
        of_m[2] = as_float(values.z), of_m[3] = as_float(values.w);
      } else {
        of_m[0] = x_shared[k][m];
      }
#pragma unroll
      for (unsigned j = 0; j < kM; ++j)
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) sums[j][i] = fmaf(w[i], of_m[j], sums[j][i]);
    }
  }

  if (!grouped && splits > 1 &&
      !join_parts<kThreads>(sums,
                            p.partial + static_cast<std::int64_t>(blockIdx.x) * splits * kM * kThreads * 4,
                            split, splits, &float_parts_done[blockIdx.x], &order))
    return;
  const float* const bias = bias_of(p, mine.expert);
#pragma unroll
  for (unsigned j = 0; j < kM; ++j) {
    const unsigned row = kM * m + j;
    if (row >= static_cast<unsigned>(mine.rows)) continue;
#pragma unroll
    for (unsigned i = 0; i < 2; ++i)
      put_both<2, grouped>(p, rows, bias, mine.first + row, 4 * n + i, sums[j][i], sums[j][2 + i]);
  }
}

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

template <unsigned tile_m>
void float_tiles(Product p, const DeviceProperties& device, Stream& on) {
  const bool grouped = p.tiles != nullptr;
  const std::int64_t tiles_n = divide_up(p.n, kTileN),
                     tiles_m = grouped ? p.tile_count : divide_up(p.m, tile_m);
  p.splits = p.partial == nullptr || grouped || tiles_n * tiles_m > kMostSplitTiles
                 ? 1
                 : splits_for(tiles_n * tiles_m, p.row_bytes / 64, device.multiprocessors);
  const Launch how{.grid = dim3(static_cast<unsigned>(tiles_n * tiles_m), static_cast<unsigned>(p.splits)),
                   .block = kThreads,
                   .name = grouped ? "float_tile_product of experts" : "float_tile_product"};
  if (grouped)
    launch(float_tile_product<tile_m, true>, how, on, p, static_cast<unsigned>(tiles_n));
  else
    launch(float_tile_product<tile_m, false>, how, on, p, static_cast<unsigned>(tiles_n));
}

}  // namespace

void launch_float_tiles(Product p, const DeviceProperties& device, Stream& on) {
  if (p.m <= 0 || p.n <= 0) return;
  if ((p.tiles != nullptr ? p.tile_rows : tile_rows_for(p.m)) == 16)
    float_tiles<16>(p, device, on);
  else
    float_tiles<64>(p, device, on);
}

}  // namespace foretoken::cuda
