// A mixture's experts: three launches.
//   place   pairs of row and choice in the order of the experts: a block an expert counts all pairs by
//           expert in shared memory and finds where its own go, in ascending order, by ballots; it lists its
//           tiles of rows for the products. More blocks round x to bf16 meanwhile. Nothing depends on the
//           order of atomics: they count.
//   gate_up the rows of x that each expert got, gathered by the product's own copies, times its matrix; the
//           activation is applied to the sums, in registers, and rounded: nothing between is written.
//   down    times the other matrix, to to.out.
// The host knows how many pairs there are, but not whose: a launch has as many tiles as there can be, and
// blocks beyond the list end at once. Few pairs an expert stream its matrices (small_products.cu, 8 rows at a
// time), bound by the bytes of the experts that are hit; many take tiles (tile_products.cu).
//
// to.in and to.act hold the rounded rows, and to.mid what is activated by float32, where that is to be split
// for weights of f16 (products.h) or quantised, by a launch of its own.
#include <algorithm>

#include "executor/cuda/cuda_kernels.h"
#include "executor/cuda/launch.h"
#include "executor/cuda/product_parts.cuh"
#include "executor/stored_rows.h"

namespace foretoken::cuda {
namespace {

constexpr unsigned kThreads = 512;

struct Placing {
  const std::int32_t* chosen;
  std::int32_t pairs, top_k, first, count, tile_rows;
  std::int32_t *place, *order, *begin;
  ExpertTile* tiles;
  std::int32_t tile_count;
  // Rows to round; to: null for none.
  const float* x;
  std::int64_t rows, width;
  std::uint16_t* rounded;
};

__global__ void __launch_bounds__(kThreads) place_pairs(Placing a) {
  grid_dependency_wait();
  grid_dependency_launch();
  const auto count = static_cast<unsigned>(a.count), experts = count > 0 ? count : 1;
  if (blockIdx.x >= experts) {
    const std::int64_t eights = (a.width + 7) / 8;
    const bool even = reinterpret_cast<std::uintptr_t>(a.x) % 16 == 0 && a.width % 8 == 0;
    for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x - experts) * kThreads + thread();
         i < a.rows * eights; i += static_cast<std::int64_t>(gridDim.x - experts) * kThreads) {
      const float* const from = a.x + i / eights * a.width;
      const std::int64_t at = i % eights * 8;
      store16(a.rounded + i * 8,
              even ? rounded_eight<true>(from, at, a.width) : rounded_eight<false>(from, at, a.width));
    }
    return;
  }

  auto* const of_expert = reinterpret_cast<std::int32_t*>(dynamic_shared());
  __shared__ std::int32_t of_warp[kThreads / kWarp];
  const unsigned mine = blockIdx.x;
  for (unsigned e = thread(); e < count; e += kThreads) of_expert[e] = 0;
  sync_threads();
  // An expert of another rank: `count` or more, unsigned.
  const auto own = [&](std::int32_t pair) { return static_cast<unsigned>(a.chosen[pair] - a.first); };
  for (std::int32_t pair = static_cast<std::int32_t>(thread()); pair < a.pairs; pair += kThreads) {
    const unsigned e = own(pair);
    if (e < count)
      atomic_add(&of_expert[e], 1);
    else if (mine == 0)
      a.place[pair] = -1;
  }
  sync_threads();
  std::int32_t pairs_before = 0, tiles_before = 0;
  for (unsigned e = thread(); e < mine; e += kThreads) {
    pairs_before += of_expert[e];
    tiles_before += (of_expert[e] + a.tile_rows - 1) / a.tile_rows;
  }
  const std::int32_t begin = block_sum(pairs_before), tile = block_sum(tiles_before),
                     total = mine < count ? of_expert[mine] : 0,
                     tiles = (total + a.tile_rows - 1) / a.tile_rows;
  if (thread() == 0) {
    if (mine < count) a.begin[mine] = begin;
    if (mine + 1 >= count) a.begin[count] = begin + total;
  }
  if (mine + 1 >= count)
    for (std::int32_t i = tile + tiles + static_cast<std::int32_t>(thread()); i < a.tile_count; i += kThreads)
      a.tiles[i] = {};
  for (std::int32_t i = static_cast<std::int32_t>(thread()); i < tiles; i += kThreads) {
    const std::int32_t left = total - i * a.tile_rows;
    a.tiles[tile + i] = {static_cast<std::int32_t>(mine), begin + i * a.tile_rows,
                         left < a.tile_rows ? left : a.tile_rows, 0};
  }
  if (total == 0) return;

