#include "simulator/closed_forms.h"

#include <algorithm>
#include <cmath>

namespace foretoken {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

Waves wave_quantization(std::int64_t m, std::int64_t n, std::int64_t tile_m, std::int64_t tile_n, int units) {
  Waves w;
  const std::int64_t rows = ceil_div(m, tile_m), columns = ceil_div(n, tile_n);
  w.tiles = rows * columns;
  w.waves = ceil_div(w.tiles, units);
  w.wave_efficiency = static_cast<double>(w.tiles) / static_cast<double>(w.waves * units);
  w.tile_efficiency = static_cast<double>(m * n) / static_cast<double>(rows * tile_m * columns * tile_n);
  return w;
}

Seconds ring_all_reduce(Bytes message, int ranks, BytesPerSecond bandwidth, Seconds alpha) {
  if (ranks <= 1) return Seconds(0);
  const double steps = 2.0 * (ranks - 1);
  return steps * alpha + (steps / ranks) * message / bandwidth;
}

int flash_decoding_splits(std::int64_t tiles, std::int64_t kv_blocks, int units) {
  if (static_cast<double>(tiles) >= 0.8 * units) return 1;
  const std::int64_t most = std::min<std::int64_t>({128, units, kv_blocks});
  auto useful = [&](std::int64_t s) {
    return s == 1 || ceil_div(kv_blocks, s) != ceil_div(kv_blocks, s - 1);
  };
  auto efficiency = [&](std::int64_t s) {
    const double waves = static_cast<double>(tiles * s) / units;
    return waves / std::ceil(waves);
  };
  double best = 0;
  for (std::int64_t s = 1; s <= most; ++s)
    if (useful(s)) best = std::max(best, efficiency(s));
  for (std::int64_t s = 1; s <= most; ++s)
    if (useful(s) && efficiency(s) >= 0.85 * best) return static_cast<int>(s);
  return 1;
}

double speculative_tokens(double a, int g) { return a >= 1 ? g + 1.0 : (1 - std::pow(a, g + 1)) / (1 - a); }
double speculative_speedup(double a, int g, double c) { return speculative_tokens(a, g) / (g * c + 1); }

double pipeline_bubble(int p, int m) { return (p - 1.0) / (m + p - 1.0); }
double pipeline_bubble_over_ideal(int p, int m, int v) { return (p - 1.0) / (static_cast<double>(v) * m); }

Seconds expert_exchange_limit(std::int64_t tokens, std::int64_t hidden, int experts,
                              BytesPerSecond bandwidth) {
  constexpr double kDispatchBytes = 1, kCombineBytes = 2;
  return Bytes((kDispatchBytes + kCombineBytes) * static_cast<double>(tokens * experts * hidden)) / bandwidth;
}

Seconds md1_wait(double arrivals_per_s, Seconds service) {
  const double rho = arrivals_per_s * service.value;
  return rho / (2 * (1 - rho)) * service;
}

double usd_per_million_tokens(double usd_per_hour, double output_tokens_per_s) {
  return output_tokens_per_s > 0 ? usd_per_hour / 3600 / output_tokens_per_s * 1e6 : 0;
}
double usd_per_day(double devices, double usd_per_device_hour) { return devices * usd_per_device_hour * 24; }
double revenue_usd(double hit, double miss, double output, const TokenPrices& p) {
  return (hit * p.input_hit + miss * p.input_miss + output * p.output) / 1e6;
}
double profit_margin(double revenue, double cost) { return (revenue - cost) / cost; }

}  // namespace foretoken
