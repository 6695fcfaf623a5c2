#include "gui/what_if.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "cli/scenario_flags.h"
#include "deployment/capacity.h"
#include "deployment/vllm_flags.h"
#include "simulator/load_axis.h"
#include "simulator/step_model.h"

namespace foretoken::gui {
namespace {

constexpr std::int64_t kSweepRequests = 4000;
constexpr std::int64_t kMostLimit = 1 << 20;  // of a key that is tried
constexpr int kMostRanks = 64;
constexpr double kShares[] = {0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1};

Invocation nothing_asked() {
  Invocation invocation;
  invocation.verb = "gui";
  return invocation;
}

void flatten(const Json& json, const std::string& path, std::vector<std::pair<std::string, Json>>& out) {
  if (json.is_object()) {
    for (const auto& item : json.items())
      flatten(item.value(), path.empty() ? item.key() : path + "/" + item.key(), out);
  } else if (json.is_array()) {
    for (std::size_t i = 0; i < json.size(); ++i) flatten(json[i], path + "/" + std::to_string(i), out);
  } else if (!json.is_null()) {
    out.emplace_back(path, json);
  }
}

// Of a key of a result or a scenario; empty: a count, a share, or a word.
std::string unit_of(const std::string& key) {
  constexpr std::pair<const char*, const char*> kUnits[] = {
      {"usd_per_million_tokens", "$ per million tokens"},
      {"usd_per_hour", "$/hour"},
      {"request_throughput", "requests/s"},
      {"request_goodput", "requests/s"},
      {"request_rate", "requests/s"},
      {"throughput", "tokens/s"},
      {"duration", "s"},
      {"_bytes", "bytes"},
      {"_tokens", "tokens"},
      {"_len", "tokens"},
      {"_ms", "ms"}};
  for (const auto& [part, unit] : kUnits)
    if (key.find(part) != std::string::npos) return unit;
  return key.ends_with("_s") ? "s" : "";
}

// Deployments that only a simulation sees; empty: an estimate does too.
std::string why_no_estimate(const Deployment& d) {
  try {
    refuse_instances(d.scenario, "estimate", {});
  } catch (const Error& no) {
    return no.message();
  }
  return {};
}

}  // namespace

std::shared_ptr<const World> open_world(const std::filesystem::path& folder, const std::string& file) {
  ScenarioInput input;
  input.folder = folder;
  input.file = file;
  return std::make_shared<const World>(nothing_asked(), input);
}

Json Estimated::json() const {
  if (const Deployment* d = deployment(); d != nullptr && estimate)
    return estimate_json(*d, *estimate, what_if);
  if (pools) return pools_estimate_json(*deployment(), *pools);
  Json json = Json::object();
  if (const Deployment* d = deployment()) json["memory"] = memory_json(d->memory);
  return json;
}

std::vector<Estimated::Step> Estimated::steps() const {
  std::vector<Step> out;
  const Deployment* const d = deployment();
  if (estimate)
    for (const StepEstimate& s : estimate->steps) out.push_back({s.name, &s, d});
  if (pools)
    for (std::size_t i = 0; i < pools->pools.size(); ++i)
      for (const StepEstimate& s : pools->pools[i].estimate.steps)
        out.push_back({d->pools ? s.name : pool_name(*d, i) + ": " + s.name, &s, d->kinds()[i]});
  return out;
}

std::optional<Estimated::Totals> Estimated::totals() const {
  const auto of = [](const auto& e) {
    return Totals{e.ttft_ms,           e.tpot_ms,
                  e.output_throughput, e.capacity_requests_per_s,
                  e.utilization,       e.usd_per_million_tokens};
  };
  if (estimate) return of(*estimate);
  if (pools) return of(*pools);
  return {};
}

std::shared_ptr<const Estimated> estimate_of(const World& world, const Json& scenario,
                                             const std::string& file) {
  auto e = std::make_shared<Estimated>();
  e->json_scenario = std::make_shared<const Json>(scenario);
  e->input = scenario_input(scenario, world.resources.scenario_folder, file, false);
  e->prepared = prepare(e->input, world);
  if (const auto* no = std::get_if<Infeasible>(&e->prepared.verdict)) {
    e->verdict = no->category + ": " + no->reason;
    e->context = context_line(report_context(e->input.scenario, world));
    return e;
  }
  const Deployment& d = std::get<Deployment>(e->prepared.verdict);
  e->warnings = d.warnings;
  e->context = context_line(report_context(d.scenario, world, d.warnings));
  for (const Deployment* kind : d.kinds())
    if (!kind->memory.fits && e->verdict.empty())
      e->verdict = "does not fit in memory: " + kind->memory.reason;
  if (!e->verdict.empty()) return e;
  e->costs = make_cost_models(d, e->prepared);
  e->no_estimate = why_no_estimate(d);
  if (!e->no_estimate.empty()) return e;
  const std::int64_t concurrency = d.scenario.workload.max_concurrency.value_or(0);
  if (d.kinds().size() > 1) {
    e->pools = estimate_pools(d, e->costs, e->prepared.load, concurrency);
  } else {
    e->estimate = estimate(d, e->costs.front(), e->prepared.load, concurrency);
    e->what_if = sensitivities(d, e->costs.front(), *e->estimate);
  }
  return e;
}

Json Simulated::json() const { return simulation_json(*of->deployment(), simulation, false); }

std::shared_ptr<Simulated> simulate_of(const World& world, std::shared_ptr<const Estimated> of,
                                       const std::atomic<bool>* stop) {
  auto s = std::make_shared<Simulated>();
  SimulateOptions options;
  options.keep_records = options.sample_over_time = true;
  options.intervals = false;
  options.timeline = &s->recording;
  options.stop = stop;
  s->simulation = simulate(*of->deployment(), of->costs, world.resources, options);
  s->of = std::move(of);
  return s;
}

std::map<std::string, Interval> intervals_of(const World& world, const Simulated& s,
                                             const std::atomic<bool>* stop) {
  return intervals(s.simulation, *s.of->deployment(), s.of->costs, world.resources, stop);
}

std::vector<FitLimit> fit_limits(const World& world, const Estimated& of, const std::atomic<bool>* stop) {
  const auto fits_with = [&](const char* key, const Json& value) {
    if (stop != nullptr && *stop) throw Interrupted();
    Json scenario = *of.json_scenario;
    scenario["engine"][key] = value;
    try {
      const Prepared p =
          prepare(scenario_input(scenario, world.resources.scenario_folder, of.input.file, false), world);
      const auto* const d = std::get_if<Deployment>(&p.verdict);
      if (d == nullptr) return false;
      const auto kinds = d->kinds();
      return std::all_of(kinds.begin(), kinds.end(), [](const Deployment* k) { return k->memory.fits; });
    } catch (const Error&) {  // more than the model or the system takes
      return false;
    }
  };
  std::vector<FitLimit> limits;
  const auto most = [&](const char* key, std::int64_t start, std::int64_t end) {
    FitLimit l{key, true, true, {}};
    const std::int64_t n =
        largest_that_fits(1, end, start, [&](std::int64_t at) { return fits_with(key, at); });
    if (n >= 1) l.value = static_cast<double>(n);
    l.bounded = n < end;
    limits.push_back(l);
  };
  const Deployment* const d = of.deployment();
  most("max_model_len", d ? d->scheduler.max_model_len : 4096, kMostLimit);
  most("max_num_batched_tokens", d ? d->scheduler.max_num_batched_tokens : 8192, kMostLimit);
  most("max_num_seqs", d ? d->scheduler.max_num_seqs : 256, kMostLimit);
  FitLimit ranks{"tensor_parallel_size", false, true, {}};
  for (int n = 1; n <= kMostRanks && !ranks.value; n *= 2)
    if (fits_with("tensor_parallel_size", n)) ranks.value = n;
  limits.push_back(ranks);
  // In hundredths.
  FitLimit share{"gpu_memory_utilization", false, true, {}};
  const std::int64_t spare = largest_that_fits(1, 99, 10, [&](std::int64_t at) {
    return fits_with("gpu_memory_utilization", 1 - 0.01 * static_cast<double>(at));
  });
  if (spare >= 1) share.value = 1 - 0.01 * static_cast<double>(spare);
  limits.push_back(share);
  return limits;
}

std::shared_ptr<const LoadSweep> sweep_of(const World& world, std::shared_ptr<const Estimated> of,
                                          const std::atomic<bool>* stop) {
  auto sweep = std::make_shared<LoadSweep>();
  const Deployment& d = *of->deployment();
  const WorkloadConfig& w = d.scenario.workload;
  sweep->of = of;
  const double rate = of->prepared.load.request_rate;
  // Where no estimate says what can be served: twice the scenario's own load.
  const auto totals = of->totals();
  sweep->estimated = totals.has_value();
  const double capacity = totals ? totals->capacity_requests_per_s : 2 * rate;
  const auto axis = load_axis(w);
  if (!axis) return sweep;  // everything arrives at once, or in stages: no load to vary
  sweep->axis = axis->name;
  sweep->current = axis->current;
  double most = capacity;
  if (axis->closed()) {
    sweep->estimated = false;
    most = 2 * std::max(sweep->current, 1.0);
  } else if (rate > 0) {
    most = sweep->current * capacity / rate;
  } else if (axis->key == "rate_scale") {
    most = sweep->current;
  }
  most = std::max(most, sweep->current);
  sweep->requests = std::min(w.num_prompts.value_or(kSweepRequests), kSweepRequests);
  for (const double share : kShares) {
    auto at = d;
    const double load = most * share;
    set_load(at.scenario.workload, *axis, load);
    at.scenario.workload.num_prompts = sweep->requests;
    SimulateOptions options;
    options.stop = stop;
    Simulation s = simulate(at, of->costs, world.resources, options);
    sweep->points.push_back({load, std::move(s.served.metrics), std::move(s.interval), s.stability});
  }
  return sweep;
}

Table compare_results(const Json& pinned, const Json& current) {
  Table t;
  t.title = "Pinned and current";
  t.columns = {{"key", "key"},         {"pinned", "pinned"},
               {"current", "current"}, {"difference", "difference", 4},
               {"percent", "%", 3},    {"unit", "unit"}};
  std::vector<std::pair<std::string, Json>> a, b;
  flatten(pinned, "", a);
  flatten(current, "", b);
  const auto cell = [](const Json& v) -> Cell {
    if (v.is_boolean()) return v.get<bool>();
    if (v.is_number_integer()) return v.get<std::int64_t>();
    if (v.is_number()) return v.get<double>();
    return v.is_string() ? Cell(v.get<std::string>()) : Cell();
  };
  const auto value_in = [](const std::vector<std::pair<std::string, Json>>& in, const std::string& key) {
    const auto at = std::find_if(in.begin(), in.end(), [&](const auto& item) { return item.first == key; });
    return at == in.end() ? nullptr : &at->second;
  };
  for (const auto& [key, value] : b) {
    const Json* const before = value_in(a, key);
    if (before == nullptr) {
      t.add({key, {}, cell(value), {}, {}, unit_of(key)});
      continue;
    }
    if (!value.is_number() || !before->is_number()) {
      t.add({key, cell(*before), cell(value), {}, {}, unit_of(key)});
      continue;
    }
    const double from = before->get<double>(), to = value.get<double>();
    t.add({key, cell(*before), cell(value), to - from, from != 0 ? Cell(100 * (to / from - 1)) : Cell(),
           unit_of(key)});
  }
  for (const auto& [key, value] : a)
    if (value_in(b, key) == nullptr) t.add({key, cell(value), {}, {}, {}, unit_of(key)});
  return t;
}

std::string text_of(const Json& value) {
  if (value.is_null()) return {};
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("distribution") && value["distribution"].is_string()) {
    const std::string name = value["distribution"].get<std::string>();
    if (name == "fixed" && value.size() == 2 && value.contains("value")) return value["value"].dump();
    std::string parts;
    bool plain = true;
    for (const auto& item : value.items()) {
      if (item.key() == "distribution") continue;
      plain = plain && item.value().is_number();
      parts += (parts.empty() ? ":" : ",") + item.key() + "=" + item.value().dump();
    }
    if (plain && !parts.empty()) return name + parts;
  }
  return value.dump();
}

