// Time of an operator from its speed of light alone: a launch floor and a share of the limit, fitted to the
// rows of one engine and type. What neighbours say is how far they lie from it.
#pragma once

#include <cmath>
#include <span>
#include <utility>

namespace foretoken {

class Trend {
 public:
  // Pairs of (log speed of light, log seconds).
  void fit(std::span<const std::pair<double, double>> rows);
  double log_time(double log_limit) const { return std::log(floor_ + std::exp(log_limit) * slope_); }

 private:
  double floor_ = 0, slope_ = 1;
};

}  // namespace foretoken