  // A warp's share of the pairs, and how many of it are the expert's.
  const auto warp_pairs =
      static_cast<std::int32_t>((static_cast<unsigned>(a.pairs) + kThreads - 1) / kThreads * kWarp);
  const std::int32_t first = static_cast<std::int32_t>(warp()) * warp_pairs,
                     end = first + warp_pairs < a.pairs ? first + warp_pairs : a.pairs;
  std::int32_t found = 0;
  for (std::int32_t pair = first; pair < end; pair += kWarp) {
    const std::int32_t at = pair + static_cast<std::int32_t>(lane());
    found += count_bits(ballot(at < end && own(at) == mine));
  }
  if (lane() == 0) of_warp[warp()] = found;
  sync_threads();
  std::int32_t next = begin;
  for (unsigned w = 0; w < warp(); ++w) next += of_warp[w];
  for (std::int32_t pair = first; pair < end; pair += kWarp) {
    const std::int32_t at = pair + static_cast<std::int32_t>(lane());
    const bool is_mine = at < end && own(at) == mine;
    const unsigned all = ballot(is_mine);
    if (is_mine) {
      const std::int32_t to = next + count_bits(all & ((1u << lane()) - 1));
      a.place[at] = to;
      a.order[to] = at / a.top_k;
    }
    next += count_bits(all);
  }
}

// Rows of a tile, by what falls to an expert if all are asked for alike.
std::int64_t tile_rows_of(Storage up, Storage down, std::int64_t pairs, std::int64_t count) {
  const std::int64_t each = pairs / std::max<std::int64_t>(count, 1);
  if (up == Storage::kF32 || down == Storage::kF32) return each <= 16 ? 16 : 64;
  if (each <= 4 && !exact_product(up) && !exact_product(down)) return kStreamRows;
  return each <= 16 ? 16 : each <= 48 ? 64 : 128;
}

std::int64_t most_tiles(std::int64_t pairs, std::int64_t count, std::int64_t rows) {
  return std::min(pairs, pairs / rows + std::min(pairs, count));
}

struct Scratch {
  // Behind the tiles: the scales of split rows, and those rounded rows that their padding makes longer than
  // float32 is.
  std::int64_t in_scales_at = 0, act_scales_at = 0, in_at = 0, act_at = 0, bytes = 0;

  Scratch(const Experts& e, std::int64_t pairs) {
    std::int64_t at = 0;
    const auto take = [&](std::int64_t& place, std::int64_t size) {
      place = at;
      at += (size + 63) / 64 * 64;
    };
    const auto of_rows = [&](const Matrix& w, std::int64_t& scales, std::int64_t& rows) {
      take(scales,
           has_row_scales(w) ? std::max<std::int64_t>(scales_of_row(w.storage, w.k), 1) * pairs * 4 : 0);
      take(rows, fits(w) ? 0 : pairs * rounded_stride(w.storage, w.k) * 2);
    };
    // The fewer rows a tile has the more tiles there are.
    std::int64_t tiles = 0;
    take(tiles, most_tiles(pairs, e.count, kStreamRows) * static_cast<std::int64_t>(sizeof(ExpertTile)));
    of_rows(e.gate_up, in_scales_at, in_at);
    of_rows(e.down, act_scales_at, act_at);
    bytes = at;
  }
  // x is split or quantised by a launch of its own.
  static bool has_row_scales(const Matrix& w) { return w.storage == Storage::kF16 || w.quantised_x; }
  static bool fits(const Matrix& w) { return rounded_stride(w.storage, w.k) <= 2 * w.k; }
};

}  // namespace

std::size_t CudaKernels::expert_scratch(const Experts& experts, std::int64_t pairs) const {
  return static_cast<std::size_t>(Scratch(experts, pairs).bytes);
}

