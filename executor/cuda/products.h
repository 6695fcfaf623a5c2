// Between the files that multiply matrices: which kernel takes a product, and what it is given.
#pragma once

#include <cstddef>
#include <cstdint>

#include "executor/cuda/packed.h"
#include "executor/cuda/runtime.h"
#include "executor/kernels.h"

namespace foretoken::cuda {

// How a product is made. kStream and kTiles multiply on tensor cores, x rounded to bf16 or, by weights of
// f16, split in two of f16; the float ones multiply float32.
//   kStream, kFloatStream  few rows: weights go from memory straight to registers (small_products.cu)
//   kTiles                 tiles in shared memory (tile_products.cu)
//   kCublas                cuBLASLt, or kTiles where that won't or takes longer
//   kExpand                the same with weights of 8 bits, made bf16 in memory before, and scaled sums
//   kFloatTiles            tiles in shared memory (float_products.cu)
//   kQuantised             x of 8 bits too: cuBLASLt's products of these, or what the rows would take else
// A quantised x (Matrix) has the same numbers on every path: bf16 holds each exactly before its scale, so it
// goes through the others as rounded rows with scales.
enum class Path : std::uint8_t { kStream, kTiles, kCublas, kExpand, kFloatStream, kFloatTiles, kQuantised };
inline constexpr std::int64_t kStreamRows = 8;    // most rows of the streams
inline constexpr std::int64_t kExpandRows = 256;  // fewest of kExpand

Path choose_path(Storage storage, std::int64_t m, std::int64_t n, std::int64_t k, bool quantised_x = false);

// Rows [first, first + rows) of the product are by the matrix of one expert; no rows: of none.
struct ExpertTile {
  std::int32_t expert = 0, first = 0, rows = 0, unused = 0;
};

// What a kernel takes: y = x w^T (+ bias) (+ y). Pointers are the device's.
struct Product {
  Storage storage = Storage::kF32;
  const std::byte* elements = nullptr;  // packed.h
  const float* scales = nullptr;
  std::int64_t n = 0, k = 0, row_bytes = 0, scale_stride = 0;
  // x as float32, or as launch_round() leaves it: x_stride is rounded_stride() then.
  const float* x = nullptr;
  const std::uint16_t* rounded = nullptr;
  // Of split and of quantised rows: what their products are multiplied by; null for others. Of kFp8Block
  // [group][row], x_scale_stride from group to group.
  const float* x_scales = nullptr;
  std::int64_t x_scale_stride = 0;
  bool quantised_x = false;
  bool one_scale = false, one_x_scale = false;  // as of Matrix: each scale of the rows is the same one
  float x_scale = 0;
  const std::byte* quantised = nullptr;  // x as a QuantisedForm has it, x_scales behind it; null: x is floats
  bool x_in_bytes = false;           // `rounded` is bytes as launch_quantise() leaves them (takes_bytes())
  std::int64_t x_stride = 0, m = 0;  // strides in elements
  const std::int32_t* x_rows = nullptr;  // which row of x each row takes; null: its own
  const float* bias = nullptr;
  bool accumulate = false;
  float* y = nullptr;
  std::int64_t y_stride = 0;

  // Of experts: m rows at most, and which of them are whose; matrices (and biases) are expert_stride bytes
  // apart.
  const ExpertTile* tiles = nullptr;
  std::int64_t tile_count = 0, tile_rows = 0;
  std::int64_t expert_stride = 0;
  // What becomes of the product, of experts alone: y, or where that is null rounded_y (bf16, padded as
  // `rounded` is), gets act(product); gated, rows of w [0, n / 2) are gates and the others what they gate.
  bool activated = false;
  ActivationArgs activation;
  std::uint16_t* rounded_y = nullptr;
  bool warpgroups = false;  // multiply (warpgroup.cuh)

