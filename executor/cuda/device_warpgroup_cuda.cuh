// The products of warpgroup.cuh as instructions. Included by it alone.
#pragma once

namespace foretoken::cuda {

// Matrix descriptors (PTX ISA, "Matrix Descriptor Format"): address, leading and stride offsets in units of
// 16 bytes, 128-byte swizzle.
namespace detail {
FORETOKEN_DEVICE std::uint64_t descriptor(const void* shared, unsigned leading_bytes, unsigned stride_bytes) {
  return (std::uint64_t{shared_address(shared)} & 0x3ffff) >> 4 | std::uint64_t{leading_bytes / 16} << 16 |
         std::uint64_t{stride_bytes / 16} << 32 | std::uint64_t{1} << 62;
}
}  // namespace detail

struct RowsOperand {
  std::uint64_t bits = 0;
  __device__ RowsOperand advanced(int bytes) const { return {bits + static_cast<unsigned>(bytes) / 16}; }
};
struct ColumnsOperand {
  std::uint64_t bits = 0;
  __device__ ColumnsOperand advanced(int bytes) const { return {bits + static_cast<unsigned>(bytes) / 16}; }
};
// The leading offset counts for nothing where a panel's row holds all of k.
FORETOKEN_DEVICE RowsOperand rows_operand(const void* shared) {
  return {detail::descriptor(shared, 16, 1024)};
}
FORETOKEN_DEVICE ColumnsOperand columns_operand(const void* shared, unsigned panel_bytes) {
  return {detail::descriptor(shared, panel_bytes, 1024)};
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FORETOKEN_WARPGROUP 1
#endif

FORETOKEN_DEVICE void products_begin() {
#ifdef FORETOKEN_WARPGROUP
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
FORETOKEN_DEVICE void products_commit() {
#ifdef FORETOKEN_WARPGROUP
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int N>
FORETOKEN_DEVICE void products_wait() {
#ifdef FORETOKEN_WARPGROUP
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
}
FORETOKEN_DEVICE void show_to_products() {
#ifdef FORETOKEN_WARPGROUP
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

namespace detail {
template <class B>
inline constexpr int kTransposed = 0;
template <>
inline constexpr int kTransposed<ColumnsOperand> = 1;

#define FORETOKEN_SUMS8(i)                                                                    \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define FORETOKEN_SUMS16(i) FORETOKEN_SUMS8(i), FORETOKEN_SUMS8(i + 8)
#define FORETOKEN_SUMS32(i) FORETOKEN_SUMS16(i), FORETOKEN_SUMS16(i + 16)
#define FORETOKEN_SUMS64(i) FORETOKEN_SUMS32(i), FORETOKEN_SUMS32(i + 32)
#define FORETOKEN_SUMS128(i) FORETOKEN_SUMS64(i), FORETOKEN_SUMS64(i + 64)

template <int Transposed>
FORETOKEN_DEVICE void product([[maybe_unused]] float (&d)[16], [[maybe_unused]] std::uint64_t a,
                              [[maybe_unused]] std::uint64_t b, [[maybe_unused]] int add) {
#ifdef FORETOKEN_WARPGROUP
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %18, 0; "
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15 "
      "}, %16, %17, p, 1, 1, 0, %19;}\n"
      : FORETOKEN_SUMS16(0)
      : "l"(a), "l"(b), "r"(add), "n"(Transposed));
#else
  __trap();
#endif
}

template <int Transposed>
FORETOKEN_DEVICE void product([[maybe_unused]] float (&d)[32], [[maybe_unused]] std::uint64_t a,
                              [[maybe_unused]] std::uint64_t b, [[maybe_unused]] int add) {
#ifdef FORETOKEN_WARPGROUP
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %34, 0; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31 "
      "}, %32, %33, p, 1, 1, 0, %35;}\n"
      : FORETOKEN_SUMS32(0)
      : "l"(a), "l"(b), "r"(add), "n"(Transposed));
#else
  __trap();
#endif
}

template <int Transposed>
FORETOKEN_DEVICE void product([[maybe_unused]] float (&d)[64], [[maybe_unused]] std::uint64_t a,
                              [[maybe_unused]] std::uint64_t b, [[maybe_unused]] int add) {
#ifdef FORETOKEN_WARPGROUP
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %66, 0; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63 "
      "}, %64, %65, p, 1, 1, 0, %67;}\n"
      : FORETOKEN_SUMS64(0)
      : "l"(a), "l"(b), "r"(add), "n"(Transposed));
#else
  __trap();
#endif
}

template <int Transposed>
FORETOKEN_DEVICE void product([[maybe_unused]] float (&d)[128], [[maybe_unused]] std::uint64_t a,
                              [[maybe_unused]] std::uint64_t b, [[maybe_unused]] int add) {
#ifdef FORETOKEN_WARPGROUP
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %130, 0; "
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, "
      "%74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, "
      "%92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, "
      "%108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, "
      "%123, %124, %125, %126, %127 "
      "}, %128, %129, p, 1, 1, 0, %131;}\n"
      : FORETOKEN_SUMS128(0)
      : "l"(a), "l"(b), "r"(add), "n"(Transposed));
#else
  __trap();
#endif
}

template <int Transposed>
FORETOKEN_DEVICE void product([[maybe_unused]] float (&d)[16], [[maybe_unused]] const std::uint32_t (&a)[4],
                              [[maybe_unused]] std::uint64_t b, [[maybe_unused]] int add) {
#ifdef FORETOKEN_WARPGROUP
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %21, 0; "
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15 "
      "}, {%16, %17, %18, %19}, %20, p, 1, 1, %22;}\n"
      : FORETOKEN_SUMS16(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(Transposed));
#else
  __trap();
#endif
}

template <int Transposed>
FORETOKEN_DEVICE void product([[maybe_unused]] float (&d)[32], [[maybe_unused]] const std::uint32_t (&a)[4],
                              [[maybe_unused]] std::uint64_t b, [[maybe_unused]] int add) {
#ifdef FORETOKEN_WARPGROUP
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %37, 0; "
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31 "
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;}\n"
      : FORETOKEN_SUMS32(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(Transposed));
#else
  __trap();
#endif
}

template <int Transposed>
FORETOKEN_DEVICE void product([[maybe_unused]] float (&d)[64], [[maybe_unused]] const std::uint32_t (&a)[4],
                              [[maybe_unused]] std::uint64_t b, [[maybe_unused]] int add) {
#ifdef FORETOKEN_WARPGROUP
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %69, 0; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63 "
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;}\n"
      : FORETOKEN_SUMS64(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(Transposed));
#else
  __trap();
#endif
}

