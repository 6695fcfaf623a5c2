#include "simulator/load_capacity.h"

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/parallel_invoke.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "base/quantiles.h"
#include "base/text.h"

namespace foretoken {
namespace {

constexpr double kLives = 10;  // that a run lasts at least
constexpr std::int64_t kRequests = 4000, kMostRequests = 2'000'000;
constexpr double kDrawError = 0.02;                      // of a run's load that is worth a warning
constexpr double kFirstLoads[] = {0.4, 0.63, 1.0, 1.6};  // of the guess
constexpr int kSide = 4;                                 // loads of a round, whatever the threads
constexpr double kHighestLoad = 1e9, kLongestSeconds = 1e6;
constexpr double kIdle = 0.05;  // requests under way on average: a lower load changes nothing
constexpr int kUsualTrials = 48;

double ms(Picoseconds t) { return to_seconds(t).value * 1e3; }

// The limits one by one, by the run's records.
std::vector<LimitCheck> checks(const ServeResult& served, const SloSection& slo) {
  std::vector<LimitCheck> all;
  const auto add = [&](const char* key, const std::optional<double>& limit, auto value) {
    if (!limit) return;
    std::vector<double> values;
    for (const RequestRecord& r : served.records)
      if (const std::optional<double> v = value(r)) values.push_back(*v);
    std::sort(values.begin(), values.end());
    LimitCheck c{key, *limit};
    if (!values.empty()) {
      c.value = linear_quantile(values, slo.percentile / 100);
      const auto within = std::upper_bound(values.begin(), values.end(), *limit) - values.begin();
      // A request without the metric (one token has no time per output token) keeps the limit.
      const auto over = static_cast<double>(static_cast<std::ptrdiff_t>(values.size()) - within);
      c.share = 1 - over / static_cast<double>(served.records.size());
    }
    all.push_back(c);
  };
  using Value = std::optional<double>;
  add("ttft_ms", slo.ttft_ms, [](const RequestRecord& r) -> Value { return ms(r.first_token - r.arrival); });
  add("tpot_ms", slo.tpot_ms, [](const RequestRecord& r) -> Value {
    return r.output_len > 1 ? Value(ms(time_per_output_token(r))) : Value();
  });
  add("e2el_ms", slo.e2el_ms, [](const RequestRecord& r) -> Value { return ms(r.finish - r.arrival); });
  if (slo.itl_ms) {
    const double p99 = served.metrics.itl.p99;
    all.push_back({"itl_ms", *slo.itl_ms, p99, p99 <= *slo.itl_ms ? 1.0 : 0.0});
  }
  return all;
}

class Search {
 public:
  Search(const Deployment& d, std::span<const CostModel> costs, const Resources& resources,
         const Workload::Means& load, const LoadAxis& axis, double guess, double scale,
         const LoadCapacityOptions& options, const std::function<void()>& done)
      : d_(d),
        costs_(costs),
        resources_(resources),
        load_(load),
        axis_(axis),
        guess_(guess),
        scale_(scale),
        options_(options),
        done_(done) {
    const WorkloadConfig& w = d.scenario.workload;
    sessions_ = w.agentic || (w.shared_prefix && w.shared_prefix->multi_turn);
    if (axis.closed()) {
      // More requests than seats only wait; sessions also pause.
      most_ = static_cast<double>(seats(d)) * (w.agentic ? 64 : 1);
      if (w.shared_prefix && w.shared_prefix->multi_turn)
        most_ = std::min(64 * most_, static_cast<double>(users()));
    }
  }

