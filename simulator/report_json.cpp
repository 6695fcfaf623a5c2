// Results as the JSON that docs/scenario.md and docs/metrics.md describe.
#include <fmt/format.h>

#include "base/json_full.h"
#include "simulator/report.h"

namespace foretoken {
namespace {

Json interval_json(double low, double high) { return Json{{"low", low}, {"high", high}}; }

// null where nothing was counted: no latency is not a latency of 0.
void put_distribution(Json& out, const std::string& name, const Distribution& d) {
  const auto put = [&](const char* statistic, double v) {
    out[statistic + ("_" + name) + "_ms"] = d.count > 0 ? Json(v) : Json(nullptr);
  };
  put("mean", d.mean);
  put("median", d.median);
  put("std", d.std);
  put("p50", d.p50);
  put("p90", d.p90);
  put("p95", d.p95);
  put("p99", d.p99);
}

template <class T>
Json optional_json(const std::optional<T>& v) {
  return v ? Json(*v) : Json(nullptr);
}

Json basis_json(const std::array<double, 4>& share) {
  return Json{
      {"measured", share[0]}, {"interpolated", share[1]}, {"transferred", share[2]}, {"roofline", share[3]}};
}

// vLLM's keys and units: acceptance_rate in percent, rates by position as shares.
void put_speculation(Json& out, const SpeculationCounts& s) {
  if (s.verifications == 0) return;
  out["spec_decode_num_drafts"] = s.verifications;
  out["spec_decode_draft_tokens"] = s.drafted;
  out["spec_decode_accepted_tokens"] = s.accepted;
  out["spec_decode_acceptance_rate"] = 100 * s.acceptance_rate();
  out["spec_decode_acceptance_length"] = s.tokens_per_step();
  out["spec_decode_per_position_acceptance_rates"] = s.rates();
}

void put_metrics(Json& out, const ServingMetrics& m) {
  out["completed"] = m.completed;
  out["duration"] = m.duration;
  out["total_input_tokens"] = m.total_input_tokens;
  out["total_output_tokens"] = m.total_output_tokens;
  out["request_throughput"] = m.request_throughput;
  out["output_throughput"] = m.output_throughput;
  out["total_token_throughput"] = m.total_token_throughput;
  out["request_goodput"] = optional_json(m.request_goodput);
  out["slo_attainment"] = optional_json(m.slo_attainment);
  put_distribution(out, "ttft", m.ttft);
  put_distribution(out, "tpot", m.tpot);
  put_distribution(out, "itl", m.itl);
  put_distribution(out, "e2el", m.e2el);
  out["percentiles_exact"] =
      Json{{"ttft", m.ttft.exact}, {"tpot", m.tpot.exact}, {"itl", m.itl.exact}, {"e2el", m.e2el.exact}};
  out["ttft_parts_ms"] = Json{{"ingress", m.ttft_parts.ingress},
                              {"queue", m.ttft_parts.queue},
                              {"prefill", m.ttft_parts.prefill},
                              {"transfer", m.ttft_parts.transfer},
                              {"first_step", m.ttft_parts.first_step}};
  if (m.ttft_parts.load > 0) out["ttft_parts_ms"]["load"] = m.ttft_parts.load;
  out["preemptions"] = m.preemptions;
  out["prefix_cache_hit_rate"] = m.prefix_cache_hit_rate;
  out["peak_kv_usage"] = m.peak_kv_usage;
  out["num_steps"] = m.num_steps;
  out["mean_running"] = m.mean_running;
  out["mean_waiting"] = m.mean_waiting;
  out["busy_share"] = m.busy_share;
  if (m.transfers.count > 0)
    out["transfers"] = Json{{"count", m.transfers.count},
                            {"mean_transfer_ms", m.transfers.mean_ms},
                            {"mean_link_ms", m.transfers.link_ms},
                            {"mean_moving", m.transfers.mean_moving}};
  if (m.sessions.completed + m.sessions.broken > 0) {
    Json sessions{{"completed", m.sessions.completed},
                  {"broken", m.sessions.broken},
                  {"mean_calls", m.sessions.mean_calls}};
    put_distribution(sessions, "e2el", m.sessions.e2el);
    put_distribution(sessions, "pauses", m.sessions.pauses);
    out["sessions"] = std::move(sessions);
  }
  put_speculation(out, m.speculation);
  if (m.priority_classes.empty()) return;
  Json classes = Json::array();
  for (const ServingMetrics::PriorityClass& c : m.priority_classes) {
    Json j{{"priority", c.priority},
           {"completed", c.ttft.count},
           {"preemptions", c.preemptions},
           {"mean_queue_ms", c.mean_queue},
           {"slo_attainment", optional_json(c.slo_attainment)}};
    put_distribution(j, "ttft", c.ttft);
    put_distribution(j, "tpot", c.tpot);
    put_distribution(j, "e2el", c.e2el);
    classes.push_back(std::move(j));
  }
  out["priority_classes"] = std::move(classes);
}

// Hit rates are shares of the prompt tokens that were looked for.
Json kv_tiers_json(const Deployment& d, const ServeResult& r) {
  const auto rate = [&](std::int64_t tokens) {
    return r.queried_tokens > 0 ? static_cast<double>(tokens) / static_cast<double>(r.queried_tokens) : 0.0;
  };
  Json tiers = Json::array();
  for (std::size_t t = 0; t < r.kv_tiers.size(); ++t) {
    const KvTierCounts& c = r.kv_tiers[t];
    const double bytes = d.kv_tiers[t].block_bytes;
    tiers.push_back(Json{{"kind", d.scenario.engine.kv_tiers[t].kind},
                         {"blocks", d.scheduler.kv_tiers.tiers[t].blocks},
                         {"hit_rate", rate(c.hit_tokens)},
                         {"loaded_blocks", c.loaded},
                         {"written_blocks", c.written},
                         {"evicted_blocks", c.evicted},
                         {"refused_blocks", c.refused},
                         {"loaded_bytes", static_cast<double>(c.loaded) * bytes},
                         {"written_bytes", static_cast<double>(c.written) * bytes},
                         {"read_s", to_seconds(c.reading).value},
                         {"write_s", to_seconds(c.writing).value}});
  }
  const double loads = static_cast<double>(std::max<std::int64_t>(r.kv_loads, 1));
  return Json{{"device_hit_rate", rate(r.device_hit_tokens)},
              {"loads", r.kv_loads},
              {"mean_load_ms", to_ms(r.kv_load_wait) / loads},
              {"stalled_steps_ms", to_ms(r.kv_stall)},
              {"tiers", tiers}};
}

Json candidate_json(const Candidate& c) {
  Json j;
  j["label"] = c.label;
  j["device"] = c.device;
  j["devices"] = c.devices;
  j["replicas"] = c.replicas;
  j["tensor_parallel_size"] = c.tensor_parallel;
  j["pipeline_parallel_size"] = c.pipeline_parallel;
  j["data_parallel_size"] = c.data_parallel;
  j["expert_parallel_size"] = c.expert_parallel;
  j["quantization"] = c.quantization;
  j["kv_cache_dtype"] = c.kv_cache_dtype;
  j["max_num_seqs"] = c.max_num_seqs;
  j["max_num_batched_tokens"] = c.max_num_batched_tokens;
  j["usd_per_million_tokens"] = c.has_price ? Json(c.usd_per_million_tokens) : Json(nullptr);
  j["usd_per_hour"] = c.has_price ? Json(c.usd_per_hour) : Json(nullptr);
  j["tokens_per_s_per_device"] = c.tokens_per_s_per_device;
  j["tokens_per_s_per_user"] = c.tokens_per_s_per_user;
  j["goodput_per_device"] = c.goodput_per_device;
  j["slo_attainment"] = c.slo_attainment;
  j["meets_slo"] = c.meets_slo;
  j["mean_ttft_ms"] = c.metrics.ttft.mean;
  j["p99_ttft_ms"] = c.metrics.ttft.p99;
  j["mean_tpot_ms"] = c.metrics.tpot.mean;
  j["p99_tpot_ms"] = c.metrics.tpot.p99;
  j["p99_e2el_ms"] = c.metrics.e2el.p99;
  j["output_throughput"] = c.metrics.output_throughput;
  j["patch"] = Json::parse(c.patch);
  j["command"] = c.command;
  return j;
}

}  // namespace

Json context_json(const ReportContext& context) {
  Json j;
  j["format"] = 1;
  j["context"] = Json{{"program", "foretoken"},
                      {"version", context.program_version},
                      {"git_commit", context.git_commit},
                      {"seed", context.seed},
                      {"database_digest", context.database_digest},
                      {"warnings", context.warnings}};
  return j;
}

Json context_json(const ReportContext& context, const Scenario& resolved) {
  Json j = context_json(context);
  j["scenario"] = scenario_to_json(resolved);
  return j;
}

Json memory_json(const MemoryPlan& m) {
  Json j{{"device_bytes", m.device_bytes},
         {"budget_bytes", m.budget_bytes},
         {"weights_bytes", m.weights_bytes},
         {"activation_peak_bytes", m.activation_peak_bytes},
         {"overhead_bytes", m.overhead_bytes},
         {"kv_cache_bytes", m.kv_cache_bytes},
         {"block_bytes", m.block_bytes},
         {"block_size", m.block_size},
         {"num_gpu_blocks", m.num_gpu_blocks},
         {"kv_cache_tokens", m.kv_cache_tokens},
         {"fits", m.fits},
         {"reason", m.reason}};
  if (m.outside_bytes > 0) j["outside_bytes"] = m.outside_bytes;
  if (m.host_bytes > 0) j["host_bytes"] = m.host_bytes;
  if (m.draft_weights_bytes > 0) {
    j["draft_weights_bytes"] = m.draft_weights_bytes;
    j["draft_block_bytes"] = m.draft_block_bytes;
  }
  return j;
}

Json estimate_json(const Deployment& d, const Estimate& e, const std::vector<Sensitivity>& what_if) {
  Json j;
  j["behavior"] = Json{{"asked", d.behavior.asked}, {"modelled", d.behavior.name}};
  j["memory"] = memory_json(d.memory);
  j["steps"] = Json::array();
  for (const StepEstimate& s : e.steps) {
    Json step{{"name", s.name},
              {"sequences", s.sequences},
              {"tokens", s.tokens},
              {"context", s.context},
              {"seconds", s.seconds},
              {"low", s.low},
              {"high", s.high},
              {"host_seconds", s.host_seconds},
              {"bound_by", s.bound_by},
              {"roofline_fraction", s.roofline_fraction},
              {"operators", Json::array()}};
    for (const OperatorCost& o : s.operators)
      step["operators"].push_back(Json{{"name", o.name},
                                       {"count", o.count},
                                       {"seconds", o.seconds},
                                       {"flops", o.flops},
                                       {"bytes", o.bytes},
                                       {"basis", std::string(name_of(o.basis))},
                                       {"relative_error", o.relative_error},
                                       {"bound_by", o.bound_by}});
    j["steps"].push_back(std::move(step));
  }
  j["sensitivity"] = Json::array();
  for (const Sensitivity& w : what_if) {
    Json changes = Json::object();
    for (std::size_t i = 0; i < e.steps.size() && i < w.change.size(); ++i)
      changes[e.steps[i].name] = w.change[i];
    j["sensitivity"].push_back(Json{{"part", w.part}, {"factor", w.factor}, {"change", std::move(changes)}});
  }
  j["expected_sequences"] = e.expected_sequences;
  if (d.speculation) j["tokens_per_step"] = e.tokens_per_step;
  j["utilization"] = e.utilization;
  j["ttft_ms"] = e.ttft_ms;
  j["tpot_ms"] = e.tpot_ms;
  j["e2el_ms"] = e.e2el_ms;
  j["output_throughput"] = e.output_throughput;
  j["capacity_requests_per_s"] = e.capacity_requests_per_s;
  j["usd_per_million_tokens"] = d.has_price ? Json(e.usd_per_million_tokens) : Json(nullptr);
  j["basis"] = basis_json(e.basis);
  return j;
}

namespace {

Json pools_json(const Deployment& d, const Simulation& s) {
  Json all = Json::array();
  const std::vector<PoolShare> shares = pool_shares(d, s);
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const Deployment& pool = d.replica_pools[i];
    all.push_back(Json{{"device", pool.device.name},
                       {"devices", pool.mapping.devices()},
                       {"replicas", pool.mapping.replicas},
                       {"tensor_parallel_size", pool.mapping.tensor_parallel},
                       {"behavior", pool.behavior.name},
                       {"requests", shares[i].requests},
                       {"num_steps", shares[i].steps},
                       {"busy_share", shares[i].busy_share},
                       {"peak_kv_usage", shares[i].peak_kv_usage},
                       {"usd_per_hour", pool.has_price ? Json(pool.usd_per_hour()) : Json(nullptr)},
                       {"memory", memory_json(pool.memory)}});
  }
  return all;
}

}  // namespace

