#include "simulator/validation_effects.h"

#include <cmath>

#include "base/csv.h"
#include "base/error.h"

namespace foretoken {
namespace {

constexpr const char* kMetrics[] = {"mean_ttft_ms", "mean_tpot_ms", "output_throughput"};

double value(const std::map<std::string, double>& values, const char* metric) {
  const auto at = values.find(metric);
  return at == values.end() ? 0 : at->second;
}

}  // namespace

StrategyEffect::Sign StrategyEffect::sign() const {
  if (std::fabs(measured - 1) <= spread) return Sign::kWithinSpread;
  return (measured > 1) == (predicted > 1) ? Sign::kRight : Sign::kWrong;
}

std::vector<StrategyEffect> strategy_effects(const std::filesystem::path& folder,
                                             const std::map<std::string, RunPair>& runs) {
  std::vector<StrategyEffect> effects;
  const std::filesystem::path file = folder / "effects.csv";
  if (!std::filesystem::exists(file)) return effects;
  CsvReader csv(file);
  const std::size_t strategy = csv.column("strategy"), run = csv.column("run"),
                    baseline = csv.column("baseline");
  while (csv.next()) {
    const auto named = [&](std::size_t column) -> const RunPair& {
      const auto at = runs.find(csv.text(column));
      if (at == runs.end())
        throw Error(csv.where(), "there is no run \"" + csv.text(column) + "\" in " + folder.string());
      return at->second;
    };
    const RunPair &with = named(run), &without = named(baseline);
    for (const char* metric : kMetrics) {
      const double measured = value(with.measured, metric), against = value(without.measured, metric);
      const double predicted = value(with.predicted, metric), without_it = value(without.predicted, metric);
      const bool is_rate = std::string_view(metric).ends_with("throughput");
      if (is_rate && !(with.saturated && without.saturated)) continue;
      if (!(measured > 0 && against > 0 && predicted > 0 && without_it > 0)) continue;
      StrategyEffect& e = effects.emplace_back();
      e.strategy = csv.text(strategy), e.run = csv.text(run), e.baseline = csv.text(baseline);
      e.metric = metric;
      e.measured = is_rate ? measured / against : against / measured;
      e.predicted = is_rate ? predicted / without_it : without_it / predicted;
      e.spread = std::hypot(value(with.spread, metric), value(without.spread, metric));
    }
  }
  return effects;
}

}  // namespace foretoken
