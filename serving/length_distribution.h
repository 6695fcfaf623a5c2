// Draws token counts from a LengthDistribution, and knows the mean of what it draws.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/random.h"
#include "serving/workload.h"

namespace foretoken {

// No sample is longer, so that a prompt and its answer always fit 31 bits.
inline constexpr std::int64_t kLongestSample = (std::int64_t{1} << 30) - 1;

class LengthSampler {
 public:
  // where: JSON pointer of the distribution, for errors. folder: relative files start there.
  LengthSampler(const LengthDistribution& config, const std::filesystem::path& folder,
                const std::string& where);

  std::int64_t draw(CounterRandom random) const;
  // Mean of max(draw, at_least): rounding to whole tokens and all clips included.
  double mean(std::int64_t at_least = 1) const;
  std::int64_t largest() const {
    return kind_ == Kind::kLognormal && high_ == kLongestSample ? 0 : high_;
  }  // 0: open

  double mu() const { return mu_; }  // lognormal: mean and standard deviation of the logarithm
  double sigma() const { return sigma_; }

 private:
  enum class Kind { kFixed, kUniform, kLognormal, kEmpirical };
  void read_lengths(const std::filesystem::path& path);
  double lognormal_mean(std::int64_t low) const;

  Kind kind_ = Kind::kFixed;
  std::int64_t low_ = 1, high_ = kLongestSample;
  double mu_ = 0, sigma_ = 0;
  std::vector<std::int64_t> lengths_;  // empirical
  std::vector<double> cumulative_;     // sums of weights up to and including lengths_[i]
};

double normal_cdf(double x);  // of the standard normal distribution, within 1e-14

}  // namespace foretoken