std::string command_line(const Json& scenario, const std::string& verb) {
  std::string text = "foretoken " + verb;
  std::vector<std::string> given;  // as a whole: the keys inside are part of it
  for (const ScenarioKey& key : scenario_keys()) {
    const auto pointer = Json::json_pointer(key.pointer);
    if (key.type == "object" || key.pointer == "/name" || !scenario.contains(pointer)) continue;
    if (std::any_of(given.begin(), given.end(),
                    [&](const std::string& whole) { return key.pointer.starts_with(whole + '/'); }))
      continue;
    const Json& value = scenario.at(pointer);
    if (value.is_null() || (key.type == "json" && key.pointer == "/engine/speculative_config")) continue;
    if (value.is_boolean() && !value.get<bool>()) {
      text += " --no-" + key.flag;
      continue;
    }
    if (value.is_boolean()) {
      text += " --" + key.flag;
      continue;
    }
    given.push_back(key.pointer);
    std::string shown = text_of(value);
    if (key.list && value.is_array() && key.type != "json") {
      shown.clear();
      for (const Json& item : value)
        shown += (shown.empty() ? "" : ",") + (item.is_string() ? item.get<std::string>() : item.dump());
    }
    text += " --" + key.flag + " " + shell_quote(shown);
  }
  return text;
}

}  // namespace foretoken::gui
