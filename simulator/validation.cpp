// The arithmetic of validation: errors of groups, counts of rows and refusals.
#include "simulator/validation.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "base/quantiles.h"

namespace foretoken {
namespace {

struct Errors {
  std::vector<double> ape;
  double bias = 0;
  std::int64_t within = 0;

  void add(const ValidationLine& line) { add(line, line.predicted); }
  void add(const ValidationLine& line, double predicted) {
    const double error = predicted / line.measured - 1;
    ape.push_back(std::abs(error));
    bias += error;
    within += line.low <= line.measured && line.measured <= line.high;
  }
};

ErrorSummary summary_of(std::string by, std::string metric, Errors& e) {
  std::sort(e.ape.begin(), e.ape.end());
  const auto n = static_cast<double>(e.ape.size());
  double sum = 0;
  for (const double a : e.ape) sum += a;
  ErrorSummary s;
  s.by = std::move(by);
  s.metric = std::move(metric);
  s.n = static_cast<std::int64_t>(e.ape.size());
  s.mape = sum / n;
  s.median_ape = linear_quantile(e.ape, 0.5);
  s.p90_ape = linear_quantile(e.ape, 0.9);
  s.bias = e.bias / n;
  s.within_interval = static_cast<double>(e.within) / n;
  return s;
}

// Sorted by name, then by the metrics in their own order.
template <class NameOf>
std::vector<ErrorSummary> summaries(const Validation& v, NameOf&& name_of_line) {
  std::map<std::pair<std::string, std::int32_t>, Errors> by;
  for (const ValidationLine& line : v.lines)
    if (line.refusal < 0) by[{name_of_line(line), line.metric}].add(line);
  std::vector<ErrorSummary> out;
  for (auto& [key, errors] : by)
    out.push_back(summary_of(key.first, v.metrics[static_cast<std::size_t>(key.second)], errors));
  return out;
}

std::vector<PeerSummary> peer_summaries(const Validation& v) {
  struct Pair {
    Errors theirs, ours;
  };
  std::map<std::pair<std::string, std::int32_t>, Pair> by;
  for (const ValidationLine& line : v.lines) {
    if (line.refusal >= 0) continue;
    for (const PeerValue& p : line.peers) {
      Pair& pair = by[{v.peer_names[static_cast<std::size_t>(p.peer)], line.metric}];
      pair.theirs.add(line, p.predicted);
      pair.ours.add(line);
    }
  }
  std::vector<PeerSummary> out;
  for (auto& [key, pair] : by) {
    const std::string& metric = v.metrics[static_cast<std::size_t>(key.second)];
    out.push_back({key.first, metric, summary_of(key.first, metric, pair.theirs),
                   summary_of(key.first, metric, pair.ours)});
  }
  return out;
}

}  // namespace

std::int32_t NameIndex::of(const std::string& name) {
  const auto [at, added] = index_.emplace(name, static_cast<std::int32_t>(names_->size()));
  if (added) names_->push_back(name);
  return at->second;
}

void summarize(Validation& v) {
  const auto at = [](const std::vector<std::string>& names, std::int32_t i) {
    return i < 0 ? std::string() : names[static_cast<std::size_t>(i)];
  };
  v.rows = v.predicted = v.refused = 0;
  v.refusals.clear();
  // Lines of a row follow each other; a row counts as predicted when any of its values was.
  for (std::size_t i = 0; i < v.lines.size();) {
    std::int32_t refusal = v.lines[i].refusal;
    std::size_t next = i;
    for (; next < v.lines.size() && v.lines[next].row == v.lines[i].row; ++next)
      refusal = std::min(refusal, v.lines[next].refusal);
    ++v.rows;
    if (refusal < 0) {
      ++v.predicted;
    } else {
      ++v.refused;
      ++v.refusals[at(v.refusal_names, refusal)];
    }
    i = next;
  }
  v.groups = summaries(v, [&](const ValidationLine& l) { return at(v.group_names, l.group); });
  v.pooled = summaries(v, [](const ValidationLine&) { return std::string("all rows"); });
  v.peers = peer_summaries(v);
  v.parts.clear();
  if (!v.part_names.empty())
    v.parts = summaries(v, [&](const ValidationLine& l) { return at(v.part_names, l.part); });
}

}  // namespace foretoken
