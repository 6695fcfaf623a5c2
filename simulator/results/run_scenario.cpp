#include "simulator/results/run_scenario.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json_full.h"

namespace foretoken {
namespace {

constexpr double kSameCount = 0.05, kSameRate = 0.01, kSameLength = 0.05;  // relative differences
constexpr double kMostFailed = 0.05;                                       // of the requests
constexpr double kVaries = 0.01;  // standard deviation of lengths, of their mean

std::string file_of(const MeasuredRun& run) {
  return run.where.ends_with(":") ? run.where.substr(0, run.where.size() - 1) : run.where;
}

class Filler {
 public:
  Filler(const Scenario& scenario, const Resources& resources, const MeasuredRun& run,
         std::vector<std::string>& notes)
      : s_(scenario), resources_(resources), run_(run), load_(run.load), notes_(notes) {}

  Scenario fill() {
    check_usable();
    check_server();
    check_model();
    WorkloadConfig& w = s_.workload;
    if (!w.trace.empty() || !w.stages.empty() || w.agentic) {
      note("the scenario's own workload stands");
    } else if (!take_trace()) {
      take_arrivals();
      take_lengths("input_len", load_.input_len, w.input_len);
      take_lengths("output_len", load_.output_len, w.output_len);
      take_count();
    }
    if (load_.in_process) {
      HostTimes& times = s_.engine.host_times;
      times.ingress_ms = times.ingress_ms.value_or(0);
      times.egress_ms = times.egress_ms.value_or(0);
    }
    return std::move(s_);
  }

 private:
  void note(const std::string& text) { notes_.push_back(run_.name + ": " + text); }
  std::string key(const char* name) const { return resources_.scenario_file + ":/workload/" + name; }

  [[noreturn]] void contradict(const char* name, const std::string& theirs, const std::string& ours) const {
    throw Error(file_of(run_),
                fmt::format("was measured with {} {}, but {} is {}; give the scenario that was measured, or "
                            "leave the key out of it, so that the file's is taken",
                            name, theirs, key(name), ours));
  }
  template <class T>
  void check(const char* name, const std::optional<T>& theirs, const std::optional<T>& ours,
             double tolerance) const {
    if (!theirs || !ours) return;
    const double a = static_cast<double>(*theirs), b = static_cast<double>(*ours);
    if (std::fabs(a - b) > tolerance * std::max(a, b))
      contradict(name, fmt::format("{:.6g}", a), fmt::format("{:.6g}", b));
  }

  void check_usable() const {
    if (!run_.unusable.empty())
      throw Error(file_of(run_), run_.unusable + ", and no measurement to calibrate with; measure a server");
    const double asked = static_cast<double>(load_.num_prompts.value_or(0));
    if (run_.failed > kMostFailed * std::max(asked, 1.0))
      throw Error(file_of(run_), fmt::format("{:.0f} of {:.0f} requests failed, so that what was measured is "
                                             "not this load; mend the server and measure again",
                                             run_.failed, asked));
  }

  void check_server() const {
    const std::string at = resources_.scenario_file + ":";
    const auto differ = [&](const char* key, const std::string& theirs, const std::string& ours) {
      if (theirs != ours)
        throw Error(file_of(run_),
                    fmt::format("was measured with {} {}, but {}{} is {}; give the scenario that "
                                "was measured",
                                key, theirs, at, key, ours));
    };
    if (!load_.device.empty())
      differ("/hardware/device", resources_.database->device(load_.device, file_of(run_)).name,
             resources_.database->device(s_.hardware.device, at + "/hardware/device").name);
    if (!load_.behavior.empty())
      differ("/engine/behavior", find_behavior(load_.behavior, file_of(run_)).name,
             find_behavior(s_.engine.behavior, at + "/engine/behavior").name);
    if (load_.tensor_parallel)
      differ("/engine/tensor_parallel_size", std::to_string(*load_.tensor_parallel),
             std::to_string(s_.engine.tensor_parallel_size));
  }

  // Names of served models are free: only one that is known here can contradict.
  void check_model() const {
    if (load_.model.empty()) return;
    Scenario named;
    named.model.text = Json(load_.model).dump();
    ModelConfig theirs;
    try {
      theirs = load_scenario_model(named, resources_);
    } catch (const Error&) {
      return;
    }
    const ModelConfig ours = load_scenario_model(s_, resources_);
    if (theirs.hidden == ours.hidden && theirs.num_layers == ours.num_layers && theirs.vocab == ours.vocab)
      return;
    throw Error(file_of(run_),
                fmt::format("was measured with model {}, but {}:/model is {}; give the scenario that was "
                            "measured",
                            load_.model, resources_.scenario_file, ours.name));
  }

  // Every request's own length and start, where the scenario says nothing else.
  bool take_trace() {
    WorkloadConfig& w = s_.workload;
    if (load_.trace.empty() || w.input_len || w.output_len || w.request_rate || w.num_prompts ||
        w.all_at_once || w.shared_prefix)
      return false;
    check("max_concurrency", load_.max_concurrency, w.max_concurrency, 0);
    w.trace = std::filesystem::absolute(load_.trace).string();
    w.max_concurrency = load_.max_concurrency;
    note(w.max_concurrency ? "lengths are those of its requests"
                           : "lengths and starts are those of its requests");
    return true;
  }