  void run() {
    std::vector<double> loads;
    for (const double share : kFirstLoads) loads.push_back(guess_ * share);
    simulate_all(loads);
    while (lowest_failing() == trials_.end()) {
      const double top = trials_.rbegin()->first;
      if (top >= most_) return;
      simulate_all({2 * top, 4 * top});
    }
    while (highest_passing() == trials_.end()) {
      const auto& [lowest, trial] = *trials_.begin();
      const ServingMetrics& m = trial.simulation.served.metrics;
      const bool idle = !trial.simulation.served.aborted && m.mean_running + m.mean_waiting < kIdle;
      const double slower = lowest / 256;
      const bool longest =
          rate(slower) > 0 && static_cast<double>(requests_at(slower)) / rate(slower) > kLongestSeconds;
      if (idle || trial.limited_by == "rejected" || longest || (axis_.closed() && lowest <= 1)) return;
      simulate_all({lowest / 4, lowest / 16, lowest / 64, slower});
    }
    for (;;) {
      const double pass = highest_passing()->first, fail = lowest_failing()->first;
      if (fail - pass <= options_.tolerance * pass || (axis_.closed() && fail - pass <= 1)) return;
      std::vector<double> between;
      for (int i = 1; i <= kSide; ++i) between.push_back(pass + (fail - pass) * i / (kSide + 1));
      simulate_all(between);
    }
  }

  using Trials = std::map<double, LoadTrial>;
  Trials& trials() { return trials_; }
  Trials::iterator lowest_failing() {
    return std::find_if(trials_.begin(), trials_.end(), [](const auto& t) { return !t.second.passes; });
  }
  // Below the lowest failing one.
  Trials::iterator highest_passing() {
    const auto fail = lowest_failing();
    return fail == trials_.begin() ? trials_.end() : std::prev(fail);
  }
  double rate(double load) const {
    return axis_.closed() || axis_.current <= 0 ? 0 : load_.request_rate * load / axis_.current;
  }

 private:
  std::int64_t users() const {
    const SharedPrefix& p = *d_.scenario.workload.shared_prefix;
    return p.groups * p.users_per_group;
  }

  std::int64_t requests_at(double load) const {
    const auto given = d_.scenario.workload.num_prompts;
    if (axis_.closed()) return std::max(given.value_or(0), static_cast<std::int64_t>(kLives * load));
    return given.value_or(kRequests);
  }

  void simulate_all(std::vector<double> loads) {
    for (double& load : loads) {
      load = std::min(load, most_);
      if (axis_.closed()) load = std::max(1.0, std::floor(load));
    }
    std::sort(loads.begin(), loads.end());
    loads.erase(std::unique(loads.begin(), loads.end()), loads.end());
    std::erase_if(loads, [&](double load) { return trials_.contains(load); });
    std::vector<LoadTrial> results(loads.size());
    tbb::parallel_for(std::size_t{0}, loads.size(),
                      [&](std::size_t i) { results[i] = simulate_one(loads[i]); });
    for (LoadTrial& t : results) trials_.emplace(t.load, std::move(t));
  }

  LoadTrial simulate_one(double load) const {
    const WorkloadConfig& w = d_.scenario.workload;
    const bool trace = !w.trace.empty();
    Deployment at = d_;
    set_load(at.scenario.workload, axis_, load);
    LoadTrial t;
    t.load = load;
    t.requests = requests_at(load);
    for (;;) {
      if (!trace) at.scenario.workload.num_prompts = t.requests;  // a trace has its own
      SimulateOptions o;
      o.intervals = false;
      o.keep_records = has_limits(d_.scenario.slo);
      o.price_scale = scale_;
      o.stop = options_.stop;
      o.abort_backlog = std::max<std::int64_t>(4 * seats(d_), 256);
      t.simulation = simulate(at, costs_, resources_, o);
      const ServingMetrics& m = t.simulation.served.metrics;
      judge(t);
      t.simulation.served.records.clear();
      const double stay = (m.sessions.completed > 0 ? m.sessions.e2el.mean : m.e2el.mean) * 1e-3;
      const double under_way =
          axis_.closed() ? load * std::max(1.0, m.sessions.mean_calls) : rate(load) * stay;
      if (trace) t.requests = m.completed + t.simulation.served.rejected;
      t.lives = under_way > 0 ? static_cast<double>(t.requests) / under_way : kLives;
      if (t.passes && !trace && sessions_ && !axis_.closed() && w.shared_prefix &&
          w.shared_prefix->multi_turn &&
          under_way / std::max(1.0, m.sessions.mean_calls) > static_cast<double>(users())) {
        t.passes = false;
        t.limited_by = "users";
        t.reason = fmt::format("conversations wait for one of the {} users (shared_prefix) to end another",
                               with_commas(users()));
      }
      if (!t.passes || trace || t.lives >= kLives || t.requests >= kMostRequests) break;
      // A little more than needed, as longer runs may find longer stays.
      t.requests = std::min(kMostRequests, static_cast<std::int64_t>(1.2 * kLives * under_way) + 1);
    }
    done_();
    return t;
  }

