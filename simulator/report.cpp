// Results as JSON (contract.md) and as tables.
#include "simulator/report.h"

#include <fmt/format.h>

#include "base/json_full.h"

namespace foretoken {
namespace {

Json interval_json(double low, double high) { return Json{{"low", low}, {"high", high}}; }

void put_distribution(Json& out, const std::string& name, const Distribution& d) {
  out["mean_" + name + "_ms"] = d.mean;
  out["median_" + name + "_ms"] = d.median;
  out["std_" + name + "_ms"] = d.std;
  out["p50_" + name + "_ms"] = d.p50;
  out["p90_" + name + "_ms"] = d.p90;
  out["p95_" + name + "_ms"] = d.p95;
  out["p99_" + name + "_ms"] = d.p99;
}

template <class T>
Json optional_json(const std::optional<T>& v) {
  return v ? Json(*v) : Json(nullptr);
}

Json basis_json(const std::array<double, 4>& share) {
  return Json{
      {"measured", share[0]}, {"interpolated", share[1]}, {"transferred", share[2]}, {"roofline", share[3]}};
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
  out["preemptions"] = m.preemptions;
  out["prefix_cache_hit_rate"] = m.prefix_cache_hit_rate;
  out["peak_kv_usage"] = m.peak_kv_usage;
  out["num_steps"] = m.num_steps;
  out["mean_running"] = m.mean_running;
  out["mean_waiting"] = m.mean_waiting;
  out["busy_share"] = m.busy_share;
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

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }
std::string gib(double bytes) { return fmt::format("{:.1f}", bytes / kGiB); }

Cell ms(double v) { return v; }

std::string basis_sentence(const std::array<double, 4>& share) {
  return fmt::format("Time rests on: measured {}, interpolated {}, transferred {}, roofline {}.",
                     percent(share[0]), percent(share[1]), percent(share[2]), percent(share[3]));
}

std::string deployment_line(const Deployment& d) {
  const Mapping& m = d.mapping;
  std::string s =
      fmt::format("{} on {} x {}: {} replica{} of TP{} PP{} DP{} EP{}, weights {}, KV cache {}, {}",
                  d.model.name, m.devices(), d.device.name, m.replicas, m.replicas == 1 ? "" : "s",
                  m.tensor_parallel, m.pipeline_parallel, m.data_parallel, m.expert_parallel,
                  d.precision.weights == WeightFormat::kPlain ? name_of(d.precision.activation)
                                                              : name_of(d.precision.weights),
                  name_of(d.precision.kv), d.behavior.name);
  return s;
}

std::vector<Cell> candidate_row(const Candidate& c, std::int64_t rank) {
  return {rank,
          c.device,
          c.devices,
          c.replicas,
          fmt::format("TP{}{}{}{}", c.tensor_parallel,
                      c.pipeline_parallel > 1 ? fmt::format(" PP{}", c.pipeline_parallel) : "",
                      c.data_parallel > 1 ? fmt::format(" DP{}", c.data_parallel) : "",
                      c.expert_parallel > 1 ? fmt::format(" EP{}", c.expert_parallel) : ""),
          c.quantization,
          c.kv_cache_dtype,
          c.max_num_batched_tokens,
          c.has_price ? Cell(c.usd_per_million_tokens) : Cell(),
          c.tokens_per_s_per_device,
          c.tokens_per_s_per_user,
          c.metrics.ttft.p99,
          c.metrics.tpot.p99,
          100 * c.slo_attainment};
}

std::vector<Column> candidate_columns() {
  return {{"rank", "#"},
          {"device", "device"},
          {"devices", "devices"},
          {"replicas", "replicas"},
          {"split", "split"},
          {"quantization", "weights"},
          {"kv_cache_dtype", "KV"},
          {"max_num_batched_tokens", "token budget"},
          {"usd_per_million_tokens", "$/Mtok", 3},
          {"tokens_per_s_per_device", "tok/s /device", 3},
          {"tokens_per_s_per_user", "tok/s /user", 3},
          {"p99_ttft_ms", "p99 TTFT ms", 3},
          {"p99_tpot_ms", "p99 TPOT ms", 3},
          {"slo_attainment_percent", "SLO %", 4}};
}

}  // namespace

Json context_json(const ReportContext& context, const Scenario& resolved) {
  Json j;
  j["format"] = 1;
  j["context"] = Json{{"program", "foretoken"},
                      {"version", context.program_version},
                      {"git_commit", context.git_commit},
                      {"seed", context.seed},
                      {"database_digest", context.database_digest},
                      {"warnings", context.warnings}};
  j["scenario"] = scenario_to_json(resolved);
  return j;
}

Json memory_json(const MemoryPlan& m) {
  return Json{{"device_bytes", m.device_bytes},
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
}

Json estimate_json(const Deployment& d, const Estimate& e) {
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
  j["expected_sequences"] = e.expected_sequences;
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

Json simulation_json(const Deployment& d, const Simulation& s, bool detailed) {
  Json j;
  j["behavior"] = Json{{"asked", d.behavior.asked}, {"modelled", d.behavior.name}};
  j["workload"] = s.workload;
  put_metrics(j, s.served.metrics);
  j["rejected"] = s.served.rejected;
  j["rejected_reason"] = s.served.rejected_reason;
  j["aborted"] = s.served.aborted;
  j["stability"] = s.stability;
  j["stability_reason"] = s.stability_reason;
  j["basis"] = basis_json(s.basis.share);
  j["host_share"] = s.basis.host_share;
  j["relative_error"] = s.basis.relative_error;
  j["interval"] = Json::object();
  for (const auto& [key, i] : s.interval) j["interval"][key] = interval_json(i.low, i.high);
  j["usd_per_hour"] = s.has_price ? Json(s.usd_per_hour) : Json(nullptr);
  j["usd_per_million_tokens"] = s.has_price ? Json(s.usd_per_million_tokens) : Json(nullptr);
  j["memory"] = memory_json(d.memory);
  if (!detailed) return j;
  // vLLM's --save-detailed arrays, index-aligned; times in seconds.
  Json inputs = Json::array(), outputs = Json::array(), starts = Json::array(), ttfts = Json::array(),
       latencies = Json::array(), queues = Json::array(), engines = Json::array();
  for (const RequestRecord& r : s.served.records) {
    inputs.push_back(r.input_len);
    outputs.push_back(r.output_len);
    starts.push_back(to_seconds(r.arrival).value);
    ttfts.push_back(to_seconds(r.first_token - r.arrival).value);
    latencies.push_back(to_seconds(r.finish - r.arrival).value);
    queues.push_back(to_seconds(r.scheduled - r.queued).value);
    engines.push_back(r.engine);
  }
  j["input_lens"] = std::move(inputs);
  j["output_lens"] = std::move(outputs);
  j["start_times"] = std::move(starts);
  j["ttfts"] = std::move(ttfts);
  j["latencies"] = std::move(latencies);
  j["queue_times"] = std::move(queues);
  j["engines"] = std::move(engines);
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

std::vector<Table> memory_tables(const Deployment& d) {
  const MemoryPlan& m = d.memory;
  Table t;
  t.title = "Memory of one device (GiB)";
  t.columns = {{"what", "what"}, {"gib", "GiB"}, {"share", "of the device"}};
  auto row = [&](const char* what, double bytes) {
    t.add({std::string(what), gib(bytes), percent(m.device_bytes > 0 ? bytes / m.device_bytes : 0)});
  };
  row("device", m.device_bytes);
  row("budget", m.budget_bytes);
  row("weights", m.weights_bytes);
  row("activations at their peak", m.activation_peak_bytes);
  row("context, graphs, buffers", m.overhead_bytes);
  row("KV cache", m.kv_cache_bytes);
  if (m.fits)
    t.notes.push_back(fmt::format("{} blocks of {} tokens: room for {} tokens on each rank.",
                                  m.num_gpu_blocks, m.block_size, m.kv_cache_tokens));
  else
    t.notes.push_back("Does not fit: " + m.reason);
  return {t};
}

std::vector<Table> estimate_tables(const Deployment& d, const Estimate& e) {
  std::vector<Table> tables = memory_tables(d);
  tables.front().notes.insert(tables.front().notes.begin(), deployment_line(d));
  Table steps;
  steps.title = "Steps";
  steps.columns = {{"name", "step"},         {"sequences", "sequences"},
                   {"tokens", "tokens"},     {"context", "context"},
                   {"ms", "ms", 4},          {"low_ms", "low", 4},
                   {"high_ms", "high", 4},   {"host_ms", "host ms", 3},
                   {"bound_by", "bound by"}, {"roofline_percent", "of roofline %", 3}};
  for (const StepEstimate& s : e.steps)
    steps.add({s.name, s.sequences, s.tokens,
               s.context > 0 ? Cell(static_cast<std::int64_t>(s.context)) : Cell(), 1e3 * s.seconds,
               1e3 * s.low, 1e3 * s.high, 1e3 * s.host_seconds, s.bound_by, 100 * s.roofline_fraction});
  steps.notes.push_back("low and high: 90 % interval of the device time. " + basis_sentence(e.basis));
  tables.push_back(std::move(steps));

  Table summary;
  summary.title = "At the expected load, without queueing";
  summary.columns = {{"what", "what"}, {"value", "value", 4}};
  summary.add({std::string("running sequences on each rank"), e.expected_sequences});
  if (e.utilization > 0) summary.add({std::string("load over capacity"), e.utilization});
  summary.add({std::string("requests/s that it can serve"), e.capacity_requests_per_s});
  summary.add({std::string("TTFT (ms)"), e.ttft_ms});
  summary.add({std::string("TPOT (ms)"), e.tpot_ms});
  summary.add({std::string("E2EL (ms)"), e.e2el_ms});
  summary.add({std::string("output tokens/s"), e.output_throughput});
  if (d.has_price) summary.add({std::string("$ per million output tokens"), e.usd_per_million_tokens});
  tables.push_back(std::move(summary));

  for (const StepEstimate& s : e.steps) {
    if (s.operators.empty() || s.name == "decode_1" || s.name == "decode_max") continue;
    Table t;
    t.title = "Operators of " + s.name;
    t.columns = {{"name", "operator"},
                 {"count", "count"},
                 {"ms", "ms", 3},
                 {"share", "share"},
                 {"tflop_per_s", "TFLOP/s", 3},
                 {"tb_per_s", "TB/s", 3},
                 {"bound_by", "bound by"},
                 {"basis", "basis"},
                 {"error", "+-"}};
    for (const OperatorCost& o : s.operators)
      t.add({o.name, o.count, 1e3 * o.seconds, percent(s.seconds > 0 ? o.seconds / s.seconds : 0),
             o.flops > 0 ? Cell(o.flops / o.seconds / 1e12) : Cell(),
             o.bytes > 0 ? Cell(o.bytes / o.seconds / 1e12) : Cell(), o.bound_by,
             std::string(name_of(o.basis)), percent(o.relative_error)});
    tables.push_back(std::move(t));
  }
  return tables;
}

std::vector<Table> simulation_tables(const Deployment& d, const Simulation& s) {
  const ServingMetrics& m = s.served.metrics;
  Table latency;
  latency.title = "Latency (ms)";
  latency.columns = {{"metric", "metric"}, {"mean", "mean"},
                     {"median", "median"}, {"p90", "p90"},
                     {"p95", "p95"},       {"p99", "p99"},
                     {"std", "std"},       {"interval", "90 % interval of the mean"}};
  auto row = [&](const char* title, const char* key, const Distribution& v) {
    const auto i = s.interval.find(std::string("mean_") + key + "_ms");
    latency.add({std::string(title), ms(v.mean), ms(v.median), ms(v.p90), ms(v.p95), ms(v.p99), ms(v.std),
                 i == s.interval.end()
                     ? Cell()
                     : Cell(fmt::format("{:.4g} to {:.4g}", i->second.low, i->second.high))});
  };
  row("TTFT", "ttft", m.ttft);
  row("TPOT", "tpot", m.tpot);
  row("ITL", "itl", m.itl);
  row("E2EL", "e2el", m.e2el);
  latency.notes.push_back(deployment_line(d));
  latency.notes.push_back(fmt::format(
      "TTFT is made of: ingress {:.3g}, queue {:.3g}, prefill {:.3g}, transfer {:.3g}, first step {:.3g} ms.",
      m.ttft_parts.ingress, m.ttft_parts.queue, m.ttft_parts.prefill, m.ttft_parts.transfer,
      m.ttft_parts.first_step));
  if (!m.ttft.exact) latency.notes.push_back("Percentiles are from a histogram, within 0.1 %.");

  Table load;
  load.title = "Throughput and cost";
  load.columns = {{"what", "what"}, {"value", "value", 4}};
  load.add({std::string("requests completed"), m.completed});
  load.add({std::string("duration (s)"), m.duration});
  load.add({std::string("requests/s"), m.request_throughput});
  load.add({std::string("output tokens/s"), m.output_throughput});
  load.add({std::string("all tokens/s"), m.total_token_throughput});
  if (m.request_goodput) load.add({std::string("requests/s within the limits"), *m.request_goodput});
  if (m.slo_attainment) load.add({std::string("requests within the limits"), percent(*m.slo_attainment)});
  if (s.has_price) {
    load.add({std::string("$ an hour"), s.usd_per_hour});
    load.add({std::string("$ per million output tokens"), s.usd_per_million_tokens});
  }
  load.add({std::string("running sequences, mean"), m.mean_running});
  load.add({std::string("waiting requests, mean"), m.mean_waiting});
  load.add({std::string("engine time in steps"), percent(m.busy_share)});
  load.add({std::string("KV cache in use at the peak"), percent(m.peak_kv_usage)});
  load.add({std::string("prefix cache hits"), percent(m.prefix_cache_hit_rate)});
  load.add({std::string("preemptions"), m.preemptions});
  load.add({std::string("steps"), m.num_steps});
  if (s.served.rejected > 0)
    load.notes.push_back(
        fmt::format("{} requests were rejected: {}.", s.served.rejected, s.served.rejected_reason));
  load.notes.push_back("Verdict: " + s.stability + " (" + s.stability_reason + ").");
  load.notes.push_back(basis_sentence(s.basis.share) + fmt::format(" Host time {}. Error of step times +-{}.",
                                                                   percent(s.basis.host_share),
                                                                   percent(s.basis.relative_error)));
  return {latency, load};
}

std::vector<Table> plan_tables(const PlanResult& p) {
  std::vector<Table> tables;
  constexpr std::size_t kShown = 10;
  Table ranked;
  ranked.title =
      p.ranked.empty() ? "No deployment meets the limits" : "Deployments that meet the limits, best first";
  ranked.columns = candidate_columns();
  std::int64_t n = 0;
  for (const Candidate& c : p.ranked)
    if (static_cast<std::size_t>(n) < kShown) ranked.add(candidate_row(c, ++n));
  if (p.ranked.size() > kShown)
    ranked.notes.push_back(
        fmt::format("{} more meet the limits; -o json lists them.", p.ranked.size() - kShown));
  ranked.notes.push_back(
      fmt::format("{} candidates: {} can't be, {} pruned by estimate or as larger than needed, {} simulated, "
                  "{} meet the limits.",
                  p.searched, p.infeasible, p.pruned, p.simulated, p.feasible));
  ranked.notes.push_back("Workload: " + p.workload + ". Objective: " + p.objective + ".");
  if (p.interrupted) ranked.notes.push_back("Interrupted: what had been found by then.");

  if (!p.ranked.empty()) {
    const Candidate& best = p.ranked.front();
    Table t;
    t.title = "The plan: " + best.label;
    t.columns = {{"what", "what"}, {"value", "value", 4}, {"interval", "90 % interval"}};
    auto interval = [](const Interval& i) {
      return i.high > 0 ? Cell(fmt::format("{:.4g} to {:.4g}", i.low, i.high)) : Cell();
    };
    t.add({std::string("devices"), best.devices, {}});
    if (best.has_price) {
      t.add({std::string("$ an hour"), best.usd_per_hour, {}});
      t.add({std::string("$ per million output tokens"), best.usd_per_million_tokens, {}});
    }
    t.add({std::string("p99 TTFT (ms)"), best.metrics.ttft.p99, interval(best.p99_ttft_ms)});
    t.add({std::string("p99 TPOT (ms)"), best.metrics.tpot.p99, interval(best.p99_tpot_ms)});
    t.add({std::string("output tokens/s"), best.metrics.output_throughput, {}});
    t.add({std::string("KV cache in use at the peak"), percent(best.metrics.peak_kv_usage), {}});
    for (const std::string& w : p.why) t.notes.push_back(w);
    t.notes.push_back(best.replicas > 1 ? fmt::format("On each of the {} replicas:", best.replicas)
                                        : "Start it with:");
    t.notes.push_back("  " + best.command);
    tables.push_back(std::move(t));
  }
  tables.push_back(std::move(ranked));

  if (p.ranked.empty() && !p.missed.empty()) {
    Table missed;
    missed.title = "Nearest to the limits";
    missed.columns = candidate_columns();
    n = 0;
    for (const Candidate& c : p.missed)
      if (static_cast<std::size_t>(n) < kShown) missed.add(candidate_row(c, ++n));
    tables.push_back(std::move(missed));
  }
  if (p.pareto.size() > 1) {
    Table pareto;
    pareto.title = "Pareto front: tokens/s a device against tokens/s a user";
    pareto.columns = candidate_columns();
    n = 0;
    for (const Candidate& c : p.pareto) pareto.add(candidate_row(c, ++n));
    tables.push_back(std::move(pareto));
  }
  if (!p.rejected.empty()) {
    Table rejected;
    rejected.title = "Why the others are out";
    rejected.columns = {{"reason", "reason"}, {"count", "candidates"}, {"example", "for example"}};
    for (const auto& [reason, count] : p.rejected) {
      const auto example = p.rejected_example.find(reason);
      rejected.add({reason, count, example == p.rejected_example.end() ? Cell() : Cell(example->second)});
    }
    tables.push_back(std::move(rejected));
  }
  return tables;
}

}  // namespace foretoken
