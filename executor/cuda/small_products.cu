// Products of few rows, at most 8: bound by the bytes of w, which every byte of is read once. The ceiling is
// the memory's bandwidth (H200: 4.8 TB/s, of which some 90 % can be had).
//
// Tensor cores do the sums: a warp takes 16 or 32 rows of w as the left operand and all rows of x, rounded to
// bf16, as the 8 columns of the right one, so that dequantising is all the arithmetic that is left, whatever
// the number of rows. Every lane copies the weights that it multiplies itself, 2 KiB a warp at a time, into
// stages of its own in shared memory: two are on their way while one is multiplied, some 64 KiB a
// multiprocessor, and nobody waits for anybody. (Loads into registers would be as good, were they not moved
// behind the sums.) x lies in shared memory, rounded once a block. The warps of a block share its rows of w
// and split k, so that few rows of w occupy many warps; their sums meet in shared memory. A block takes tiles
// of w by turns, and the weights of the next are copied while the sums of the last are put together. The
// first weights are under way before the kernel waits for those before it.
//
// With float32 and f16 weights, which x is not rounded for, the sums are the plain float32 units': a warp
// takes 2 or 4 rows of w, its lanes lie along k.
#include <algorithm>

#include "executor/cuda/launch.h"
#include "executor/cuda/product_parts.cuh"