void CudaKernels::run_experts(const Experts& experts, const ActivationArgs& activation, const float* x,
                              const std::int32_t* chosen, std::int64_t rows, std::int64_t top_k,
                              const ExpertRows& to, std::byte* scratch, Threads&) const {
  const std::int64_t pairs = rows * top_k, hidden = experts.gate_up.k, width = experts.down.k;
  if (pairs <= 0) {
    fill(stream(), to.begin, 0, static_cast<std::size_t>(experts.count + 1) * sizeof(std::int32_t));
    return;
  }
  const Storage up_storage = experts.gate_up.storage, down_storage = experts.down.storage;
  const Scratch parts(experts, pairs);
  const auto place_for = [&](const Matrix& w, float* given, std::int64_t at) {
    return Scratch::fits(w) ? reinterpret_cast<std::uint16_t*>(given)
                            : reinterpret_cast<std::uint16_t*>(scratch + at);
  };
  std::uint16_t* const rounded = place_for(experts.gate_up, to.in, parts.in_at);
  std::uint16_t* const rounded_act = place_for(experts.down, to.act, parts.act_at);
  auto* const x_scales = reinterpret_cast<float*>(scratch + parts.in_scales_at);
  auto* const act_scales = reinterpret_cast<float*>(scratch + parts.act_scales_at);
  auto* const tiles = reinterpret_cast<ExpertTile*>(scratch);
  const std::int64_t tile_rows = tile_rows_of(up_storage, down_storage, pairs, experts.count),
                     tile_count = most_tiles(pairs, experts.count, tile_rows);

  Placing a{};
  a.chosen = chosen;
  a.pairs = static_cast<std::int32_t>(pairs), a.top_k = static_cast<std::int32_t>(top_k);
  a.first = static_cast<std::int32_t>(experts.first), a.count = static_cast<std::int32_t>(experts.count);
  a.tile_rows = static_cast<std::int32_t>(tile_rows);
  a.place = to.place, a.order = to.order, a.begin = to.begin;
  a.tiles = tiles, a.tile_count = static_cast<std::int32_t>(tile_count);
  std::int64_t blocks = std::max<std::int64_t>(experts.count, 1);
  if (!exact_product(up_storage) && !experts.gate_up.quantised_x) {
    a.x = x, a.rows = rows, a.width = hidden, a.rounded = rounded;
    blocks += std::min<std::int64_t>((rows * ((hidden + 7) / 8) + kThreads - 1) / kThreads, 1 << 16);
  }
  launch(place_pairs,
         {.grid = static_cast<unsigned>(blocks),
          .block = kThreads,
          .shared = static_cast<std::size_t>(experts.count) * sizeof(std::int32_t),
          .name = "place_pairs"},
         stream(), a);

  const auto product = [&](const Matrix& w, const float* bias) {
    Product p = product_of(w);
    p.m = pairs;
    p.bias = bias;
    p.tiles = tiles, p.tile_count = tile_count, p.tile_rows = tile_rows;
    p.expert_stride = static_cast<std::int64_t>(experts.stride);
    p.warpgroups = warpgroups();
    return p;
  };
  const auto run = [&](const Product& p) {
    if (p.storage == Storage::kF32)
      launch_float_tiles(p, device(), stream());
    else if (tile_rows == kStreamRows)
      launch_stream(p, device(), stream());
    else
      launch_tiles(p, device(), stream());
  };
  if (experts.count <= 0) return;
  // x in p's form: as it is, or in `into` once place_pairs, or a launch here, has written it.
  const auto take_rows = [&](Product& p, const float* from, std::int64_t count, std::uint16_t* into,
                             float* scales, const std::int32_t* on_device) {
    p.x = from, p.rounded = into;
    p.x_stride = p.storage == Storage::kF32 ? p.k : rounded_stride(p.storage, p.k);
    if (!p.quantised_x && p.storage != Storage::kF16) return;
    p.x_scales = scales, p.x_scale_stride = count;
    if (p.quantised_x)
      quantise_for_tiles(p, from, p.k, count, into, scales, on_device, device(), stream());
    else
      launch_round(p.storage, from, p.k, count, p.k, into, scales, on_device, stream());
  };

  Product up = product(experts.gate_up, experts.gate_up_bias);
  take_rows(up, x, rows, rounded, x_scales, nullptr);
  up.x_rows = to.order;
  up.activated = true, up.activation = activation;
  up.activation.gated |= activation.kind == Activation::kClampedSwiglu;
  if (exact_product(down_storage) || experts.down.quantised_x)
    up.y = down_storage == Storage::kF32 ? to.act : to.mid, up.y_stride = width;
  else
    up.rounded_y = rounded_act, up.y_stride = rounded_stride(down_storage, width);
  run(up);

  Product down = product(experts.down, experts.down_bias);
  take_rows(down, down_storage == Storage::kF32 ? to.act : to.mid, pairs, rounded_act, act_scales,
            to.begin + experts.count);
  down.y = to.out, down.y_stride = experts.down.n;
  run(down);
}

}  // namespace foretoken::cuda
