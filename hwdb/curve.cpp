#include "hwdb/curve.h"

#include <algorithm>
#include <cmath>

namespace foretoken {

void Curve::add(double key, double seconds, double spread, double speed_of_light) {
  points_.push_back(
      {key, std::log2(key), std::log(speed_of_light / seconds), seconds, spread, std::log(speed_of_light)});
}

void Curve::finish() {
  std::sort(points_.begin(), points_.end(), [](const Point& a, const Point& b) {
    return a.key != b.key ? a.key < b.key : a.seconds < b.seconds;
  });
  std::size_t kept = 0;
  for (std::size_t i = 0; i < points_.size();) {
    std::size_t end = i;
    double sum = 0, squares = 0;
    for (; end < points_.size() && points_[end].key == points_[i].key; ++end) {
      const double log_time = std::log(points_[end].seconds);
      sum += log_time, squares += log_time * log_time;
    }
    Point p = points_[i];
    if (const auto n = static_cast<double>(end - i); n > 1) {
      p.seconds = std::exp(sum / n);
      p.log_utilisation = p.log_limit - sum / n;
      p.spread = std::max(p.spread, std::sqrt(std::max(0.0, (squares - sum * sum / n) / (n - 1))));
    }
    points_[kept++] = p;
    i = end;
  }
  points_.erase(points_.begin() + static_cast<long>(kept), points_.end());
  points_.shrink_to_fit();
}

Reading Curve::between(const Point& a, const Point& b, double log_key) {
  const double t = (log_key - a.log_key) / (b.log_key - a.log_key);
  Reading r;
  r.log_utilisation = a.log_utilisation + t * (b.log_utilisation - a.log_utilisation);
  r.log_limit = a.log_limit + t * (b.log_limit - a.log_limit);
  r.low_seconds = std::min(a.seconds, b.seconds);
  r.high_seconds = std::max(a.seconds, b.seconds);
  return r;
}

Reading Curve::between(const Point& a, const Point& b, double log_key, const Trend& trend, double log_limit) {
  Reading r = between(a, b, log_key);
  const double t = (log_key - a.log_key) / (b.log_key - a.log_key);
  const double low = std::log(a.seconds) - trend.log_time(a.log_limit),
               high = std::log(b.seconds) - trend.log_time(b.log_limit);
  r.log_limit = log_limit;
  r.log_utilisation = log_limit - trend.log_time(log_limit) - (low + t * (high - low));
  return r;
}

// Work goes on growing as between the last two points.
double Curve::limit_beyond(double key) const {
  const bool above = key > points_.back().key;
  const Point& edge = above ? points_.back() : points_.front();
  if (points_.size() < 2) return edge.log_limit;
  const Point& next = above ? points_[points_.size() - 2] : points_[1];
  return edge.log_limit +
         (std::log2(key) - edge.log_key) * (edge.log_limit - next.log_limit) / (edge.log_key - next.log_key);
}

Curve::Place Curve::place(double key, double log_key) const {
  const auto above = std::lower_bound(points_.begin(), points_.end(), key,
                                      [](const Point& p, double k) { return p.key < k; });
  const auto i = static_cast<std::size_t>(above - points_.begin());
  if (above == points_.end()) return {i - 1, 0};
  if (i == 0 || above->key == key) return {i, 0};
  const Point& low = *(above - 1);
  return {i - 1, (log_key - low.log_key) / (above->log_key - low.log_key)};
}

Reading Curve::at(double key) const {
  const auto above = std::lower_bound(points_.begin(), points_.end(), key,
                                      [](const Point& p, double k) { return p.key < k; });
  Reading r;
  if (above != points_.end() && above->key == key) {
    r.log_utilisation = above->log_utilisation;
    r.log_limit = above->log_limit;
    r.exact = true;
    r.seconds = above->seconds;
    r.spread = above->spread;
    return r;
  }
  if (above == points_.begin() || above == points_.end()) {
    const Point& edge = above == points_.end() ? points_.back() : points_.front();
    r.log_utilisation = edge.log_utilisation;
    r.inside = false;
    r.log_limit = limit_beyond(key);
    if (above == points_.begin() && points_.size() > 1) {
      // Smaller than any that was measured: mostly launch. Its time falls as between the first two points.
      const Point& next = points_[1];
      const double slope =
          std::max(0.0, std::log(next.seconds / edge.seconds) / (next.log_key - edge.log_key));
      const double log_time = std::log(edge.seconds) + slope * (std::log2(key) - edge.log_key);
      r.log_utilisation = r.log_limit - log_time;
    }
    // Below the range the edge's time is the most, above it the least that can be.
    r.low_seconds = above == points_.end() ? edge.seconds : 0;
    r.high_seconds = above == points_.end() ? INFINITY : edge.seconds;
    return r;
  }
  return between(*(above - 1), *above, std::log2(key));
}

Reading Curve::at(double key, const Trend& trend, double limit) const {
  const auto above = std::lower_bound(points_.begin(), points_.end(), key,
                                      [](const Point& p, double k) { return p.key < k; });
  if (above == points_.begin() || above == points_.end() || above->key == key) return at(key);
  return between(*(above - 1), *above, std::log2(key), trend, std::log(limit));
}

Reading Curve::without(std::size_t i, const Trend& trend) const {
  return between(points_[i - 1], points_[i + 1], points_[i].log_key, trend, points_[i].log_limit);
}

void Curve::collect(std::vector<std::pair<double, double>>& rows) const {
  for (const Point& p : points_) rows.emplace_back(p.log_limit, std::log(p.seconds));
}

Reading Curve::without(std::size_t i) const {
  return between(points_[i - 1], points_[i + 1], points_[i].log_key);
}

}  // namespace foretoken