Json simulation_json(const Deployment& d, const Simulation& s, bool detailed) {
  Json j;
  j["behavior"] = Json{{"asked", d.behavior.asked}, {"modelled", d.behavior.name}};
  j["workload"] = s.workload;
  put_metrics(j, s.served.metrics);
  if (d.memory.num_host_blocks > 0)
    j["swap"] = Json{{"host_blocks", d.memory.num_host_blocks},
                     {"peak_host_blocks", s.served.peak_host_blocks},
                     {"swapped_out_blocks", s.served.swapped_out_blocks},
                     {"swapped_in_blocks", s.served.swapped_in_blocks}};
  if (!s.served.kv_tiers.empty()) j["kv_tiers"] = kv_tiers_json(d, s.served);
  if (s.served.reserved_tokens > 0)
    j["kv_reservation"] = Json{{"reserved_tokens", s.served.reserved_tokens},
                               {"filled_tokens", s.served.filled_tokens},
                               {"unfilled_share", s.served.unfilled_share()}};
  if (s.served.unshared_beam_blocks > 0)
    j["beam_search"] = Json{{"beam_width", d.scheduler.beam_width},
                            {"blocks", s.served.beam_blocks},
                            {"unshared_blocks", s.served.unshared_beam_blocks},
                            {"shared_block_share", s.served.shared_block_share()}};
  if (d.scenario.cluster.autoscale)
    j["autoscale"] = Json{{"mean_replicas", s.mean_replicas()},
                          {"most_replicas", s.served.most_replicas},
                          {"replica_hours", s.served.replica_seconds / 3600},
                          {"starts", s.served.replica_starts},
                          {"ends", s.served.replica_ends}};
  j["rejected"] = s.served.rejected;
  j["rejected_reason"] = s.served.rejected_reason;
  if (d.scenario.cluster.router == "mooncake")
    j["conductor"] = Json{{"rejected_ttft", s.served.rejected_ttft},
                          {"rejected_tbt", s.served.rejected_tbt},
                          {"prefix_fetches", s.served.prefix_fetches},
                          {"fetched_tokens", s.served.fetched_tokens}};
  if (rejects_computed(d)) j["conductor"]["rejected_computed"] = s.served.rejected_computed;
  if (const std::string rule = decode_rule(d); !rule.empty()) j["decode_router"] = rule;
  if (d.scenario.cluster.router == "splitwise") {
    const MixedPoolCounts& c = s.served.mixed_pools;
    const double time = s.served.metrics.duration * static_cast<double>(s.served.engines.size());
    j["mixed_pool"] = Json{{"joined", c.joined},
                           {"share", time > 0 ? to_seconds(c.mixed_time).value / time : 0},
                           {"whole_requests", c.whole_requests},
                           {"went_on", c.went_on}};
  }
  if (d.scenario.cluster.router == "tetriinfer") {
    const TetriInferCounts& c = s.served.tetri_infer;
    j["tetriinfer"] = Json{{"flips", c.flips}, {"mispredicted", c.mispredicted}, {"crowded", c.crowded}};
  }
  if (d.scheduler.policy == SchedulerPolicy::kInfiniteLlm) {
    const LendingCounts& c = s.served.lending;
    j["lending"] = Json{{"borrowers", c.borrowers},
                        {"moved_blocks", c.moved_blocks},
                        {"peak_lent_blocks", c.peak_lent},
                        {"refused_moves", c.refused_moves}};
  }
  j["aborted"] = s.served.aborted;
  j["stability"] = s.stability;
  j["stability_reason"] = s.stability_reason;
  j["basis"] = basis_json(s.basis.share);
  j["host_share"] = s.basis.host_share;
  j["relative_error"] = s.basis.relative_error;
  j["interval"] = Json::object();
  for (const auto& [key, i] : s.interval) j["interval"][key] = interval_json(i.low, i.high);
  j["usd_per_hour"] = s.has_price ? Json(s.usd_per_hour) : Json(nullptr);
  j["usd_per_million_tokens"] = s.has_price && s.served.metrics.total_output_tokens > 0
                                    ? Json(s.usd_per_million_tokens)
                                    : Json(nullptr);
  j["memory"] = memory_json(d.memory);
  if (!d.replica_pools.empty()) j["pools"] = pools_json(d, s);
  if (!detailed) return j;
  // vLLM's --save-detailed arrays, index-aligned, and beside them what the times to first token are made of;
  // in seconds.
  const auto array = [&](const char* key, auto value) {
    Json values = Json::array();
    for (const RequestRecord& r : s.served.records) values.push_back(value(r));
    j[key] = std::move(values);
  };
  const auto seconds = [](Picoseconds t) { return to_seconds(t).value; };
  array("input_lens", [](const RequestRecord& r) { return r.input_len; });
  array("output_lens", [](const RequestRecord& r) { return r.output_len; });
  array("start_times", [&](const RequestRecord& r) { return seconds(r.arrival); });
  array("ttfts", [&](const RequestRecord& r) { return seconds(r.first_token - r.arrival); });
  array("latencies", [&](const RequestRecord& r) { return seconds(r.finish - r.arrival); });
  array("queue_times", [&](const RequestRecord& r) { return seconds(ttft_parts(r).queue); });
  array("ingress_times", [&](const RequestRecord& r) { return seconds(ttft_parts(r).ingress); });
  array("prefill_times", [&](const RequestRecord& r) { return seconds(ttft_parts(r).prefill); });
  array("transfer_times", [&](const RequestRecord& r) { return seconds(ttft_parts(r).transfer); });
  array("first_step_times", [&](const RequestRecord& r) { return seconds(ttft_parts(r).first_step); });
  array("cached_tokens", [](const RequestRecord& r) { return r.cached_tokens; });
  array("request_preemptions", [](const RequestRecord& r) { return r.preemptions; });
  if (!s.served.metrics.priority_classes.empty())
    array("priorities", [](const RequestRecord& r) { return r.priority; });
  array("engines", [](const RequestRecord& r) { return r.engine; });
  if (s.served.metrics.sessions.completed > 0)
    array("sessions_of", [](const RequestRecord& r) { return r.session; });
  Json over_time{{"period", seconds(s.served.over_time.period)}};
  const auto series = [&](const char* key, auto value) {
    Json values = Json::array();
    for (const OverTime::Sample& sample : s.served.over_time.samples) values.push_back(value(sample));
    over_time[key] = std::move(values);
  };
  series("running", [](const OverTime::Sample& o) { return o.running; });
  series("waiting", [](const OverTime::Sample& o) { return o.waiting; });
  series("replicas", [](const OverTime::Sample& o) { return o.replicas; });
  series("mean_kv_usage", [](const OverTime::Sample& o) { return o.mean_kv_usage; });
  series("most_kv_usage", [](const OverTime::Sample& o) { return o.most_kv_usage; });
  j["over_time"] = std::move(over_time);
  return j;
}

