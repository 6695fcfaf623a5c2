#include "simulator/engine_fit.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <execution>
#include <numeric>

namespace foretoken {
namespace {

using Values = std::vector<std::vector<double>>;  // by run
using Matrix = std::vector<std::vector<double>>;

constexpr double kHuber = 0.1;         // relative errors beyond it count by their size, not its square
constexpr double kCloseMatch = 0.05;   // kinds of values whose median error is larger count for less
constexpr double kDifference = 0.2;    // of a term's scale
constexpr double kLeastChange = 5e-3;  // of a value, for a term to be seen
constexpr double kLeastAngle = 0.1;    // sine to the terms before
constexpr int kMostSteps = 10, kMostTries = 6, kChordSteps = 4;
constexpr double kSmallStep = 1e-3;  // of the scales

// Of a symmetric positive definite system, by elimination; terms are few.
std::vector<double> solve(Matrix a, std::vector<double> b) {
  const std::size_t n = b.size();
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = i + 1; j < n; ++j) {
      const double f = a[j][i] / a[i][i];
      for (std::size_t k = i; k < n; ++k) a[j][k] -= f * a[i][k];
      b[j] -= f * b[i];
    }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t k = i + 1; k < n; ++k) b[i] -= a[i][k] * b[k];
    b[i] /= a[i][i];
  }
  return b;
}

class Fit {
 public:
  explicit Fit(const FitProblem& problem) : p_(problem) {}

  EngineFit run() {
    EngineFit fit;
    for (const FitTerm& t : p_.terms) fit.value.push_back(t.start);
    fit.verdict.assign(p_.terms.size(), FitVerdict::kTooMany);
    std::vector<std::size_t> all(p_.measured.size());
    std::iota(all.begin(), all.end(), 0);
    fit.before = predict(fit.value, all);
    choose(fit, all);
    Values at = fit.before;
    weigh_kinds(fit, all);
    const Matrix slopes = descend(fit.value, at, all);
    fit.after = at;
    leave_out(fit, slopes, all);
    return fit;
  }

 private:
  Values predict(const std::vector<double>& terms, const std::vector<std::size_t>& runs) const {
    Values out(p_.measured.size());
    std::vector<std::exception_ptr> failed(p_.measured.size());
    std::for_each(std::execution::par, runs.begin(), runs.end(), [&](std::size_t i) {
      try {
        out[i] = p_.predict(i, terms);
      } catch (...) {
        failed[i] = std::current_exception();
      }
    });
    for (const std::exception_ptr& e : failed)
      if (e) std::rethrow_exception(e);
    return out;
  }

  // Derivatives of all values by a term in units of its scale, in the order of the runs.
  std::vector<double> slope(std::size_t term, const std::vector<double>& terms, const Values& at,
                            const std::vector<std::size_t>& runs) const {
    const FitTerm& t = p_.terms[term];
    std::vector<double> moved = terms;
    double step = kDifference;
    if (moved[term] + step * t.scale > t.high) step = -step;
    moved[term] += step * t.scale;
    const Values there = predict(moved, runs);
    std::vector<double> column;
    for (const std::size_t i : runs)
      for (std::size_t v = 0; v < at[i].size(); ++v)
        column.push_back(weight(i, v) * (there[i][v] - at[i][v]) / step);
    return column;
  }

  // Terms in their order, each if the runs see it and can tell it from those before.
  void choose(EngineFit& fit, const std::vector<std::size_t>& runs) {
    std::vector<std::vector<double>> basis;
    for (std::size_t t = 0; t < p_.terms.size() && used_.size() < p_.most_terms; ++t) {
      std::vector<double> column = slope(t, fit.value, fit.before, runs);
      const auto length = [](const std::vector<double>& v) {
        return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
      };
      const double most = std::accumulate(column.begin(), column.end(), 0.0,
                                          [](double m, double v) { return std::max(m, std::fabs(v)); });
      if (most < kLeastChange) {
        fit.verdict[t] = FitVerdict::kUnseen;
        continue;
      }
      const double whole = length(column);
      for (const auto& b : basis) {
        const double share = std::inner_product(column.begin(), column.end(), b.begin(), 0.0);
        for (std::size_t i = 0; i < column.size(); ++i) column[i] -= share * b[i];
      }
      const double rest = length(column);
      if (rest < kLeastAngle * whole) {
        fit.verdict[t] = FitVerdict::kConfused;
        continue;
      }
      for (double& v : column) v /= rest;
      basis.push_back(std::move(column));
      fit.verdict[t] = FitVerdict::kFitted;
      used_.push_back(t);
    }
  }

  double weight(std::size_t run, std::size_t value) const {
    return weights_.empty() ? 1 : weights_[p_.kind[run][value]];
  }
  // Each kind by the median of the errors that are left when it is fitted alone.
  void weigh_kinds(const EngineFit& fit, const std::vector<std::size_t>& runs) {
    std::size_t kinds = 0;
    for (const auto& of_run : p_.kind)
      for (const std::size_t k : of_run) kinds = std::max(kinds, k + 1);
    std::vector<double> weights(kinds, 1.0);
    for (std::size_t k = 0; k < kinds; ++k) {
      weights_.assign(kinds, 0.0);
      weights_[k] = 1;
      std::vector<double> terms = fit.value;
      Values at = fit.before;
      descend(terms, at, runs);
      std::vector<double> left;
      for (const std::size_t i : runs)
        for (std::size_t v = 0; v < at[i].size(); ++v)
          if (p_.kind[i][v] == k) left.push_back(std::fabs(at[i][v] - p_.measured[i][v]));
      if (left.empty()) continue;
      std::sort(left.begin(), left.end());
      weights[k] = std::min(1.0, kCloseMatch / std::max(left[left.size() / 2], 1e-300));
    }
    weights_ = std::move(weights);
  }
  std::vector<double> errors(const Values& at, const std::vector<std::size_t>& runs) const {
    std::vector<double> e;
    for (const std::size_t i : runs)
      for (std::size_t v = 0; v < at[i].size(); ++v)
        e.push_back(weight(i, v) * (at[i][v] - p_.measured[i][v]));
    return e;
  }
  double cost(const Values& at, const std::vector<std::size_t>& runs) const {
    double sum = 0;
    for (const double e : errors(at, runs)) {
      const double a = std::fabs(e);
      sum += a <= kHuber ? a * a / 2 : kHuber * (a - kHuber / 2);
    }
    return sum;
  }

