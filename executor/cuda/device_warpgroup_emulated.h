// The products of warpgroup.cuh on the processor. Included by it alone.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "executor/cuda/emulation.h"

namespace foretoken::cuda {

struct RowsOperand {
  const std::byte* at = nullptr;
  RowsOperand advanced(int bytes) const { return {at + bytes}; }
  float operator()(unsigned row, unsigned k) const;
  float e4m3_at(unsigned row, unsigned k) const;
  float s8_at(unsigned row, unsigned k) const;
};
struct ColumnsOperand {
  const std::byte* at = nullptr;
  unsigned panel_bytes = 0;
  ColumnsOperand advanced(int bytes) const { return {at + bytes, panel_bytes}; }
  float operator()(unsigned column, unsigned k) const;
};
inline RowsOperand rows_operand(const void* shared) { return {static_cast<const std::byte*>(shared)}; }
inline ColumnsOperand columns_operand(const void* shared, unsigned panel_bytes) {
  return {static_cast<const std::byte*>(shared), panel_bytes};
}

namespace detail {
// The hardware changes places by the bits of the address itself.
inline const std::byte* swizzled_place(const std::byte* at) {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  return at + static_cast<std::ptrdiff_t>((address ^ (address >> 7 & 7) << 4) - address);
}
inline float swizzled_bf16(const std::byte* at) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, swizzled_place(at), 2);
  return as_float(std::uint32_t{bits} << 16);
}
}  // namespace detail

inline float RowsOperand::operator()(unsigned row, unsigned k) const {
  return detail::swizzled_bf16(at + row * kPanelRow + k * 2);
}
inline float RowsOperand::e4m3_at(unsigned row, unsigned k) const {
  return unpack_e4m3x4(static_cast<std::uint32_t>(*detail::swizzled_place(at + row * kPanelRow + k))).x;
}
inline float RowsOperand::s8_at(unsigned row, unsigned k) const {
  return static_cast<float>(static_cast<std::int8_t>(*detail::swizzled_place(at + row * kPanelRow + k)));
}
inline float ColumnsOperand::operator()(unsigned column, unsigned k) const {
  return detail::swizzled_bf16(at + column / kPanelColumns * panel_bytes + column % kPanelColumns * 2 +
                               k * kPanelRow);
}

inline void products_begin() { sync_warp(); }
inline void products_commit() { emulation::products_commit(); }
template <int N>
inline void products_wait() {
  sync_warp();
  emulation::products_wait(N);
}
inline void show_to_products() {}

namespace detail {
// a(row of the warp's 16, k), k < Depth. What products of a d that are under way make of it lies beside it.
template <int N, unsigned Depth = 16, class Sum, class A, class B>
void product(Sum (&d)[N / 2], A a, B b, bool add) {
  struct Sums {
    std::array<Sum, N / 2> d;
  };
  const auto make = [&d] {
    auto sums = std::make_shared<Sums>();
    std::copy(d, d + N / 2, sums->d.begin());
    using Limits = std::numeric_limits<Sum>;
    std::fill(d, d + N / 2, Limits::is_integer ? Limits::lowest() : Limits::quiet_NaN());
    return sums;
  };
  const unsigned g = lane() / 4, t = lane() % 4;
  emulation::product(d, make, [=, &d](void* shared, bool last) {
    auto& sums = static_cast<Sums*>(shared)->d;
    for (unsigned i = 0; i < N / 2; ++i) {
      const unsigned row = g + 8 * (i / 2 % 2), column = 8 * (i / 4) + 2 * t + i % 2;
      double sum = add ? sums[i] : 0;
      for (unsigned k = 0; k < Depth; ++k) sum += double{a(row, k)} * b(column, k);
      sums[i] = static_cast<Sum>(sum);
    }
    if (last) std::copy(sums.begin(), sums.end(), d);
  });
}
}  // namespace detail

template <int N, class B>
inline void product_bf16(float (&d)[N / 2], RowsOperand a, B b, bool add) {
  if constexpr (std::is_same_v<B, ColumnsOperand>)
    detail::check_aligned(b.at, kPanelAlignment, "product_bf16 of columns");
  const unsigned first = warp() % 4 * 16;
  detail::product<N>(
      d, [a, first](unsigned row, unsigned k) { return a(first + row, k); }, b, add);
}
template <int N>
inline void product_e4m3(float (&d)[N / 2], RowsOperand a, RowsOperand b, bool add) {
  const unsigned first = warp() % 4 * 16;
  detail::product<N, 32>(
      d, [a, first](unsigned row, unsigned k) { return a.e4m3_at(first + row, k); },
      [b](unsigned column, unsigned k) { return b.e4m3_at(column, k); }, add);
}
template <int N>
inline void product_s8(std::int32_t (&d)[N / 2], RowsOperand a, RowsOperand b, bool add) {
  const unsigned first = warp() % 4 * 16;
  detail::product<N, 32>(
      d, [a, first](unsigned row, unsigned k) { return a.s8_at(first + row, k); },
      [b](unsigned column, unsigned k) { return b.s8_at(column, k); }, add);
}
template <int N>
inline void products_end(std::int32_t (&)[N]) {}
template <int N, class B>
inline void product_bf16(float (&d)[N / 2], const std::uint32_t (&a)[4], B b, bool add) {
  // The warp's 16 x 16 from its lanes' registers.
  std::array<std::array<float, 16>, 2> own{};  // of rows g and g + 8
  const auto of = [](std::uint32_t pair, unsigned which) {
    return as_float(which == 0 ? pair << 16 : pair & 0xffff0000u);
  };
  for (unsigned other = 0; other < 4; ++other)
    for (unsigned word = 0; word < 4; ++word) {
      const std::uint32_t pair = shuffle(a[word], lane() / 4 * 4 + other);
      for (unsigned which = 0; which < 2; ++which)
        own[word % 2][2 * other + which + 8 * (word / 2)] = of(pair, which);
    }
  const unsigned g = lane() / 4;
  detail::product<N>(
      d, [own, g](unsigned row, unsigned k) { return own[row == g ? 0 : 1][k]; }, b, add);
}

}  // namespace foretoken::cuda