  void judge(LoadTrial& t) const {
    const SloSection& slo = d_.scenario.slo;
    const Simulation& s = t.simulation;
    const ServingMetrics& m = s.served.metrics;
    t.passes = false;
    t.limits.clear();
    if (s.served.rejected > 0) {
      t.limited_by = "rejected";
      t.reason = fmt::format("{} requests are rejected: {}", with_commas(s.served.rejected),
                             s.served.rejected_reason);
      return;
    }
    t.limited_by = "stability";
    t.reason = s.stability + ": " + s.stability_reason;
    if (s.served.aborted) {
      t.reason = s.stability_reason;
      return;
    }
    t.limits = checks(s.served, slo);
    const bool bounded_wait = slo.ttft_ms || slo.e2el_ms;
    const bool keeps_up = s.stability == "stable" || (bounded_wait && s.stability == "backlogged");
    const bool kept = !has_limits(slo) || meets(m, slo);
    if (!kept) {
      const auto worst =
          std::min_element(t.limits.begin(), t.limits.end(), [&](const auto& a, const auto& b) {
            return std::pair(a.share, -a.value / a.limit) < std::pair(b.share, -b.value / b.limit);
          });
      t.limited_by = worst->key;
      t.reason = worst->key == "itl_ms"
                     ? fmt::format("p99 of the gaps between tokens is {} ms, the limit {} ms",
                                   significant(worst->value, 4), significant(worst->limit, 4))
                     : fmt::format(
                           "{:.2f} % of the requests keep {}{}, {} % must; its p{} is {} ms, the limit {} ms",
                           100 * worst->share, worst->key,
                           t.limits.size() > 1
                               ? fmt::format(" and {:.2f} % all limits", 100 * m.slo_attainment.value_or(0))
                               : "",
                           significant(slo.percentile, 4), significant(slo.percentile, 4),
                           significant(worst->value, 4), significant(worst->limit, 4));
    }
    t.passes = kept && keeps_up && m.completed > 0;
    if (t.passes) t.limited_by = t.reason = "";
  }

