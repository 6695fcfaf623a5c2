// Matrix products of a warpgroup: 128 threads whose tensor cores multiply what lies in shared memory, while
// their registers do something else (compute capability 9.0: wgmma of the PTX ISA). Beside device.cuh, with
// its rules; a warpgroup function is called by the 4 warps of threads [128 i, 128 i + 128).
//
// An operand is 16-bit numbers in panels of 64 a row, 128 bytes, 1,024-aligned, whose pieces of 16 bytes
// change places: piece p of row r lies at p ^ (r % 8). swizzled(row, piece) says where.
//   RowsOperand      k runs along the rows: the next 16 of k lie 32 bytes on (advanced()), those of the next
//                    panel at its beginning. Rows are of a (64 of them) or columns of the product.
//   ColumnsOperand   k runs down the rows, 16 of them a product, so begins at a multiple of 8 rows; columns
//   of
//                    the product run along them and over to the next panels.
// A product is d[64, N] (+)= a[64, 16] b[16, N] in float32; d lies as that of mma with 16 rows a warp: with
// w = warp % 4, d[4 j + e] is row 16 w + g + 8 (e / 2), column 8 j + 2 t + e % 2.
//
// product_e4m3: numbers of 8 bits (e4m3), 128 a row of a panel, rows alone; 32 of k a product, which lie 32
// bytes on too. Its sums are of fewer bits than float32 has (some 14): not more than 128 along k are added up
// so.
// product_s8: likewise of int8, whose sums are exact in int32.
//
// products_begin() before the first product that reads registers (d, a) written otherwise; products of a d
// follow one another without more. products_commit() makes those since the last one a group;
// products_wait<N>() waits until at most the N newest groups are under way: until then nobody touches their
// d, their a, or what they read of shared memory. What threads wrote to shared memory, asynchronous copies
// too (after their wait), products see after show_to_products() in the thread that wrote, and a barrier.
// Emulated, products happen at the wait, and d is NaN (of int32: the lowest) until then.
#pragma once

#include "executor/cuda/device.cuh"

namespace foretoken::cuda {

inline constexpr int kPanelColumns = 64, kPanelRow = 128;  // numbers, bytes
inline constexpr unsigned kPanelAlignment = 1024;

// The first address for panels from `shared` on, at most 1,023 bytes further.
FORETOKEN_DEVICE std::byte* aligned_panels(std::byte* shared) {
  return shared + (0 - reinterpret_cast<std::uintptr_t>(shared)) % kPanelAlignment;
}
FORETOKEN_DEVICE int swizzled(int row, int piece) { return row * kPanelRow + (piece ^ (row & 7)) * 16; }

struct RowsOperand;
struct ColumnsOperand;

FORETOKEN_DEVICE void products_begin();
FORETOKEN_DEVICE void products_commit();
template <int N>
FORETOKEN_DEVICE void products_wait();
FORETOKEN_DEVICE void show_to_products();

// N: 32, 64, 128 or 256. add: to what d holds; else that counts for nothing.
template <int N, class B>
FORETOKEN_DEVICE void product_bf16(float (&d)[N / 2], RowsOperand a, B b, bool add);
// a from registers, as mma_bf16_16816 has it of the warp's 16 rows.
template <int N, class B>
FORETOKEN_DEVICE void product_bf16(float (&d)[N / 2], const std::uint32_t (&a)[4], B b, bool add);
// N: 128.
template <int N>
FORETOKEN_DEVICE void product_e4m3(float (&d)[N / 2], RowsOperand a, RowsOperand b, bool add);
template <int N>
FORETOKEN_DEVICE void product_s8(std::int32_t (&d)[N / 2], RowsOperand a, RowsOperand b, bool add);
// After the wait for the last of d's products: nothing that is made of d is made before.
template <int N>
FORETOKEN_DEVICE void products_end(std::int32_t (&d)[N]);

}  // namespace foretoken::cuda

#ifdef FORETOKEN_EMULATED
#include "executor/cuda/device_warpgroup_emulated.h"
#else
#include "executor/cuda/device_warpgroup_cuda.cuh"
#endif
