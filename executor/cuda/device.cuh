// All that a CUDA kernel may use. nvcc compiles it to the real instructions; with FORETOKEN_EMULATED g++
// compiles the same kernels as plain C++ that runs on the emulated execution model of emulation.h, so that
// every kernel is tested without a GPU. Inline PTX, CUDA intrinsics and #if on either stand in
// device_cuda.cuh, device_emulated.h and block_scan.cuh alone, never in a kernel.
//
// Kernels live in namespace foretoken::cuda and may use, by their CUDA names: __global__, __device__,
// __forceinline__, __launch_bounds__, __restrict__, __shared__ (static arrays; alignas stands before it),
// __grid_constant__, threadIdx, blockIdx, blockDim, gridDim, uint2, uint4, float2, float4, #pragma unroll;
// and of the C library what has the same name in both worlds: expf, exp2f, logf, log1pf, tanhf, sqrtf, fmaf,
// fmaxf, fminf, fabsf, floorf, rintf, erff, sinf, cosf and their doubles, INFINITY.
//
// Three rules, which the emulation holds kernels to:
//  - A warp function (sync_warp, shuffles, votes, warp_*, mma, ldmatrix) is called by all 32 lanes, a block
//    function (sync_threads, block_*) by all threads; blocks that use them have a multiple of 32 threads.
//  - A kernel that is launched with `overlaps` (the default) calls grid_dependency_wait() in every thread,
//    before the first return and before it touches what an earlier kernel writes or reads.
//  - Vectors and asynchronous copies are of aligned addresses.
//
// What the emulation can't show: __launch_bounds__ and registers, bank conflicts, memory that lanes of one
// warp exchange without sync_warp() (unless the order of threads is changed), blocks that run at the same
// time (they run one after another: never spin for another block), static __shared__ arrays that are read
// before they are written (dynamic ones hold 0xFF in every byte: NaN, or -1).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cmath>
#include <cstddef>
#include <cstdint>

#ifdef FORETOKEN_EMULATED
#include "executor/cuda/emulation.h"
#undef __shared__
#define __shared__ static
#ifndef __device__
#define __device__
#define __global__
#endif
#ifndef __grid_constant__
#define __grid_constant__
#endif
#ifndef __launch_bounds__
#define __launch_bounds__(...)
#endif
#endif

#define FORETOKEN_DEVICE __device__ inline

