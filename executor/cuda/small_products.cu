// Products of few rows, at most 8: bound by the bytes of w, which every byte of is read once. The ceiling is
// the memory's bandwidth (H200: 4.8 TB/s, of which some 90 % can be had).
//
// Tensor cores do the sums: a warp takes 16 or 32 rows of w as the left operand and all rows of x, rounded to
// bf16, as the 8 columns of the right one, so that dequantising is all the arithmetic that is left, whatever
// the number of rows. Weights go from memory straight into registers, 64 bytes a row at a time, in two
// batches of 4 KiB a warp: one is on its way while the other is multiplied, some 64 KiB a multiprocessor. x
// comes from the first-level cache. The warps of a block share its rows of w and split k, so that few rows of
// w occupy many warps; their sums meet in shared memory. The first batch is under way before the kernel waits
// for those before it.
//
// With float32 and f16 weights, which x is not rounded for, the sums are the plain float32 units': a warp
// takes 2 or 4 rows of w, its lanes lie along k.
#include <algorithm>

#include "executor/cuda/launch.h"
#include "executor/cuda/product_parts.cuh"

namespace foretoken::cuda {
namespace {

constexpr unsigned kMostWarps = 16;
// Of a row, before the kernels that came before are done.
constexpr unsigned kAhead = 1024, kLine = 128;

template <Storage storage, unsigned kFragments>
struct StreamBatch {
  static constexpr unsigned kUnits = 4 / kFragments;
  uint4 raw[kUnits][kFragments][2];
};

// kAny: x as it comes. kEven: its rows are aligned and multiples of 8. kGrouped: rounded, of experts, whose
// tile y block (x, y) takes.
enum class Rows : std::uint8_t { kAny, kEven, kGrouped };

template <Storage storage, unsigned kFragments, Rows kind>
__global__ void __launch_bounds__(32 * kMostWarps) stream_product(Product p, unsigned k_warps) {
  using Batch = StreamBatch<storage, kFragments>;
  constexpr bool in_groups = storage == Storage::kInt4, grouped = kind == Rows::kGrouped;
  constexpr unsigned kParts = Weights<storage>::kParts;
  const unsigned g = lane() / 4, t = lane() % 4, k_warp = warp() % k_warps;
  const std::int64_t tile = static_cast<std::int64_t>(blockIdx.x) * (warps() / k_warps) + warp() / k_warps;
  const TileRows<8> rows(p, tile * 16 * kFragments);

  ExpertTile mine{0, 0, static_cast<std::int32_t>(p.m), 0};
  if constexpr (grouped) {
    grid_dependency_wait();
    grid_dependency_launch();
    mine = tile_at(p, blockIdx.y);
    if (mine.rows == 0) return;
  }
  const std::int64_t matrix = grouped ? mine.expert * p.expert_stride : 0;
  const float* scales = nullptr;
  if constexpr (storage != Storage::kBf16) scales = p.scales + matrix / 4;
  const std::byte* from[kFragments][2];
  [[maybe_unused]] unsigned row_of[kFragments][2];
#pragma unroll
  for (unsigned f = 0; f < kFragments; ++f)
#pragma unroll
    for (unsigned h = 0; h < 2; ++h) {
      // Rows that don't exist are the first one again; what they give is dropped.
      const std::int64_t row = rows.at(16 * f + 8 * h + g);
      row_of[f][h] = static_cast<unsigned>(row < 0 ? 0 : row);
      from[f][h] = p.elements + matrix + row_of[f][h] * p.row_bytes + 16 * t;
    }
  const auto units = static_cast<unsigned>(p.row_bytes / kUnitBytes);
  const unsigned begin = units * k_warp / k_warps, end = units * (k_warp + 1) / k_warps;

  const auto load = [&](Batch& batch, unsigned first) {
#pragma unroll
    for (unsigned b = 0; b < Batch::kUnits; ++b)
#pragma unroll
      for (unsigned f = 0; f < kFragments; ++f)
#pragma unroll
        for (unsigned h = 0; h < 2; ++h) {
          const bool there = first + b < end;
          batch.raw[b][f][h] =
              there ? load_streaming16(from[f][h] + (first + b) * kUnitBytes) : uint4{0, 0, 0, 0};
        }
  };
  Batch now, next;
  load(now, begin);
  if constexpr (!grouped) {
    // What the batches after it take goes to the second-level cache meanwhile.
    const unsigned left = (end - begin) * kUnitBytes, ahead = left < kAhead ? left : kAhead;
    for (unsigned at = Batch::kUnits * kUnitBytes + t * kLine; at < ahead; at += 4 * kLine)
#pragma unroll
      for (unsigned f = 0; f < kFragments; ++f)
#pragma unroll
        for (unsigned h = 0; h < 2; ++h) prefetch_l2(from[f][h] + begin * kUnitBytes + at);
    grid_dependency_wait();
    grid_dependency_launch();
  }

  const bool row_there = g < static_cast<unsigned>(mine.rows);
  std::int64_t x_row = mine.first + (row_there ? g : 0);
  if (grouped && p.x_rows != nullptr) x_row = p.x_rows[x_row];
  const float* x = nullptr;
  const std::uint16_t* rounded = nullptr;
  if constexpr (grouped)
    rounded = p.rounded + x_row * p.x_stride;
  else
    x = p.x + x_row * p.x_stride;
  float sums[kFragments][4] = {};
  for (unsigned first = begin; first < end; first += Batch::kUnits) {
    load(next, first + Batch::kUnits);
    [[maybe_unused]] float of_rows[Batch::kUnits][kFragments][2];
    if constexpr (in_groups) {
#pragma unroll
      for (unsigned b = 0; b < Batch::kUnits; ++b)
#pragma unroll
        for (unsigned f = 0; f < kFragments; ++f)
#pragma unroll
          for (unsigned h = 0; h < 2; ++h)
            of_rows[b][f][h] = first + b < end ? scales[(first + b) * p.scale_stride + row_of[f][h]] : 0.0f;
    }
#pragma unroll
    for (unsigned b = 0; b < Batch::kUnits; ++b) {
      float of_group[kFragments][4] = {};
      auto& to = in_groups ? of_group : sums;
#pragma unroll
      for (unsigned part = 0; part < kParts; ++part) {
        const std::int64_t at = static_cast<std::int64_t>(((first + b) * kParts + part) * 4 + t) * 8;
        uint4 eight{0, 0, 0, 0};
        if (row_there && at < p.k) {
          if constexpr (grouped)
            eight = load16(rounded + at);
          else
            eight = rounded_eight<kind == Rows::kEven>(x, at, p.k);
        }
#pragma unroll
        for (unsigned f = 0; f < kFragments; ++f) {
          std::uint32_t above[4], below[4];
          Weights<storage>::decode(now.raw[b][f][0], part, above);
          Weights<storage>::decode(now.raw[b][f][1], part, below);
          multiply_pairs<storage>(to[f], above, below, eight);
        }
      }
      if constexpr (in_groups) {
#pragma unroll
        for (unsigned f = 0; f < kFragments; ++f)
#pragma unroll
          for (unsigned i = 0; i < 4; ++i) sums[f][i] += of_group[f][i] * of_rows[b][f][i / 2];
      }
    }
    now = next;
  }

  float4* const shared = reinterpret_cast<float4*>(dynamic_shared());
  if (k_warps > 1) {
#pragma unroll
    for (unsigned f = 0; f < kFragments; ++f)
      shared[thread() * kFragments + f] = make_float4(sums[f][0], sums[f][1], sums[f][2], sums[f][3]);
    sync_threads();
    if (k_warp > 0) return;
    for (unsigned other = 1; other < k_warps; ++other)
#pragma unroll
      for (unsigned f = 0; f < kFragments; ++f) {
        const float4 theirs = shared[(thread() + other * kWarp) * kFragments + f];
        sums[f][0] += theirs.x, sums[f][1] += theirs.y, sums[f][2] += theirs.z, sums[f][3] += theirs.w;
      }
  }
  const float* const bias = bias_of(p, mine.expert);
#pragma unroll
  for (unsigned f = 0; f < kFragments; ++f) {
    float scale[2] = {1, 1};
    if constexpr (storage == Storage::kInt8 || storage == Storage::kFp8)
      scale[0] = scales[row_of[f][0]], scale[1] = scales[row_of[f][1]];
#pragma unroll
    for (unsigned i = 0; i < 2; ++i)
      if (2 * t + i < static_cast<unsigned>(mine.rows))
        put_both<8, grouped>(p, rows, bias, mine.first + 2 * t + i, 16 * f + g, sums[f][i] * scale[0],
                             sums[f][2 + i] * scale[1]);
  }
}

// How many warps split k: as many as leave each a batch or more.
unsigned warps_along(std::int64_t steps, std::int64_t least, unsigned most) {
  unsigned warps = 1;
  while (2 * warps <= most && steps >= 2 * warps * least) warps *= 2;
  return warps;
}

template <Storage storage, unsigned kFragments, Rows kind>
void stream(const Product& p, Stream& on) {
  const std::int64_t units = p.row_bytes / kUnitBytes,
                     tiles = (p.n + 16 * kFragments - 1) / (16 * kFragments);
  // Where there are few rows of w, larger blocks.
  const unsigned k_warps = warps_along(units, 4 / kFragments, kFragments > 1 || tiles < 256 ? 16 : 8),
                 block_warps = std::max(k_warps, 8u), together = block_warps / k_warps;
  constexpr bool grouped = kind == Rows::kGrouped;
  launch(stream_product<storage, kFragments, kind>,
         {.grid = dim3(static_cast<unsigned>((tiles + together - 1) / together),
                       grouped ? static_cast<unsigned>(p.tile_count) : 1),
          .block = block_warps * kWarp,
          .shared = k_warps > 1 ? block_warps * kWarp * kFragments * sizeof(float4) : 0,
          .name = grouped ? "stream_product of experts" : "stream_product"},
         on, p, k_warps);
}

template <Storage storage>
void stream(const Product& p, Stream& on) {
  if (p.tiles != nullptr) return stream<storage, 1, Rows::kGrouped>(p, on);
  const bool even = reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0 && p.x_stride % 4 == 0 && p.k % 8 == 0;
  // More rows of w a warp where x, which each warp reads, is not small beside them.
  if (p.m > 4)
    even ? stream<storage, 2, Rows::kEven>(p, on) : stream<storage, 2, Rows::kAny>(p, on);
  else
    even ? stream<storage, 1, Rows::kEven>(p, on) : stream<storage, 1, Rows::kAny>(p, on);
}

// ---- Without tensor cores --------------------------------------------------------------------------------

template <class Element>
FORETOKEN_DEVICE void floats_of(const uint4& raw, float (&to)[16 / sizeof(Element)]) {
  const std::uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (unsigned i = 0; i < 4; ++i)
    if constexpr (sizeof(Element) == 4) {
      to[i] = as_float(words[i]);
    } else {
      const float2 pair = unpack_f16x2(words[i]);
      to[2 * i] = pair.x, to[2 * i + 1] = pair.y;
    }
}

template <class Element, unsigned kM>
__global__ void __launch_bounds__(32 * kMostWarps) float_stream_product(Product p, unsigned k_warps) {
  constexpr unsigned kEach = 16 / sizeof(Element), kN = kM > 2 ? 4 : 2;
  const unsigned k_warp = warp() % k_warps;
  const std::int64_t n0 =
      (static_cast<std::int64_t>(blockIdx.x) * (warps() / k_warps) + warp() / k_warps) * kN;
  const unsigned chunks = static_cast<unsigned>(p.row_bytes / 16), steps = (chunks + kWarp - 1) / kWarp,
                 begin = steps * k_warp / k_warps, end = steps * (k_warp + 1) / k_warps;
  const std::byte* from[kN];
#pragma unroll
  for (unsigned r = 0; r < kN; ++r) {
    from[r] = p.elements + (n0 + r < p.n ? n0 + r : 0) * p.row_bytes;
    if (begin * kWarp + lane() < chunks) prefetch_l2(from[r] + (begin * kWarp + lane()) * 16);
  }
  grid_dependency_wait();
  grid_dependency_launch();

  const bool aligned = reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0 && p.x_stride % 4 == 0;
  float sums[kN][kM] = {};
#pragma unroll 2
  for (unsigned step = begin; step < end; ++step) {
    const unsigned chunk = step * kWarp + lane();
    const bool there = chunk < chunks;
    uint4 raw[kN];
#pragma unroll
    for (unsigned r = 0; r < kN; ++r)
      raw[r] = there ? load_streaming16(from[r] + chunk * 16) : uint4{0, 0, 0, 0};
    const std::int64_t at = static_cast<std::int64_t>(chunk) * kEach;
    float w[kN][kEach];
#pragma unroll
    for (unsigned r = 0; r < kN; ++r) floats_of<Element>(raw[r], w[r]);
#pragma unroll
    for (unsigned m = 0; m < kM; ++m) {
      const float* const row = p.x + m * p.x_stride;
      float x[kEach];
      if (m < p.m && aligned && at + kEach <= p.k) {
#pragma unroll
        for (unsigned i = 0; i < kEach; i += 4) {
          const uint4 four = load16(row + at + i);
          x[i] = as_float(four.x), x[i + 1] = as_float(four.y);
          x[i + 2] = as_float(four.z), x[i + 3] = as_float(four.w);
        }
      } else {
#pragma unroll
        for (unsigned i = 0; i < kEach; ++i) x[i] = m < p.m && at + i < p.k ? row[at + i] : 0.0f;
      }
#pragma unroll
      for (unsigned r = 0; r < kN; ++r)
#pragma unroll
        for (unsigned i = 0; i < kEach; ++i) sums[r][m] = fmaf(w[r][i], x[i], sums[r][m]);
    }
  }
#pragma unroll
  for (unsigned r = 0; r < kN; ++r)
#pragma unroll
    for (unsigned m = 0; m < kM; ++m) sums[r][m] = warp_sum(sums[r][m]);

  float* const shared = reinterpret_cast<float*>(dynamic_shared());
  if (k_warps > 1) {
    if (lane() == 0) {
#pragma unroll
      for (unsigned r = 0; r < kN; ++r)
#pragma unroll
        for (unsigned m = 0; m < kM; ++m) shared[(warp() * kN + r) * kM + m] = sums[r][m];
    }
    sync_threads();
  }
  if (k_warp > 0 || lane() > 0) return;
#pragma unroll
  for (unsigned r = 0; r < kN; ++r)
#pragma unroll
    for (unsigned m = 0; m < kM; ++m) {
      if (n0 + r >= p.n || m >= p.m) continue;
      float sum = sums[r][m];
      for (unsigned other = 1; other < k_warps; ++other) sum += shared[((warp() + other) * kN + r) * kM + m];
      put(p, p.bias, m, n0 + r, sum);
    }
}

template <class Element, unsigned kM>
void float_stream(const Product& p, Stream& on) {
  constexpr unsigned kN = kM > 2 ? 4 : 2;
  const unsigned k_warps = warps_along((p.row_bytes + 511) / 512, 2, kMostWarps),
                 block_warps = std::max(k_warps, 8u), together = block_warps / k_warps * kN;
  launch(float_stream_product<Element, kM>,
         {.grid = static_cast<unsigned>((p.n + together - 1) / together),
          .block = block_warps * kWarp,
          .shared = block_warps * kN * kM * sizeof(float),
          .name = "float_stream_product"},
         on, p, k_warps);
}

template <class Element>
void float_stream(const Product& p, Stream& on) {
  if (p.m > 4) return float_stream<Element, 8>(p, on);
  if (p.m > 2) return float_stream<Element, 4>(p, on);
  p.m > 1 ? float_stream<Element, 2>(p, on) : float_stream<Element, 1>(p, on);
}

}  // namespace

void launch_stream(const Product& p, Stream& on) {
  if (p.m <= 0 || p.n <= 0) return;
  switch (p.storage) {
    case Storage::kInt8:
      return stream<Storage::kInt8>(p, on);
    case Storage::kInt4:
      return stream<Storage::kInt4>(p, on);
    case Storage::kFp8:
      return stream<Storage::kFp8>(p, on);
    default:
      return stream<Storage::kBf16>(p, on);
  }
}

void launch_float_stream(const Product& p, Stream& on) {
  if (p.m <= 0 || p.n <= 0) return;
  p.storage == Storage::kF16 ? float_stream<f16>(p, on) : float_stream<float>(p, on);
}

}  // namespace foretoken::cuda