template <int Transposed>
FORETOKEN_DEVICE void product([[maybe_unused]] float (&d)[128], [[maybe_unused]] const std::uint32_t (&a)[4],
                              [[maybe_unused]] std::uint64_t b, [[maybe_unused]] int add) {
#ifdef FORETOKEN_WARPGROUP
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %133, 0; "
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, "
      "%74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, "
      "%92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, "
      "%108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, "
      "%123, %124, %125, %126, %127 "
      "}, {%128, %129, %130, %131}, %132, p, 1, 1, %134;}\n"
      : FORETOKEN_SUMS128(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(Transposed));
#else
  __trap();
#endif
}

FORETOKEN_DEVICE void product_bytes([[maybe_unused]] float (&d)[64], [[maybe_unused]] std::uint64_t a,
                                    [[maybe_unused]] std::uint64_t b, [[maybe_unused]] int add) {
#ifdef FORETOKEN_WARPGROUP
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %66, 0; "
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63 "
      "}, %64, %65, p, 1, 1;}\n"
      : FORETOKEN_SUMS64(0)
      : "l"(a), "l"(b), "r"(add));
#else
  __trap();
#endif
}

#define FORETOKEN_INTEGERS8(i)                                                                \
  "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), \
      "+r"(d[i + 6]), "+r"(d[i + 7])
#define FORETOKEN_INTEGERS32(i) \
  FORETOKEN_INTEGERS8(i), FORETOKEN_INTEGERS8(i + 8), FORETOKEN_INTEGERS8(i + 16), FORETOKEN_INTEGERS8(i + 24)

FORETOKEN_DEVICE void product_bytes([[maybe_unused]] std::int32_t (&d)[64], [[maybe_unused]] std::uint64_t a,
                                    [[maybe_unused]] std::uint64_t b, [[maybe_unused]] int add) {
#ifdef FORETOKEN_WARPGROUP
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %66, 0; "
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
      "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
      "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
      "%56, %57, %58, %59, %60, %61, %62, %63 "
      "}, %64, %65, p;}\n"
      : FORETOKEN_INTEGERS32(0), FORETOKEN_INTEGERS32(32)
      : "l"(a), "l"(b), "r"(add));
#else
  __trap();
#endif
}

#undef FORETOKEN_INTEGERS8
#undef FORETOKEN_INTEGERS32
#undef FORETOKEN_SUMS8
#undef FORETOKEN_SUMS16
#undef FORETOKEN_SUMS32
#undef FORETOKEN_SUMS64
#undef FORETOKEN_SUMS128
}  // namespace detail

template <int N, class B>
FORETOKEN_DEVICE void product_bf16(float (&d)[N / 2], RowsOperand a, B b, bool add) {
  detail::product<detail::kTransposed<B>>(d, a.bits, b.bits, add ? 1 : 0);
}
template <int N, class B>
FORETOKEN_DEVICE void product_bf16(float (&d)[N / 2], const std::uint32_t (&a)[4], B b, bool add) {
  detail::product<detail::kTransposed<B>>(d, a, b.bits, add ? 1 : 0);
}
template <int N>
FORETOKEN_DEVICE void product_e4m3(float (&d)[N / 2], RowsOperand a, RowsOperand b, bool add) {
  detail::product_bytes(d, a.bits, b.bits, add ? 1 : 0);
}
template <int N>
FORETOKEN_DEVICE void product_s8(std::int32_t (&d)[N / 2], RowsOperand a, RowsOperand b, bool add) {
  detail::product_bytes(d, a.bits, b.bits, add ? 1 : 0);
}
// A compiler takes integers for what their products' instruction left, and converts them behind it, in the
// loop.
template <int N>
FORETOKEN_DEVICE void products_end(std::int32_t (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

}  // namespace foretoken::cuda