namespace foretoken::cuda {

using bf16 = __nv_bfloat16;
using f16 = __half;
using e4m3 = __nv_fp8_e4m3;
inline constexpr unsigned kWarp = 32;

// ---- Threads --------------------------------------------------------------------------------------------

FORETOKEN_DEVICE unsigned thread();   // of the block, x fastest
FORETOKEN_DEVICE unsigned threads();  // of the block
FORETOKEN_DEVICE unsigned lane();     // thread() % 32
FORETOKEN_DEVICE unsigned warp();     // thread() / 32
FORETOKEN_DEVICE unsigned warps();    // of the block

FORETOKEN_DEVICE void sync_threads();
FORETOKEN_DEVICE void sync_warp();
FORETOKEN_DEVICE void thread_fence();  // writes so far are seen by other blocks before writes after it

// The launch's `shared` bytes, aligned to 128.
FORETOKEN_DEVICE std::byte* dynamic_shared();

// ---- Exchange within a warp. T: int, unsigned, float, double, long long, unsigned long long --------------

template <class T>
FORETOKEN_DEVICE T shuffle(T value, unsigned from_lane);  // from_lane % 32
template <class T>
FORETOKEN_DEVICE T shuffle_xor(T value, unsigned mask);
template <class T>
FORETOKEN_DEVICE T shuffle_up(T value, unsigned by);  // from lane() - by; lanes below `by` keep theirs
template <class T>
FORETOKEN_DEVICE T shuffle_down(T value, unsigned by);  // from lane() + by; the last `by` lanes keep theirs
FORETOKEN_DEVICE unsigned ballot(bool vote);            // bit i: lane i's vote
FORETOKEN_DEVICE bool warp_any(bool vote);
FORETOKEN_DEVICE bool warp_all(bool vote);

// Every lane gets the result; added in the order of a butterfly (xor 16, 8, 4, 2, 1), the same bits in all.
template <class T>
FORETOKEN_DEVICE T warp_sum(T value);
template <class T>
FORETOKEN_DEVICE T warp_max(T value);
template <class T>
FORETOKEN_DEVICE T warp_min(T value);
FORETOKEN_DEVICE unsigned warp_max(unsigned value);  // of these two an instruction
FORETOKEN_DEVICE unsigned warp_min(unsigned value);
// The same of `Lanes` neighbours (2, 4, 8, 16), each group its own.
template <unsigned Lanes, class T>
FORETOKEN_DEVICE T group_sum(T value);
template <unsigned Lanes, class T>
FORETOKEN_DEVICE T group_max(T value);
// The sum of lanes 0 to this one. (CUB's WarpScan is the same five shuffles; block_scan.cuh has its
// BlockScan.)
template <class T>
FORETOKEN_DEVICE T warp_up_to(T value);

// Every thread of the block gets the result. Two barriers, 32 values of static shared memory.
template <class T>
FORETOKEN_DEVICE T block_sum(T value);
template <class T>
FORETOKEN_DEVICE T block_max(T value);

// ---- Atomics on global or shared memory, relaxed; they return what was there ----------------------------

FORETOKEN_DEVICE int atomic_add(int* at, int value);
FORETOKEN_DEVICE unsigned atomic_add(unsigned* at, unsigned value);
FORETOKEN_DEVICE float atomic_add(float* at, float value);
FORETOKEN_DEVICE unsigned long long atomic_add(unsigned long long* at, unsigned long long value);
FORETOKEN_DEVICE int atomic_max(int* at, int value);
FORETOKEN_DEVICE int atomic_min(int* at, int value);
FORETOKEN_DEVICE unsigned atomic_or(unsigned* at, unsigned value);
FORETOKEN_DEVICE int atomic_exchange(int* at, int value);
FORETOKEN_DEVICE int atomic_cas(int* at, int expected, int value);
FORETOKEN_DEVICE unsigned long long atomic_cas(unsigned long long* at, unsigned long long expected,
                                               unsigned long long value);
FORETOKEN_DEVICE unsigned long long atomic_max(unsigned long long* at, unsigned long long value);

// ---- Number formats -------------------------------------------------------------------------------------

FORETOKEN_DEVICE float to_float(float value);
FORETOKEN_DEVICE float to_float(bf16 value);
FORETOKEN_DEVICE float to_float(f16 value);
FORETOKEN_DEVICE float to_float(e4m3 value);
FORETOKEN_DEVICE float to_float(std::int8_t value);
// Rounded to nearest, ties to even. e4m3 and int8 saturate (448; -128 and 127).
template <class T>
FORETOKEN_DEVICE T from_float(float value);

// Two or four numbers in a register, the first in the lowest bits: what mma takes.
FORETOKEN_DEVICE std::uint32_t pack_bf16x2(float first, float second);
FORETOKEN_DEVICE std::uint32_t pack_f16x2(float first, float second);
FORETOKEN_DEVICE std::uint32_t pack_e4m3x4(float4 values);
FORETOKEN_DEVICE std::uint32_t pack_int8x4(float4 values);
FORETOKEN_DEVICE float2 unpack_bf16x2(std::uint32_t pair);
FORETOKEN_DEVICE float2 unpack_f16x2(std::uint32_t pair);
FORETOKEN_DEVICE float4 unpack_e4m3x4(std::uint32_t four);
FORETOKEN_DEVICE float4 unpack_int8x4(std::uint32_t four);
FORETOKEN_DEVICE std::uint32_t e4m3x2_to_f16x2(std::uint16_t pair);                         // exact
FORETOKEN_DEVICE std::uint32_t and_or(std::uint32_t a, std::uint32_t b, std::uint32_t c);   // a & b | c
FORETOKEN_DEVICE std::uint32_t and_xor(std::uint32_t a, std::uint32_t b, std::uint32_t c);  // (a & b) ^ c
// a * b + c of each of the two, rounded once.
FORETOKEN_DEVICE std::uint32_t fma_bf16x2(std::uint32_t a, std::uint32_t b, std::uint32_t c);

// ---- Arithmetic: the processor's fast ones, 2 units in the last place or so ------------------------------

FORETOKEN_DEVICE float fast_exp2(float x);
FORETOKEN_DEVICE float fast_exp(float x);
FORETOKEN_DEVICE float fast_log2(float x);
FORETOKEN_DEVICE float fast_reciprocal(float x);
FORETOKEN_DEVICE float fast_rsqrt(float x);
FORETOKEN_DEVICE float fast_tanh(float x);          // error up to 2^-11
FORETOKEN_DEVICE float multiply(float a, float b);  // rounded: never joined with an addition
FORETOKEN_DEVICE float as_float(std::uint32_t bits);
FORETOKEN_DEVICE std::uint32_t as_bits(float value);
FORETOKEN_DEVICE int count_bits(unsigned bits);
FORETOKEN_DEVICE int lowest_bit(unsigned bits);  // its index; -1: none is set

// ---- Memory ---------------------------------------------------------------------------------------------

FORETOKEN_DEVICE uint4 load16(const void* from);  // 16-aligned, any memory
FORETOKEN_DEVICE void store16(void* to, uint4 value);
FORETOKEN_DEVICE uint2 load8(const void* from);  // 8-aligned
FORETOKEN_DEVICE void store8(void* to, uint2 value);
// For global memory that this kernel nowhere writes and reads once (weights, cache): not kept in L1.
FORETOKEN_DEVICE uint4 load_streaming16(const void* from);
// Starts to fetch a line of global memory into L2: of weights, before grid_dependency_wait().
FORETOKEN_DEVICE void prefetch_l2(const void* line);

// Asynchronous copies from global to shared memory. What was issued since the last commit is a group;
// copy_async_wait<N>() waits until at most the N newest of this thread's groups are under way. Then
// sync_threads() (or sync_warp()) shows the copies to the others. Where !valid the destination gets zeros and
// the source is not read. Emulated, the destination holds 0xFF bytes until the wait.
FORETOKEN_DEVICE void copy_async16(void* shared, const void* global, bool valid = true);  // 16-aligned
FORETOKEN_DEVICE void copy_async4(void* shared, const void* global, bool valid = true);   // 4-aligned
FORETOKEN_DEVICE void copy_async_commit();
template <int N>
FORETOKEN_DEVICE void copy_async_wait();

// ---- Matrix products of a warp: d[16, 8] += a[16, k] b[8, k]^T -------------------------------------------
//
// With g = lane / 4, t = lane % 4, and "pair at c" columns c, c + 1 ("four at c": c ... c + 3):
//   d: [0], [1] row g, columns 2t, 2t + 1; [2], [3] row g + 8, the same columns
//   16-bit a: [0] row g, pair at 2t; [1] row g + 8, pair at 2t; [2] row g, pair at 2t + 8; [3] row g + 8,
//   pair
//       at 2t + 8;   b: [0] row g, pair at 2t; [1] row g, pair at 2t + 8
//   8-bit a: [0] row g, four at 4t; [1] row g + 8, four at 4t; [2] row g, four at 4t + 16; [3] row g + 8,
//   four
//       at 4t + 16;  b: [0] row g, four at 4t; [1] row g, four at 4t + 16
// Rows of b are columns of the product: b holds a weight matrix [n, k] as it lies in memory.
FORETOKEN_DEVICE void mma_bf16_16816(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
FORETOKEN_DEVICE void mma_f16_16816(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);
FORETOKEN_DEVICE void mma_int8_16832(std::int32_t (&d)[4], const std::uint32_t (&a)[4],
                                     const std::uint32_t (&b)[2]);
// Compute capability 8.9 and above; traps below it.
FORETOKEN_DEVICE void mma_e4m3_16832(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

// Loads 8x8 matrices of 16-bit elements from shared memory: lane 8i + r gives the address of row r (16 bytes,
// 16-aligned) of matrix i, and gets in r[i] the pair at 2t of row g; _trans: elements [2t][g] and [2t +
// 1][g], that is the pair at 2t of row g of the transpose. Of _x2 the addresses of lanes 16 to 31 count for
// nothing. Rows of 8-bit elements load as well (16 of them: four at 4t); transposing is of 16 bits alone.
FORETOKEN_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], const void* row);
FORETOKEN_DEVICE void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row);
FORETOKEN_DEVICE void ldmatrix_x2(std::uint32_t (&r)[2], const void* row);
FORETOKEN_DEVICE void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* row);

