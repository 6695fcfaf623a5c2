// The copies and barriers of tensor_copies.cuh as instructions. Included by it alone.
#pragma once

#include <type_traits>

namespace foretoken::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define FORETOKEN_TENSOR_COPIES 1
#endif

FORETOKEN_DEVICE void barrier_init([[maybe_unused]] Barrier* barrier, [[maybe_unused]] unsigned arrivals) {
#ifdef FORETOKEN_TENSOR_COPIES
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(detail::shared_address(barrier)), "r"(arrivals)
               : "memory");
#endif
}
FORETOKEN_DEVICE void show_barriers() {
#ifdef FORETOKEN_TENSOR_COPIES
  asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
#endif
}

FORETOKEN_DEVICE void barrier_arrive([[maybe_unused]] Barrier* barrier) {
#ifdef FORETOKEN_TENSOR_COPIES
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(detail::shared_address(barrier)) : "memory");
#endif
}
FORETOKEN_DEVICE void barrier_arrive_expecting([[maybe_unused]] Barrier* barrier,
                                               [[maybe_unused]] unsigned bytes) {
#ifdef FORETOKEN_TENSOR_COPIES
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(detail::shared_address(barrier)),
      "r"(bytes)
      : "memory");
#endif
}

namespace detail {
// test_wait looks once; try_wait may suspend the thread, for as long as the hardware sees fit.
FORETOKEN_DEVICE bool phase_passed([[maybe_unused]] std::uint32_t barrier, [[maybe_unused]] unsigned parity,
                                   [[maybe_unused]] auto suspend) {
#ifdef FORETOKEN_TENSOR_COPIES
  std::uint32_t passed;
  if constexpr (decltype(suspend)::value)
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p;}"
                 : "=r"(passed)
                 : "r"(barrier), "r"(parity)
                 : "memory");
  else
    asm volatile(
        "{.reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p;}"
        : "=r"(passed)
        : "r"(barrier), "r"(parity)
        : "memory");
  return passed != 0;
#else
  __trap();
  return false;
#endif
}
}  // namespace detail

FORETOKEN_DEVICE bool barrier_wait_bounded(Barrier* barrier, unsigned parity, int looks) {
  const std::uint32_t at = detail::shared_address(barrier);
#pragma unroll 1
  for (; looks > 0; --looks)
    if (detail::phase_passed(at, parity, std::false_type{})) return true;
  return false;
}
FORETOKEN_DEVICE void barrier_wait(Barrier* barrier, unsigned parity) {
  constexpr long long kMostClocks = 1ll << 34;  // some nine seconds
  const std::uint32_t at = detail::shared_address(barrier);
  if (detail::phase_passed(at, parity, std::true_type{})) return;
  const long long start = clock64();
#pragma unroll 1
  while (!detail::phase_passed(at, parity, std::true_type{}))
    if (clock64() - start > kMostClocks) __trap();
}

FORETOKEN_DEVICE void copy_box([[maybe_unused]] std::byte* panel_row, [[maybe_unused]] const TensorMap& map,
                               [[maybe_unused]] int row, [[maybe_unused]] int column,
                               [[maybe_unused]] Barrier* barrier) {
#ifdef FORETOKEN_TENSOR_COPIES
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], "
      "[%4];" ::"r"(detail::shared_address(panel_row)),
      "l"(&map), "r"(column), "r"(row), "r"(detail::shared_address(barrier))
      : "memory");
#endif
}
FORETOKEN_DEVICE void show_memory_to_copies() {
#ifdef FORETOKEN_TENSOR_COPIES
  asm volatile("fence.proxy.async.global;" ::: "memory");
#endif
}

template <int Count>
FORETOKEN_DEVICE void keep_registers() {
#ifdef FORETOKEN_WARPGROUP
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
#endif
}
template <int Count>
FORETOKEN_DEVICE void take_registers() {
#ifdef FORETOKEN_WARPGROUP
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
#endif
}

template <int N>
FORETOKEN_DEVICE void settled(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N>
FORETOKEN_DEVICE void settled(std::uint32_t (&a)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+r"(a[i][j])::"memory");
  }
}

}  // namespace foretoken::cuda
