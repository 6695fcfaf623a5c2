// Fits a few terms of a simulation to measured values: robust least squares on logarithms of predicted over
// measured, Levenberg-Marquardt with Huber's weights (Huber 1964; Nocedal and Wright 2006, 10.3), derivatives
// by forward differences. Deterministic for any number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace foretoken {

struct FitTerm {
  std::string name;
  double start = 0;            // what it is without a fit
  double scale = 1;            // a change that matters; derivatives take a fifth of it
  double low = 0, high = 1e9;  // bounds
};

struct FitProblem {
  std::vector<FitTerm> terms;                 // in the order in which they are taken up
  std::vector<std::vector<double>> measured;  // of each run: logarithms of its measured values
  // Of each value: what kind it is, from 0. A kind counts for less the larger the median error that it keeps
  // when it is fitted alone. Empty: all alike.
  std::vector<std::vector<std::size_t>> kind;
  std::vector<std::int64_t> load;  // of each run: runs of one load are left out together
  std::size_t most_terms = 0;
  // Logarithms of a run's predictions, in the order of its measured values; called from many threads.
  std::function<std::vector<double>(std::size_t run, const std::vector<double>& terms)> predict;
};

enum class FitVerdict : std::uint8_t {
  kFitted,
  kUnseen,    // no measured value changes by half a percent where the term changes by its scale
  kConfused,  // what it changes, terms before it change in the same proportions
  kTooMany    // more terms than the loads allow
};

struct EngineFit {
  std::vector<double> value;        // of each term; its start where it isn't fitted
  std::vector<FitVerdict> verdict;  // of each term
  // Logarithms of predictions: with all terms at their start, with the fitted ones, and of each run with
  // terms fitted to the other loads (empty where there is one load only).
  std::vector<std::vector<double>> before, after, left_out;
};

EngineFit fit_engine_terms(const FitProblem& problem);

}  // namespace foretoken
