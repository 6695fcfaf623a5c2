// What the kernels of matrix products share: weights as pairs of bf16, rows of w in tiles, and what becomes
// of a sum.
#pragma once

#include "executor/cuda/device.cuh"
#include "executor/cuda/products.h"

namespace foretoken::cuda {

// ---- Weights as fragments of mma_bf16_16816 --------------------------------------------------------------
//
// A lane's 16 bytes of a unit (packed.h) have kParts parts of 8 elements, those at the 8 neighbours of x at
// 8 (lane % 4 + 4 part) of the unit. decode() makes the four pairs of one part. f16 has two because x has:
// both are multiplied by the same weights.

template <Storage storage>
struct Weights;

template <>
struct Weights<Storage::kBf16> {
  static constexpr unsigned kParts = 1;
  static FORETOKEN_DEVICE void decode(const uint4& raw, unsigned, std::uint32_t (&pairs)[4]) {
    pairs[0] = raw.x, pairs[1] = raw.y, pairs[2] = raw.z, pairs[3] = raw.w;
  }
};

template <>
struct Weights<Storage::kF16> {
  static constexpr unsigned kParts = 2;
  static FORETOKEN_DEVICE void decode(const uint4& raw, unsigned, std::uint32_t (&pairs)[4]) {
    pairs[0] = raw.x, pairs[1] = raw.y, pairs[2] = raw.z, pairs[3] = raw.w;
  }
};

// Which of a matrix's scales is that of a row in a unit.
template <Storage storage>
FORETOKEN_DEVICE std::int64_t scale_at(const Product& p, std::int64_t row, std::int64_t unit) {
  if constexpr (storage == Storage::kInt4) return unit * p.scale_stride + row;
  if constexpr (storage == Storage::kFp8Block) return row / kScaleGroup * p.scale_stride + unit / 2;
  return row;
}
// And of row `row` of x, where its groups have scales.
FORETOKEN_DEVICE std::int64_t x_scale_at(const Product& p, std::int64_t row, std::int64_t unit) {
  return unit / 2 * p.x_scale_stride + row;
}

// Numbers of 7 bits stand in the fraction of bf16 between 128 and 256, where neighbours are 1 apart; the sign
// makes 128 or 256 of what is subtracted.
template <>
struct Weights<Storage::kInt8> {
  static constexpr unsigned kParts = 2;
  static FORETOKEN_DEVICE std::uint32_t pair(std::uint32_t bytes) {  // of bits 0-7 and 16-23
    return fma_bf16x2(and_or(bytes, 0x007f007fu, 0x43004300u), 0x3f803f80u,
                      and_or(bytes, 0x00800080u, 0xc300c300u));
  }
  static FORETOKEN_DEVICE void decode(const uint4& raw, unsigned part, std::uint32_t (&pairs)[4]) {
    const std::uint32_t low = part == 0 ? raw.x : raw.z, high = part == 0 ? raw.y : raw.w;
    pairs[0] = pair(low), pairs[1] = pair(low >> 8), pairs[2] = pair(high), pairs[3] = pair(high >> 8);
  }
};

// Exponent and fraction moved to where bf16 has them, whose exponents are 120 larger. (NaN becomes 480.)
template <>
struct Weights<Storage::kFp8> {
  static constexpr unsigned kParts = 2;
  static FORETOKEN_DEVICE std::uint32_t pair(std::uint32_t bytes) {  // of bits 8-15 and 24-31
    return fma_bf16x2(and_or(bytes, 0x80008000u, (bytes >> 4) & 0x07f007f0u), 0x7b807b80u, 0x80008000u);
  }
  static FORETOKEN_DEVICE void decode(const uint4& raw, unsigned part, std::uint32_t (&pairs)[4]) {
    const std::uint32_t low = part == 0 ? raw.x : raw.z, high = part == 0 ? raw.y : raw.w;
    pairs[0] = pair(low << 8), pairs[1] = pair(low), pairs[2] = pair(high << 8), pairs[3] = pair(high);
  }
};

template <>
struct Weights<Storage::kFp8Block> : Weights<Storage::kFp8> {};

// As for 8 bits, with the sign's bit turned around: 136 + the number.
template <>
struct Weights<Storage::kInt4> {
  static constexpr unsigned kParts = 4;
  static FORETOKEN_DEVICE std::uint32_t pair(std::uint32_t nibbles) {  // of bits 0-3 and 16-19
    return fma_bf16x2(and_xor(nibbles, 0x000f000fu, 0x43084308u), 0x3f803f80u, 0xc308c308u);
  }
  static FORETOKEN_DEVICE void decode(const uint4& raw, unsigned part, std::uint32_t (&pairs)[4]) {
    const std::uint32_t word = part == 0 ? raw.x : part == 1 ? raw.y : part == 2 ? raw.z : raw.w;
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) pairs[i] = pair(word >> (4 * i));
  }
};

