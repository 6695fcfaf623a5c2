// The highest load as JSON and as tables.
#include <fmt/format.h>

#include "base/json_full.h"
#include "base/text.h"
#include "simulator/report.h"

namespace foretoken {
namespace {

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

Json trial_json(const LoadTrial& t) {
  const ServingMetrics& m = t.simulation.served.metrics;
  Json limits = Json::object();
  for (const LimitCheck& c : t.limits)
    limits[c.key] = Json{{"limit", c.limit}, {"value", c.value}, {"share", c.share}};
  const auto optional = [](const std::optional<double>& v) { return v ? Json(*v) : Json(nullptr); };
  return Json{{"load", t.load},
              {"num_prompts", t.requests},
              {"passes", t.passes},
              {"limited_by", t.limited_by.empty() ? Json(nullptr) : Json(t.limited_by)},
              {"stability", t.simulation.stability},
              {"slo_attainment", optional(m.slo_attainment)},
              {"p99_ttft_ms", m.ttft.p99},
              {"p99_tpot_ms", m.tpot.p99},
              {"p99_e2el_ms", m.e2el.p99},
              {"output_throughput", m.output_throughput},
              {"mean_running", m.mean_running},
              {"mean_waiting", m.mean_waiting},
              {"limits", limits}};
}

std::string limits_text(const SloSection& slo) {
  std::string s;
  const auto add = [&](const char* name, const std::optional<double>& ms) {
    if (ms) s += fmt::format("{}{} {} ms", s.empty() ? "" : ", ", name, significant(*ms, 4));
  };
  add("TTFT", slo.ttft_ms);
  add("TPOT", slo.tpot_ms);
  add("E2EL", slo.e2el_ms);
  if (!s.empty()) s += fmt::format(" together for {} % of the requests", significant(slo.percentile, 4));
  add("p99 ITL", slo.itl_ms);
  return s;
}

}  // namespace

Json load_capacity_json(const Deployment& d, const LoadCapacity& c) {
  Json j;
  j["capacity"] = c.load;
  j["load_key"] = c.axis.key;
  j["load_unit"] = c.axis.name;
  j["interval"] = Json{{"capacity", Json{{"low", c.interval.low}, {"high", c.interval.high}}}};
  j["request_rate"] = c.request_rate;
  j["limited_by"] = c.limited_by.empty() ? Json(nullptr) : Json(c.limited_by);
  j["limit_reason"] = c.reason;
  j["lowest_failing"] = c.failing > 0 ? Json(c.failing) : Json(nullptr);
  j["passing_above"] = c.passing_above;
  j["by_stability_alone"] = c.stability_alone;
  j["tolerance"] = c.tolerance;
  j["simulations"] = c.simulations;
  j["num_prompts"] = c.at.requests;
  const auto devices = static_cast<double>(d.devices());
  const ServingMetrics& m = c.at.simulation.served.metrics;
  const bool served = c.load > 0;
  j["devices"] = d.devices();
  j["requests_per_s_per_device"] = c.request_rate / devices;
  j["output_throughput_per_device"] = served ? m.output_throughput / devices : 0;
  j["usd_per_million_tokens"] =
      served && c.at.simulation.has_price ? Json(c.at.simulation.usd_per_million_tokens) : Json(nullptr);
  // What simulate says of that load; without one of the lowest that was tried.
  j["simulated_load"] = c.at.load;
  j["at_load"] = simulation_json(d, c.at.simulation, false);
  j["loads"] = Json::array();
  for (const LoadTrial& t : c.trials) j["loads"].push_back(trial_json(t));
  return j;
}

std::vector<Table> load_capacity_tables(const Deployment& d, const LoadCapacity& c) {
  const Simulation& s = c.at.simulation;
  const ServingMetrics& m = s.served.metrics;
  const SloSection& slo = d.scenario.slo;
  const auto devices = static_cast<double>(d.devices());
  const auto load_text = [&](double load) {
    return c.axis.closed() ? fmt::format("{:.0f} {}", load, c.axis.name)
                           : significant(load, 4) + " " + c.axis.name;
  };
  Table t;
  t.title = c.load > 0 ? "Capacity: " + load_text(c.load) : "Capacity: none, no load keeps the limits";
  t.columns = {{"what", "what"}, {"value", "value", 4}, {"interval", "90 % interval"}};
  const auto text = [](const Interval& i) {
    return i.high > 0 ? Cell(fmt::format("{:.4g} to {:.4g}", i.low, i.high)) : Cell();
  };
  const auto interval = [&](const char* key) {
    const auto i = s.interval.find(key);
    return i == s.interval.end() ? Cell() : text(i->second);
  };
  t.add({c.axis.name, c.load, text(c.interval)});
  if (c.load > 0) {
    if (c.axis.name != "requests/s") t.add({std::string("requests/s"), c.request_rate, {}});
    t.add({std::string("requests/s a device"), c.request_rate / devices, {}});
    t.add({std::string("output tokens/s a device"), m.output_throughput / devices, {}});
    if (s.has_price) t.add({std::string("$ per million output tokens"), s.usd_per_million_tokens, {}});
  }
  const std::size_t at = t.rows.size();
  t.add({std::string("p99 TTFT (ms)"), m.ttft.p99, interval("p99_ttft_ms")});
  t.add({std::string("p99 TPOT (ms)"), m.tpot.p99, interval("p99_tpot_ms")});
  t.add({std::string("p99 E2EL (ms)"), m.e2el.p99, interval("p99_e2el_ms")});
  if (m.slo_attainment) t.add({std::string("requests within the limits"), percent(*m.slo_attainment), {}});
  t.add({std::string("running sequences, mean"), m.mean_running, {}});
  t.add({std::string("waiting requests, mean"), m.mean_waiting, {}});
  t.add({std::string("KV cache in use at the peak"), percent(m.peak_kv_usage), {}});
  if (c.load <= 0)
    for (std::size_t i = at; i < t.rows.size(); ++i)
      std::get<std::string>(t.rows[i][0]) += " at " + significant(c.at.load, 3);

  if (c.failing > 0)
    t.notes.push_back(
        fmt::format("At {} {}.", load_text(c.failing),
                    c.limited_by == "stability" ? "it does not keep up (" + c.reason + ")" : c.reason));
  else
    t.notes.push_back("Not limited: " + c.reason + ".");
  t.notes.push_back(c.stability_alone
                        ? "No limits are given: this is the highest load that the deployment keeps up with, "
                          "whatever the latency."
                        : "Limits: " + limits_text(slo) + ".");
  if (c.passing_above > 0)
    t.notes.push_back(
        fmt::format("Of the loads simulated above it {} keep{} the limits again: by chance of the "
                    "draw, not to be relied on.",
                    c.passing_above, c.passing_above == 1 ? "s" : ""));
  t.notes.push_back(fmt::format("{} at {}, {} simulations, to within {} %.",
                                with_commas(c.at.requests) + " requests", load_text(c.at.load), c.simulations,
                                significant(100 * c.tolerance, 3)));

  Table loads;
  loads.title = "Loads simulated";
  loads.columns = {{"load", c.axis.name, 4},
                   {"num_prompts", "requests"},
                   {"passes", "serves"},
                   {"limited_by", "limited by"},
                   {"stability", "verdict"},
                   {"slo_percent", "SLO %", 4},
                   {"p99_ttft_ms", "TTFT p99 ms", 4},
                   {"p99_tpot_ms", "TPOT p99 ms", 4},
                   {"output_throughput", "output tok/s", 4}};
  for (const LoadTrial& trial : c.trials) {
    const ServingMetrics& of = trial.simulation.served.metrics;
    loads.add({trial.load, trial.requests, trial.passes,
               trial.limited_by.empty() ? Cell() : Cell(trial.limited_by), trial.simulation.stability,
               of.slo_attainment ? Cell(100 * *of.slo_attainment) : Cell(), of.ttft.p99, of.tpot.p99,
               of.output_throughput});
  }
  return {t, loads};
}

}  // namespace foretoken
