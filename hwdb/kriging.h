// Weights of the nearest measured shapes for one that was not measured: ordinary kriging, best linear
// estimate of a field whose values grow apart with distance. Unlike inverse distances, shapes that lie
// behind one another, or on one side only, are not counted twice.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>

namespace foretoken {

inline constexpr std::size_t kMostNeighbours = 12;
inline constexpr std::size_t kAxes = 6;
using Coordinates = std::array<double, kAxes>;  // octaves, scaled by how much the field changes along them

class Neighbours {
 public:
  struct Entry {
    double distance2;
    int shape;
    double at;     // the caller's own, e.g. where to read the shape's curve
    double doubt;  // variance of its own value, as a share of the field's
    Coordinates place;
  };

  // range: octaves over which the field forgets itself; nugget: share of the variance that no neighbour
  // knows.
  Neighbours(const Coordinates& query, std::size_t most, double farthest, double range, double nugget);
  void offer(const Coordinates& place, int shape, double at = 0, double doubt = 0);
  bool empty() const { return count_ == 0; }
  double nearest() const { return std::sqrt(entries_[0].distance2); }

  // Sum of weights times values; weights sum to one.
  template <class Value>
  double blend(Value&& value) {
    solve();
    double sum = 0;
    for (std::size_t i = 0; i < count_; ++i) sum += weights_[i] * value(entries_[i]);
    return sum;
  }
  // For callers that keep them: solve(), then entry and weight of each.
  void solve();
  std::size_t size() const { return count_; }
  const Entry& entry(std::size_t i) const { return entries_[i]; }
  double weight(std::size_t i) const { return weights_[i]; }

 private:
  double covariance(double distance2) const { return std::exp(-std::sqrt(distance2) / range_); }
  Coordinates query_;
  std::size_t most_, count_ = 0;
  double farthest2_, range_, nugget_;
  std::array<Entry, kMostNeighbours> entries_;
  std::array<double, kMostNeighbours> weights_;
};

}  // namespace foretoken
