// The inner loops of the processor's kernels as a table of functions, one table for each instruction set.
// Their sources are compiled with that set's flags and include nothing with code that other files share.
#pragma once

#include <cstddef>
#include <cstdint>

namespace foretoken {

inline constexpr std::int64_t kPanel = 16;    // columns of a packed panel
inline constexpr std::int64_t kKeyTile = 64;  // keys that attention takes at a time

// A product of rows with panels of one matrix.
struct PanelProduct {
  int storage = 0;               // of Storage
  const std::byte* w = nullptr;  // first panel; the next one is panel_bytes further
  std::size_t panel_bytes = 0;
  const float* scales = nullptr;  // [panel][group][16]; groups: 1 or one a kInt4Group of k
  std::int64_t groups = 0, group_k = 0;
  std::int64_t k = 0;
  const void* x = nullptr;    // rows of floats, or of pairs of bf16 where `bf16_pairs`
  std::int64_t x_stride = 0;  // elements: floats, or pairs
  float* y = nullptr;
  std::int64_t y_stride = 0;
  const float* bias = nullptr;
  bool accumulate = false;
  std::int64_t columns = 0;  // of this call, from the first panel's first
};

struct IsaTable {
  const char* name;
  bool bf16_pairs;  // bf16 products take pairs, rounded by round_pairs(); else rounded floats by
                    // round_floats()
  // rows x panels at once; rows 1, 2, 4, 8 or 12, any number of columns.
  void (*product)(const PanelProduct& p, std::int64_t rows);
  void (*round_pairs)(const float* x, std::int64_t k, std::uint32_t* to);
  void (*round_floats)(const float* x, std::int64_t k, float* to);
  // Dot products of `rows` queries with `count` keys, all of `dim` (a multiple of 16) floats:
  // out[row][kKeyTile].
  void (*scores)(const float* q, std::int64_t rows, std::int64_t dim, const float* keys, std::int64_t count,
                 float* out);
  // One row: weights = exp(scores - largest), their sum added to *total; acc = acc * fade + weights x values.
  void (*attend)(float* scores, std::int64_t count, float largest, float fade, const float* values,
                 std::int64_t dim, float* acc, float* total);
  void (*load_row)(int storage, const std::byte* from, std::int64_t count, float scale, float* to);
  void (*rms_norm)(const float* x, std::int64_t width, float epsilon, const float* weight, float offset,
                   float* y);
  void (*silu_gate)(const float* gate, const float* up, std::int64_t width, float* y);
  void (*add)(const float* x, std::int64_t values, float* y);
};

const IsaTable* avx512_bf16_table();
const IsaTable* avx512_table();
const IsaTable* avx2_table();
const IsaTable* scalar_table();

}  // namespace foretoken
