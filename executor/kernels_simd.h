// The hot loops of the processor's own kernels as a table of plain functions: one table an instruction set,
// each compiled from kernels_simd_loops.h with its own flags. Only plain data crosses this border, and the
// files behind it instantiate nothing that the linker could share with code for older processors.
//
// Packed matrices: tiles of 16 outputs. kF32: [tile][k][16]; others: [tile][k/2][16][2], k padded with zeros
// to whole vectors of 64 bytes. kInt4 has words of 16 bits, [tile][k/8][16][2], that hold four steps of k/2
// each, the first lowest. Scales come first: kInt8, kFp8 [tile][16], kInt4, kFp8Block [tile][group][16].
#pragma once

#include "executor/kernels.h"

namespace foretoken {

inline constexpr std::int64_t kTile = 16;      // outputs
inline constexpr std::int64_t kPanel = 64;     // outputs of a task
inline constexpr std::int64_t kRowBlock = 96;  // rows that share an unpacked panel
inline constexpr std::int64_t kKeyTile = 64;   // keys from position 0; decides attention's summation order
inline constexpr std::int64_t kQueries = 96;   // queries (row and head) of a task of attention
inline constexpr std::int64_t kFew = 8;        // queries that share a key in decoding

struct GemmTask {
  Storage storage = Storage::kF32;
  std::int64_t tiles = 0, k = 0;        // tiles: of this task, at most kPanel / kTile
  const std::byte* elements = nullptr;  // of the task's first tile
  std::int64_t tile_bytes = 0;          // of elements
  const float* scales = nullptr;        // of the first tile
  const float* x_scales = nullptr;      // [row of x][group]; null: ones (8 bits alone have others)
  const void* x = nullptr;              // as round_rows leaves it; float for kF32 and kF16
  std::int64_t x_stride = 0, rows = 0;  // stride in 4-byte units
  const float* bias = nullptr;
  bool accumulate = false;
  float* y = nullptr;
  std::int64_t y_stride = 0, columns = 0;  // columns: those of the task that exist
};

struct AttendTask {
  const AttentionArgs* args = nullptr;
  const CacheLayer* cache = nullptr;
  const SequenceRows* sequence = nullptr;
  // `heads` query heads from first_head on share cache_head; the next `heads` share the next one, and so on.
  std::int64_t cache_head = 0, cache_heads = 1, first_row = 0, rows = 0, first_head = 0, heads = 0;
  const float* q = nullptr;
  float* out = nullptr;
  std::int64_t q_stride = 0, out_stride = 0;
  float* scratch = nullptr;
};

struct SimdOps {
  const char* name = nullptr;
  // 4-byte units a row of x takes once rounded to bf16: two values in one, or each as a float.
  std::int64_t (*rounded_stride)(std::int64_t k) = nullptr;
  void (*round_rows)(const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t k,
                     void* out) = nullptr;
  void (*gemm)(const GemmTask& task) = nullptr;
  void (*attend)(const AttendTask& task) = nullptr;
  void (*norm)(const NormArgs& args, const float* x, std::int64_t x_stride, std::int64_t rows,
               std::int64_t width, float* y, std::int64_t y_stride) = nullptr;
  // All but kGelu.
  void (*activation)(const ActivationArgs& args, const float* x, std::int64_t rows, std::int64_t width,
                     float* y) = nullptr;
  // The largest of x, and the sum of exp(x - largest) where it is finite.
  void (*exponentials)(const float* x, std::int64_t count, float* largest, float* sum) = nullptr;
};

// Floats that attend() needs for itself. Dims are padded to what a vector of bf16 holds.
inline constexpr std::int64_t kAttendPad = 32;
inline constexpr std::int64_t attend_floats(std::int64_t qk_dim, std::int64_t v_dim) {
  const std::int64_t d = (qk_dim + kAttendPad - 1) / kAttendPad * kAttendPad,
                     v = (v_dim + kAttendPad - 1) / kAttendPad * kAttendPad;
  return (d + v) * kKeyTile + kQueries * (kKeyTile + v + d + kTile + 1);
}

#if defined(__x86_64__)
extern const SimdOps kAvx512Bf16Ops, kAvx512Ops, kAvx2Ops;
#endif
extern const SimdOps kScalarOps;

}  // namespace foretoken
