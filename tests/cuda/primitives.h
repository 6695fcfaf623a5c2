// Kernels that use what executor/cuda/device.cuh offers, one thing each; primitives.cu. All pointers are of
// device memory. Compiled by nvcc and for the emulation.
#pragma once

#include <cstdint>

#include "executor/cuda/runtime.h"

namespace foretoken::cuda {

// One warp: out[8][32] of in[32].
inline constexpr int kShuffles = 8;
void shuffle_lanes(Stream& stream, const int* in, int* out);
void shuffle_doubles(Stream& stream, const double* in, double* out);  // xor 16 of 32 values

// A block of x * y * z threads: out[threads][8] of in[threads].
inline constexpr int kReductions = 8;
void reduce(Stream& stream, unsigned x, unsigned y, unsigned z, const float* in, float* out);

// out[i] = i's block and thread, as the grid says: (block * threads + thread).
void coordinates(Stream& stream, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x, unsigned y,
                 unsigned z, int* out);

// Rounded to a format and back: out[4][count] for bf16, f16, e4m3, int8; packed[4][count] by the pairs and
// fours. count: a multiple of 4.
void round_trip(Stream& stream, const float* in, int count, float* out, float* packed);

// out[8][count]: exp2, exp, log2, 1/x, 1/sqrt(x), tanh of in[count], bits counted, lowest bit.
void fast_functions(Stream& stream, const float* in, int count, float* out);

// d[16][8] += a[16][k] b[8][k]^T. kind: 0 bf16, 1 f16 (k = 16); 2 int8, 3 e4m3 (k = 32; d of int8 is int32).
// from: fragments by the table of device.cuh; by ldmatrix from rows; or (16 bits) b by ldmatrix_trans from
// b[k][8] and a likewise from a[k][16].
enum class Fragments : std::uint8_t { kTable, kMatrices, kTransposed };
void multiply(Stream& stream, int kind, Fragments from, const void* a, const void* b, void* d);

// What every lane gets of four matrices of 8x8 in[4][8][8], pairs in one word: out[12][32], the four words of
// _x4, four of _x4_trans, two of _x2, two of _x2_trans.
void load_matrices(Stream& stream, const std::uint16_t* in, std::uint32_t* out);

// Tiles of x[count] pass through a ring in dynamic shared
// memory by asynchronous copies, y[t] = sum over tiles of x[tile][127 - t]. What lies beyond count is zero.
void sum_tiles(Stream& stream, const float* x, int count, float* y);

// out[0] += 1 a thread, out[1] = largest thread, out[2] = smallest, out[3] |= bits, out[4]: successful
// exchanges of a lock-like cas; sum[0] += value of each thread.
void count_atomically(Stream& stream, int blocks, int threads, int* out, float* sum);

// x[i] = 2 x[i] + add, overlapping with what comes before.
void double_and_add(Stream& stream, float* x, int count, float add);

// out[0] = bytes of shared memory that are 0xFF when a block starts; what the block writes there is read back
// reversed: out[1 + i] = i-th float from the end.
void fill_shared(Stream& stream, int floats, float* out);

// y[0] = sum of x[count] by streaming and plain loads of 16 and 8 bytes; count a multiple of 4.
void load_vectors(Stream& stream, const float* x, int count, float* y);

}  // namespace foretoken::cuda
