// What the attention kernels that multiply bf16 share: rows of q on their way to shared memory, and where
// lanes find their parts of mma_bf16_16816's operands.
#pragma once

#include "executor/cuda/attention_device.cuh"
#include "executor/cuda/product_parts.cuh"

namespace foretoken::cuda {

FORETOKEN_DEVICE float4 unpack_four(std::uint32_t four, std::int8_t) { return unpack_int8x4(four); }
FORETOKEN_DEVICE float4 unpack_four(std::uint32_t four, e4m3) { return unpack_e4m3x4(four); }

// The same as pairs of bf16, the first and third and the second and fourth, without the slow conversions.
FORETOKEN_DEVICE uint2 widen_four(std::uint32_t four, std::int8_t) {
  return {Weights<Storage::kInt8>::pair(four), Weights<Storage::kInt8>::pair(four >> 8)};
}
FORETOKEN_DEVICE uint2 widen_four(std::uint32_t four, e4m3) {
  return {Weights<Storage::kFp8>::pair(four << 8), Weights<Storage::kFp8>::pair(four)};
}

// Where the address of the lane's row lies for ldmatrix_x4: of the operand a (16 rows, 16 columns in two
// halves of 8) and of b as it lies in memory (16 rows that are columns of the product). Transposed, a's are
// those of b whose rows are the sum's index: 16 of them by 16 columns of the product.
struct LaneRow {
  int row, half;
};
FORETOKEN_DEVICE LaneRow lane_of_a() {
  return {static_cast<int>(lane() % 16), static_cast<int>(lane() / 16)};
}
FORETOKEN_DEVICE LaneRow lane_of_b() {
  return {static_cast<int>(lane() / 16 * 8 + lane() % 8), static_cast<int>(lane() / 8 % 2)};
}

// Starts to copy piece `piece` of 16 bytes of a row of the cache, or zeros: beyond the sequence and the row.
FORETOKEN_DEVICE void copy_piece(const std::byte* cache, int row_bytes, unsigned slot, int piece,
                                 std::byte* to) {
  const bool valid = slot != kNoSlot && piece * 16 < row_bytes;
  const std::uint64_t row = std::uint64_t{valid ? slot : 0} * static_cast<unsigned>(row_bytes);
  copy_async16(to, cache + piece * 16 + row, valid);
}

// Writes a row of 8 N dims from `first` on, of which the four lanes of a group have two in eight each: at(n).
template <int N, class At>
FORETOKEN_DEVICE void store_row(const Destination& to, int first, int dims, At at) {
  const int own = first + static_cast<int>(lane() % 4) * 2;
  if (to.vectors) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float2 x = at(n);
      if (own + n * 8 < dims)
        *reinterpret_cast<float2*>(to.row + own + n * 8) = make_float2(x.x * to.factor, x.y * to.factor);
    }
    return;
  }
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float2 x = at(n);
    if (own + n * 8 < dims) to.row[own + n * 8] = x.x * to.factor;
    if (own + n * 8 + 1 < dims) to.row[own + n * 8 + 1] = x.y * to.factor;
  }
}

// Rounds the tile's rows of q to bf16 and writes them by at(row, dim): where four from dim on lie, 8 bytes.
// 8-bit keys are multiplied four dims a lane at a time, as widen_four() gives them, where mma means two pairs
// that lie 8 apart: for them q's dims change places within each 16 (ByFours).
template <int Rows, int K, int Threads, bool ByFours, class At>
FORETOKEN_DEVICE void load_queries(const AttentionParams& p, const Item& item, At at) {
  for_queries<Rows, Threads>(p, item, std::integral_constant<int, K>{}, [&](int row, int dim, float4 x) {
    if constexpr (ByFours) {
      const int first = dim / 16 * 16 + dim % 16 / 2;
      *reinterpret_cast<std::uint32_t*>(at(row, first)) = pack_bf16x2(x.x, x.z);
      *reinterpret_cast<std::uint32_t*>(at(row, first + 8)) = pack_bf16x2(x.y, x.w);
    } else {
      store8(at(row, dim), make_uint2(pack_bf16x2(x.x, x.y), pack_bf16x2(x.z, x.w)));
    }
  });
}

}  // namespace foretoken::cuda
