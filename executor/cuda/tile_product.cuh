// Products of more rows than small_products.cu takes, on tensor cores: every storage but float32, and those
// of experts. Few rows (16 to 64) are bound by the bytes of w, prompts by the tensor cores; aimed at
// are 80 % of the memory's bandwidth and, as mma goes on sm_90, 400 TFLOP/s.
//
// A block takes 128 rows of w and 16, 64 or 128 of x, or 256 and 128, where the operands' way from the
// second-level cache would be too narrow. Both come by asynchronous copies, in three or four stages of 64 or
// 128 bytes of a row of w, as it is stored: it becomes bf16 in registers, so that the bytes on their way are
// the stored ones. w is the left operand of mma, x, rounded to bf16 before, the right one. Elements of 16
// bits are read by ldmatrix; chunks of 16 bytes change places with the row's last three bits, so that 8 rows
// reach all banks. Of smaller ones, as packed.h orders them, every lane reads its operands by 16 bytes; rows
// of 128 bytes have their halves swapped where the row is odd, so that 8 lanes reach all banks. What comes
// next is copied between two parts of a stage, while the tensor cores are at the first.
//
// The larger tile is multiplied by warpgroups where the device has them (By::kGroups): rows of 64 elements
// whose chunks change places so are what they read. Smaller elements become bf16 in a tile beside the stages,
// of which there are two. Products of a stage are awaited a stage later, so that they follow one another
// while the next tile is made; what is copied goes where the stage before last was.
//
// 8 bits, where x is quantised too (Product::x_in_bytes), are multiplied by warpgroups as they lie in memory,
// on both sides (By::kBytes), in stages of 128 along k. Order within 64 of k is that of packed rows, the same
// for both.
//   int8  256 rows of w by 128 of x: its sums are exact, and stay in the tensor cores as bf16's do
//   fp8   128 by 128. 128 along k are as much as has one scale in blocks, and about as much as the tensor
//   cores
//         add up in full: each stage's products are awaited, scaled where they are of blocks, and added in
//         float32 (kPromoted), as DeepGEMM does (DeepSeek-V3, arXiv 2412.19437, 3.3.2), while the other
//         warpgroup multiplies
//
// Where tiles are fewer than the blocks that run at a time, k is split among blocks; the last one that is
// done adds the parts up in their order. Blocks walk over bands of 8 tiles of x, so that what is in flight
// shares both operands in the second-level cache.
#pragma once

#include <algorithm>

#include "executor/cuda/launch.h"
#include "executor/cuda/product_parts.cuh"
#include "executor/cuda/tile_products.h"
#include "executor/cuda/warpgroup.cuh"

