// Chooses the workload that a configuration describes, and refuses what contradicts itself.
#include "serving/workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "serving/trace_sessions.h"
#include "serving/workload_parts.h"

namespace foretoken {
namespace {

// The virtual clock reaches 106 days; the end of a workload has to lie well before.
constexpr double kLongestRun = 8e6;  // s

// How requests are timed, in the words of the configuration.
std::string timing_key(const WorkloadConfig& c) {
  if (!c.stages.empty()) return "stages";
  if (c.request_rate) return "request_rate";
  return "";
}

void refuse(const std::string& where, std::string_view key, const std::string& message) {
  throw Error(fmt::format("{}/{}", where, key), message);
}

void check_numbers(const WorkloadConfig& c, const std::string& where) {
  const auto positive = [](double v) { return std::isfinite(v) && v > 0; };
  if (c.request_rate && !positive(*c.request_rate))
    refuse(where, "request_rate", "not above 0; give requests a second");
  if (!positive(c.rate_scale)) refuse(where, "rate_scale", "not above 0; 1 keeps the recorded arrivals");
  if (!positive(c.burstiness)) refuse(where, "burstiness", "not above 0; 1 is Poisson");
  if (c.num_prompts && *c.num_prompts < 1)
    refuse(where, "num_prompts", "below 1; give the number of requests");
  if (c.max_concurrency && *c.max_concurrency < 1)
    refuse(where, "max_concurrency", "below 1; give the requests in flight");
  double seconds = 0;
  for (std::size_t i = 0; i < c.stages.size(); ++i) {
    if (!positive(c.stages[i].request_rate))
      refuse(where, fmt::format("stages/{}/request_rate", i), "not above 0");
    if (!positive(c.stages[i].duration_s))
      refuse(where, fmt::format("stages/{}/duration_s", i), "not above 0");
    seconds += c.stages[i].duration_s;
  }
  if (seconds > kLongestRun)
    refuse(where, "stages", "longer than 92 days, beyond the virtual clock; shorten them");
}

void check_timing(const WorkloadConfig& c, const std::string& where) {
  const bool drawn = c.request_rate.has_value() || !c.stages.empty();
  if (c.request_rate && !c.stages.empty()) {
    refuse(where, "request_rate", "stages give the rates already; remove one of request_rate and stages");
  }
  if (c.max_concurrency && !c.stages.empty()) {
    refuse(where, "max_concurrency",
           "a closed loop has no stages of rates; remove one of max_concurrency and stages");
  }
  if (c.all_at_once && (drawn || c.max_concurrency)) {
    refuse(where, "all_at_once",
           fmt::format("every request arrives at time 0; remove all_at_once or {}",
                       drawn ? timing_key(c) : "max_concurrency"));
  }
  if (c.arrival != "poisson" && c.arrival != "constant" && c.arrival != "gamma") {
    refuse(where, "arrival", fmt::format("\"{}\" is not one of poisson, constant, gamma", c.arrival));
  }
  if (c.arrival != "poisson" && !drawn) {
    refuse(where, "arrival", fmt::format("{} arrivals need request_rate or stages", c.arrival));
  }
  if (c.burstiness != 1 && c.arrival != "gamma") {
    refuse(where, "burstiness",
           fmt::format("{} arrivals have no burstiness; set \"arrival\": \"gamma\"", c.arrival));
  }
  if (c.rate_scale != 1 && (c.trace.empty() || drawn || c.max_concurrency || c.all_at_once)) {
    refuse(where, "rate_scale",
           "only the recorded arrivals of a trace are scaled; change request_rate instead");
  }
}

void check_trace(const WorkloadConfig& c, const std::string& where) {
  const auto taken = [&](bool given, std::string_view key) {
    if (given) {
      refuse(where, key,
             fmt::format("the trace brings its own prompts and lengths; remove {} or trace", key));
    }
  };
  taken(c.input_len.has_value(), "input_len");
  taken(c.output_len.has_value(), "output_len");
  taken(c.shared_prefix.has_value(), "shared_prefix");
  taken(c.agentic.has_value(), "agentic");
}

void check_agentic(const WorkloadConfig& c, const std::string& where) {
  const std::string at = where + "/agentic";
  for (const auto& [given, key] : {std::pair{c.agentic->calls.has_value(), "calls"},
                                   std::pair{c.agentic->tool_tokens.has_value(), "tool_tokens"}})
    if (!given) refuse(at, key, "is missing; give a number or a distribution");
  if (c.shared_prefix && c.shared_prefix->multi_turn)
    refuse(where, "shared_prefix/multi_turn",
           "conversations are no agents' sessions; remove multi_turn or agentic");
  if (c.max_concurrency && c.request_rate)
    refuse(where, "request_rate",
           "sessions begin at a rate or in a closed loop; remove request_rate or max_concurrency");
}

void check_synthetic(const WorkloadConfig& c, const std::string& where) {
  if (timing_key(c).empty() && !c.max_concurrency && !c.all_at_once) {
    throw Error(where,
                "nothing says when requests come; give trace, request_rate, stages, max_concurrency or "
                "all_at_once");
  }
  if (!c.input_len || !c.output_len) {
    throw Error(where, fmt::format("{} is missing; give input_len and output_len, for example "
                                   "{{\"distribution\": \"fixed\", \"value\": 512}}, or a trace",
                                   c.input_len ? "output_len" : "input_len"));
  }
  if (c.agentic) check_agentic(c, where);
  if (!c.shared_prefix) return;
  const SharedPrefix& p = *c.shared_prefix;
  const std::string at = where + "/shared_prefix";
  constexpr std::int64_t kMost = 1'000'000'000;
  if (p.groups < 1 || p.users_per_group < 1 || p.groups > kMost || p.users_per_group > kMost / p.groups) {
    throw Error(at, fmt::format("groups x users_per_group is not from 1 to {} users", with_commas(kMost)));
  }
  if (p.prefix_len < 0) refuse(at, "prefix_len", "below 0; give the tokens of the shared prefix");
  if (p.turns < 1 || p.turns > 1'000'000) refuse(at, "turns", "not from 1 to 1,000,000");
  if (!std::isfinite(p.think_time_s) || p.think_time_s < 0)
    refuse(at, "think_time_s", "below 0; give seconds");
  if (p.think_time_s > 0 && !p.multi_turn) {
    refuse(at, "think_time_s", "single requests have no next turn; set \"multi_turn\": true or remove it");
  }
  if (!p.multi_turn) return;
  if (c.max_concurrency && c.request_rate) {
    refuse(where, "request_rate",
           "conversations begin at a rate or in a closed loop; remove request_rate or "
           "max_concurrency");
  }
  if (c.max_concurrency && *c.max_concurrency > p.groups * p.users_per_group) {
    refuse(at, "users_per_group",
           fmt::format(
               "{} conversations at a time (max_concurrency) need as many users; {} groups of {} have {}",
               with_commas(*c.max_concurrency), p.groups, p.users_per_group, p.groups * p.users_per_group));
  }
}

// Arrivals that the stages yield: what a run through them counts.
std::int64_t count_arrivals(ArrivalProcess arrivals, const std::string& where) {
  constexpr std::int64_t kMost = 1'000'000'000;
  std::int64_t count = 0;
  while (arrivals.next()) {
    if (++count > kMost)
      throw Error(where + "/stages", "more than 1,000,000,000 requests; shorten the stages");
  }
  if (count == 0)
    throw Error(where + "/stages", "no request arrives; lengthen the stages or raise their rates");
  return count;
}

void check_length(const WorkloadConfig& c, std::int64_t total, const std::string& where) {
  if (c.request_rate && static_cast<double>(total) / *c.request_rate > kLongestRun) {
    refuse(where, "request_rate",
           fmt::format(
               "{} requests take more than 92 days, beyond the virtual clock; raise request_rate or lower "
               "num_prompts",
               with_commas(total)));
  }
  if (c.shared_prefix &&
      c.shared_prefix->think_time_s * static_cast<double>(std::min(total, c.shared_prefix->turns)) >
          kLongestRun) {
    refuse(where, "shared_prefix/think_time_s",
           "a conversation lasts more than 92 days, beyond the virtual clock");
  }
}

// Arrivals of requests, or of conversations of `turns` requests.
std::int64_t synthetic_total(const WorkloadConfig& c, std::int64_t turns, const std::string& where) {
  if (!c.stages.empty()) {
    const std::int64_t starts = count_arrivals(ArrivalProcess(c), where);
    if (c.num_prompts && *c.num_prompts > starts * turns) {
      refuse(where, "num_prompts",
             fmt::format("{}, but the stages yield {} requests; lower it or lengthen the stages",
                         with_commas(*c.num_prompts), with_commas(starts * turns)));
    }
    return c.num_prompts.value_or(starts * turns);
  }
  return c.num_prompts.value_or(c.max_concurrency ? 10 * *c.max_concurrency : 1000);
}

std::unique_ptr<Workload> sessions_of_trace(const WorkloadConfig& c, const std::filesystem::path& path,
                                            const std::string& where,
                                            std::optional<ArrivalProcess> arrivals) {
  if (c.max_concurrency && c.request_rate)
    refuse(where, "request_rate",
           "sessions begin at a rate or in a closed loop; remove request_rate or max_concurrency");
  if (!c.stages.empty())
    refuse(where, "stages",
           "sessions of a trace begin as recorded, at a rate, all at once, or in a closed loop");
  const bool recorded = !c.request_rate && !c.max_concurrency && !c.all_at_once;
  auto source = std::make_unique<SessionTraceSource>(path, c.num_prompts.value_or(0), recorded, c.rate_scale);
  if (c.num_prompts && *c.num_prompts > source->requests())
    refuse(where, "num_prompts",
           fmt::format("{}, but {} has {} requests; lower it or remove it", with_commas(*c.num_prompts),
                       path.filename().string(), with_commas(source->requests())));
  if (recorded && static_cast<double>(source->last_arrival()) / c.rate_scale > 9.0e18)
    refuse(where, "rate_scale", "the slowed trace lasts longer than the virtual clock (104 days); raise it");
  const Timing timing = recorded ? Timing::kRecorded : c.request_rate ? Timing::kDrawn : Timing::kAllAtOnce;
  return std::make_unique<SessionWorkload>(std::move(source), timing, c.max_concurrency.value_or(0), 0,
                                           std::move(arrivals), PriorityDraw(c));
}

std::unique_ptr<Workload> drawn_sessions(const WorkloadConfig& c, const std::filesystem::path& folder,
                                         const std::string& where, std::optional<ArrivalProcess> arrivals) {
  const Timing timing = arrivals ? Timing::kDrawn : Timing::kAllAtOnce;
  const std::int64_t at_once = c.max_concurrency.value_or(0);
  if (!c.agentic) {
    const SharedPrefix& p = *c.shared_prefix;
    const std::int64_t total = synthetic_total(c, p.turns, where);
    check_length(c, total, where);
    auto source = std::make_unique<ChatSource>(c, total, folder, where);
    return std::make_unique<SessionWorkload>(std::move(source), timing, at_once, p.groups * p.users_per_group,
                                             std::move(arrivals), PriorityDraw(c));
  }
  // With stages as many sessions as these let begin.
  const std::int64_t starts = c.stages.empty() ? 0 : count_arrivals(ArrivalProcess(c), where);
  const std::int64_t total = starts > 0 ? c.num_prompts.value_or(0) : synthetic_total(c, 1, where);
  auto source = std::make_unique<AgenticSource>(c, total, starts, folder, where);
  check_length(c, source->sessions(), where);
  if (starts > 0 && source->sessions() > starts)
    refuse(
        where, "num_prompts",
        fmt::format("{} requests are {} sessions, and the stages yield {}; lower it or lengthen the stages",
                    with_commas(total), with_commas(source->sessions()), with_commas(starts)));
  return std::make_unique<SessionWorkload>(std::move(source), timing, at_once, 0, std::move(arrivals),
                                           PriorityDraw(c));
}

std::unique_ptr<RequestSource> open_trace_source(const WorkloadConfig& c, const std::filesystem::path& path,
                                                 const std::string& where) {
  const bool recorded = timing_key(c).empty() && !c.max_concurrency && !c.all_at_once;
  TraceSummary summary = scan_trace(path, recorded, c.num_prompts.value_or(0));
  if (recorded && !summary.has_arrivals) {
    throw Error(path.string(),
                "the trace has lengths but no arrivals; add request_rate, stages, max_concurrency or "
                "all_at_once to the workload");
  }
  if (c.num_prompts && *c.num_prompts > summary.requests) {
    refuse(where, "num_prompts",
           fmt::format("{}, but {} has {} requests; lower it or remove it", with_commas(*c.num_prompts),
                       path.filename().string(), with_commas(summary.requests)));
  }
  if (!c.stages.empty()) {
    const std::int64_t starts = count_arrivals(ArrivalProcess(c), where);
    if (c.num_prompts && *c.num_prompts > starts) {
      refuse(where, "num_prompts",
             fmt::format("{}, but the stages yield {} requests; lower it or lengthen the stages",
                         with_commas(*c.num_prompts), with_commas(starts)));
    }
    if (starts < summary.requests) summary = scan_trace(path, false, starts);
  }
  if (recorded && static_cast<double>(summary.last_arrival) / c.rate_scale > 9.0e18) {
    refuse(where, "rate_scale", "the slowed trace lasts longer than the virtual clock (104 days); raise it");
  }
  return std::make_unique<TraceSource>(path, std::move(summary), c.rate_scale);
}

}  // namespace

std::unique_ptr<Workload> make_workload(const WorkloadConfig& config, const std::filesystem::path& folder,
                                        const std::string& where) {
  check_numbers(config, where);
  check_timing(config, where);
  std::optional<ArrivalProcess> arrivals;
  if (!timing_key(config).empty()) arrivals.emplace(config);
  std::unique_ptr<RequestSource> source;
  if (!config.trace.empty()) {
    check_trace(config, where);
    const std::filesystem::path file = config.trace;
    const std::filesystem::path path = file.is_absolute() ? file : folder / file;
    if (is_session_trace(path)) return sessions_of_trace(config, path, where, std::move(arrivals));
    source = open_trace_source(config, path, where);
    check_length(config, source->total(), where);
  } else {
    check_synthetic(config, where);
    if (config.agentic || (config.shared_prefix && config.shared_prefix->multi_turn))
      return drawn_sessions(config, folder, where, std::move(arrivals));
    const std::int64_t total = synthetic_total(config, 1, where);
    check_length(config, total, where);
    source = std::make_unique<SyntheticSource>(config, total, folder, where);
  }
  if (const PriorityDraw draw(config); draw.any())
    source = std::make_unique<PrioritizedSource>(std::move(source), draw);
  if (config.max_concurrency) {
    return std::make_unique<ClosedLoopWorkload>(std::move(source), *config.max_concurrency,
                                                std::move(arrivals));
  }
  const Timing timing = arrivals             ? Timing::kDrawn
                        : config.all_at_once ? Timing::kAllAtOnce
                                             : Timing::kRecorded;
  return std::make_unique<OpenLoopWorkload>(std::move(source), timing, std::move(arrivals));
}

}  // namespace foretoken
