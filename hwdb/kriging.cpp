#include "hwdb/kriging.h"

#include <algorithm>

namespace foretoken {
namespace {

double distance2(const Coordinates& a, const Coordinates& b) {
  double sum = 0;
  for (std::size_t i = 0; i < kAxes; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

}  // namespace

Neighbours::Neighbours(const Coordinates& query, std::size_t most, double farthest, double range,
                       double nugget)
    : query_(query),
      most_(std::min(most, kMostNeighbours)),
      farthest2_(farthest * farthest),
      range_(range),
      nugget_(nugget) {}

void Neighbours::offer(const Coordinates& place, int shape, double at, double doubt) {
  const double d2 = distance2(place, query_);
  if (d2 > farthest2_ || (count_ == most_ && d2 >= entries_[count_ - 1].distance2)) return;
  std::size_t i = count_ < most_ ? count_++ : count_ - 1;
  for (; i > 0 && entries_[i - 1].distance2 > d2; --i) entries_[i] = entries_[i - 1];
  entries_[i] = {d2, shape, at, doubt, place};
}

void Neighbours::solve() {
  const std::size_t c = count_;
  // [covariances | covariance with the query, 1]; positive definite by the nugget, so no pivoting.
  std::array<std::array<double, kMostNeighbours + 2>, kMostNeighbours> a;
  for (std::size_t i = 0; i < c; ++i) {
    a[i][i] = 1 + nugget_ + entries_[i].doubt;
    for (std::size_t j = i + 1; j < c; ++j)
      a[i][j] = a[j][i] = covariance(distance2(entries_[i].place, entries_[j].place));
    a[i][c] = covariance(entries_[i].distance2);
    a[i][c + 1] = 1;
  }
  for (std::size_t i = 0; i < c; ++i) {
    for (std::size_t j = i + 1; j < c; ++j) {
      const double f = a[j][i] / a[i][i];
      for (std::size_t l = i; l < c + 2; ++l) a[j][l] -= f * a[i][l];
    }
  }
  for (std::size_t i = c; i-- > 0;) {
    for (std::size_t x = c; x < c + 2; ++x) {
      for (std::size_t j = i + 1; j < c; ++j) a[i][x] -= a[i][j] * a[j][x];
      a[i][x] /= a[i][i];
    }
  }
  double simple = 0, unit = 0;
  for (std::size_t i = 0; i < c; ++i) simple += a[i][c], unit += a[i][c + 1];
  for (std::size_t i = 0; i < c; ++i) weights_[i] = a[i][c] + (1 - simple) / unit * a[i][c + 1];
}

}  // namespace foretoken
