#include "hwdb/gemm_model.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace foretoken {
namespace {

// Rows and columns of output that one thread block makes, and the share of a multiprocessor's peak that a
// tile of that size can reach: operand traffic from shared memory grows as the tile shrinks.
struct Tile {
  double rows, columns, share;
};
constexpr Tile kTiles[] = {{256, 128, 1.0}, {128, 256, 1.0}, {128, 128, 0.9}, {64, 128, 0.65},
                           {128, 64, 0.65}, {64, 64, 0.45},  {32, 128, 0.4},  {16, 128, 0.25}};
constexpr double kLeastSplit = 256;  // a split along k shorter than this gains nothing

double ceil_div(double a, double b) { return std::ceil(a / b); }

}  // namespace

GemmModel::GemmModel(const Device& device, const GemmShape& like) {
  Op op;
  const auto at = [&](std::int64_t m, std::int64_t n, std::int64_t k) {
    GemmShape g = like;
    g.m = m, g.n = n, g.k = k, g.batch = 1;
    op.shape = g;
    return bytes(op).value;
  };
  constexpr std::int64_t big = 1 << 13;
  constexpr auto square = static_cast<double>(big) * static_cast<double>(big);
  // bytes = w n k + x m k + y m n: each pair of large sides against one row, one column.
  weight_bytes_ = at(1, big, big) / square;
  input_bytes_ = (at(big, 1, big)) / square;
  output_bytes_ = (at(big, big, 1)) / square;
  op.shape = like;
  peak_ = device.peak(compute_type(op, device.has_fp4())).value;
  bandwidth_ = device.memory_bandwidth.value;
  processors_ = std::max(1, device.sm_count);
  set({std::log(2.5), std::log(0.8), std::log(0.75), std::log(30), std::log(1.0)});
}

void GemmModel::set(const Parameters& p) {
  parameters_ = p;
  floor_ = std::exp(p[0]) * 1e-6;
  bandwidth_share_ = std::exp(p[1]);
  peak_share_ = std::exp(p[2]);
  step_ = std::exp(p[3]) * 1e-9 / 64;
  split_ = std::exp(p[4]) * 1e-6;
  const double processor = peak_ * peak_share_ / processors_;
  for (std::size_t i = 0; i < std::size(kTiles); ++i)
    tile_step_[i] = std::max(
        2 * kTiles[i].rows * kTiles[i].columns / (processor * std::min(1.0, kTiles[i].share * slack_)),
        step_);
}

void GemmModel::borrow(const GemmModel& donor) {
  slack_ = std::max(1.0, donor.peak_ / donor.processors_ / (peak_ / processors_));
  set(donor.parameters_);
}

double GemmModel::limit(double m, double n, double k, double batch) const {
  const double moved = batch * (weight_bytes_ * n * k + input_bytes_ * m * k + output_bytes_ * m * n);
  return std::max(moved / bandwidth_, 2 * m * n * k * batch / peak_);
}

double GemmModel::time(double m, double n, double k, double batch) const {
  const double moved = batch * (weight_bytes_ * n * k + input_bytes_ * m * k + output_bytes_ * m * n);
  const double memory = moved / (bandwidth_ * bandwidth_share_);
  double arithmetic = INFINITY;
  for (std::size_t i = 0; i < std::size(kTiles); ++i) {
    const Tile& tile = kTiles[i];
    const double tiles = ceil_div(m, tile.rows) * ceil_div(n, tile.columns) * batch;
    const double a_step = tile_step_[i];
    double t = ceil_div(tiles, processors_) * k * a_step;
    for (double splits = 2; tiles * splits <= processors_ && k / splits >= kLeastSplit; splits *= 2)
      t = std::min(t, k / splits * a_step + split_);
    arithmetic = std::min(arithmetic, t);
  }
  return floor_ + std::sqrt(memory * memory + arithmetic * arithmetic);
}

void GemmModel::fit(std::span<const GemmSample> rows) {
  const std::size_t stride = std::max<std::size_t>(1, rows.size() / 1000);
  std::vector<double> logs;
  for (std::size_t i = 0; i < rows.size(); i += stride) logs.push_back(std::log(rows[i].seconds));
  if (logs.size() < 30) return;
  const auto cost = [&](const Parameters& p) {
    set(p);
    double sum = 0;
    for (std::size_t i = 0, j = 0; i < rows.size(); i += stride, ++j) {
      const GemmSample& r = rows[i];
      sum += std::abs(std::log(time(r.m, r.n, r.k, r.batch)) - logs[j]);
    }
    return sum;
  };
  Parameters best = parameters_;
  double least = cost(best);
  for (double width = 0.4; width > 0.01; width /= 2) {
    for (int round = 0; round < 4; ++round) {
      const double before = least;
      for (std::size_t i = 0; i < kParameters; ++i)
        for (const double sign : {-1.0, 1.0}) {
          Parameters p = best;
          p[i] += sign * width;
          if (const double c = cost(p); c < least) least = c, best = p;
        }
      if (least >= before) break;
    }
  }
  set(best);
}

}  // namespace foretoken
