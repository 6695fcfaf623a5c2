#include "serving/length_distribution.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace foretoken {
namespace {

constexpr double kZ99 = 2.3263478740408408;  // 99th percentile of the standard normal distribution

std::int64_t whole(double value, std::string_view name, const std::string& where) {
  if (!(value >= 1) || value > static_cast<double>(kLongestSample) || value != std::floor(value)) {
    throw Error(
        fmt::format("{}/{}", where, name),
        fmt::format("{} is not a whole number of tokens from 1 to {}", value, with_commas(kLongestSample)));
  }
  return static_cast<std::int64_t>(value);
}

// Refuses the parameters that a distribution has no use for, and asks for those it needs.
void check_parameters(const LengthDistribution& c, const std::string& where) {
  struct Needs {
    std::string_view distribution;
    std::vector<std::string_view> needed, allowed;
  };
  const std::array<Needs, 4> kNeeds = {{{"fixed", {"value"}, {}},
                                        {"uniform", {"min", "max"}, {}},
                                        {"lognormal", {"mean", "p99"}, {"min", "max"}},
                                        {"empirical", {"file"}, {"min", "max"}}}};
  const auto needs = std::find_if(kNeeds.begin(), kNeeds.end(),
                                  [&](const Needs& n) { return n.distribution == c.distribution; });
  if (needs == kNeeds.end()) {
    throw Error(where + "/distribution",
                fmt::format("\"{}\" is not one of fixed, uniform, lognormal, empirical", c.distribution));
  }
  const std::array<std::pair<std::string_view, bool>, 6> given = {{{"value", c.value.has_value()},
                                                                   {"min", c.min.has_value()},
                                                                   {"max", c.max.has_value()},
                                                                   {"mean", c.mean.has_value()},
                                                                   {"p99", c.p99.has_value()},
                                                                   {"file", !c.file.empty()}}};
  for (const auto& [name, is_given] : given) {
    const bool needed = std::find(needs->needed.begin(), needs->needed.end(), name) != needs->needed.end();
    const bool allowed =
        std::find(needs->allowed.begin(), needs->allowed.end(), name) != needs->allowed.end();
    if (needed && !is_given) {
      throw Error(where, fmt::format("a {} distribution needs \"{}\"", c.distribution, name));
    }
    if (is_given && !needed && !allowed) {
      throw Error(fmt::format("{}/{}", where, name),
                  fmt::format("a {} distribution has no \"{}\"; remove it", c.distribution, name));
    }
  }
}

}  // namespace

// Hart (1968), "Computer Approximations", algorithm 5666, in the form of West (2005), "Better approximations
// to cumulative normal functions".
double normal_cdf(double x) {
  const double a = std::abs(x);
  double tail = 0;
  if (a <= 37) {
    const double e = exact_exp(-a * a / 2);
    if (a < 7.07106781186547) {
      double p = 3.52624965998911e-02;
      for (const double c : {0.700383064443688, 6.37396220353165, 33.912866078383, 112.079291497871,
                             221.213596169931, 220.206867912376}) {
        p = p * a + c;
      }
      double q = 8.83883476483184e-02;
      for (const double c : {1.75566716318264, 16.064177579207, 86.7807322029461, 296.564248779674,
                             637.333633378831, 793.826512519948, 440.413735824752}) {
        q = q * a + c;
      }
      tail = e * p / q;
    } else {
      tail = e / (a + 1 / (a + 2 / (a + 3 / (a + 4 / (a + 0.65))))) / 2.506628274631;
    }
  }
  return x > 0 ? 1 - tail : tail;
}

LengthSampler::LengthSampler(const LengthDistribution& config, const std::filesystem::path& folder,
                             const std::string& where) {
  check_parameters(config, where);
  if (config.min) low_ = whole(*config.min, "min", where);
  if (config.max) high_ = whole(*config.max, "max", where);
  if (low_ > high_) {
    throw Error(where, fmt::format("min {} is above max {}; exchange them", low_, high_));
  }
  if (config.distribution == "fixed") {
    low_ = high_ = whole(*config.value, "value", where);
  } else if (config.distribution == "uniform") {
    kind_ = Kind::kUniform;
  } else if (config.distribution == "lognormal") {
    kind_ = Kind::kLognormal;
    const double mean = *config.mean, p99 = *config.p99;
    if (!(mean > 0) || mean > static_cast<double>(kLongestSample)) {
      throw Error(where + "/mean",
                  fmt::format("{} is outside 1 to {} tokens", mean, with_commas(kLongestSample)));
    }
    // mean = exp(mu + sigma^2/2) and p99 = exp(mu + z sigma) leave sigma^2/2 - z sigma + ln(p99/mean) = 0; of
    // its two roots the smaller is the usual one (the other has a median far below the mean).
    const double ratio = p99 / mean, most = exact_exp(kZ99 * kZ99 / 2);
    if (!(ratio >= 1)) {
      throw Error(
          where + "/p99",
          fmt::format("the 99th percentile {} is below the mean {}; give at least the mean", p99, mean));
    }
    const double under_root = kZ99 * kZ99 - 2 * exact_log(ratio);
    if (under_root < 0) {
      throw Error(where + "/p99",
                  fmt::format("no lognormal distribution has a 99th percentile {} times its mean; the "
                              "most is {} times, {} here",
                              significant(ratio, 4), significant(most, 4), significant(most * mean, 6)));
    }
    sigma_ = kZ99 - std::sqrt(under_root);
    mu_ = exact_log(mean) - sigma_ * sigma_ / 2;
  } else {
    kind_ = Kind::kEmpirical;
    const std::filesystem::path file = config.file;
    read_lengths(file.is_absolute() ? file : folder / file);
  }
}