namespace foretoken::cuda {

constexpr unsigned kBand = 8;

// Parts of a tile that are done; the last one sets it back. One stream runs at a time.
static __device__ unsigned parts_done[kMostSplitTiles];

// What multiplies: the warps (mma), or warpgroups, of bf16 or of bytes.
enum class By : std::uint8_t { kWarps, kGroups, kBytes };

template <Storage storage, unsigned tile_n, unsigned tile_m, By way = By::kWarps>
struct Shape {
  static constexpr bool kBytes = way == By::kBytes;  // of x too
  static constexpr bool Groups = way != By::kWarps;
  static constexpr bool kIntegers = kBytes && storage == Storage::kInt8;  // sums are of int32
  static constexpr bool kPromoted = kBytes && !kIntegers;                 // sums are of a stage's products
  static constexpr bool kInGroups = in_groups(storage);
  static constexpr bool kXInGroups = storage == Storage::kFp8Block;  // scales of x
  static constexpr bool kPlain = storage == Storage::kBf16 || storage == Storage::kF16;
  static constexpr unsigned kParts = Weights<storage>::kParts;
  // Of a stage: two of few rows, whose bytes come faster by 128 at a time.
  static constexpr unsigned kUnits = kPlain || tile_m == 16 || (tile_m < 128 && !kInGroups) || kBytes ? 2 : 1;
  static constexpr unsigned kScales = kBytes ? 1 : kUnits;  // of a row and stage
  // Warps lie 4 x 1 on the tile, or 2 x 2, or 4 x 2; 2 x 4 where sums of groups need as many registers again.
  static constexpr unsigned kWarpsM = tile_m < 128 ? 1 : kInGroups || kPromoted ? 4 : 2;
  static constexpr unsigned kWarpsN = tile_m < 128 ? 4 : tile_n / 64;
  static constexpr unsigned kThreads = kWarp * kWarpsM * kWarpsN;
  static constexpr unsigned kFragmentsN = tile_n / kWarpsN / 16, kFragmentsM = tile_m / kWarpsM / 8;
  static constexpr unsigned kWBytes = kUnits * 64,
                            kXBytes = kUnits * (kBytes ? 1 : kParts) * 64;  // of a row
  static constexpr unsigned kScalesAt = tile_n * kWBytes + tile_m * kXBytes;
  static constexpr unsigned kXScalesAt = kScalesAt + (kInGroups ? kScales * tile_n * 4 : 0);
  static constexpr unsigned kStage = kXScalesAt + (kXInGroups ? kScales * tile_m * 4 : 0);
  // Blocks of a multiprocessor, and the stages that there is room for beside one another.
  static constexpr unsigned kBlocks = tile_n > 128 || kPromoted ? 1 : tile_m == 16 && !kInGroups ? 3 : 2;
  static constexpr unsigned kWide =
      Groups && !kPlain && !kBytes ? tile_n * kPanelRow : 0;  // a tile of w as bf16
  static constexpr unsigned kSlack = Groups ? kPanelAlignment : 0;
  static constexpr unsigned kRoom = 227 * 1024 / kBlocks - 1024 - 4 * tile_m - 2 * kWide - kSlack;
  static constexpr unsigned kMostStages = kPromoted ? 6 : 4;
  static constexpr unsigned kStages = kRoom / kStage < 3             ? 3
                                      : kRoom / kStage > kMostStages ? kMostStages
                                                                     : kRoom / kStage;
  // Sums, from row to row of y, in the place of the stages: what lanes of a warp write lies in all banks.
  static constexpr unsigned kPitch = tile_n + 4, kSums = tile_m * kPitch * 4;
  static constexpr unsigned kWideAt = kStages * kStage, kTiles = kWideAt + 2 * kWide;
  static constexpr unsigned kRowsAt = kTiles > kSums ? kTiles : kSums;
  static constexpr unsigned kShared = kRowsAt + tile_m * 4 + 4 + kSlack;
  static constexpr unsigned kAhead =
      Groups && !kPromoted ? kStages - 2 : kStages - 1;  // stages that are on their way
  static_assert(!Groups || (tile_n == (kBytes ? bytes_tile_n(storage) : 256) && tile_m == 128 &&
                            kThreads == 256 && kStage % kPanelAlignment == 0 && kXBytes == kPanelRow &&
                            (!(kPlain || kBytes) || kWBytes == kPanelRow)));
  static_assert(!kBytes || kUnits * kUnitBytes == kScaleGroup);
  static constexpr unsigned kMinBlocks = kThreads == 128 ? kBlocks : 1;
  // Blocks of a multiprocessor that k is split for: one warp a scheduler waits most of the time.
  static constexpr int kSplitBlocks = kThreads == 128 ? static_cast<int>(kBlocks) : 1;

