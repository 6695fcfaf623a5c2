#include "hwdb/filter.h"

#include <algorithm>
#include <cmath>

#include "hwdb/kernel_table.h"

namespace foretoken {
namespace {

// Marks the points of [first, last] that must stay so that the others lie within `limit` of the straight
// lines between kept ones, in (log key, log utilisation); Douglas and Peucker's subdivision.
void keep_between(const std::vector<double>& x, const std::vector<double>& y, std::size_t first,
                  std::size_t last, double limit, std::vector<bool>& keep) {
  double worst = 0;
  std::size_t at = first;
  for (std::size_t i = first + 1; i < last; ++i) {
    const double t = (x[i] - x[first]) / (x[last] - x[first]);
    const double gap = std::abs(y[first] + t * (y[last] - y[first]) - y[i]);
    if (gap > worst) worst = gap, at = i;
  }
  if (worst <= limit) return;
  keep[at] = true;
  keep_between(x, y, first, at, limit, keep);
  keep_between(x, y, at, last, limit, keep);
}

}  // namespace

std::string_view implausible(const Measurement& row, const Device& device, const Topology& topology) {
  Seconds limit;  // 0 where there is no operator to compare it with
  for (const Op& op : ops_of(row.series, row.point)) limit += speed_of_light(op, device, topology);
  return row.point.seconds * kFasterThanLight < limit.value ? "faster than 1.05 times the speed of light"
                                                            : "";
}

std::string_view host_bound(const MeasurementSeries& series, const std::vector<MeasuredPoint>& points,
                            const Device& device, const Topology& topology) {
  if (series.kind < MeasuredKind::kPrefillAttention || series.kind > MeasuredKind::kMlaDecode) return "";
  constexpr double kSmall = 2e-6, kLaunches = 80e-6;
  constexpr std::size_t kFewest = 20;
  std::vector<double> times;
  for (const MeasuredPoint& p : points) {
    const auto op = op_of(series, p);
    if (op && speed_of_light(*op, device, topology).value < kSmall) times.push_back(p.seconds);
  }
  if (times.size() < kFewest) return "";
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 10),
                   times.end());
  return times[times.size() / 10] > kLaunches
             ? "host-bound: the smallest of the series take over 80 us, launched one by one"
             : "";
}

void thin(const MeasurementSeries& series, std::vector<MeasuredPoint>& points, const Device& device,
          const Topology& topology, double tolerance) {
  std::sort(points.begin(), points.end(), [](const auto& a, const auto& b) { return a.shape < b.shape; });
  const std::size_t last = shape_columns(series.kind).size() - 1;
  std::vector<MeasuredPoint> kept;
  std::size_t begin = 0;
  while (begin < points.size()) {
    std::size_t end = begin + 1;
    const auto same = [&](const MeasuredPoint& p) {
      return std::equal(p.shape.begin(), p.shape.begin() + static_cast<long>(last),
                        points[begin].shape.begin());
    };
    while (end < points.size() && same(points[end])) ++end;
    const std::size_t n = end - begin;
    std::vector<double> x(n), y(n);
    bool comparable = true;
    for (std::size_t i = 0; i < n; ++i) {
      const MeasuredPoint& p = points[begin + i];
      const auto op = op_of(series, p);
      const double limit = op ? speed_of_light(*op, device, topology).value : 0;
      comparable = comparable && limit > 0;
      x[i] = std::log2(static_cast<double>(p.shape[last]));
      y[i] = std::log(limit / p.seconds);
    }
    std::vector<bool> keep(n, !comparable || n < 3);
    keep.front() = keep.back() = true;
    if (comparable && n >= 3) keep_between(x, y, 0, n - 1, std::log1p(tolerance), keep);
    for (std::size_t i = 0; i < n; ++i)
      if (keep[i]) kept.push_back(points[begin + i]);
    begin = end;
  }
  points = std::move(kept);
}

}  // namespace foretoken