namespace foretoken::cuda {
namespace {

constexpr unsigned kWarps = 8;  // of a block of stream_product
// Of a row, before the kernels that came before are done.
constexpr unsigned kAhead = 1024, kLine = 128;
// Tiles of an expert that a block takes by turns where there are many experts.
constexpr std::int64_t kTurns = 8;

// A warp's weights under way: pieces of 16 bytes a lane, and where groups have scales the scale of each
// behind them.
template <Storage storage, unsigned kFragments>
struct Ring {
  static constexpr bool kInGroups = in_groups(storage);
  static constexpr unsigned kXScale = storage == Storage::kFp8Block ? 8 * 4 : 0;         // of x, bytes a unit
  static constexpr unsigned kUnits = 2 / kFragments, kPieces = 2 * kFragments * kUnits;  // of a stage
  static constexpr unsigned kPiece = 16 * kWarp, kScalesAt = kPieces * kPiece, kScale = 4 * kWarp;
  static constexpr unsigned kStage = kScalesAt + (kInGroups ? kPieces * kScale : 0);
  static constexpr unsigned kStages = 3, kBytes = kStages * kStage;
  // Of a multiprocessor; where there are registers for it, the next kernel's first comes beside two of this.
  static constexpr unsigned kBlocks = kInGroups || kFragments > 1 ? 2 : 3;
  // Sums of the warps, twice: [warp][row of x][row of w], so that what lanes write lies in all banks.
  static constexpr unsigned kPitch = 16 * kFragments + 4, kSums = kWarps * 8 * kPitch;
  static constexpr unsigned kShared = kWarps * kBytes + 2 * kSums * 4;  // without x
};

// Bytes of `units` of a row of x in shared memory, and what a last stage reads beyond them, which is zero:
// an odd multiple of 64, so that lanes that read two rows reach all banks.
template <Storage storage, unsigned kFragments>
constexpr unsigned x_pitch(unsigned units) {
  const unsigned bytes = (units + Ring<storage, kFragments>::kUnits - 1) * Weights<storage>::kParts * 64;
  return bytes % 128 == 0 ? bytes + 64 : bytes;
}

// kAny: x as it comes. kEven: its rows are aligned and multiples of 8. kRounded: rounded. kGrouped: rounded,
// of experts, whose tile y blocks (x, y) take.
enum class Rows : std::uint8_t { kAny, kEven, kRounded, kGrouped };

// x is held `chunk` units at a time.
template <Storage storage, unsigned kFragments, Rows kind>
__global__ void __launch_bounds__(kWarp* kWarps, Ring<storage, kFragments>::kBlocks)
    stream_product(Product p, unsigned k_warps, unsigned chunk) {
  using R = Ring<storage, kFragments>;
  constexpr bool grouped = kind == Rows::kGrouped, rounded = grouped || kind == Rows::kRounded;
  constexpr unsigned kParts = Weights<storage>::kParts, kRows = 16 * kFragments;
  const unsigned g = lane() / 4, t = lane() % 4, k_warp = warp() % k_warps, team = warp() / k_warps,
                 teams = kWarps / k_warps;
  std::byte* const ring = dynamic_shared() + warp() * R::kBytes;
  auto* const all_sums = reinterpret_cast<float*>(dynamic_shared() + kWarps * R::kBytes);
  auto* const x_scales = all_sums + 2 * R::kSums;  // [unit][8], where there are any
  auto* const x_shared = reinterpret_cast<std::byte*>(x_scales) + chunk * R::kXScale;

  ExpertTile mine{0, 0, static_cast<std::int32_t>(p.m), 0};
  if constexpr (grouped) {
    grid_dependency_wait();
    grid_dependency_launch();
    mine = tile_at(p, blockIdx.y);
    if (mine.rows == 0) return;
  }
  const auto x_rows = static_cast<unsigned>(mine.rows);
  const std::int64_t matrix = grouped ? mine.expert * p.expert_stride : 0;
  const float* scales = nullptr;
  if constexpr (storage != Storage::kBf16) scales = p.scales + matrix / 4;

  const auto units = static_cast<unsigned>(p.row_bytes / kUnitBytes);
  const auto all_turns = static_cast<unsigned>((p.n + kRows * teams - 1) / (kRows * teams));
  const unsigned turns = (all_turns - blockIdx.x + gridDim.x - 1) / gridDim.x;
  const auto rows_of = [&](unsigned turn) {
    return TileRows<8>(p, (static_cast<std::int64_t>(blockIdx.x + turn * gridDim.x) * teams + team) * kRows);
  };
  // The warp's units of the chunk that begins at `begin`.
  struct Share {
    unsigned first, end;
  };
  const auto share_of = [&](unsigned begin) {
    const unsigned size = units - begin < chunk ? units - begin : chunk;
    return Share{begin + size * k_warp / k_warps, begin + size * (k_warp + 1) / k_warps};
  };

  // What is copied next.
  unsigned turn_ahead = 0, begin_ahead = 0;
  Share ahead = share_of(0);
  const std::byte* from[kFragments][2];
  [[maybe_unused]] unsigned row_of[kFragments][2];
  const auto aim = [&] {
    const TileRows<8> rows = rows_of(turn_ahead);
#pragma unroll
    for (unsigned f = 0; f < kFragments; ++f)
#pragma unroll
      for (unsigned h = 0; h < 2; ++h) {
        // Rows that don't exist are the first one again; what they give is dropped.
        const std::int64_t row = rows.at(16 * f + 8 * h + g);
        row_of[f][h] = static_cast<unsigned>(row < 0 ? 0 : row);
        from[f][h] = p.elements + matrix + row_of[f][h] * p.row_bytes + 16 * t;
      }
  };
  aim();
  const auto copy_next = [&](unsigned stage) {
    while (ahead.first >= ahead.end && turn_ahead < turns) {
      begin_ahead += chunk;
      if (begin_ahead >= units) {
        begin_ahead = 0;
        if (++turn_ahead < turns) aim();
      }
      ahead = share_of(begin_ahead);
    }
    if (turn_ahead < turns) {
      std::byte* const to = ring + stage * R::kStage;
#pragma unroll
      for (unsigned i = 0; i < R::kPieces; ++i) {
        const unsigned unit = ahead.first + i / 2 / kFragments, f = i / 2 % kFragments, h = i % 2;
        const bool there = unit < ahead.end;
        copy_async16(to + i * R::kPiece + lane() * 16, from[f][h] + (there ? unit * kUnitBytes : 0), there);
        if constexpr (R::kInGroups)
          copy_async4(to + R::kScalesAt + i * R::kScale + lane() * 4,
                      scales + scale_at<storage>(p, row_of[f][h], there ? unit : 0), there);
      }
      ahead.first += R::kUnits;
    }
    copy_async_commit();
  };
  for (unsigned i = 0; i + 1 < R::kStages; ++i) copy_next(i);
  if constexpr (!grouped) {
    // What the stages after them take goes to the second-level cache meanwhile.
    const unsigned left = ahead.first < ahead.end && turn_ahead == 0 ? (ahead.end - ahead.first) * kUnitBytes
                                                                     : 0,
                   most = left < kAhead ? left : kAhead;
    for (unsigned at = t * kLine; at < most; at += 4 * kLine)
#pragma unroll
      for (unsigned f = 0; f < kFragments; ++f)
#pragma unroll
        for (unsigned h = 0; h < 2; ++h) prefetch_l2(from[f][h] + ahead.first * kUnitBytes + at);
    grid_dependency_wait();
    grid_dependency_launch();
  }

  const unsigned pitch = x_pitch<storage, kFragments>(chunk);
  const auto place_x = [&](unsigned begin) {
    const unsigned size = units - begin < chunk ? units - begin : chunk,
                   eights = (size + R::kUnits - 1) * kParts * 4;
    const std::int64_t width = rounded ? p.x_stride : p.k;
#pragma unroll 4
    for (unsigned i = thread(); i < x_rows * eights; i += kWarp * kWarps) {
      const unsigned row = i / eights, eight = i % eights;
      const std::int64_t at = (static_cast<std::int64_t>(begin) * kParts * 4 + eight) * 8;
      std::int64_t from_row = mine.first + row;
      if (grouped && p.x_rows != nullptr) from_row = p.x_rows[from_row];
      uint4 values{0, 0, 0, 0};
      if (eight < size * kParts * 4 && at < width) {
        if constexpr (rounded)
          values = load16(p.rounded + from_row * p.x_stride + at);
        else
          values = rounded_eight<kind == Rows::kEven>(p.x + from_row * p.x_stride, at, p.k);
      }
      store16(x_shared + row * pitch + eight * 16, values);
    }
    if constexpr (R::kXScale > 0) {
      for (unsigned i = thread(); i < 8 * size; i += kWarp * kWarps) {
        std::int64_t row = mine.first + i % 8;
        const bool there = i % 8 < x_rows && p.x_scales != nullptr;
        if (grouped && there && p.x_rows != nullptr) row = p.x_rows[row];
        x_scales[i] = there ? p.x_scales[x_scale_at(p, row, begin + i / 8)] : 1.0f;
      }
    }
  };

  // A row that doesn't exist is the last one again: a column of sums that is dropped.
  const std::byte* const x = x_shared + (g < x_rows ? g : x_rows - 1) * pitch + t * 16;
  const float* const bias = bias_of(p, mine.expert);
  unsigned stage = 0;
  for (unsigned turn = 0; turn < turns; ++turn) {
    float sums[kFragments][4] = {};
    for (unsigned begin = 0; begin < units; begin += chunk) {
      if (turn == 0 || chunk < units) {
        if (turn > 0 || begin > 0) sync_threads();
        place_x(begin);
        sync_threads();
      }
      for (Share share = share_of(begin); share.first < share.end; share.first += R::kUnits) {
        copy_async_wait<static_cast<int>(R::kStages) - 2>();
        copy_next((stage + R::kStages - 1) % R::kStages);
        const std::byte* const own = ring + stage * R::kStage;
        stage = (stage + 1) % R::kStages;
#pragma unroll
        for (unsigned b = 0; b < R::kUnits; ++b) {
          uint4 raw[kFragments][2];
#pragma unroll
          for (unsigned f = 0; f < kFragments; ++f)
#pragma unroll
            for (unsigned h = 0; h < 2; ++h)
              raw[f][h] = load16(own + ((b * kFragments + f) * 2 + h) * R::kPiece + lane() * 16);
          float of_group[kFragments][4] = {};
          auto& to = R::kInGroups ? of_group : sums;
#pragma unroll
          for (unsigned part = 0; part < kParts; ++part) {
            const uint4 eight = load16(x + ((share.first + b - begin) * kParts + part) * 64);
#pragma unroll
            for (unsigned f = 0; f < kFragments; ++f) {
              std::uint32_t above[4], below[4];
              Weights<storage>::decode(raw[f][0], part, above);
              Weights<storage>::decode(raw[f][1], part, below);
              multiply_pairs<storage>(to[f], above, below, eight);
            }
          }
          if constexpr (R::kInGroups) {
#pragma unroll
            for (unsigned f = 0; f < kFragments; ++f)
#pragma unroll
              for (unsigned h = 0; h < 2; ++h) {
                const float scale = *reinterpret_cast<const float*>(
                    own + R::kScalesAt + ((b * kFragments + f) * 2 + h) * R::kScale + lane() * 4);
                float of_x[2] = {1, 1};
                if constexpr (R::kXScale > 0) {
                  const float* const at = x_scales + (share.first + b - begin) * 8 + 2 * t;
                  of_x[0] = at[0], of_x[1] = at[1];
                }
                sums[f][2 * h] += of_group[f][2 * h] * (R::kXScale > 0 ? scale * of_x[0] : scale);
                sums[f][2 * h + 1] += of_group[f][2 * h + 1] * (R::kXScale > 0 ? scale * of_x[1] : scale);
              }
          }
        }
      }
    }

    // Two places by turns, so that one barrier is enough.
    float* const of_turn = all_sums + turn % 2 * R::kSums;
    float* const own_sums = of_turn + warp() * 8 * R::kPitch;
#pragma unroll
    for (unsigned f = 0; f < kFragments; ++f)
#pragma unroll
      for (unsigned i = 0; i < 4; ++i)
        own_sums[(2 * t + i % 2) * R::kPitch + 16 * f + i / 2 * 8 + g] = sums[f][i];
    sync_threads();
    const TileRows<8> rows = rows_of(turn);
    const float* const of_team = of_turn + team * k_warps * 8 * R::kPitch;
    for (unsigned i = thread() - team * k_warps * kWarp; i < 8 * kFragments * x_rows; i += k_warps * kWarp) {
      const unsigned at = i / 8 % kFragments * 16 + i % 8, row = i / (8 * kFragments);
      float first = 0, second = 0;
      for (unsigned w = 0; w < k_warps; ++w) {
        const float* const theirs = of_team + (w * 8 + row) * R::kPitch + at;
        first += theirs[0], second += theirs[8];
      }
      if constexpr (storage == Storage::kInt8 || storage == Storage::kFp8) {
        const std::int64_t w_first = rows.at(at), w_second = rows.at(at + 8);
        first *= w_first < 0 ? 1.0f : scales[w_first];
        second *= w_second < 0 ? 1.0f : scales[w_second];
        if constexpr (rounded) {
          if (p.x_scales != nullptr) {
            std::int64_t of = mine.first + row;
            if (grouped && p.x_rows != nullptr) of = p.x_rows[of];
            first *= p.x_scales[of], second *= p.x_scales[of];
          }
        }
      }
      put_both<8, grouped>(p, rows, bias, mine.first + row, at, first, second);
    }
  }
}

// How many warps split k: as many as leave each some steps.
unsigned warps_along(std::int64_t steps, std::int64_t least, unsigned most) {
  unsigned warps = 1;
  while (2 * warps <= most && steps >= 2 * warps * least) warps *= 2;
  return warps;
}

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

template <Storage storage, unsigned kFragments, Rows kind>
void stream(const Product& p, const DeviceProperties& device, Stream& on) {
  using R = Ring<storage, kFragments>;
  constexpr bool grouped = kind == Rows::kGrouped;
  const std::int64_t units = p.row_bytes / kUnitBytes, x_rows = std::min(kStreamRows, p.m);
  const unsigned k_warps = warps_along(units, 2, kWarps);
  // All of x, or as much of it as there is room for.
  const auto x_bytes = [&](std::int64_t of) {
    return x_rows * x_pitch<storage, kFragments>(static_cast<unsigned>(of)) + of * R::kXScale;
  };
  const std::int64_t room = static_cast<std::int64_t>(device.shared_bytes) - R::kShared;
  std::int64_t chunks = 1;
  while (x_bytes(divide_up(units, chunks)) > room && chunks < units) ++chunks;
  const std::int64_t chunk = std::max<std::int64_t>(divide_up(units, chunks), 1);
  const std::size_t shared = R::kShared + static_cast<std::size_t>(x_bytes(chunk));

  constexpr std::size_t kReserved = 1024;  // of a block, by the system
  // Two blocks a multiprocessor, or one.
  const std::int64_t turns = divide_up(p.n, std::int64_t{16} * kFragments * (kWarps / k_warps)),
                     slots = device.multiprocessors *
                             (2 * (shared + kReserved) <= device.shared_bytes + kReserved ? 2 : 1);
  const std::int64_t blocks =
      grouped ? std::clamp(slots / p.tile_count, divide_up(turns, kTurns), turns) : std::min(slots, turns);
  launch(stream_product<storage, kFragments, kind>,
         {.grid = dim3(static_cast<unsigned>(blocks), grouped ? static_cast<unsigned>(p.tile_count) : 1),
          .block = kWarps * kWarp,
          .shared = shared,
          .name = grouped ? "stream_product of experts" : "stream_product"},
         on, p, k_warps, static_cast<unsigned>(chunk));
}

template <Storage storage>
void stream(const Product& p, const DeviceProperties& device, Stream& on) {
  if (p.tiles != nullptr) return stream<storage, 1, Rows::kGrouped>(p, device, on);
  if constexpr (of_8_bits(storage))
    if (p.rounded != nullptr)
      return p.m > 4 ? stream<storage, 2, Rows::kRounded>(p, device, on)
                     : stream<storage, 1, Rows::kRounded>(p, device, on);
  const bool even = reinterpret_cast<std::uintptr_t>(p.x) % 16 == 0 && p.x_stride % 4 == 0 && p.k % 8 == 0;
  // More rows of w a warp where x, which each block reads, is not small beside them.
  if (p.m > 4)
    even ? stream<storage, 2, Rows::kEven>(p, device, on) : stream<storage, 2, Rows::kAny>(p, device, on);
  else
    even ? stream<storage, 1, Rows::kEven>(p, device, on) : stream<storage, 1, Rows::kAny>(p, device, on);
}

// ---- Without tensor cores --------------------------------------------------------------------------------

constexpr unsigned kMostWarps = 16;

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
__global__ void __launch_bounds__(kWarp* kMostWarps) float_stream_product(Product p, unsigned k_warps) {
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

void launch_stream(const Product& p, const DeviceProperties& device, Stream& on) {
  if (p.m <= 0 || p.n <= 0) return;
  switch (p.storage) {
    case Storage::kInt8:
      return stream<Storage::kInt8>(p, device, on);
    case Storage::kInt4:
      return stream<Storage::kInt4>(p, device, on);
    case Storage::kFp8:
      return stream<Storage::kFp8>(p, device, on);
    case Storage::kFp8Block:
      return stream<Storage::kFp8Block>(p, device, on);
    default:
      return stream<Storage::kBf16>(p, device, on);
  }
}

void launch_float_stream(const Product& p, Stream& on) {
  if (p.m <= 0 || p.n <= 0) return;
  p.storage == Storage::kF16 ? float_stream<f16>(p, on) : float_stream<float>(p, on);
}

}  // namespace foretoken::cuda
