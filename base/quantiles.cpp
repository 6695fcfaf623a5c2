// Log-linear histogram: the bucket is read off the bits of the value (exponent and ten mantissa bits).
#include "base/quantiles.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace foretoken {
namespace {

constexpr int kMantissaBits = 10;
constexpr std::int64_t kPerOctave = std::int64_t{1} << kMantissaBits;
// Values are below 2^63: 1024 exact ones, then octaves 10 to 62.
constexpr int kLastBucket = static_cast<int>(kPerOctave) * (1 + 63 - kMantissaBits) - 1;

__extension__ using Unsigned128 = unsigned __int128;

}  // namespace

int LogHistogram::bucket_of(std::int64_t value) {
  if (value < kPerOctave) return static_cast<int>(value);
  const int octave = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(value))) - 1 - kMantissaBits;
  return static_cast<int>(kPerOctave * octave + (value >> octave));
}

std::int64_t LogHistogram::bucket_low(int bucket) {
  if (bucket < kPerOctave) return bucket;
  const std::int64_t octave = bucket / kPerOctave - 1;
  return (bucket - kPerOctave * octave) << octave;
}

void LogHistogram::add(std::int64_t value, std::int64_t count) { add_ramp(value, 0, 1, count); }

void LogHistogram::add_ramp(std::int64_t first, std::int64_t increment, std::int64_t steps,
                            std::int64_t count) {
  if (steps < 0 || count < 0) throw std::logic_error("negative count of histogram values");
  if (steps == 0 || count == 0) return;
  std::int64_t span = 0, last = 0;
  if (__builtin_mul_overflow(increment, steps - 1, &span) || __builtin_add_overflow(first, span, &last) ||
      first < 0 || last < 0)
    throw std::logic_error("histogram value below 0 or beyond 2^63");
  if (increment < 0) {
    std::swap(first, last);
    increment = -increment;
  }
  const std::size_t needed = static_cast<std::size_t>(bucket_of(last)) + 1;
  if (counts_.size() < needed) counts_.resize(needed);

  std::int64_t value = first;
  for (std::int64_t left = steps; left > 0;) {
    const int bucket = bucket_of(value);
    const std::int64_t high =
        bucket == kLastBucket ? std::numeric_limits<std::int64_t>::max() : bucket_low(bucket + 1) - 1;
    const std::int64_t here = increment == 0 ? left : std::min(left, (high - value) / increment + 1);
    counts_[static_cast<std::size_t>(bucket)] += here * count;
    left -= here;
    if (left > 0) value += here * increment;
  }
  // Arithmetic series: with an odd number of steps last - first is even, so the product always is.
  sum_ += (static_cast<Unsigned128>(first) + static_cast<Unsigned128>(last)) *
          static_cast<Unsigned128>(steps) / 2 * static_cast<Unsigned128>(count);
  min_ = count_ == 0 ? first : std::min(min_, first);
  max_ = count_ == 0 ? last : std::max(max_, last);
  count_ += steps * count;
}

void LogHistogram::merge(const LogHistogram& other) {
  if (other.count_ == 0) return;
  if (counts_.size() < other.counts_.size()) counts_.resize(other.counts_.size());
  for (std::size_t i = 0; i < other.counts_.size(); ++i) counts_[i] += other.counts_[i];
  min_ = count_ == 0 ? other.min_ : std::min(min_, other.min_);
  max_ = count_ == 0 ? other.max_ : std::max(max_, other.max_);
  count_ += other.count_;
  sum_ += other.sum_;
}

double LogHistogram::mean() const {
  return count_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(count_);
}

double LogHistogram::midpoint(int bucket) const {
  if (bucket == kLastBucket) return static_cast<double>(max_);
  const double low = static_cast<double>(bucket_low(bucket));
  const double high = static_cast<double>(bucket_low(bucket + 1) - 1);
  return std::clamp((low + high) / 2, static_cast<double>(min_), static_cast<double>(max_));
}

double LogHistogram::stddev() const {
  if (count_ == 0) return 0;
  const double n = static_cast<double>(count_);
  double sum = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i)
    if (counts_[i] != 0) sum += static_cast<double>(counts_[i]) * midpoint(static_cast<int>(i));
  const double center = sum / n;
  double squares = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    if (counts_[i] == 0) continue;
    const double d = midpoint(static_cast<int>(i)) - center;
    squares += static_cast<double>(counts_[i]) * d * d;
  }
  return min_ == max_ ? 0 : std::sqrt(squares / n);
}

double LogHistogram::quantile(double q) const {
  if (count_ == 0) return 0;
  const double position = std::clamp(q, 0.0, 1.0) * static_cast<double>(count_ - 1);
  const std::int64_t rank = std::min(static_cast<std::int64_t>(position), count_ - 1);
  const double fraction = position - static_cast<double>(rank);
  const std::int64_t next_rank = std::min(rank + 1, count_ - 1);

  double lower = static_cast<double>(max_);
  bool have_lower = false;
  std::int64_t below = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    below += counts_[i];
    if (!have_lower && below > rank) {
      lower = rank == 0 ? static_cast<double>(min_) : midpoint(static_cast<int>(i));
      have_lower = true;
    }
    if (have_lower && below > next_rank) {
      const double upper =
          next_rank == count_ - 1 ? static_cast<double>(max_) : midpoint(static_cast<int>(i));
      if (rank == count_ - 1) return upper;
      return lower + fraction * (upper - lower);
    }
  }
  return lower;
}

double linear_quantile(std::span<const double> sorted, double q) {
  if (sorted.empty()) return 0;
  const double position = std::clamp(q, 0.0, 1.0) * static_cast<double>(sorted.size() - 1);
  const std::size_t low = std::min(static_cast<std::size_t>(position), sorted.size() - 1);
  const std::size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (position - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

}  // namespace foretoken
