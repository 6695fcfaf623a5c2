// Counter-based random numbers: every draw is a pure function of (seed, stream, index, draw), so that results
// do not depend on the order in which draws are made. Distributions are our own, to give the same bytes with
// every standard library (no std::log: see random.cpp).
#pragma once

#include <cstdint>
#include <span>

namespace foretoken {

// SplitMix64 finaliser (Steele et al. 2014).
constexpr std::uint64_t mix64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// One independent stream of draws, for example stream = purpose, index = request.
class CounterRandom {
 public:
  CounterRandom(std::uint64_t seed, std::uint64_t stream, std::uint64_t index = 0);

  std::uint64_t bits();                                           // next 64 random bits
  double uniform();                                               // (0, 1), never 0 or 1
  std::int64_t uniform_int(std::int64_t low, std::int64_t high);  // inclusive bounds, unbiased
  double exponential();                                           // mean 1
  double normal();             // mean 0, standard deviation 1 (inverse distribution function)
  double gamma(double shape);  // scale 1 (Marsaglia & Tsang 2000)

 private:
  std::uint64_t key_, counter_ = 0;
};

// Deterministic elementary functions, within 2 units in the last place of the true value.
double exact_log(double x);  // x > 0
double exact_exp(double x);
double inverse_normal(double p);  // 0 < p < 1 (Wichura 1988, AS 241)

}  // namespace foretoken
