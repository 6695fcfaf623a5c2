// Validations as JSON, tables (the largest misses first) and CSV.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/csv.h"
#include "base/json_full.h"
#include "base/quantiles.h"
#include "base/text.h"
#include "simulator/validation.h"

namespace foretoken {
namespace {

constexpr std::size_t kWorst = 10;  // rows in the table of the largest misses

Json summaries_json(const std::vector<ErrorSummary>& all) {
  Json out = Json::array();
  for (const ErrorSummary& s : all)
    out.push_back(Json{{"by", s.by},
                       {"metric", s.metric},
                       {"n", s.n},
                       {"mape", s.mape},
                       {"median_ape", s.median_ape},
                       {"p90_ape", s.p90_ape},
                       {"bias", s.bias},
                       {"within_interval", s.within_interval}});
  return out;
}

// To a hundredth: more digits would claim too much.
double percent(double fraction) { return std::round(fraction * 1e4) / 100; }

// "Qwen/Qwen3-32B, H100, vllm" as "Qwen3-32B, H100, vllm", to fit a line.
std::string without_organisation(const std::string& group) {
  const auto slash = group.find('/');
  return slash < group.find(',') ? group.substr(slash + 1) : group;
}

Table summary_table(std::string title, std::string by, std::vector<ErrorSummary> all) {
  std::stable_sort(all.begin(), all.end(),
                   [](const ErrorSummary& a, const ErrorSummary& b) { return a.median_ape > b.median_ape; });
  Table t;
  t.title = std::move(title);
  t.columns = {{"by", std::move(by)},
               {"metric", "metric"},
               {"n", "n"},
               {"median_ape_percent", "median %", 3},
               {"mape_percent", "mean %", 3},
               {"p90_ape_percent", "90th %", 3},
               {"bias_percent", "bias %", 3},
               {"within_interval_percent", "inside %", 3}};
  for (const ErrorSummary& s : all)
    t.add({without_organisation(s.by), s.metric, s.n, percent(s.median_ape), percent(s.mape),
           percent(s.p90_ape), percent(s.bias), percent(s.within_interval)});
  return t;
}

Table peer_table(const Validation& v) {
  Table t;
  t.title = v.title + ": other predictors on the same rows";
  t.columns = {{"predictor", "predictor"},
               {"metric", "metric"},
               {"n", "n"},
               {"median_ape_percent", "median %", 3},
               {"mape_percent", "mean %", 3},
               {"bias_percent", "bias %", 3},
               {"our_median_ape_percent", "ours: median %", 3},
               {"our_mape_percent", "ours: mean %", 3},
               {"our_bias_percent", "ours: bias %", 3}};
  for (const PeerSummary& p : v.peers)
    t.add({p.peer, p.metric, p.ours.n, percent(p.theirs.median_ape), percent(p.theirs.mape),
           percent(p.theirs.bias), percent(p.ours.median_ape), percent(p.ours.mape), percent(p.ours.bias)});
  return t;
}

constexpr const char* kSigns[] = {"yes", "NO", "within the spread"};

Table effects_table(const std::vector<StrategyEffect>& effects) {
  Table t;
  t.title = "Effects of strategies";
  t.columns = {{"strategy", "strategy"},
               {"against", "against"},
               {"metric", "metric"},
               {"measured", "measured", 4},
               {"predicted", "predicted", 4},
               {"error_percent", "error %", 3},
               {"spread_percent", "spread %", 3},
               {"same_direction", "same direction"}};
  std::vector<double> errors;
  std::int64_t wrong = 0;
  for (const StrategyEffect& e : effects) {
    const double error = e.predicted / e.measured - 1;
    errors.push_back(std::fabs(error));
    wrong += e.sign() == StrategyEffect::Sign::kWrong;
    t.add({e.strategy, e.baseline, e.metric, e.measured, e.predicted, percent(error), percent(e.spread),
           std::string(kSigns[static_cast<std::size_t>(e.sign())])});
  }
  std::sort(errors.begin(), errors.end());
  const auto within = std::upper_bound(errors.begin(), errors.end(), 0.1) - errors.begin();
  t.notes.push_back(fmt::format(
      "How many times better the run is than the one it is compared with: its tokens a second over theirs, "
      "their milliseconds over its. {} effects: {} within 10 %, median error {:.3g} %, {} in the wrong "
      "direction.",
      effects.size(), within, 100 * linear_quantile(errors, 0.5), wrong));
  return t;
}

const std::string& at(const std::vector<std::string>& names, std::int32_t i) {
  return names[static_cast<std::size_t>(i)];
}

Table worst_table(const Validation& v, std::size_t most) {
  std::vector<const ValidationLine*> lines;
  for (const ValidationLine& l : v.lines)
    if (l.refusal < 0) lines.push_back(&l);
  // Too low by half is as wrong as twice too high.
  const auto miss = [](const ValidationLine* l) {
    return l->predicted > 0 ? std::abs(std::log(l->predicted / l->measured)) : 1e9;
  };
  const std::size_t n = std::min(most, lines.size());
  std::partial_sort(lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(n), lines.end(),
                    [&](const ValidationLine* a, const ValidationLine* b) {
                      const double x = miss(a), y = miss(b);
                      return x != y ? x > y : a->row < b->row;
                    });
  Table t;
  t.title = n < lines.size() ? "Largest misses" : v.title + ", the largest misses first";
  t.columns = {{"row", "row"},
               {"group", v.group_title},
               {"metric", "metric"},
               {"measured", "measured", 4},
               {"predicted", "predicted", 4},
               {"ratio", "ratio", 3},
               {"basis", "basis"}};
  for (std::size_t i = 0; i < n; ++i) {
    const ValidationLine& l = *lines[i];
    t.add({l.row, without_organisation(at(v.group_names, l.group)), at(v.metrics, l.metric), l.measured,
           l.predicted, l.predicted / l.measured, std::string(name_of(l.basis))});
  }
  return t;
}

Table refusal_table(const Validation& v) {
  Table t;
  t.title = "Refused rows";
  t.columns = {{"reason", "reason"}, {"rows", "rows"}};
  std::vector<std::pair<std::string, std::int64_t>> all(v.refusals.begin(), v.refusals.end());
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  for (const auto& [reason, n] : all) t.add({reason, n});
  return t;
}

}  // namespace

Json validation_json(const Validation& v) {
  Json refusals = Json::object();
  for (const auto& [reason, n] : v.refusals) refusals[reason] = n;
  Json out{{"rows", v.rows}, {"predicted", v.predicted}, {"refused", v.refused}, {"refusals", refusals}};
  out["groups"] = summaries_json(v.groups);
  out["pooled"] = summaries_json(v.pooled);
  out["parts"] = summaries_json(v.parts);
  if (!v.peers.empty()) {
    Json peers = Json::array();
    for (const PeerSummary& p : v.peers)
      peers.push_back(Json{{"predictor", p.peer},
                           {"metric", p.metric},
                           {"n", p.ours.n},
                           {"mape", p.theirs.mape},
                           {"median_ape", p.theirs.median_ape},
                           {"bias", p.theirs.bias},
                           {"our_mape", p.ours.mape},
                           {"our_median_ape", p.ours.median_ape},
                           {"our_bias", p.ours.bias}});
    out["peers"] = std::move(peers);
  }
  if (!v.effects.empty()) {
    Json effects = Json::array();
    for (const StrategyEffect& e : v.effects)
      effects.push_back(Json{{"strategy", e.strategy},
                             {"run", e.run},
                             {"baseline", e.baseline},
                             {"metric", e.metric},
                             {"measured", e.measured},
                             {"predicted", e.predicted},
                             {"error", e.predicted / e.measured - 1},
                             {"spread", e.spread},
                             {"same_direction", e.sign() != StrategyEffect::Sign::kWrong}});
    out["effects"] = std::move(effects);
  }
  out["notes"] = v.notes;
  return out;
}

std::vector<Table> validation_tables(const Validation& v) {
  std::vector<Table> out;
  out.push_back(summary_table(v.title, "rows", v.pooled));
  out.back().notes.push_back(fmt::format(
      "Rows: {}, predicted {}, refused {}. Inside: measured values within the predicted 90 % interval.",
      with_commas(v.rows), with_commas(v.predicted), with_commas(v.refused)));
  for (const std::string& note : v.notes) out.back().notes.push_back(note);
  if (!v.refusals.empty()) out.push_back(refusal_table(v));
  if (v.predicted == 0) return out;
  if (!v.effects.empty()) out.push_back(effects_table(v.effects));
  if (!v.peers.empty()) out.push_back(peer_table(v));
  if (!v.parts.empty()) out.push_back(summary_table(v.title + " by " + v.part_title, v.part_title, v.parts));
  // Errors of groups of one value each say less than the values.
  const bool single =
      std::all_of(v.groups.begin(), v.groups.end(), [](const ErrorSummary& g) { return g.n == 1; });
  if (!single) out.push_back(summary_table(v.title + " by " + v.group_title, v.group_title, v.groups));
  out.push_back(worst_table(v, single ? v.lines.size() : kWorst));
  return out;
}

std::string validation_csv(const Validation& v) {
  std::string out = "row,group,metric,measured,predicted,low,high,basis,refusal\n";
  std::vector<std::string> groups, refusals;
  for (const std::string& g : v.group_names) groups.push_back(csv_cell(g));
  for (const std::string& r : v.refusal_names) refusals.push_back(csv_cell(r));
  for (const ValidationLine& l : v.lines) {
    out += fmt::format("{},{},{},", l.row, at(groups, l.group), at(v.metrics, l.metric));
    if (!std::isnan(l.measured)) out += fmt::format("{:.9g}", l.measured);
    if (l.refusal < 0)
      out += fmt::format(",{:.7g},{:.7g},{:.7g},{},\n", l.predicted, l.low, l.high, name_of(l.basis));
    else
      out += fmt::format(",,,,,{}\n", at(refusals, l.refusal));
  }
  return out;
}

}  // namespace foretoken
