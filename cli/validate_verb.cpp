// validate: predictions beside measurements, for files of operators, of whole servers, and the built-in sets.
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/scenario_input.h"
#include "cli/timing.h"
#include "cli/validation_sets.h"
#include "cli/verbs.h"
#include "simulator/validation.h"

namespace foretoken {
namespace {

constexpr std::size_t kMostDots = 2000;  // in one chart

// Predicted against measured on logarithmic axes, one colour a group of `parts` (device and engine).
Chart scatter_chart(const Validation& v, std::int32_t metric) {
  const char* const colours[] = {"#2f6fb2", "#c4622d", "#4c9a52", "#8a5aa8",
                                 "#b23a48", "#3a8f8f", "#9a7b2f", "#5b6770"};
  std::size_t total = 0;
  for (const ValidationLine& l : v.lines) total += l.refusal < 0 && l.metric == metric;
  const std::size_t stride = total / kMostDots + 1;
  std::vector<Json> points(v.group_names.size(), Json::array());
  double low = 0, high = 0;
  std::size_t seen = 0;
  for (const ValidationLine& l : v.lines) {
    if (l.refusal >= 0 || l.metric != metric || seen++ % stride != 0) continue;
    points[static_cast<std::size_t>(l.group)].push_back(
        Json{{"x", l.measured}, {"y", std::stod(significant(l.predicted, 5))}});
    low = low == 0 ? l.measured : std::min(low, l.measured);
    high = std::max(high, l.measured);
  }
  Json sets = Json::array();
  sets.push_back(Json{{"label", "equal"},
                      {"data", Json::array({Json{{"x", low}, {"y", low}}, Json{{"x", high}, {"y", high}}})},
                      {"showLine", true},
                      {"borderColor", "#9aa4ae"},
                      {"pointRadius", 0}});
  std::size_t colour = 0;
  for (std::size_t g = 0; g < points.size(); ++g) {
    if (points[g].empty()) continue;
    sets.push_back(Json{{"label", v.group_names[g]},
                        {"data", std::move(points[g])},
                        {"backgroundColor", colours[colour++ % std::size(colours)]},
                        {"pointRadius", 2}});
  }
  auto axis = [](const std::string& title) {
    return Json{{"type", "logarithmic"}, {"title", Json{{"display", true}, {"text", title}}}};
  };
  const std::string& name = v.metrics[static_cast<std::size_t>(metric)];
  // A legend of many groups would leave no room for the dots.
  const Json config{
      {"type", "scatter"},
      {"data", Json{{"datasets", sets}}},
      {"options", Json{{"maintainAspectRatio", false},
                       {"plugins", Json{{"legend", Json{{"display", sets.size() <= 12}}}}},
                       {"scales", Json{{"x", axis("measured " + name)}, {"y", axis("predicted " + name)}}}}}};
  return {fmt::format("{}: predicted against measured {}{}", v.title, name,
                      stride > 1 ? fmt::format(" (every {}th row)", stride) : ""),
          config.dump()};
}

std::vector<Chart> charts_of(const Validation& v) {
  std::vector<Chart> out;
  for (std::int32_t m = 0; m < static_cast<std::int32_t>(v.metrics.size()); ++m)
    for (const ErrorSummary& s : v.pooled)
      if (s.metric == v.metrics[static_cast<std::size_t>(m)]) out.push_back(scatter_chart(v, m));
  return out;
}

std::optional<double> tolerance_of(const Invocation& invocation) {
  const auto text = invocation.value("tolerance");
  if (!text) return std::nullopt;
  const auto v = parse_double(*text);
  if (!v || *v < 0) throw Error("--tolerance", fmt::format("\"{}\" is not a fraction such as 0.15", *text));
  return *v;
}

bool above(const Validation& v, std::optional<double> tolerance) {
  if (!tolerance) return false;
  bool any = false;
  for (const ErrorSummary& s : v.pooled) {
    if (s.mape <= *tolerance) continue;
    any = true;
    print_message("verdict", fmt::format("{} {}: mean error {} is above the tolerance {}", lower(v.title),
                                         s.metric, significant(s.mape, 3), significant(*tolerance, 3)));
  }
  return any;
}

struct Set {
  std::string key;  // in the JSON result of the built-in sets
  Validation validation;
};

ValidateOptions options_of(const Invocation& invocation, const World& world, ProgressBar& bar) {
  ValidateOptions o;
  if (const auto file = invocation.value("recipes"))
    o.recipes = *file;
  else
    o.recipes = builtin_recipes(world.paths);
  o.threads = threads_of(invocation);
  o.intervals = invocation.has("intervals");
  o.stop = &stop_flag();
  o.progress = [&bar](double share) { bar.update(share); };
  return o;
}

std::vector<MeasuredSet> asked_sets(const Invocation& invocation, const World& world) {
  if (const auto file = invocation.value("operators"))
    return {{"operators", Measured::kOperators, *file, invocation.value("kind").value_or("")}};
  if (const auto file = invocation.value("end-to-end"))
    return {{"end_to_end", Measured::kServers, *file, ""}};
  if (const auto folder = invocation.value("runs"))
    return {{"runs", Measured::kRuns, *folder, "", !invocation.has("without-rows")}};
  return builtin_sets(world.paths);
}

std::vector<Set> run_sets(const Invocation& invocation, const World& world) {
  ProgressBar bar("validating");
  const ValidateOptions o = options_of(invocation, world, bar);
  std::vector<Set> sets;
  for (const MeasuredSet& set : asked_sets(invocation, world))
    sets.push_back({set.key, validate(set, world, o)});
  return sets;
}

}  // namespace

int run_validate(const Invocation& invocation) {
  if (!invocation.arguments.empty()) {  // a scenario: executed here, beside its prediction
    for (const char* set : {"operators", "end-to-end", "runs"})
      if (invocation.has(set))
        throw Error(std::string("--") + set, "and a scenario are two questions; ask one");
    return run_run(invocation);
  }
  const Stopwatch watch;
  const int asked = invocation.has("operators") + invocation.has("end-to-end") + invocation.has("runs");
  if (asked > 1) throw Error("validate", "takes one of --operators, --end-to-end and --runs at a time");
  if (invocation.has("kind") && !invocation.has("operators")) throw Error("--kind", "belongs to --operators");
  if (invocation.has("without-rows") && !invocation.has("runs"))
    throw Error("--without-rows", "belongs to --runs");
  const auto tolerance = tolerance_of(invocation);
  Output out(invocation);
  if (asked == 0 && out.format() == Format::kCsv)
    throw Error("--output", "csv writes the rows of one set; give --operators, --end-to-end or --runs");
  const World world(invocation, ScenarioInput{});
  std::vector<Set> sets = run_sets(invocation, world);

  const ReportContext context = report_context(Scenario{}, world);
  Json json = context_json(context);
  Report report{"Validation", {context_line(context)}, {}, 0, {}, {}};
  bool failed = false;
  for (Set& set : sets) {
    if (sets.size() == 1)
      json.update(validation_json(set.validation));
    else
      json[set.key] = validation_json(set.validation);
    for (Table& t : validation_tables(set.validation)) report.tables.push_back(std::move(t));
    for (Chart& c : charts_of(set.validation)) report.charts.push_back(std::move(c));
    failed |= above(set.validation, tolerance);
  }
  watch.report(invocation, json);
  report.json = dump_json(json);
  if (out.format() == Format::kCsv)
    out.write_text(validation_csv(sets[0].validation));
  else
    out.write(report);
  return failed ? kNegative : kDone;
}

}  // namespace foretoken
