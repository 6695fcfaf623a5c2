// Physical quantities whose mistakes do not compile: Bytes / BytesPerSecond is Seconds.
// Base units only (byte, second, floating-point operation); text such as "4.8 TB/s" is parsed here.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

namespace foretoken {

// Exponents of byte, second and flop. Integers are exact up to 2^53.
template <int Byte, int Second, int Flop>
struct Quantity {
  double value = 0;

  constexpr Quantity() = default;
  constexpr explicit Quantity(double v) : value(v) {}

  constexpr Quantity& operator+=(Quantity o) {
    value += o.value;
    return *this;
  }
  constexpr Quantity& operator-=(Quantity o) {
    value -= o.value;
    return *this;
  }
  constexpr Quantity& operator*=(double f) {
    value *= f;
    return *this;
  }
  friend constexpr Quantity operator+(Quantity a, Quantity b) { return Quantity(a.value + b.value); }
  friend constexpr Quantity operator-(Quantity a, Quantity b) { return Quantity(a.value - b.value); }
  friend constexpr Quantity operator*(Quantity a, double f) { return Quantity(a.value * f); }
  friend constexpr Quantity operator*(double f, Quantity a) { return Quantity(a.value * f); }
  friend constexpr Quantity operator/(Quantity a, double f) { return Quantity(a.value / f); }
  friend constexpr double operator/(Quantity a, Quantity b) { return a.value / b.value; }
  friend constexpr auto operator<=>(Quantity, Quantity) = default;
};

template <int A, int B, int C, int D, int E, int F>
requires(A != D || B != E || C != F) constexpr Quantity<A - D, B - E, C - F> operator/(Quantity<A, B, C> x,
                                                                                       Quantity<D, E, F> y) {
  return Quantity<A - D, B - E, C - F>(x.value / y.value);
}
template <int A, int B, int C, int D, int E, int F>
requires(A + D != 0 || B + E != 0 || C + F != 0) constexpr Quantity<A + D, B + E, C + F> operator*(
    Quantity<A, B, C> x, Quantity<D, E, F> y) {
  return Quantity<A + D, B + E, C + F>(x.value * y.value);
}

using Bytes = Quantity<1, 0, 0>;
using Seconds = Quantity<0, 1, 0>;
using Flops = Quantity<0, 0, 1>;
using BytesPerSecond = Quantity<1, -1, 0>;
using FlopsPerSecond = Quantity<0, -1, 1>;

inline constexpr double kKiB = 1024.0, kMiB = 1024.0 * kKiB, kGiB = 1024.0 * kMiB, kTiB = 1024.0 * kGiB;

// Virtual clock and step prices: integer picoseconds, good for 106 days.
using Picoseconds = std::int64_t;
inline constexpr double kPicosPerSecond = 1e12;
Picoseconds to_picoseconds(Seconds s);  // rounds to nearest; saturates
constexpr Seconds to_seconds(Picoseconds t) { return Seconds(static_cast<double>(t) / kPicosPerSecond); }
constexpr double to_ms(Picoseconds t) { return static_cast<double>(t) / 1e9; }

// "4.8 TB/s", "600 GB/s", "141 GB", "80 GiB", "989.4 TFLOP/s", "2.5 us". Decimal prefixes are powers of
// 1000, Ki/Mi/Gi/Ti of 1024. Throws Error{where} when the unit is absent, unknown or of another dimension.
Bytes parse_bytes(std::string_view text, const std::string& where);
BytesPerSecond parse_bandwidth(std::string_view text, const std::string& where);
FlopsPerSecond parse_flops_rate(std::string_view text, const std::string& where);
Seconds parse_duration(std::string_view text, const std::string& where);

// For people: "131.4 GiB", "4.8 TB/s", "989 TFLOP/s", "12.3 ms", "1.27 T" and so on.
std::string to_text(Bytes b);
std::string to_text(BytesPerSecond b);
std::string to_text(FlopsPerSecond f);
std::string to_text(Seconds s);
std::string count_text(double n);  // 70.6 B, 1.24 M, 512

}  // namespace foretoken