void LengthSampler::read_lengths(const std::filesystem::path& path) {
  LineReader lines(path);
  std::string line;
  std::vector<std::pair<std::int64_t, double>> read;
  bool first = true;
  while (lines.next(line)) {
    const auto cells = split(trim(line), ',');
    if (trim(line).empty()) continue;
    const bool header = first && !parse_double(trim(cells[0]));
    first = false;
    if (header) continue;
    const auto length = parse_double(trim(cells[0]));
    const auto weight = cells.size() == 2 ? parse_double(trim(cells[1])) : std::optional<double>(1.0);
    if (cells.size() > 2 || !length || !weight) {
      throw Error(lines.where(),
                  fmt::format("\"{}\" is neither a length nor \"length,weight\"; correct the line", line));
    }
    if (*length < 1 || *length > static_cast<double>(kLongestSample) || *length != std::floor(*length)) {
      throw Error(lines.where(),
                  fmt::format("{} is not a whole number of tokens from 1 to {}; correct the line", *length,
                              with_commas(kLongestSample)));
    }
    if (*weight < 0)
      throw Error(lines.where(), fmt::format("the weight {} is negative; correct the line", *weight));
    if (*weight > 0) {
      read.emplace_back(std::clamp(static_cast<std::int64_t>(*length), low_, high_), *weight);
    }
  }
  if (read.empty())
    throw Error(path.string(), "no length in the file; write one a line, or \"length,weight\"");
  std::sort(read.begin(), read.end());
  double sum = 0;
  for (const auto& [length, weight] : read) {
    sum += weight;
    if (!lengths_.empty() && lengths_.back() == length) {
      cumulative_.back() = sum;
    } else {
      lengths_.push_back(length);
      cumulative_.push_back(sum);
    }
  }
  high_ = lengths_.back();
}

std::int64_t LengthSampler::draw(CounterRandom random) const {
  switch (kind_) {
    case Kind::kFixed:
      return low_;
    case Kind::kUniform:
      return random.uniform_int(low_, high_);
    case Kind::kLognormal: {
      const double x = exact_exp(mu_ + sigma_ * random.normal());
      if (x >= static_cast<double>(high_)) return high_;
      return std::max(low_, static_cast<std::int64_t>(std::floor(x + 0.5)));
    }
    case Kind::kEmpirical:
      break;
  }
  const double u = random.uniform() * cumulative_.back();
  const auto at = std::upper_bound(cumulative_.begin(), cumulative_.end(), u) - cumulative_.begin();
  return lengths_[std::min(static_cast<std::size_t>(at), lengths_.size() - 1)];
}

double LengthSampler::mean(std::int64_t at_least) const {
  const std::int64_t low = std::max(low_, at_least);
  if (low >= high_) return static_cast<double>(low);
  const auto d = [](std::int64_t n) { return static_cast<double>(n); };
  switch (kind_) {
    case Kind::kFixed:
      break;
    case Kind::kUniform: {
      const double below = d(low - low_ + 1), above = d(high_ - low);
      return (below * d(low) + above * (d(low) + 1 + d(high_)) / 2) / (below + above);
    }
    case Kind::kLognormal:
      return lognormal_mean(low);
    case Kind::kEmpirical: {
      double sum = 0, before = 0;
      for (std::size_t i = 0; i < lengths_.size(); ++i) {
        sum += (cumulative_[i] - before) * d(std::max(lengths_[i], low));
        before = cumulative_[i];
      }
      return sum / before;
    }
  }
  return d(low);
}

// low + sum over k in (low, high] of P(length >= k), where length >= k means X >= k - 1/2: term by term near
// `low`, where the curve bends, then the integral that the rest is the midpoint sum of.
double LengthSampler::lognormal_mean(std::int64_t low) const {
  const auto clipped = [&](double x) {
    return std::clamp(x, static_cast<double>(low), static_cast<double>(high_));
  };
  if (sigma_ == 0) return clipped(std::floor(exact_exp(mu_) + 0.5));
  const auto beyond = [&](double x) { return normal_cdf((mu_ - exact_log(x)) / sigma_); };
  const auto mean_up_to = [&](double x) {  // E[min(X, x)]
    const double z = (exact_log(x) - mu_) / sigma_;
    return exact_exp(mu_ + sigma_ * sigma_ / 2) * normal_cdf(z - sigma_) + x * normal_cdf(-z);
  };
  constexpr std::int64_t kTerms = 4096;
  const std::int64_t end = high_ - low > kTerms ? low + kTerms : high_;
  double mean = static_cast<double>(low);
  for (std::int64_t k = low + 1; k <= end; ++k) mean += beyond(static_cast<double>(k) - 0.5);
  if (end < high_) mean += mean_up_to(static_cast<double>(high_)) - mean_up_to(static_cast<double>(end));
  return mean;
}

}  // namespace foretoken
