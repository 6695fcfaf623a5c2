// Log-linear histogram of non-negative int64 values (picoseconds): buckets 0.1 % wide, integer counts,
// mergeable in any order with the same result. For long runs, where lists of samples would grow.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace foretoken {

class LogHistogram {
 public:
  void add(std::int64_t value, std::int64_t count = 1);
  // values first, first + increment, ... (steps of them), each counted `count` times; cost per bucket
  // touched.
  void add_ramp(std::int64_t first, std::int64_t increment, std::int64_t steps, std::int64_t count);
  void merge(const LogHistogram& other);

  std::int64_t count() const { return count_; }
  double mean() const;
  double stddev() const;            // population, of the bucket midpoints: the same in any order of adds
  double quantile(double q) const;  // q in [0, 1], within 0.1 % of the linear-interpolated sample quantile
  std::int64_t min() const { return count_ ? min_ : 0; }
  std::int64_t max() const { return count_ ? max_ : 0; }

 private:
  static int bucket_of(std::int64_t value);
  static std::int64_t bucket_low(int bucket);
  double midpoint(int bucket) const;  // kept within [min, max]
  std::vector<std::int64_t> counts_;
  std::int64_t count_ = 0, min_ = 0, max_ = 0;
  // 128 bits: counts times picoseconds exceed 64 bits within hours.
  __extension__ unsigned __int128 sum_ = 0;
};

// numpy's linear interpolation. `sorted` ascending; 0 when empty.
double linear_quantile(std::span<const double> sorted, double q);

}  // namespace foretoken