  void take_arrivals() {
    WorkloadConfig& w = s_.workload;
    if (load_.all_at_once) {
      if (w.request_rate) contradict("request_rate", "without limit", fmt::format("{:.6g}", *w.request_rate));
      if (w.max_concurrency)
        contradict("max_concurrency", "without limit", fmt::format("{}", *w.max_concurrency));
      w.all_at_once = true;
      return;
    }
    const bool knows = load_.request_rate || load_.max_concurrency;
    if (w.all_at_once && knows) contradict("all_at_once", "false", "true");
    if (!load_.request_rate && load_.max_concurrency && w.request_rate)
      contradict("request_rate", "without limit", fmt::format("{:.6g}", *w.request_rate));
    if (load_.request_rate && !load_.max_concurrency && w.max_concurrency)
      contradict("max_concurrency", "without limit", fmt::format("{}", *w.max_concurrency));
    check("request_rate", load_.request_rate, w.request_rate, kSameRate);
    check("max_concurrency", load_.max_concurrency, w.max_concurrency, 0);
    if (!w.request_rate && load_.request_rate) {
      w.request_rate = load_.request_rate;
      if (!load_.arrival.empty()) w.arrival = load_.arrival;
      w.burstiness = load_.burstiness.value_or(w.burstiness);
    }
    if (!w.max_concurrency) w.max_concurrency = load_.max_concurrency;
    if (!w.request_rate && !w.max_concurrency && !w.all_at_once)
      throw Error(
          file_of(run_),
          fmt::format("does not say how requests were sent; give max_concurrency or request_rate in {}",
                      resources_.scenario_file + ":/workload"));
  }

  static std::optional<double> mean_of(const LengthDistribution& d) {
    if (d.distribution == "fixed") return d.value;
    if (d.distribution == "uniform" && d.min && d.max) return (*d.min + *d.max) / 2;
    if (d.distribution == "lognormal") return d.mean;
    return std::nullopt;
  }

  void take_lengths(const char* name, const std::optional<MeasuredLength>& theirs,
                    std::optional<LengthDistribution>& ours) {
    if (ours) {
      if (theirs) check(name, std::optional(theirs->mean), mean_of(*ours), kSameLength);
      return;
    }
    if (!theirs)
      throw Error(file_of(run_), fmt::format("does not say how long requests were; give {} in {}", name,
                                             resources_.scenario_file + ":/workload"));
    LengthDistribution d;
    double low = theirs->mean, high = theirs->mean;
    if (theirs->min && theirs->max &&
        std::fabs((*theirs->min + *theirs->max) / 2 - theirs->mean) <= kSameLength * theirs->mean) {
      low = *theirs->min, high = *theirs->max;
    } else if (theirs->std && *theirs->std > kVaries * theirs->mean) {
      // Uniform of the same mean and deviation, as far as lengths stay above 1.
      const double half = std::min(std::sqrt(3.0) * *theirs->std, theirs->mean - 1);
      low = std::round(theirs->mean - half), high = std::round(theirs->mean + half);
      note(fmt::format("{} varies (deviation {:.3g}); taken as uniform from {} to {}", name, *theirs->std,
                       low, high));
    }
    if (low < high) {
      d.distribution = "uniform";
      d.min = low, d.max = high;
    } else {
      d.value = std::max(1.0, std::round(theirs->mean));
    }
    ours = d;
  }

  void take_count() {
    WorkloadConfig& w = s_.workload;
    check("num_prompts", load_.num_prompts, w.num_prompts, kSameCount);
    if (!w.num_prompts) w.num_prompts = load_.num_prompts;
    if (w.all_at_once && !w.num_prompts)
      throw Error(file_of(run_), "does not say how many requests were sent; give num_prompts in " +
                                     resources_.scenario_file + ":/workload");
  }

  Scenario s_;
  const Resources& resources_;
  const MeasuredRun& run_;
  const MeasuredLoad& load_;
  std::vector<std::string>& notes_;
};

std::string length_text(const std::optional<LengthDistribution>& d) {
  if (!d) return "?";
  if (d->value) return fmt::format("{:.6g}", *d->value);
  if (d->min && d->max) return fmt::format("{:.6g}-{:.6g}", *d->min, *d->max);
  return d->distribution;
}

}  // namespace

Scenario scenario_of_run(const Scenario& scenario, const Resources& resources, const MeasuredRun& run,
                         std::vector<std::string>& notes) {
  return Filler(scenario, resources, run, notes).fill();
}

std::string describe_load(const WorkloadConfig& w) {
  std::string text;
  if (w.request_rate) text += fmt::format("{:.4g}/s, ", *w.request_rate);
  if (w.max_concurrency) text += fmt::format("{} at a time, ", *w.max_concurrency);
  if (w.all_at_once) text += fmt::format("{} at once, ", w.num_prompts.value_or(0));
  if (!w.trace.empty()) return text + std::filesystem::path(w.trace).filename().string();
  return text + fmt::format("{} in, {} out", length_text(w.input_len), length_text(w.output_len));
}

}  // namespace foretoken