  // Of kTiles and kFloatTiles: k in `splits` parts, whose sums lie in `partial` until the last part adds them
  // up.
  int splits = 1;
  float* partial = nullptr;
};

Product product_of(const Matrix& w);

// Rows of a tile for m rows.
std::int64_t tile_rows_for(std::int64_t m);
// In how many parts k is split where there are `tiles` tiles of `k_tiles` steps, and `places` for blocks that
// run at a time.
int splits_for(std::int64_t tiles, std::int64_t k_tiles, int places);
// Bytes for `partial` at up to m rows.
std::size_t partial_bytes(std::int64_t m, int multiprocessors);

// The launches. Empty products launch nothing.
void launch_stream(const Product& product, const DeviceProperties& device, Stream& stream);
void launch_float_stream(const Product& product, Stream& stream);
void launch_tiles(Product product, const DeviceProperties& device, Stream& stream);
void launch_float_tiles(Product product, const DeviceProperties& device, Stream& stream);
// Whether launch_tiles() wants a quantised x as bytes, x_stride being half of their row_bytes.
bool takes_bytes(const Product& product, const DeviceProperties& device);
// Elements of a row of x as the tensor cores take it: bf16, padded with zeros to a multiple of 8; or for
// weights of f16 split in two of them, the second what the first leaves, 32 and 32 by turns. Split rows are
// scaled so that neither is out of range.
constexpr std::int64_t rounded_stride(Storage storage, std::int64_t k) {
  return storage == Storage::kF16 ? (k + 31) / 32 * 64 : (k + 7) / 8 * 8;
}
// scales: of split rows. count: where the device has the number of rows; null: all are there.
void launch_round(Storage storage, const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t k,
                  std::uint16_t* to, float* scales, const std::int32_t* count, Stream& stream);

// Weights of 8 bits as bf16 without their scales, in rows of row_bytes elements; and what is left to do of
// their product, y = scales x y + bias.
void launch_expand(const Product& product, std::uint16_t* to, Stream& stream);
// y = (x_scales x) scales x sums + bias, in place. integers: the sums are of int32.
void launch_scale(const Product& product, float* y, std::int64_t y_stride, Stream& stream,
                  bool integers = false);

// Rows of x quantised to 8 bits, as quantise_row() has them: as bf16 in rows of rounded_stride(), or as bytes
// in the order of packed rows (packed.h), in rows of PackedLayout::row_bytes. scales: one a row; of kFp8Block
// [group][rows]. count: as above.
// one: of kFp8, all rows have the scale of one, which is known before, or found in what lies behind the
// scales: memory for another one (then all rows are there).
struct OneScale {
  bool is = false;
  float scale = 0;  // 0: to be found
};
void launch_quantise(Storage storage, const float* x, std::int64_t x_stride, std::int64_t rows,
                     std::int64_t k, std::uint16_t* to, float* scales, const std::int32_t* count,
                     Stream& stream, OneScale one = {});
void launch_quantise(Storage storage, const float* x, std::int64_t x_stride, std::int64_t rows,
                     std::int64_t k, std::byte* to, float* scales, const std::int32_t* count, Stream& stream,
                     OneScale one = {});
// Rows as the kernels that make them leave them quantised (Kernels::quantised_bytes()): as launch_quantise()
// does, in bf16 for the streams and in bytes for more rows, with their scales behind them; as floats where a
// row is not of fours, or too long to be held by a block.
struct QuantisedForm {
  QuantisedForm(Storage format, std::int64_t rows, std::int64_t width);
  bool floats = false, bytes = false;
  std::int64_t row_bytes = 0, scales_at = 0, size = 0;
};

// Rows of x for launch_tiles() in the form that it takes, and what the product says of them; to: memory for
// rows of row_bytes elements.
void quantise_for_tiles(Product& product, const float* x, std::int64_t x_stride, std::int64_t rows,
                        std::uint16_t* to, float* scales, const std::int32_t* count,
                        const DeviceProperties& device, Stream& stream);

// A product by a path; scratch: product_scratch(...) bytes.
void run_product(Path path, Product product, std::byte* scratch, const DeviceProperties& device,
                 Stream& stream);
std::size_t product_scratch(Storage storage, std::int64_t n, std::int64_t k, std::int64_t m,
                            int multiprocessors, bool quantised_x = false);

}  // namespace foretoken::cuda
