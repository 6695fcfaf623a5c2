// Measured times along one dimension (m, tokens, length, message bytes) as utilisation: speed of light over
// time.
#pragma once

#include <optional>
#include <vector>

#include "hwdb/trend.h"

namespace foretoken {

// What a table of measured times says at a point.
struct Reading {
  double log_utilisation = 0;
  double log_limit = 0;  // of the speed of light there, s
  // A measured row stands here: its time and the spread of its repeats.
  bool exact = false;
  double seconds = 0, spread = 0;
  // Between two rows: their times. An operator that grows along the dimension lies between them.
  double low_seconds = 0, high_seconds = 0;
  double distance = 0;  // of the nearest shape that it was read from, weighted octaves
  bool inside = true;   // false: beyond the measured range, the boundary's utilisation is held
};

class Curve {
 public:
  void add(double key, double seconds, double spread, double speed_of_light);
  void append(const Curve& other) {
    points_.insert(points_.end(), other.points_.begin(), other.points_.end());
  }
  // Sorts; several rows at one key are repeats, whose geometric mean stays, with their spread.
  void finish();
  bool empty() const { return points_.empty(); }
  std::size_t size() const { return points_.size(); }
  double key(std::size_t i) const { return points_[i].key; }
  double seconds(std::size_t i) const { return points_[i].seconds; }
  double log_utilisation(std::size_t i) const { return points_[i].log_utilisation; }

  Reading at(double key) const;
  // Between which points a key lies, and how far along in the logarithm; the edge itself beyond them.
  struct Place {
    std::size_t low;
    double t;
  };
  Place place(double key, double log_key) const;
  template <class Value>
  static double between(const Place& p, Value&& value) {
    const double low = value(p.low);
    return p.t == 0 ? low : low + p.t * (value(p.low + 1) - low);
  }
  double log_utilisation(const Place& p) const {
    return between(p, [&](std::size_t i) { return points_[i].log_utilisation; });
  }
  // The same, with the distance from the trend interpolated: right where a floor turns into a slope.
  Reading at(double key, const Trend& trend, double limit) const;
  // As if point i had not been measured; interior points only.
  Reading without(std::size_t i) const;
  Reading without(std::size_t i, const Trend& trend) const;
  void collect(std::vector<std::pair<double, double>>& rows) const;  // (log speed of light, log seconds)

 private:
  struct Point {
    double key, log_key, log_utilisation, seconds, spread;
    double log_limit;
  };
  double limit_beyond(double key) const;
  static Reading between(const Point& a, const Point& b, double log_key);
  static Reading between(const Point& a, const Point& b, double log_key, const Trend& trend,
                         double log_limit);
  std::vector<Point> points_;
};

}  // namespace foretoken
