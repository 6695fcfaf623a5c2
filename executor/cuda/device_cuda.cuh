// The primitives of device.cuh as instructions. Included by it alone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace foretoken::cuda {

FORETOKEN_DEVICE void sync_threads() { __syncthreads(); }
FORETOKEN_DEVICE void sync_warp() { __syncwarp(); }
FORETOKEN_DEVICE void thread_fence() { __threadfence(); }

FORETOKEN_DEVICE std::byte* dynamic_shared() {
  extern __shared__ __align__(128) std::byte foretoken_dynamic_shared[];
  return foretoken_dynamic_shared;
}

template <class T>
FORETOKEN_DEVICE T shuffle(T value, unsigned from_lane) {
  return __shfl_sync(0xffffffffu, value, static_cast<int>(from_lane));
}
template <class T>
FORETOKEN_DEVICE T shuffle_xor(T value, unsigned mask) {
  return __shfl_xor_sync(0xffffffffu, value, static_cast<int>(mask));
}
template <class T>
FORETOKEN_DEVICE T shuffle_up(T value, unsigned by) {
  return __shfl_up_sync(0xffffffffu, value, by);
}
template <class T>
FORETOKEN_DEVICE T shuffle_down(T value, unsigned by) {
  return __shfl_down_sync(0xffffffffu, value, by);
}
FORETOKEN_DEVICE unsigned ballot(bool vote) { return __ballot_sync(0xffffffffu, vote); }
FORETOKEN_DEVICE bool warp_any(bool vote) { return __any_sync(0xffffffffu, vote); }
FORETOKEN_DEVICE bool warp_all(bool vote) { return __all_sync(0xffffffffu, vote); }

FORETOKEN_DEVICE unsigned warp_max(unsigned value) { return __reduce_max_sync(0xffffffffu, value); }
FORETOKEN_DEVICE unsigned warp_min(unsigned value) { return __reduce_min_sync(0xffffffffu, value); }

namespace detail {
__device__ __forceinline__ void check_aligned(const void*, unsigned, const char*) {}

template <unsigned Lanes, class T, class Combine>
FORETOKEN_DEVICE T butterfly(T value, Combine combine) {
#pragma unroll
  for (unsigned mask = Lanes / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  return value;
}

__device__ __forceinline__ std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}
}  // namespace detail

FORETOKEN_DEVICE int atomic_add(int* at, int value) { return atomicAdd(at, value); }
FORETOKEN_DEVICE unsigned atomic_add(unsigned* at, unsigned value) { return atomicAdd(at, value); }
FORETOKEN_DEVICE float atomic_add(float* at, float value) { return atomicAdd(at, value); }
FORETOKEN_DEVICE unsigned long long atomic_add(unsigned long long* at, unsigned long long value) {
  return atomicAdd(at, value);
}
FORETOKEN_DEVICE int atomic_max(int* at, int value) { return atomicMax(at, value); }
FORETOKEN_DEVICE int atomic_min(int* at, int value) { return atomicMin(at, value); }
FORETOKEN_DEVICE unsigned atomic_or(unsigned* at, unsigned value) { return atomicOr(at, value); }
FORETOKEN_DEVICE int atomic_exchange(int* at, int value) { return atomicExch(at, value); }
FORETOKEN_DEVICE int atomic_cas(int* at, int expected, int value) { return atomicCAS(at, expected, value); }
FORETOKEN_DEVICE unsigned long long atomic_cas(unsigned long long* at, unsigned long long expected,
                                               unsigned long long value) {
  return atomicCAS(at, expected, value);
}
FORETOKEN_DEVICE unsigned long long atomic_max(unsigned long long* at, unsigned long long value) {
  return atomicMax(at, value);
}

FORETOKEN_DEVICE std::uint32_t pack_bf16x2(float first, float second) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

// One instruction each; nvcc makes two of them where two operands are constants.
FORETOKEN_DEVICE std::uint32_t and_or(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
FORETOKEN_DEVICE std::uint32_t and_xor(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

FORETOKEN_DEVICE std::uint32_t fma_bf16x2(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

FORETOKEN_DEVICE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
FORETOKEN_DEVICE float fast_log2(float x) { return __log2f(x); }
FORETOKEN_DEVICE float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
FORETOKEN_DEVICE float fast_rsqrt(float x) { return rsqrtf(x); }
FORETOKEN_DEVICE float fast_tanh(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
FORETOKEN_DEVICE float multiply(float a, float b) { return __fmul_rn(a, b); }
FORETOKEN_DEVICE float as_float(std::uint32_t bits) { return __uint_as_float(bits); }
FORETOKEN_DEVICE std::uint32_t as_bits(float value) { return __float_as_uint(value); }
FORETOKEN_DEVICE int count_bits(unsigned bits) { return __popc(bits); }
FORETOKEN_DEVICE int lowest_bit(unsigned bits) { return __ffs(static_cast<int>(bits)) - 1; }

// nvcc takes an assignment of a vector apart, and often leaves it as stores of four bytes. Which memory it is
// follows from the address at compile time.
FORETOKEN_DEVICE void store8(void* to, uint2 value) {
  if (__isGlobal(to))
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(value.x),
                 "r"(value.y)
                 : "memory");
  else
    *static_cast<uint2*>(to) = value;
}
FORETOKEN_DEVICE void store16(void* to, uint4 value) {
  if (__isGlobal(to))
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(value.x),
                 "r"(value.y), "r"(value.z), "r"(value.w)
                 : "memory");
  else
    *static_cast<uint4*>(to) = value;
}

FORETOKEN_DEVICE uint4 load_streaming16(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(__cvta_generic_to_global(from)));
  return v;
}
FORETOKEN_DEVICE void prefetch_l2(const void* line) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(line)));
}

FORETOKEN_DEVICE void copy_async16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(detail::shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
               : "memory");
}
FORETOKEN_DEVICE void copy_async4(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(detail::shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 4 : 0)
               : "memory");
}
FORETOKEN_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
FORETOKEN_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

FORETOKEN_DEVICE void mma_bf16_16816(float (&d)[4], const std::uint32_t (&a)[4],
                                     const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FORETOKEN_DEVICE void mma_f16_16816(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FORETOKEN_DEVICE void mma_int8_16832(std::int32_t (&d)[4], const std::uint32_t (&a)[4],
                                     const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FORETOKEN_DEVICE void mma_e4m3_16832([[maybe_unused]] float (&d)[4],
                                     [[maybe_unused]] const std::uint32_t (&a)[4],
                                     [[maybe_unused]] const std::uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

FORETOKEN_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(detail::shared_address(row))
               : "memory");
}
FORETOKEN_DEVICE void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(detail::shared_address(row))
               : "memory");
}
FORETOKEN_DEVICE void ldmatrix_x2(std::uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(detail::shared_address(row))
               : "memory");
}
FORETOKEN_DEVICE void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(detail::shared_address(row))
               : "memory");
}

FORETOKEN_DEVICE void grid_dependency_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
FORETOKEN_DEVICE void grid_dependency_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace foretoken::cuda
