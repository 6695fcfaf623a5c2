// What the attention kernels that multiply bf16 share: rows of q on their way to shared memory, and where
// lanes find their parts of mma_bf16_16816's operands.
#pragma once

#include "executor/cuda/attention_device.cuh"

namespace foretoken::cuda {

FORETOKEN_DEVICE float4 unpack_four(std::uint32_t four, std::int8_t) { return unpack_int8x4(four); }
FORETOKEN_DEVICE float4 unpack_four(std::uint32_t four, e4m3) { return unpack_e4m3x4(four); }

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

// Rounds the tile's rows of q to bf16 and writes them by at(row, dim): where four from dim on lie, 8 bytes.
// 8-bit keys are multiplied four dims a lane at a time, where mma means two pairs that lie 8 apart: for them
// q's dims change places within each 16 (ByFours).
template <int Rows, int K, bool ByFours, class At>
FORETOKEN_DEVICE void load_queries(const AttentionParams& p, const Item& item, At at) {
  for (int i = static_cast<int>(thread()); i < Rows * (K / 4); i += static_cast<int>(threads())) {
    const int row = i / (K / 4), dim = i % (K / 4) * 4;
    const float4 x = load_query(p, item, row, dim);
    const std::uint32_t low = pack_bf16x2(x.x, x.y), high = pack_bf16x2(x.z, x.w);
    if constexpr (ByFours) {
      const int first = dim / 16 * 16 + dim % 16 / 2;
      *reinterpret_cast<std::uint32_t*>(at(row, first)) = low;
      *reinterpret_cast<std::uint32_t*>(at(row, first + 8)) = high;
    } else {
      store8(at(row, dim), make_uint2(low, high));
    }
  }
}

}  // namespace foretoken::cuda