template <Storage storage>
FORETOKEN_DEVICE void multiply_add(float (&d)[4], const std::uint32_t (&w)[4], const std::uint32_t (&x)[2]) {
  if constexpr (storage == Storage::kF16)
    mma_f16_16816(d, w, x);
  else
    mma_bf16_16816(d, w, x);
}

// d += w x^T over the 8 neighbours of k in each of four lanes: w of rows g and g + 8, x of row g.
template <Storage storage>
FORETOKEN_DEVICE void multiply_pairs(float (&d)[4], const std::uint32_t (&w)[4],
                                     const std::uint32_t (&w_below)[4], const uint4& x) {
  const std::uint32_t first[4] = {w[0], w_below[0], w[1], w_below[1]}, x_first[2] = {x.x, x.y};
  const std::uint32_t second[4] = {w[2], w_below[2], w[3], w_below[3]}, x_second[2] = {x.z, x.w};
  multiply_add<storage>(d, first, x_first);
  multiply_add<storage>(d, second, x_second);
}

// 8 neighbours of x from `at` on; zeros from k on. even: all 8 are there, and aligned.
template <bool even>
FORETOKEN_DEVICE void load_eight(const float* row, std::int64_t at, std::int64_t k, float (&x)[8]) {
  if constexpr (even) {
    const uint4 low = load16(row + at), high = load16(row + at + 4);
    x[0] = as_float(low.x), x[1] = as_float(low.y), x[2] = as_float(low.z), x[3] = as_float(low.w);
    x[4] = as_float(high.x), x[5] = as_float(high.y), x[6] = as_float(high.z), x[7] = as_float(high.w);
  } else {
#pragma unroll
    for (unsigned i = 0; i < 8; ++i) x[i] = at + i < k ? row[at + i] : 0.0f;
  }
}
// The same as pairs of bf16.
template <bool even>
FORETOKEN_DEVICE uint4 rounded_eight(const float* row, std::int64_t at, std::int64_t k) {
  float x[8];
  load_eight<even>(row, at, k, x);
  return {pack_bf16x2(x[0], x[1]), pack_bf16x2(x[2], x[3]), pack_bf16x2(x[4], x[5]), pack_bf16x2(x[6], x[7])};
}

// ---- Rows ------------------------------------------------------------------------------------------------

// Which row of w stands at `row` of the tile that begins at row `begin` of all tiles. Of a gated product a
// gate and what it gates are `half` rows apart in every 2 x half of the tile, so that the lane that gets the
// one gets the other.
template <unsigned half>
struct TileRows {
  std::int64_t begin, n, gates;  // gates: n / 2; 0: not gated
  FORETOKEN_DEVICE TileRows(const Product& p, std::int64_t first)
      : begin(first), n(p.n), gates(p.activated && p.activation.gated ? p.n / 2 : 0) {}
  // -1: none.
  FORETOKEN_DEVICE std::int64_t at(unsigned row) const {
    if (gates == 0) return begin + row < n ? begin + row : -1;
    const std::int64_t gate = column(row);
    return gate >= gates ? -1 : row / half % 2 == 0 ? gate : gate + gates;
  }
  // The column of the activated product that a gate is for.
  FORETOKEN_DEVICE std::int64_t column(unsigned row) const {
    return begin / 2 + row / (2 * half) * half + row % half;
  }
};

// ---- Sums of parts of k ----------------------------------------------------------------------------------