Json plan_json(const PlanResult& p) {
  Json j;
  j["objective"] = p.objective;
  j["workload"] = p.workload;
  j["searched"] = p.searched;
  j["infeasible"] = p.infeasible;
  j["pruned"] = p.pruned;
  j["simulated"] = p.simulated;
  j["feasible"] = p.feasible;
  j["interrupted"] = p.interrupted;
  if (p.ranked.empty()) {
    j["best"] = nullptr;
  } else {
    j["best"] = candidate_json(p.ranked.front());
    const Candidate& best = p.ranked.front();
    j["best"]["interval"] = Json{{"p99_ttft_ms", interval_json(best.p99_ttft_ms.low, best.p99_ttft_ms.high)},
                                 {"p99_tpot_ms", interval_json(best.p99_tpot_ms.low, best.p99_tpot_ms.high)}};
    j["best"]["why"] = p.why;
  }
  for (const auto& [key, list] :
       {std::pair{"ranked", &p.ranked}, std::pair{"missed", &p.missed}, std::pair{"pareto", &p.pareto}}) {
    j[key] = Json::array();
    for (const Candidate& c : *list) j[key].push_back(candidate_json(c));
  }
  j["rejected"] = Json::array();
  for (const auto& [reason, n] : p.rejected) {
    const auto example = p.rejected_example.find(reason);
    j["rejected"].push_back(Json{{"reason", reason},
                                 {"count", n},
                                 {"example", example == p.rejected_example.end() ? "" : example->second}});
  }
  return j;
}

}  // namespace foretoken