  // Where chunk `chunk` of row `row` of an operand lies, whose rows are of `chunks` chunks.
  static FORETOKEN_DEVICE unsigned place(unsigned row, unsigned chunk, unsigned chunks) {
    if (kPlain || (Groups && chunks == 8)) return row * chunks + (chunk ^ (row & 7));
    return row * chunks + (chunks < 8 ? chunk : chunk ^ ((row & 1) << 2));
  }
};

// Which tile a block takes.
struct Place {
  std::int64_t n, m;
  FORETOKEN_DEVICE Place(unsigned block, unsigned tiles_n, unsigned tiles_m) {
    const unsigned band = block / (kBand * tiles_n), within = block % (kBand * tiles_n),
                   left = tiles_m - band * kBand, height = left < kBand ? left : kBand;
    m = band * kBand + within % height;
    n = within / height;
  }
};

template <Storage storage, unsigned tile_n, unsigned tile_m, bool grouped, By way = By::kWarps>
__global__ void __launch_bounds__(Shape<storage, tile_n, tile_m, way>::kThreads,
                                  Shape<storage, tile_n, tile_m, way>::kMinBlocks)
    tile_product(Product p, unsigned tiles_n, unsigned tiles_m) {
  using S = Shape<storage, tile_n, tile_m, way>;
  constexpr bool kPlain = S::kPlain, Groups = S::Groups;
  constexpr unsigned kThreads = S::kThreads, kFragmentsN = S::kFragmentsN, kFragmentsM = S::kFragmentsM;
  constexpr unsigned kAhead = S::kAhead;
  std::byte* const shared = Groups ? aligned_panels(dynamic_shared()) : dynamic_shared();
  auto* const x_rows = reinterpret_cast<std::int32_t*>(shared + S::kRowsAt);
  const unsigned g = lane() / 4, t = lane() % 4, warp_n = warp() % S::kWarpsN, warp_m = warp() / S::kWarpsN;
  const Place place(blockIdx.x, tiles_n, tiles_m);
  const TileRows<8> rows(p, place.n * tile_n);

  ExpertTile mine;
  if constexpr (grouped) {
    grid_dependency_wait();
    grid_dependency_launch();
    mine = tile_at(p, place.m);
    if (mine.rows == 0) return;
  } else {
    mine.first = static_cast<std::int32_t>(place.m * tile_m);
    mine.rows = static_cast<std::int32_t>(p.m - mine.first < tile_m ? p.m - mine.first : tile_m);
  }
  const std::int64_t matrix = grouped ? mine.expert * p.expert_stride : 0;
  const float* scales = nullptr;
  if constexpr (!kPlain) scales = p.scales + matrix / 4;

  // The rows of w that a thread copies are the same distance apart, and those that exist come first.
  constexpr unsigned kWChunks = S::kWBytes / 16, kWStep = kThreads / kWChunks, kWPasses = tile_n / kWStep;
  static_assert(kWStep % 16 == 0);
  const unsigned w_row = thread() / kWChunks, w_chunk = thread() % kWChunks;
  unsigned w_there = 0;
  for (unsigned i = 0; i < kWPasses; ++i) w_there += rows.at(w_row + i * kWStep) >= 0;
  const std::byte* const w_from =
      p.elements + matrix + (w_there > 0 ? rows.at(w_row) : 0) * p.row_bytes + w_chunk * 16;
  const unsigned w_step = (rows.gates > 0 ? kWStep / 2 : kWStep) * static_cast<unsigned>(p.row_bytes);
  constexpr unsigned kXChunks = S::kXBytes / 16, kXStep = kThreads / kXChunks, kXPasses = tile_m / kXStep;
  const unsigned x_row = thread() / kXChunks, x_chunk = thread() % kXChunks;
  const auto x_chunks = static_cast<unsigned>(p.x_stride / 8);  // of a row in memory

  const auto load_w = [&](unsigned stage, unsigned k_tile) {
    std::byte* const to = shared + stage * S::kStage;
    const bool inside = k_tile * S::kWBytes + w_chunk * 16 < p.row_bytes;
#pragma unroll
    for (unsigned i = 0; i < kWPasses; ++i) {
      const bool valid = inside && i < w_there;
      copy_async16(to + S::place(w_row + i * kWStep, w_chunk, kWChunks) * 16,
                   w_from + (valid ? i * w_step + k_tile * S::kWBytes : 0), valid);
    }
    if constexpr (S::kInGroups) {
      static_assert(kThreads == tile_n || kThreads == 2 * tile_n);
      if (thread() < tile_n) {
        const std::int64_t row = rows.at(thread());
#pragma unroll
        for (unsigned unit = 0; unit < S::kScales; ++unit) {
          const unsigned at = k_tile * S::kUnits + unit;
          const bool valid = row >= 0 && at * kUnitBytes < p.row_bytes;
          copy_async4(to + S::kScalesAt + (unit * tile_n + thread()) * 4,
                      scales + (valid ? scale_at<storage>(p, row, at) : 0), valid);
        }
      }
    }
  };
  const auto load_x = [&](unsigned stage, unsigned k_tile) {
    std::byte* const to = shared + stage * S::kStage + tile_n * S::kWBytes;
    const unsigned at = k_tile * kXChunks + x_chunk;
    std::int32_t from[kXPasses];
#pragma unroll
    for (unsigned i = 0; i < kXPasses; ++i) from[i] = x_rows[x_row + i * kXStep];
#pragma unroll
    for (unsigned i = 0; i < kXPasses; ++i) {
      const bool valid = from[i] >= 0 && at < x_chunks;
      const unsigned chunk = valid ? static_cast<unsigned>(from[i]) * x_chunks + at : 0;
      copy_async16(to + S::place(x_row + i * kXStep, x_chunk, kXChunks) * 16,
                   p.rounded + std::int64_t{8} * chunk, valid);
    }
    if constexpr (S::kXInGroups) {
      static_assert(kThreads >= tile_m);
      if (thread() < tile_m) {
        const std::int32_t row = x_rows[thread()];
#pragma unroll
        for (unsigned unit = 0; unit < S::kScales; ++unit) {
          auto* const scale =
              reinterpret_cast<float*>(shared + stage * S::kStage + S::kXScalesAt) + unit * tile_m + thread();
          const unsigned of = k_tile * S::kUnits + unit;
          const bool there = row >= 0 && of * kUnitBytes < p.row_bytes;
          if (p.x_scales == nullptr)
            *scale = 1;
          else
            copy_async4(scale, p.x_scales + (there ? x_scale_at(p, row, of) : 0), there);
        }
      }
    }
  };

  const auto k_tiles = static_cast<unsigned>((p.row_bytes + S::kWBytes - 1) / S::kWBytes);
  const unsigned split = blockIdx.y, splits = static_cast<unsigned>(p.splits);
  const unsigned begin = k_tiles * split / splits, count = k_tiles * (split + 1) / splits - begin;
  // Weights may be read before the kernels that make x are done.
  for (unsigned i = 0; i < kAhead; ++i)
    if (i < count) load_w(i, begin + i);
  if constexpr (!grouped) {
    grid_dependency_wait();
    grid_dependency_launch();
  }
  for (unsigned row = thread(); row < tile_m; row += kThreads) {
    std::int32_t from = -1;
    if (row < static_cast<unsigned>(mine.rows)) {
      from = mine.first + static_cast<std::int32_t>(row);
      if (grouped && p.x_rows != nullptr) from = p.x_rows[from];
    }
    x_rows[row] = from;
  }
  sync_threads();
  for (unsigned i = 0; i < kAhead; ++i) {
    if (i < count) load_x(i, begin + i);
    copy_async_commit();
  }

  float sums[Groups ? 1 : kFragmentsN * kFragmentsM][4] = {};
  // Of a warpgroup: half of the tile's rows of w, 64 a product.
  constexpr unsigned kHalves = Groups ? tile_n / 128 : 1;
  [[maybe_unused]] std::conditional_t<S::kIntegers, std::int32_t, float> halves[kHalves]
                                                                               [Groups ? tile_m / 2 : 1] = {};
  [[maybe_unused]] const unsigned of_group = warp() / 4 * (tile_n / 2);
  const unsigned first_n = warp_n * kFragmentsN * 16, first_m = warp_m * kFragmentsM * 8;
  for (unsigned k = 0; k < count; ++k) {
    copy_async_wait<static_cast<int>(kAhead) - 1>();
    if constexpr (Groups) show_to_products();
    sync_threads();
    const std::byte* const w = shared + k % S::kStages * S::kStage;
    const std::byte* const x = w + tile_n * S::kWBytes;
    const auto copy_next = [&] {
      if (k + kAhead < count) {
        load_w((k + kAhead) % S::kStages, begin + k + kAhead);
        load_x((k + kAhead) % S::kStages, begin + k + kAhead);
      }
      copy_async_commit();
    };
    if constexpr (S::kPromoted) {
      float products[tile_m / 2];
      products_begin();
#pragma unroll
      for (unsigned part = 0; part < 4; ++part)
        product_e4m3<tile_m>(products,
                             rows_operand(w + of_group * kPanelRow).advanced(static_cast<int>(part * 32)),
                             rows_operand(x).advanced(static_cast<int>(part * 32)), part > 0);
      products_commit();
      copy_next();
      if constexpr (S::kXInGroups) {
        const auto* const of_rows =
            reinterpret_cast<const float*>(w + S::kScalesAt) + of_group + warp() % 4 * 16 + g;
        const auto* const of_columns = reinterpret_cast<const float*>(w + S::kXScalesAt) + 2 * t;
        const float of_w[2] = {of_rows[0], of_rows[8]};
        products_wait<0>();
#pragma unroll
        for (unsigned j = 0; j < tile_m / 8; ++j) {
          const float2 of_x = *reinterpret_cast<const float2*>(of_columns + 8 * j);
#pragma unroll
          for (unsigned half = 0; half < 2; ++half) {
            halves[0][4 * j + 2 * half] =
                fmaf(products[4 * j + 2 * half], of_w[half] * of_x.x, halves[0][4 * j + 2 * half]);
            halves[0][4 * j + 2 * half + 1] =
                fmaf(products[4 * j + 2 * half + 1], of_w[half] * of_x.y, halves[0][4 * j + 2 * half + 1]);
          }
        }
      } else {
        products_wait<0>();
#pragma unroll
        for (unsigned i = 0; i < tile_m / 2; ++i) halves[0][i] += products[i];
      }
    } else if constexpr (Groups) {
      const std::byte* rows_of_w = w;
      if constexpr (!kPlain && !S::kBytes) {
        std::byte* const wide = shared + S::kWideAt + k % 2 * S::kWide;
#pragma unroll
        for (unsigned i = 0; i < tile_n * 4 / kThreads; ++i) {
          const unsigned row = (i * kThreads + thread()) / 4, of = thread() % 4;
          const uint4 raw = load16(w + S::place(row, of, kWChunks) * 16);
#pragma unroll
          for (unsigned part = 0; part < S::kParts; ++part) {
            std::uint32_t pairs[4];
            Weights<storage>::decode(raw, part, pairs);
            store16(wide + swizzled(static_cast<int>(row), static_cast<int>(4 * part + of)),
                    make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
          }
        }
        show_to_products();
        sync_threads();
        rows_of_w = wide;
      }
      products_begin();
#pragma unroll
      for (unsigned part = 0; part < kPanelColumns / 16; ++part)
#pragma unroll
        for (unsigned half = 0; half < kHalves; ++half) {
          const auto of_w = rows_operand(rows_of_w + (of_group + half * 64) * kPanelRow)
                                .advanced(static_cast<int>(part * 32)),
                     of_x = rows_operand(x).advanced(static_cast<int>(part * 32));
          if constexpr (S::kIntegers)
            product_s8<tile_m>(halves[half], of_w, of_x, true);
          else
            product_bf16<tile_m>(halves[half], of_w, of_x, true);
        }
      products_commit();
      copy_next();
      products_wait<1>();
    } else if constexpr (kPlain) {
#pragma unroll
      for (unsigned half = 0; half < 2 * S::kUnits; ++half) {  // of a unit: 16 along k
        std::uint32_t of_w[kFragmentsN][4];
#pragma unroll
        for (unsigned i = 0; i < kFragmentsN; ++i)
          ldmatrix_x4(of_w[i],
                      w + S::place(first_n + 16 * i + lane() % 16, 2 * half + lane() / 16, kWChunks) * 16);
#pragma unroll
        for (unsigned part = 0; part < S::kParts; ++part)
#pragma unroll
          for (unsigned j = 0; j < kFragmentsM; j += 2) {
            // Two fragments of 8 rows, both with both halves of 16 along k.
            const unsigned chunk = (half / 2 * S::kParts + part) * 4 + half % 2 * 2 + lane() / 8 % 2;
            std::uint32_t of_x[4];
            ldmatrix_x4(of_x,
                        x + S::place(first_m + 8 * (j + lane() / 16) + lane() % 8, chunk, kXChunks) * 16);
            const std::uint32_t first[2] = {of_x[0], of_x[1]}, second[2] = {of_x[2], of_x[3]};
#pragma unroll
            for (unsigned i = 0; i < kFragmentsN; ++i) {
              multiply_add<storage>(sums[i * kFragmentsM + j], of_w[i], first);
              multiply_add<storage>(sums[i * kFragmentsM + j + 1], of_w[i], second);
            }
          }
        if (half == 0) copy_next();
      }
    } else {
      const unsigned row_n = first_n + g, row_m = first_m + g;
#pragma unroll
      for (unsigned unit = 0; unit < S::kUnits; ++unit) {
        uint4 raw[kFragmentsN][2];
#pragma unroll
        for (unsigned i = 0; i < kFragmentsN; ++i)
#pragma unroll
          for (unsigned h = 0; h < 2; ++h)
            raw[i][h] = load16(w + S::place(row_n + 16 * i + 8 * h, unit * 4 + t, kWChunks) * 16);
        float group_sums[kFragmentsN * kFragmentsM][4] = {};
        auto& to = S::kInGroups ? group_sums : sums;
#pragma unroll
        for (unsigned part = 0; part < S::kParts; ++part) {
          std::uint32_t above[kFragmentsN][4], below[kFragmentsN][4];
#pragma unroll
          for (unsigned i = 0; i < kFragmentsN; ++i) {
            Weights<storage>::decode(raw[i][0], part, above[i]);
            Weights<storage>::decode(raw[i][1], part, below[i]);
          }
#pragma unroll
          for (unsigned j = 0; j < kFragmentsM; ++j) {
            const uint4 eight =
                load16(x + S::place(row_m + 8 * j, (unit * S::kParts + part) * 4 + t, kXChunks) * 16);
#pragma unroll
            for (unsigned i = 0; i < kFragmentsN; ++i)
              multiply_pairs<storage>(to[i * kFragmentsM + j], above[i], below[i], eight);
          }
          if (unit == 0 && part == 0) copy_next();
        }
        if constexpr (S::kInGroups) {
          const auto* const of_rows = reinterpret_cast<const float*>(w + S::kScalesAt) + unit * tile_n;
          [[maybe_unused]] const auto* const of_columns =
              reinterpret_cast<const float*>(w + S::kXScalesAt) + unit * tile_m + first_m + 2 * t;
#pragma unroll
          for (unsigned j = 0; j < kFragmentsM; ++j) {
            float of_x[2] = {1, 1};
            if constexpr (S::kXInGroups) of_x[0] = of_columns[8 * j], of_x[1] = of_columns[8 * j + 1];
#pragma unroll
            for (unsigned i = 0; i < kFragmentsN; ++i) {
              const float scale[2] = {of_rows[row_n + 16 * i], of_rows[row_n + 16 * i + 8]};
#pragma unroll
              for (unsigned c = 0; c < 4; ++c)
                sums[i * kFragmentsM + j][c] += group_sums[i * kFragmentsM + j][c] *
                                                (S::kXInGroups ? scale[c / 2] * of_x[c % 2] : scale[c / 2]);
            }
          }
        }
      }
    }
  }
  copy_async_wait<0>();
  if constexpr (Groups) products_wait<0>();
  if constexpr (S::kIntegers) products_end(halves[0]), products_end(halves[1]);

  if (!grouped && !Groups && splits > 1) {
    constexpr std::int64_t kFloats = kFragmentsN * kFragmentsM * kThreads * 4;
    if (!join_parts<kThreads>(sums, p.partial + blockIdx.x * splits * kFloats, split, splits,
                              &parts_done[blockIdx.x], reinterpret_cast<unsigned*>(x_rows + tile_m)))
      return;
  }

  // Through shared memory, so that rows of y are written whole, by code that is there once.
  auto* const tile = reinterpret_cast<float*>(shared);
  sync_threads();
  if constexpr (Groups) {
#pragma unroll
    for (unsigned half = 0; half < kHalves; ++half)
#pragma unroll
      for (unsigned i = 0; i < tile_m / 2; ++i)
        tile[(i / 4 * 8 + 2 * t + i % 2) * S::kPitch + of_group + half * 64 + warp() % 4 * 16 +
             i / 2 % 2 * 8 + g] = static_cast<float>(halves[half][i]);
  } else {
#pragma unroll
    for (unsigned i = 0; i < kFragmentsN; ++i)
#pragma unroll
      for (unsigned j = 0; j < kFragmentsM; ++j)
#pragma unroll
        for (unsigned c = 0; c < 4; ++c)
          tile[(first_m + 8 * j + 2 * t + c % 2) * S::kPitch + first_n + 16 * i + c / 2 * 8 + g] =
              sums[i * kFragmentsM + j][c];
  }
  sync_threads();
  const float* const bias = bias_of(p, mine.expert);
  const auto count_m = static_cast<unsigned>(mine.rows);
  const auto scale_of = [&](std::int64_t row) {
    return kPlain || S::kInGroups || row < 0 ? 1.0f : scales[row];
  };
  const auto scale_of_x = [&](unsigned row) {
    constexpr bool k8Bits = storage == Storage::kInt8 || storage == Storage::kFp8;
    return storage == Storage::kF16 || (k8Bits && p.x_scales != nullptr) ? p.x_scales[x_rows[row]] : 1.0f;
  };
  if (!grouped || !p.activated) {
    const unsigned n = thread() % tile_n;
    const std::int64_t column = rows.at(n);
    if (column < 0) return;
    const float by = scale_of(column), more = bias == nullptr ? 0.0f : bias[column];
    for (unsigned row = thread() / tile_n; row < count_m; row += kThreads / tile_n) {
      const float sum = tile[row * S::kPitch + n] * (by * scale_of_x(row)) + more;
      float* const to = p.y + (mine.first + row) * p.y_stride + column;
      *to = p.accumulate ? *to + sum : sum;
    }
    return;
  }
  const unsigned pair = thread() % (tile_n / 2), at = pair / 8 * 16 + pair % 8;
  const float first_by = scale_of(rows.at(at)), second_by = scale_of(rows.at(at + 8));
  for (unsigned row = thread() / (tile_n / 2); row < count_m; row += kThreads / (tile_n / 2)) {
    const float* const sums_of = tile + row * S::kPitch + at;
    const float by = scale_of_x(row);
    put_both<8, grouped>(p, rows, bias, mine.first + row, at, sums_of[0] * (first_by * by),
                         sums_of[8] * (second_by * by));
  }
}

inline std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

// way: kBytes, or kWarps, which are warpgroups of bf16 where the product may have them.
template <Storage storage, unsigned tile_n, unsigned tile_m, By way = By::kWarps>
void tiles(Product p, const DeviceProperties& device, Stream& on) {
  using S = Shape<storage, tile_n, tile_m, way>;
  const bool grouped = p.tiles != nullptr;
  const std::int64_t tiles_n = divide_up(p.n, tile_n),
                     tiles_m = grouped ? p.tile_count : divide_up(p.m, tile_m);
  p.splits = p.partial == nullptr || grouped || S::kBytes || tile_n > kTileN
                 ? 1
                 : splits_for(tiles_n * tiles_m, divide_up(p.row_bytes, S::kWBytes),
                              device.multiprocessors * S::kSplitBlocks);
  const auto n = static_cast<unsigned>(tiles_n), m = static_cast<unsigned>(tiles_m);
  const Launch how{.grid = dim3(n * m, static_cast<unsigned>(p.splits)),
                   .block = S::kThreads,
                   .shared = S::kShared,
                   .name = grouped ? "tile_product of experts" : "tile_product"};
  if constexpr (tile_n > kTileN && storage != Storage::kF16 && !S::kBytes) {
    if (p.warpgroups) {
      Launch by_groups = how;
      by_groups.shared = Shape<storage, tile_n, tile_m, By::kGroups>::kShared;
      if (grouped)
        launch(tile_product<storage, tile_n, tile_m, true, By::kGroups>, by_groups, on, p, n, m);
      else
        launch(tile_product<storage, tile_n, tile_m, false, By::kGroups>, by_groups, on, p, n, m);
      return;
    }
  }
  if (grouped)
    launch(tile_product<storage, tile_n, tile_m, true, way>, how, on, p, n, m);
  else if constexpr (tile_n == kTileN || !S::kPlain)
    launch(tile_product<storage, tile_n, tile_m, false, way>, how, on, p, n, m);
}

template <Storage storage>
std::size_t bytes_shared() {
  return Shape<storage, bytes_tile_n(storage), 128, By::kBytes>::kShared;
}

template <Storage storage>
void tiles(const Product& p, const DeviceProperties& device, Stream& on) {
  const std::int64_t tile_m = p.tiles != nullptr ? p.tile_rows : tile_rows_for(p.m);
  if constexpr (of_8_bits(storage))
    if (p.x_in_bytes) return tiles<storage, bytes_tile_n(storage), 128, By::kBytes>(p, device, on);
  if (tile_m == 16) return tiles<storage, kTileN, 16>(p, device, on);
  if (tile_m == 64) return tiles<storage, kTileN, 64>(p, device, on);
  if constexpr (!in_groups(storage)) {  // sums of groups leave no registers for it
    // The larger tile where there are as many of it as multiprocessors, and the memory for it. (Of bf16
    // without warpgroups, those of experts alone: cuBLASLt takes the others.)
    using Large = Shape<storage, 2 * kTileN, 128>;
    const std::int64_t tiles_m = p.tiles != nullptr ? p.tile_count : divide_up(p.m, 128);
    if ((p.tiles != nullptr || !Large::kPlain || (p.warpgroups && storage == Storage::kBf16)) &&
        10 * divide_up(p.n, 2 * kTileN) * tiles_m >= 9 * device.multiprocessors &&
        device.shared_bytes >= Large::kShared)
      return tiles<storage, 2 * kTileN, 128>(p, device, on);
  }
  tiles<storage, kTileN, 128>(p, device, on);
}

}  // namespace foretoken::cuda
