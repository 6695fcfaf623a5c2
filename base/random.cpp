// Counter-based random numbers and the elementary functions below them. std::log and std::exp differ between
// libraries in the last bits; these use only operations that IEEE 754 rounds exactly, so all machines agree.
#include "base/random.h"

#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace foretoken {
namespace {

constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio, odd

// ln 2 in two parts; the high one has 21 trailing zero bits, so its product with an exponent is exact.
constexpr double kLn2High = 0x1.62e42feep-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kLog2E = 0x1.71547652b82fep+0;

double power_of_two(int exponent) {  // -1022 to 1023
  return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52);
}

template <std::size_t N>
double polynomial(const double (&coefficients)[N], double x) {  // lowest order first
  double v = coefficients[N - 1];
  for (std::size_t i = N - 1; i-- > 0;) v = v * x + coefficients[i];
  return v;
}

}  // namespace

CounterRandom::CounterRandom(std::uint64_t seed, std::uint64_t stream, std::uint64_t index)
    : key_(mix64(mix64(mix64(seed + kGolden) + stream * kGolden + 1) + index * kGolden + 2)) {}

std::uint64_t CounterRandom::bits() { return mix64(key_ + ++counter_ * kGolden); }

double CounterRandom::uniform() {
  // 52 bits and a half: 53 significant bits, so the ends of the interval are never rounded to.
  return (static_cast<double>(bits() >> 12) + 0.5) * 0x1p-52;
}

std::int64_t CounterRandom::uniform_int(std::int64_t low, std::int64_t high) {
  if (low > high) throw std::logic_error("uniform_int: low exceeds high");
  const std::uint64_t range = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low) + 1;
  std::uint64_t x = bits();
  if (range != 0) {
    const std::uint64_t rejected = (0 - range) % range;  // 2^64 mod range
    while (x < rejected) x = bits();
    x %= range;
  }
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(low) + x);
}

double CounterRandom::exponential() { return -exact_log(uniform()); }

double CounterRandom::normal() { return inverse_normal(uniform()); }

double CounterRandom::gamma(double shape) {
  if (!(shape > 0) || !std::isfinite(shape)) throw std::logic_error("gamma: the shape must be above 0");
  // Below shape 1: Gamma(shape + 1) U^(1/shape), Marsaglia & Tsang 2000, section 6.
  const double boost = shape < 1 ? exact_exp(exact_log(uniform()) / shape) : 1;
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = normal();
    const double t = 1 + c * x;
    if (t <= 0) continue;
    const double v = t * t * t;
    if (exact_log(uniform()) < 0.5 * x * x + d - d * v + d * exact_log(v)) return boost * d * v;
  }
}

double exact_log(double x) {
  if (std::isnan(x) || x < 0) return std::numeric_limits<double>::quiet_NaN();
  if (x == 0) return -std::numeric_limits<double>::infinity();
  if (std::isinf(x)) return x;
  int exponent = 0;
  if (x < std::numeric_limits<double>::min()) {
    x *= 0x1p54;
    exponent = -54;
  }
  std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  exponent += static_cast<int>(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
  double m = std::bit_cast<double>(bits);
  if (m > 0x1.6a09e667f3bcdp+0) {  // sqrt 2: keeps |f| small and log(1 - epsilon) free of cancellation
    m /= 2;
    ++exponent;
  }
  // log(1 + f) = 2 atanh(s), s = f / (2 + f), |s| < 0.172. Since 2 s = f - s f, the exact f carries the
  // result and only a correction of at most a fifth of it is rounded.
  const double f = m - 1;
  const double s = f / (2 + f);
  const double z = s * s;
  constexpr double kSeries[] = {2.0 / 3,  2.0 / 5,  2.0 / 7,  2.0 / 9,  2.0 / 11, 2.0 / 13,
                                2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21, 2.0 / 23, 2.0 / 25};
  const double r = z * polynomial(kSeries, z);
  const double k = exponent;
  return k * kLn2High - ((s * (f - r) - k * kLn2Low) - f);
}

double exact_exp(double x) {
  if (std::isnan(x)) return x;
  if (x > 709.782712893384) return std::numeric_limits<double>::infinity();
  if (x < -745.1332191019412) return 0;
  const int k = static_cast<int>(x * kLog2E + (x < 0 ? -0.5 : 0.5));
  const double high = x - k * kLn2High;
  const double low = k * kLn2Low;
  const double r = high - low;
  const double lost = (high - r) - low;  // what rounding r dropped
  // Taylor series from the square on: |r| < 0.347, the first term left out is below 2^-57.
  constexpr double kSeries[] = {1.0 / 2,
                                1.0 / 6,
                                1.0 / 24,
                                1.0 / 120,
                                1.0 / 720,
                                1.0 / 5040,
                                1.0 / 40320,
                                1.0 / 362880,
                                1.0 / 3628800,
                                1.0 / 39916800,
                                1.0 / 479001600,
                                1.0 / 6227020800.0,
                                1.0 / 87178291200.0};
  const double e = 1 + (r + (r * r * polynomial(kSeries, r) + lost));
  if (k > 1023) return e * 2 * power_of_two(k - 1);
  if (k < -1022) return e * power_of_two(k + 200) * 0x1p-200;
  return e * power_of_two(k);
}

double inverse_normal(double p) {
  if (!(p > 0 && p < 1)) throw std::logic_error("inverse_normal: p must lie between 0 and 1");
  // Wichura, Applied Statistics 37 (1988), algorithm AS 241, PPND16: relative error about 1e-16.
  const double q = p - 0.5;
  if (std::abs(q) <= 0.425) {
    constexpr double kA[] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                             1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                             3.3430575583588128105e4, 2.5090809287301226727e3};
    constexpr double kB[] = {1.0,
                             4.2313330701600911252e1,
                             6.8718700749205790830e2,
                             5.3941960214247511077e3,
                             2.1213794301586595867e4,
                             3.9307895800092710610e4,
                             2.8729085735721942674e4,
                             5.2264952788528545610e3};
    const double r = 0.180625 - q * q;
    return q * polynomial(kA, r) / polynomial(kB, r);
  }
  double r = std::sqrt(-exact_log(q < 0 ? p : 1 - p));
  double v = 0;
  if (r <= 5) {
    constexpr double kC[] = {1.42343711074968357734e0,  4.63033784615654529590e0, 5.76949722146069140550e0,
                             3.64784832476320460504e0,  1.27045825245236838258e0, 2.41780725177450611770e-1,
                             2.27238449892691845833e-2, 7.74545014278341407640e-4};
    constexpr double kD[] = {1.0,
                             2.05319162663775882187e0,
                             1.67638483018380384940e0,
                             6.89767334985100004550e-1,
                             1.48103976427480074590e-1,
                             1.51986665636164571966e-2,
                             5.47593808499534494600e-4,
                             1.05075007164441684324e-9};
    r -= 1.6;
    v = polynomial(kC, r) / polynomial(kD, r);
  } else {
    constexpr double kE[] = {6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,
                             2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                             2.71155556874348757815e-5, 2.01033439929228813265e-7};
    constexpr double kF[] = {1.0,
                             5.99832206555887937690e-1,
                             1.36929880922735805310e-1,
                             1.48753612908506148525e-2,
                             7.86869131145613259100e-4,
                             1.84631831751005468180e-5,
                             1.42151175831644588870e-7,
                             2.04426310338993978564e-15};
    r -= 5;
    v = polynomial(kE, r) / polynomial(kF, r);
  }
  return q < 0 ? -v : v;
}

}  // namespace foretoken