// The parts of a tile meet: every block leaves its sums (`kCount` fours a thread) at `parts`, and the one
// that is done last gets all, added in the order of the parts; false for the others. done: how many are, set
// back by the last. shared: a word. kThreads: of the block.
template <unsigned kThreads, unsigned kCount>
FORETOKEN_DEVICE bool join_parts(float (&sums)[kCount][4], float* parts, unsigned part, unsigned count,
                                 unsigned* done, unsigned* shared) {
  const auto place = [&](unsigned of, unsigned i) {
    return parts + (static_cast<std::int64_t>(of) * kCount * kThreads + thread()) * 4 + i * kThreads * 4;
  };
#pragma unroll
  for (unsigned i = 0; i < kCount; ++i)
    store16(place(part, i),
            {as_bits(sums[i][0]), as_bits(sums[i][1]), as_bits(sums[i][2]), as_bits(sums[i][3])});
  thread_fence();
  sync_threads();
  if (thread() == 0) *shared = atomic_add(done, 1u);
  sync_threads();
  if (*shared != count - 1) return false;
  if (thread() == 0) *done = 0;
  thread_fence();
#pragma unroll
  for (unsigned i = 0; i < kCount; ++i)
#pragma unroll
    for (unsigned c = 0; c < 4; ++c) sums[i][c] = 0;
  // 16 loads wait together.
  constexpr unsigned kAtOnce = kCount < 16 ? kCount : 16;
  [[maybe_unused]] constexpr unsigned kParts = 16 / kAtOnce;
  static_assert(kCount % kAtOnce == 0);
#pragma unroll
  for (unsigned first = 0; first < kCount; first += kAtOnce)
#pragma unroll kParts
    for (unsigned of = 0; of < count; ++of)
#pragma unroll
      for (unsigned i = first; i < first + kAtOnce; ++i) {
        const uint4 words = load16(place(of, i));
        sums[i][0] += as_float(words.x), sums[i][1] += as_float(words.y);
        sums[i][2] += as_float(words.z), sums[i][3] += as_float(words.w);
      }
  return true;
}

// ---- What becomes of a sum -------------------------------------------------------------------------------

FORETOKEN_DEVICE float activate(const ActivationArgs& args, float gate, float up) {
  switch (args.kind) {
    case Activation::kSilu:
      return gate / (1 + expf(-gate)) * up;
    case Activation::kGelu:
      return gate * (0.5f * (1 + erff(gate * 0.70710678118654752440f))) * up;
    case Activation::kGeluTanh:
      return gate * (0.5f * (1 + tanhf(0.79788456080286535588f * (gate + 0.044715f * gate * gate * gate)))) *
             up;
    case Activation::kRelu:
      return fmaxf(gate, 0.0f) * up;
    case Activation::kReluSquared:
      gate = fmaxf(gate, 0.0f);
      return gate * gate * up;
    case Activation::kClampedSwiglu:
      gate = fminf(gate, args.limit);
      return gate / (1 + expf(-args.alpha * gate)) * (fminf(fmaxf(up, -args.limit), args.limit) + 1);
  }
  return 0;
}

FORETOKEN_DEVICE ExpertTile tile_at(const Product& p, std::int64_t i) {
  const uint4 words = load16(p.tiles + i);
  return {static_cast<std::int32_t>(words.x), static_cast<std::int32_t>(words.y),
          static_cast<std::int32_t>(words.z), 0};
}

// A product's bias of the expert that a block works for; null: none.
FORETOKEN_DEVICE const float* bias_of(const Product& p, std::int32_t expert) {
  return p.bias == nullptr ? nullptr : p.bias + expert * (p.expert_stride / 4);
}

FORETOKEN_DEVICE void put(const Product& p, const float* bias, std::int64_t row, std::int64_t column,
                          float sum) {
  if (bias != nullptr) sum += bias[column];
  float* const to = p.y + row * p.y_stride + column;
  *to = p.accumulate ? *to + sum : sum;
}

// The padding of rounded rows is written too: columns from `width` on get zeros.
FORETOKEN_DEVICE void put_activated(const Product& p, std::int64_t width, std::int64_t row,
                                    std::int64_t column, float value) {
  if (p.y != nullptr) {
    if (column < width) p.y[row * p.y_stride + column] = value;
  } else if (column < p.y_stride) {
    p.rounded_y[row * p.y_stride + column] =
        column < width ? static_cast<std::uint16_t>(pack_bf16x2(value, 0)) : std::uint16_t{0};
  }
}

// Two sums of a lane that belong together where the product is gated: at rows `at` and `at + half` of a tile
// (at / half % 2 == 0), for row `row` of y, before the bias. experts: it may be activated.
template <unsigned half, bool experts>
FORETOKEN_DEVICE void put_both(const Product& p, const TileRows<half>& rows, const float* bias,
                               std::int64_t row, unsigned at, float first, float second) {
  const std::int64_t w_first = rows.at(at), w_second = rows.at(at + half);
  if (!experts || !p.activated) {
    if (w_first >= 0) put(p, bias, row, w_first, first);
    if (w_second >= 0) put(p, bias, row, w_second, second);
    return;
  }
  if (bias != nullptr) {
    if (w_first >= 0) first += bias[w_first];
    if (w_second >= 0) second += bias[w_second];
  }
  if (rows.gates > 0) {
    put_activated(p, rows.gates, row, rows.column(at), activate(p.activation, first, second));
  } else {
    put_activated(p, p.n, row, rows.begin + at, activate(p.activation, first, 1));
    put_activated(p, p.n, row, rows.begin + at + half, activate(p.activation, second, 1));
  }
}

}  // namespace foretoken::cuda