// ---- Programmatic dependent launch -----------------------------------------------------------------------

// Until the kernels before this one in the stream are done and what they wrote is seen.
FORETOKEN_DEVICE void grid_dependency_wait();
// The next kernel of the stream may start its blocks as this one's leave room.
FORETOKEN_DEVICE void grid_dependency_launch();

}  // namespace foretoken::cuda

#ifdef FORETOKEN_EMULATED
#include "executor/cuda/device_emulated.h"
#else
#include "executor/cuda/device_cuda.cuh"
#endif

// What needs no instruction of its own.
namespace foretoken::cuda {

FORETOKEN_DEVICE unsigned thread() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
FORETOKEN_DEVICE unsigned threads() { return blockDim.x * blockDim.y * blockDim.z; }
FORETOKEN_DEVICE unsigned lane() { return thread() % kWarp; }
FORETOKEN_DEVICE unsigned warp() { return thread() / kWarp; }
FORETOKEN_DEVICE unsigned warps() { return (threads() + kWarp - 1) / kWarp; }

namespace detail {
struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct Smaller {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

template <class T, class Combine>
FORETOKEN_DEVICE T block_reduce(T value, T neutral, Combine combine) {
  __shared__ T partial[kWarp];
  value = butterfly<kWarp>(value, combine);
  sync_threads();  // the last call's may still be read
  if (lane() == 0) partial[warp()] = value;
  sync_threads();
  return butterfly<kWarp>(lane() < warps() ? partial[lane()] : neutral, combine);
}
}  // namespace detail

template <class T>
FORETOKEN_DEVICE T warp_sum(T value) {
  return detail::butterfly<kWarp>(value, detail::Add{});
}
template <class T>
FORETOKEN_DEVICE T warp_max(T value) {
  return detail::butterfly<kWarp>(value, detail::Larger{});
}
template <class T>
FORETOKEN_DEVICE T warp_min(T value) {
  return detail::butterfly<kWarp>(value, detail::Smaller{});
}
template <class T>
FORETOKEN_DEVICE T warp_up_to(T value) {
#pragma unroll
  for (unsigned by = 1; by < kWarp; by *= 2) {
    const T other = shuffle_up(value, by);
    if (lane() >= by) value += other;
  }
  return value;
}
template <unsigned Lanes, class T>
FORETOKEN_DEVICE T group_sum(T value) {
  return detail::butterfly<Lanes>(value, detail::Add{});
}
template <unsigned Lanes, class T>
FORETOKEN_DEVICE T group_max(T value) {
  return detail::butterfly<Lanes>(value, detail::Larger{});
}
template <class T>
FORETOKEN_DEVICE T block_sum(T value) {
  return detail::block_reduce(value, T{0}, detail::Add{});
}
template <class T>
FORETOKEN_DEVICE T block_max(T value) {
  // Threads that don't exist take part with the value of one that does.
  return detail::block_reduce(value, value, detail::Larger{});
}

FORETOKEN_DEVICE float to_float(float value) { return value; }
FORETOKEN_DEVICE float to_float(bf16 value) { return __bfloat162float(value); }
FORETOKEN_DEVICE float to_float(f16 value) { return __half2float(value); }
FORETOKEN_DEVICE float to_float(e4m3 value) { return static_cast<float>(value); }
FORETOKEN_DEVICE float to_float(std::int8_t value) { return static_cast<float>(value); }

template <>
FORETOKEN_DEVICE float from_float<float>(float value) {
  return value;
}
template <>
FORETOKEN_DEVICE bf16 from_float<bf16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
FORETOKEN_DEVICE f16 from_float<f16>(float value) {
  return __float2half_rn(value);
}
template <>
FORETOKEN_DEVICE e4m3 from_float<e4m3>(float value) {
  e4m3 result;
  result.__x = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
  return result;
}
template <>
FORETOKEN_DEVICE std::int8_t from_float<std::int8_t>(float value) {
  return static_cast<std::int8_t>(rintf(fminf(fmaxf(value, -128.0f), 127.0f)));
}

FORETOKEN_DEVICE std::uint32_t pack_f16x2(float first, float second) {
  return __half_raw(__float2half_rn(first)).x |
         static_cast<std::uint32_t>(__half_raw(__float2half_rn(second)).x) << 16;
}
FORETOKEN_DEVICE std::uint32_t pack_e4m3x4(float4 values) {
  const std::uint32_t low =
      __nv_cvt_float2_to_fp8x2(make_float2(values.x, values.y), __NV_SATFINITE, __NV_E4M3);
  const std::uint32_t high =
      __nv_cvt_float2_to_fp8x2(make_float2(values.z, values.w), __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}
FORETOKEN_DEVICE std::uint32_t pack_int8x4(float4 values) {
  const auto byte = [](float value) -> std::uint32_t {
    return static_cast<std::uint8_t>(from_float<std::int8_t>(value));
  };
  return byte(values.x) | byte(values.y) << 8 | byte(values.z) << 16 | byte(values.w) << 24;
}
FORETOKEN_DEVICE float2 unpack_bf16x2(std::uint32_t pair) {
  return make_float2(as_float(pair << 16), as_float(pair & 0xffff0000u));
}
FORETOKEN_DEVICE float2 unpack_f16x2(std::uint32_t pair) {
  __half_raw first, second;
  first.x = static_cast<unsigned short>(pair & 0xffffu);
  second.x = static_cast<unsigned short>(pair >> 16);
  return make_float2(__half2float(f16(first)), __half2float(f16(second)));
}
FORETOKEN_DEVICE std::uint32_t e4m3x2_to_f16x2(std::uint16_t pair) {
  const __half2_raw both = __nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3);
  return both.x | static_cast<std::uint32_t>(both.y) << 16;
}
FORETOKEN_DEVICE float4 unpack_e4m3x4(std::uint32_t four) {
  const float2 low = unpack_f16x2(e4m3x2_to_f16x2(static_cast<std::uint16_t>(four & 0xffffu)));
  const float2 high = unpack_f16x2(e4m3x2_to_f16x2(static_cast<std::uint16_t>(four >> 16)));
  return make_float4(low.x, low.y, high.x, high.y);
}
FORETOKEN_DEVICE float4 unpack_int8x4(std::uint32_t four) {
  const auto byte = [four](unsigned shift) {
    return static_cast<float>(static_cast<std::int8_t>(static_cast<std::uint8_t>(four >> shift)));
  };
  return make_float4(byte(0), byte(8), byte(16), byte(24));
}

FORETOKEN_DEVICE float fast_exp(float x) { return fast_exp2(x * 1.44269504088896f); }

FORETOKEN_DEVICE uint2 load8(const void* from) {
  detail::check_aligned(from, 8, "load8");
  return *static_cast<const uint2*>(from);
}
FORETOKEN_DEVICE uint4 load16(const void* from) {
  detail::check_aligned(from, 16, "load16");
  return *static_cast<const uint4*>(from);
}

}  // namespace foretoken::cuda