  // A step from `terms` for these slopes (a row a used term); empty where all is at its bounds.
  std::vector<double> step(const Matrix& slopes, const std::vector<double>& e, double damping) const {
    const std::size_t n = used_.size();
    Matrix a(n, std::vector<double>(n));
    std::vector<double> b(n);
    for (std::size_t k = 0; k < e.size(); ++k) {
      const double w = std::min(1.0, kHuber / std::max(std::fabs(e[k]), 1e-300));
      for (std::size_t i = 0; i < n; ++i) {
        b[i] -= w * slopes[i][k] * e[k];
        for (std::size_t j = 0; j < n; ++j) a[i][j] += w * slopes[i][k] * slopes[j][k];
      }
    }
    for (std::size_t i = 0; i < n; ++i) a[i][i] = a[i][i] * (1 + damping) + 1e-12;
    return solve(std::move(a), std::move(b));
  }

  std::vector<double> moved(const std::vector<double>& terms, const std::vector<double>& by) const {
    std::vector<double> to = terms;
    for (std::size_t i = 0; i < used_.size(); ++i) {
      const FitTerm& t = p_.terms[used_[i]];
      to[used_[i]] = std::clamp(to[used_[i]] + by[i] * t.scale, t.low, t.high);
    }
    return to;
  }
  double distance(const std::vector<double>& a, const std::vector<double>& b) const {
    double most = 0;
    for (const std::size_t t : used_) most = std::max(most, std::fabs(a[t] - b[t]) / p_.terms[t].scale);
    return most;
  }

  // One accepted step with these slopes, or none (false).
  bool improve(std::vector<double>& terms, Values& at, const Matrix& slopes,
               const std::vector<std::size_t>& runs, double& damping) const {
    const double now = cost(at, runs);
    const std::vector<double> e = errors(at, runs);
    for (int attempt = 0; attempt < kMostTries; ++attempt, damping *= 10) {
      const std::vector<double> to = moved(terms, step(slopes, e, damping));
      if (distance(to, terms) < kSmallStep) return false;
      Values there = predict(to, runs);
      if (cost(there, runs) >= now) continue;
      terms = to;
      for (const std::size_t i : runs) at[i] = std::move(there[i]);
      damping = std::max(damping / 10, 1e-6);
      return true;
    }
    return false;
  }

  Matrix slopes_at(const std::vector<double>& terms, const Values& at,
                   const std::vector<std::size_t>& runs) const {
    Matrix slopes;
    for (const std::size_t t : used_) slopes.push_back(slope(t, terms, at, runs));
    return slopes;
  }

  // To the least cost; the slopes there.
  Matrix descend(std::vector<double>& terms, Values& at, const std::vector<std::size_t>& runs) const {
    Matrix slopes = slopes_at(terms, at, runs);
    double damping = 1e-3;
    for (int i = 0; i < kMostSteps && !used_.empty(); ++i) {
      if (!improve(terms, at, slopes, runs, damping)) break;
      slopes = slopes_at(terms, at, runs);
    }
    return slopes;
  }

  // Each load predicted with terms fitted to the others, from the whole fit on and with its slopes.
  void leave_out(EngineFit& fit, const Matrix& slopes, const std::vector<std::size_t>& all) const {
    std::vector<std::int64_t> loads = p_.load;
    std::sort(loads.begin(), loads.end());
    loads.erase(std::unique(loads.begin(), loads.end()), loads.end());
    if (loads.size() < 2) return;
    fit.left_out.resize(p_.measured.size());
    for (const std::int64_t load : loads) {
      std::vector<std::size_t> kept, out;
      for (const std::size_t i : all) (p_.load[i] == load ? out : kept).push_back(i);
      Matrix rows(used_.size());
      std::size_t k = 0;
      for (const std::size_t i : all)
        for (std::size_t v = 0; v < p_.measured[i].size(); ++v, ++k)
          if (p_.load[i] != load)
            for (std::size_t t = 0; t < used_.size(); ++t) rows[t].push_back(slopes[t][k]);
      std::vector<double> terms = fit.value;
      Values at = fit.after;
      double damping = 1e-3;
      for (int i = 0; i < kChordSteps && !used_.empty(); ++i)
        if (!improve(terms, at, rows, kept, damping)) break;
      Values there = predict(terms, out);
      for (const std::size_t i : out) fit.left_out[i] = std::move(there[i]);
    }
  }

  const FitProblem& p_;
  std::vector<std::size_t> used_;
  std::vector<double> weights_;  // by kind; empty: 1
};

}  // namespace

EngineFit fit_engine_terms(const FitProblem& problem) { return Fit(problem).run(); }

}  // namespace foretoken