  const Deployment& d_;
  std::span<const CostModel> costs_;
  const Resources& resources_;
  const Workload::Means& load_;
  const LoadAxis& axis_;
  double guess_, scale_;
  const LoadCapacityOptions& options_;
  const std::function<void()>& done_;
  bool sessions_ = false;
  double most_ = kHighestLoad;
  Trials trials_;
};

LoadAxis required_axis(const WorkloadConfig& w, const SloSection& slo, const std::string& where) {
  const auto axis = load_axis(w);
  if (!axis)
    throw Error(
        where + (w.all_at_once ? "/all_at_once" : "/stages"),
        "fixes the load that capacity searches for; give request_rate, max_concurrency or a trace instead");
  if (axis->closed() && !has_limits(slo))
    throw Error(
        where + "/max_concurrency",
        "a closed loop is never overloaded: its capacity needs limits, such as ttft_ms or tpot_ms in slo "
        "(or give request_rate instead)");
  return *axis;
}

// Where the search begins, as a load of the axis.
double first_guess(const LoadAxis& axis, const Workload::Means& load, const Deployment& d,
                   double requests_per_s) {
  if (axis.closed()) return std::max(1.0, 0.5 * static_cast<double>(seats(d)));
  if (requests_per_s > 0 && load.request_rate > 0) return axis.current * requests_per_s / load.request_rate;
  return axis.current > 0 ? axis.current : 1;
}

}  // namespace

LoadCapacity find_load_capacity(const Deployment& d, std::span<const CostModel> costs,
                                const Resources& resources, const Workload::Means& load, double guess,
                                const LoadCapacityOptions& options) {
  LoadCapacity c;
  const SloSection& slo = d.scenario.slo;
  c.axis = required_axis(d.scenario.workload, slo, resources.scenario_file + ":/workload");
  c.stability_alone = !has_limits(slo);
  c.tolerance = options.tolerance;
  std::unique_ptr<tbb::global_control> limit;
  if (options.threads > 0)
    limit = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism,
                                                  static_cast<std::size_t>(options.threads));
  std::mutex mutex;
  const std::function<void()> done = [&] {
    const std::lock_guard lock(mutex);
    ++c.simulations;
    if (options.progress) options.progress(std::min(0.99, static_cast<double>(c.simulations) / kUsualTrials));
  };
  const auto search = [&](double from, double scale) {
    Search s(d, costs, resources, load, c.axis, from, scale, options, done);
    s.run();
    return s;
  };
  Search found = search(first_guess(c.axis, load, d, guess), 1);
  const auto pass = found.highest_passing(), fail = found.lowest_failing();
  auto& trials = found.trials();
  c.at = pass == trials.end() ? trials.begin()->second : pass->second;
  c.load = c.at.passes ? c.at.load : 0;
  if (fail == trials.end()) {
    c.limited_by = c.axis.closed() ? "seats" : "";
    c.reason = c.axis.closed()
                   ? fmt::format("{} requests run at once at the most; more only wait", with_commas(seats(d)))
                   : "no load was found that is not served";
  } else {
    c.failing = fail->first;
    c.limited_by = fail->second.limited_by;
    c.reason = fail->second.reason;
  }
  c.request_rate =
      c.load > 0 ? (c.axis.closed() ? c.at.simulation.served.metrics.request_throughput : found.rate(c.load))
                 : 0;
  for (auto& [at, trial] : trials) c.passing_above += trial.passes && c.failing > 0 && at > c.failing;

  const double r = std::min(0.9, c.at.simulation.basis.relative_error);
  const double around = c.at.load;
  std::optional<Search> ends[2];
  Deployment at = d;
  set_load(at.scenario.workload, c.axis, c.at.load);
  if (d.scenario.workload.trace.empty()) at.scenario.workload.num_prompts = c.at.requests;
  tbb::parallel_invoke(
      [&] { ends[0].emplace(search(around / (1 + r), 1 + r)); },
      [&] { ends[1].emplace(search(around / (1 - r), 1 - r)); },
      [&] { c.at.simulation.interval = intervals(c.at.simulation, at, costs, resources, options.stop); });
  const auto load_of = [](Search& s) {
    const auto p = s.highest_passing();
    return p == s.trials().end() ? 0.0 : p->first;
  };
  double engine = 0;
  for (const Deployment* kind : d.kinds())
    engine =
        std::max(engine, engine_error(kind->behavior, c.limited_by == "ttft_ms" ? "ttft" : "throughput"));
  const double a = load_of(*ends[0]), b = load_of(*ends[1]);
  c.interval = with_engine_error(c.load, {std::min({a, b, c.load}), std::max({a, b, c.load})}, engine);
  for (auto& [at_load, trial] : trials) c.trials.push_back(std::move(trial));
  if (!d.scenario.workload.trace.empty()) {
    if (c.at.lives < kLives)
      c.warnings.push_back(fmt::format(
          "the trace lasts only {} times a request's stay at this load; a queue that grows slowly "
          "would not show",
          significant(c.at.lives, 2)));
  } else if (const double draw = 1 / std::sqrt(static_cast<double>(c.at.requests));
             c.load > 0 && !c.axis.closed() && draw > kDrawError) {
    // As of Poisson's arrivals: the standard deviation of how many come in a time that expects so many.
    c.warnings.push_back(fmt::format(
        "{} requests, as drawn, come about {:.0f} % faster or slower than they should; give a larger "
        "num_prompts for a closer answer",
        with_commas(c.at.requests), 100 * draw));
  }
  return c;
}

}  // namespace foretoken
