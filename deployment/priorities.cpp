// Request priorities and orders of waiting requests: which version knows what, and what they are not modelled
// beside.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "deployment/knobs.h"
#include "deployment/parts.h"

namespace foretoken {
namespace {

// The first patch release of the newest minor version that has it, and of which minor (SGLang's and vLLM's
// sources of these versions).
struct Since {
  int minor, patch;
};
constexpr Since kSglangPriorities{5, 3}, kSglangNoPreemption{5, 10}, kSglangHrrn{5, 20},
    kSglangShortest{5, 21};
constexpr Since kVllmV0Priorities{6, 3}, kVllmV1Priorities{9, 2};

// A version without a patch number is the newest of its minor version.
bool lacks(const Behavior& b, Since since) {
  return b.minor < since.minor || (b.minor == since.minor && b.patch >= 0 && b.patch < since.patch);
}

void refuse_before(const Behavior& b, const Knobs& k, std::string_view key, std::string_view what,
                   Since since) {
  if (lacks(b, since))
    k.fail(key, fmt::format("{} came with {} 0.{}.{}, and the behaviour is {}; leave it out", what,
                            b.family == "sglang" ? "SGLang" : "vLLM", since.minor, since.patch, b.asked));
}

void check_sglang_order(const EngineSection& e, const Behavior& b, const Knobs& k) {
  if (!e.schedule_policy) return;
  const std::string& order = *e.schedule_policy;
  if (order == "routing-key")
    k.fail("schedule_policy",
           "\"routing-key\" goes by keys that a router sends with requests, which workloads don't have; use "
           "another order");
  if (std::find(std::begin(kSchedulePolicyNames), std::end(kSchedulePolicyNames), order) ==
      std::end(kSchedulePolicyNames))
    k.fail("schedule_policy", fmt::format("\"{}\" is no policy of SGLang; it has {}", order,
                                          join(std::vector<std::string>(std::begin(kSchedulePolicyNames),
                                                                        std::end(kSchedulePolicyNames)),
                                               ", ")));
  if (order == "hrrn") refuse_before(b, k, "schedule_policy", "\"hrrn\"", kSglangHrrn);
  if (order == "shortest-prefill-first") {
    refuse_before(b, k, "schedule_policy", "\"shortest-prefill-first\"", kSglangShortest);
    if (e.disable_radix_cache.value_or(false) || !e.enable_prefix_caching.value_or(true))
      k.fail("schedule_policy", "\"shortest-prefill-first\" needs the radix cache; turn it on");
  }
}

void check_sglang_priorities(const EngineSection& e, const Behavior& b, const Knobs& k) {
  const bool on = e.enable_priority_scheduling.value_or(false);
  const auto needs = [&](bool given, std::string_view key) {
    if (given && !on) k.fail(key, "belongs to enable_priority_scheduling; turn that on or leave it out");
  };
  needs(e.schedule_low_priority_values_first.has_value(), "schedule_low_priority_values_first");
  needs(e.disable_priority_preemption.has_value(), "disable_priority_preemption");
  needs(e.priority_scheduling_preemption_threshold.has_value(), "priority_scheduling_preemption_threshold");
  if (!on) return;
  refuse_before(b, k, "enable_priority_scheduling", "it", kSglangPriorities);
  if (e.disable_priority_preemption)
    refuse_before(b, k, "disable_priority_preemption", "it", kSglangNoPreemption);
  const std::string order = e.schedule_policy.value_or("fcfs");
  if (order != "fcfs" && order != "lof")
    k.fail("enable_priority_scheduling",
           fmt::format("SGLang takes fcfs and lof beside it, and schedule_policy is {}; use one of these",
                       order));
}

}  // namespace

void check_orders(const Scenario& scenario, const Behavior& b, const std::string& where) {
  const Knobs k(b, where);
  const EngineSection& e = scenario.engine;
  k.only(e.scheduling_policy, "scheduling_policy", "vllm");
  k.only(e.enable_priority_scheduling, "enable_priority_scheduling", "sglang");
  k.only(e.schedule_low_priority_values_first, "schedule_low_priority_values_first", "sglang");
  k.only(e.disable_priority_preemption, "disable_priority_preemption", "sglang");
  k.only(e.priority_scheduling_preemption_threshold, "priority_scheduling_preemption_threshold", "sglang");
  if (b.policy == SchedulerPolicy::kSglang) {
    check_sglang_order(e, b, k);
    check_sglang_priorities(e, b, k);
  }
  if (e.scheduling_policy.value_or("fcfs") != "priority") return;
  refuse_before(b, k, "scheduling_policy", "\"priority\"",
                b.policy == SchedulerPolicy::kVllmV0 ? kVllmV0Priorities : kVllmV1Priorities);
  const auto apart = [&](bool wrong, std::string_view what) {
    if (wrong) k.fail("scheduling_policy", fmt::format("\"priority\" is not modelled {}", what));
  };
  apart(e.preemption_mode.value_or("") == "swap", "beside preemption_mode swap; use recompute");
  apart(!e.kv_tiers.empty(), "beside KV tiers; leave kv_tiers out");
  apart(scenario.workload.beam_width.value_or(1) > 1, "beside beam search; leave beam_width out");
  apart(scenario.cluster.prefill || scenario.cluster.decode,
        "where prefill and decode are apart; leave out cluster.prefill and cluster.decode");
}

void set_orders(SchedulerConfig& s, const Scenario& scenario) {
  const EngineSection& e = scenario.engine;
  s.by_priority = e.scheduling_policy.value_or("fcfs") == "priority";
  if (s.policy != SchedulerPolicy::kSglang) return;
  using Order = SglangConfig::Order;
  constexpr Order kOrders[] = {Order::kFcfs,   Order::kLpm,  Order::kDfsWeight,           Order::kLof,
                               Order::kRandom, Order::kHrrn, Order::kShortestPrefillFirst};
  static_assert(std::size(kOrders) == std::size(kSchedulePolicyNames));
  for (std::size_t i = 0; i < std::size(kOrders); ++i)
    if (kSchedulePolicyNames[i] == *e.schedule_policy) s.sglang.schedule_policy = kOrders[i];
  s.sglang.enable_priority_scheduling = e.enable_priority_scheduling.value_or(false);
  s.sglang.schedule_low_priority_values_first = e.schedule_low_priority_values_first.value_or(false);
  s.sglang.disable_priority_preemption = e.disable_priority_preemption.value_or(false);
  if (e.priority_scheduling_preemption_threshold)
    s.sglang.priority_scheduling_preemption_threshold = *e.priority_scheduling_preemption_threshold;
  s.sglang.seed = static_cast<std::uint64_t>(scenario.workload.seed);
}

}  // namespace foretoken
