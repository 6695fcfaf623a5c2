#include "hwdb/trend.h"

#include <algorithm>
#include <cstddef>

namespace foretoken {

void Trend::fit(std::span<const std::pair<double, double>> rows) {
  if (rows.size() < 5) return;
  const std::size_t stride = std::max<std::size_t>(1, rows.size() / 600);
  double shortest = rows.front().second;
  for (const auto& [limit, time] : rows) shortest = std::min(shortest, time);
  double log_floor = shortest, log_slope = std::log(1.6);
  const auto cost = [&](double f, double s) {
    floor_ = std::exp(f), slope_ = std::exp(s);
    double sum = 0;
    for (std::size_t i = 0; i < rows.size(); i += stride)
      sum += std::abs(log_time(rows[i].first) - rows[i].second);
    return sum;
  };
  double least = cost(log_floor, log_slope);
  for (double width = 0.4; width > 0.02; width /= 2) {
    for (int round = 0; round < 8; ++round) {
      const double before = least;
      for (const auto& [df, ds] : {std::pair{width, 0.0}, {-width, 0.0}, {0.0, width}, {0.0, -width}}) {
        const double c = cost(log_floor + df, log_slope + ds);
        if (c < least) least = c, log_floor += df, log_slope += ds;
      }
      if (least >= before) break;
    }
  }
  floor_ = std::exp(log_floor), slope_ = std::exp(log_slope);
}

}  // namespace foretoken
