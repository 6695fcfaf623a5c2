// Results as the tables that people read: at most 100 columns wide, the answer first.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "simulator/candidate_table.h"
#include "simulator/report.h"

namespace foretoken {
namespace {

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }
std::string gib(double bytes) { return fmt::format("{:.1f}", bytes / kGiB); }

std::string basis_sentence(const std::array<double, 4>& share) {
  return fmt::format("Time rests on: measured {}, interpolated {}, transferred {}, roofline {}.",
                     percent(share[0]), percent(share[1]), percent(share[2]), percent(share[3]));
}

std::string mapping_text(const Mapping& m) {
  return fmt::format("{} replica{} of TP{} PP{} DP{} EP{}", m.replicas, m.replicas == 1 ? "" : "s",
                     m.tensor_parallel, m.pipeline_parallel, m.data_parallel, m.expert_parallel);
}

std::string formats_text(const Deployment& d) {
  return fmt::format("weights {}, KV cache {}",
                     d.precision.weights == WeightFormat::kPlain ? name_of(d.precision.activation)
                                                                 : name_of(d.precision.weights),
                     name_of(d.precision.kv));
}

std::string devices_text(const Deployment& d) {
  return fmt::format("{} x {}", d.mapping.devices(), d.device.name);
}

std::string deployment_line(const Deployment& d) {
  if (!d.replica_pools.empty()) {
    std::string pools;
    for (const Deployment& pool : d.replica_pools)
      pools += fmt::format("{}{} with {}, {}, {}", pools.empty() ? "" : "; ", devices_text(pool),
                           mapping_text(pool.mapping), formats_text(pool), pool.behavior.name);
    return fmt::format("{} on {}", d.model.name, pools);
  }
  const std::string engines =
      d.pools ? fmt::format("prefill {}, decode {}", mapping_text(d.pools->prefill.mapping),
                            mapping_text(d.pools->decode.mapping))
              : mapping_text(d.mapping);
  const bool unlike = d.pools && d.pools->prefill.device.name != d.pools->decode.device.name;
  const std::string devices =
      unlike ? fmt::format("{} and {}", devices_text(d.pools->prefill), devices_text(d.pools->decode))
             : fmt::format("{} x {}", d.devices(), d.device.name);
  return fmt::format("{} on {}: {}, {}, {}", d.model.name, devices, engines, formats_text(d),
                     d.behavior.name);
}

// "3 H200-SXM: 3 x TP1 DP2": names without the memory size, which is in the full name.
std::string deployment_text(const Candidate& c) {
  std::string device = c.device;
  if (const auto dash = device.rfind('-'); dash != std::string::npos && device.ends_with("GB"))
    device.resize(dash);
  std::string split = fmt::format("TP{}", c.tensor_parallel);
  if (c.pipeline_parallel > 1) split += fmt::format(" PP{}", c.pipeline_parallel);
  if (c.data_parallel > 1) split += fmt::format(" DP{}", c.data_parallel);
  if (c.expert_parallel > 1) split += fmt::format(" EP{}", c.expert_parallel);
  return fmt::format("{} {}: {}{}", c.devices, device, c.replicas > 1 ? fmt::format("{} x ", c.replicas) : "",
                     split);
}

std::string short_type(const std::string& name) {
  return name == "bfloat16" ? "bf16" : name == "float16" ? "fp16" : name;
}

std::vector<Cell> candidate_row(const Candidate& c, std::int64_t rank) {
  return {rank,
          deployment_text(c),
          short_type(c.quantization),
          short_type(c.kv_cache_dtype),
          c.max_num_batched_tokens,
          c.max_num_seqs,
          c.has_price ? Cell(c.usd_per_million_tokens) : Cell(),
          c.tokens_per_s_per_device,
          c.tokens_per_s_per_user,
          c.metrics.ttft.p99,
          c.metrics.tpot.p99,
          100 * c.slo_attainment};
}

std::vector<Column> candidate_columns() {
  return {{"rank", "#"},
          {"deployment", "deployment"},
          {"quantization", "weights"},
          {"kv_cache_dtype", "KV"},
          {"max_num_batched_tokens", "token budget"},
          {"max_num_seqs", "max seqs"},
          {"usd_per_million_tokens", "$/Mtok", 3},
          {"tokens_per_s_per_device", "tok/s /device", 3},
          {"tokens_per_s_per_user", "tok/s /user", 3},
          {"p99_ttft_ms", "p99 TTFT ms", 3},
          {"p99_tpot_ms", "p99 TPOT ms", 3},
          {"slo_attainment_percent", "SLO %", 3}};
}

// Settings that change nothing give equal results; a table shows the first of them.
bool same_result(const Candidate& a, const Candidate& b) {
  return a.devices == b.devices && a.device == b.device && a.tensor_parallel == b.tensor_parallel &&
         a.quantization == b.quantization && a.kv_cache_dtype == b.kv_cache_dtype &&
         a.metrics.duration == b.metrics.duration && a.metrics.e2el.mean == b.metrics.e2el.mean &&
         a.metrics.ttft.p99 == b.metrics.ttft.p99;
}

// The first `most` different results; returns how many candidates stay untold.
std::size_t add_candidates(Table& table, const std::vector<Candidate>& list, std::size_t most) {
  const Candidate* last = nullptr;
  std::size_t told = 0;
  bool merged = false;
  for (const Candidate& c : list) {
    if (last && same_result(*last, c)) {
      merged = true;
    } else if (table.rows.size() < most) {
      table.add(candidate_row(c, static_cast<std::int64_t>(table.rows.size()) + 1));
      last = &c;
    } else {
      break;
    }
    ++told;
  }
  if (merged) table.notes.push_back("Candidates with the same result are shown once.");
  return list.size() - told;
}

}  // namespace

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
  if (m.outside_bytes > 0) row("weights outside the device", m.outside_bytes);
  if (m.draft_weights_bytes > 0) row("  the draft model's", m.draft_weights_bytes);
  row("activations at their peak", m.activation_peak_bytes);
  row("context, graphs, buffers", m.overhead_bytes);
  row("KV cache", m.kv_cache_bytes);
  if (m.fits)
    t.notes.push_back(fmt::format("{} blocks of {} tokens: room for {} tokens on each rank.",
                                  m.num_gpu_blocks, m.block_size, m.kv_cache_tokens));
  if (m.fits && m.num_host_blocks > 0)
    t.notes.push_back(fmt::format("{} more in host memory, for preempted sequences.", m.num_host_blocks));
  if (!m.fits) t.notes.push_back("Does not fit: " + m.reason);
  return {t};
}

std::vector<Table> estimate_tables(const Deployment& d, const Estimate& e,
                                   const std::vector<Sensitivity>& what_if) {
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
  if (d.speculation) summary.add({std::string("tokens of a sequence a step"), e.tokens_per_step});
  summary.add({std::string("TTFT (ms)"), e.ttft_ms});
  summary.add({std::string("TPOT (ms)"), e.tpot_ms});
  summary.add({std::string("E2EL (ms)"), e.e2el_ms});
  summary.add({std::string("output tokens/s"), e.output_throughput});
  if (d.has_price) summary.add({std::string("$ per million output tokens"), e.usd_per_million_tokens});
  tables.push_back(std::move(summary));

  if (!what_if.empty()) {
    Table t;
    t.title =
        fmt::format("What {:.0f} % more would change in the steps' time", 100 * (what_if.front().factor - 1));
    t.columns = {{"part", "faster"}};
    for (const StepEstimate& s : e.steps) t.columns.push_back({s.name + "_percent", s.name});
    for (const Sensitivity& w : what_if) {
      std::vector<Cell> row = {w.part};
      for (const double change : w.change)
        row.push_back(std::abs(change) < 0.0005 ? std::string("-") : fmt::format("{:+.1f} %", 100 * change));
      t.add(std::move(row));
    }
    tables.push_back(std::move(t));
  }
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

// Where the time of those went that waited longest.
Table slowest_first_tokens(const std::vector<RequestRecord>& records) {
  constexpr std::size_t kShown = 5;
  std::vector<const RequestRecord*> slowest;
  for (const RequestRecord& r : records) slowest.push_back(&r);
  const std::size_t shown = std::min(kShown, slowest.size());
  const auto ttft = [](const RequestRecord* r) { return r->first_token - r->arrival; };
  std::partial_sort(slowest.begin(), slowest.begin() + static_cast<std::ptrdiff_t>(shown), slowest.end(),
                    [&](const RequestRecord* a, const RequestRecord* b) {
                      return ttft(a) != ttft(b) ? ttft(a) > ttft(b) : a->id < b->id;
                    });
  Table t;
  t.title = "The slowest first tokens (ms)";
  t.columns = {{"request", "request"},
               {"engine", "engine"},
               {"input", "prompt"},
               {"cached", "cached"},
               {"ttft", "TTFT"},
               {"ingress", "ingress"},
               {"queue", "queue"},
               {"prefill", "prefill"},
               {"transfer", "transfer"},
               {"first_step", "first step"},
               {"preemptions", "preempted"}};
  for (std::size_t i = 0; i < shown; ++i) {
    const RequestRecord& r = *slowest[i];
    const TtftParts p = ttft_parts(r);
    t.add({r.id, static_cast<std::int64_t>(r.engine), static_cast<std::int64_t>(r.input_len),
           static_cast<std::int64_t>(r.cached_tokens), to_ms(ttft(&r)), to_ms(p.ingress), to_ms(p.queue),
           to_ms(p.prefill), to_ms(p.transfer), to_ms(p.first_step),
           static_cast<std::int64_t>(r.preemptions)});
  }
  return t;
}

// Who of unlike replicas did what.
Table pools_table(const Deployment& d, const Simulation& s) {
  Table t;
  t.title = "Pools";
  t.columns = {{"pool", "pool"},
               {"device", "device"},
               {"replicas", "replicas"},
               {"weights_gib", "weights GiB"},
               {"kv_cache_gib", "KV cache GiB"},
               {"kv_cache_tokens", "KV tokens"},
               {"requests", "requests"},
               {"busy", "in steps"},
               {"peak_kv_usage", "peak KV"},
               {"usd_per_hour", "$/h", 3}};
  const std::vector<PoolShare> shares = pool_shares(d, s);
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const Deployment& pool = d.replica_pools[i];
    t.add({static_cast<std::int64_t>(i), pool.device.name, static_cast<std::int64_t>(pool.mapping.replicas),
           gib(pool.memory.weights_bytes), gib(pool.memory.kv_cache_bytes), pool.memory.kv_cache_tokens,
           shares[i].requests, percent(shares[i].busy_share), percent(shares[i].peak_kv_usage),
           pool.has_price ? Cell(pool.usd_per_hour()) : Cell()});
  }
  return t;
}

Table priority_table(const ServingMetrics& m) {
  Table t;
  t.title = "By priority (ms)";
  t.columns = {{"priority", "priority"},    {"completed", "requests"},   {"mean_queue", "queue, mean"},
               {"mean_ttft", "TTFT, mean"}, {"p99_ttft", "TTFT, p99"},   {"mean_tpot", "TPOT, mean"},
               {"p99_tpot", "TPOT, p99"},   {"mean_e2el", "E2EL, mean"}, {"preemptions", "preemptions"}};
  for (const ServingMetrics::PriorityClass& c : m.priority_classes)
    t.add({std::int64_t{c.priority}, c.ttft.count, c.mean_queue, c.ttft.mean, c.ttft.p99,
           c.tpot.count > 0 ? Cell(c.tpot.mean) : Cell(), c.tpot.count > 0 ? Cell(c.tpot.p99) : Cell(),
           c.e2el.mean, c.preemptions});
  return t;
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
    const auto ms = [&](double value) { return v.count > 0 ? Cell(value) : Cell(); };
    latency.add({std::string(title), ms(v.mean), ms(v.median), ms(v.p90), ms(v.p95), ms(v.p99), ms(v.std),
                 i == s.interval.end()
                     ? Cell()
                     : Cell(fmt::format("{:.4g} to {:.4g}", i->second.low, i->second.high))});
  };
  row("TTFT", "ttft", m.ttft);
  row("TPOT", "tpot", m.tpot);
  row("ITL", "itl", m.itl);
  row("E2EL", "e2el", m.e2el);
  if (m.sessions.completed > 0) {
    row("session", "session", m.sessions.e2el);
    row("of it tools or thinking", "pauses", m.sessions.pauses);
    latency.notes.push_back(fmt::format("{} sessions of {:.4g} requests ended.",
                                        with_commas(m.sessions.completed), m.sessions.mean_calls));
  }
  if (m.sessions.broken > 0)
    latency.notes.push_back(
        fmt::format("{} sessions had a request refused and are left out.", with_commas(m.sessions.broken)));
  latency.notes.push_back(deployment_line(d));
  latency.notes.push_back(fmt::format(
      "TTFT is made of: ingress {:.3g}, queue {:.3g}, prefill {:.3g}, transfer {:.3g}, first step {:.3g} ms.",
      m.ttft_parts.ingress, m.ttft_parts.queue, m.ttft_parts.prefill, m.ttft_parts.transfer,
      m.ttft_parts.first_step));
  if (m.ttft_parts.load > 0)
    latency.notes.push_back(
        fmt::format("Beside these, KV blocks on their way from a tier: {:.3g} ms.", m.ttft_parts.load));
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
    load.add({std::string("$ per million output tokens"),
              m.total_output_tokens > 0 ? Cell(s.usd_per_million_tokens) : Cell()});
  }
  if (m.transfers.count > 0) {
    load.add({std::string("KV transfers"), m.transfers.count});
    load.add({std::string("prompt to cache at the decode engine (ms), mean"), m.transfers.mean_ms});
    load.add({std::string("of it on the link (ms), mean"), m.transfers.link_ms});
  }
  if (d.scenario.cluster.router == "mooncake") {
    load.add({std::string("prefixes fetched from other prefill engines"), s.served.prefix_fetches});
    load.add({std::string("refused for time to first token, between tokens"),
              fmt::format("{}, {}", s.served.rejected_ttft, s.served.rejected_tbt)});
    if (rejects_computed(d))
      load.add(
          {std::string("of these refused when their prompts were computed"), s.served.rejected_computed});
  }
  if (d.scenario.cluster.router == "splitwise") {
    const MixedPoolCounts& c = s.served.mixed_pools;
    const double time = m.duration * static_cast<double>(s.served.engines.size());
    load.add({std::string("machine time in the mixed pool"),
              percent(time > 0 ? to_seconds(c.mixed_time).value / time : 0)});
    load.add({std::string("requests served by one machine"), c.whole_requests + c.went_on});
  }
  if (d.scenario.cluster.router == "tetriinfer") {
    const TetriInferCounts& c = s.served.tetri_infer;
    load.add({std::string("lengths predicted wrongly"), c.mispredicted});
    load.add({std::string("engines that changed sides"), c.flips});
  }
  if (d.scheduler.policy == SchedulerPolicy::kInfiniteLlm) {
    const LendingCounts& c = s.served.lending;
    load.add({std::string("requests with KV blocks at other instances"), c.borrowers});
    load.add({std::string("KV blocks moved, lent at the most"),
              fmt::format("{}, {}", c.moved_blocks, c.peak_lent)});
  }
  if (d.scenario.cluster.autoscale) {
    load.add({std::string("replicas, mean"), s.mean_replicas()});
    load.add({std::string("replicas, most"), s.served.most_replicas});
    load.add({std::string("replicas started, ended"),
              fmt::format("{}, {}", s.served.replica_starts, s.served.replica_ends)});
  }
  load.add({std::string("running sequences, mean"), m.mean_running});
  load.add({std::string("waiting requests, mean"), m.mean_waiting});
  load.add({std::string("engine time in steps"), percent(m.busy_share)});
  load.add({std::string("KV cache in use at the peak"), percent(m.peak_kv_usage)});
  load.add({std::string("prefix cache hits"), percent(m.prefix_cache_hit_rate)});
  for (std::size_t t = 0; t < s.served.kv_tiers.size() && s.served.queried_tokens > 0; ++t) {
    const KvTierCounts& c = s.served.kv_tiers[t];
    const std::string kind = d.scenario.engine.kv_tiers[t].kind;
    load.add({"of these in the " + kind + " tier",
              percent(static_cast<double>(c.hit_tokens) / static_cast<double>(s.served.queried_tokens))});
    load.add({"GB loaded from " + kind + ", written to it",
              fmt::format("{:.3g}, {:.3g}", static_cast<double>(c.loaded) * d.kv_tiers[t].block_bytes * 1e-9,
                          static_cast<double>(c.written) * d.kv_tiers[t].block_bytes * 1e-9)});
  }
  load.add({std::string("preemptions"), m.preemptions});
  if (s.served.swapped_out_blocks > 0)
    load.add({std::string("KV blocks swapped out"), s.served.swapped_out_blocks});
  if (s.served.reserved_tokens > 0)
    load.add({std::string("reserved KV memory never filled"), percent(s.served.unfilled_share())});
  if (s.served.unshared_beam_blocks > 0)
    load.add({std::string("KV blocks saved as beams share prompts"), percent(s.served.shared_block_share())});
  load.add({std::string("steps"), m.num_steps});
  if (m.speculation.verifications > 0) {
    load.add({std::string("drafted tokens accepted"), percent(m.speculation.acceptance_rate())});
    load.add({std::string("tokens of a sequence a step"), m.speculation.tokens_per_step()});
  }
  if (s.served.rejected > 0)
    load.notes.push_back(
        fmt::format("{} requests were rejected: {}.", s.served.rejected, s.served.rejected_reason));
  if (const std::string rule = decode_rule(d); !rule.empty())
    load.notes.push_back(fmt::format(
        "Decode engines are chosen by {}: there is nothing in their caches that {} could look at.", rule,
        d.scenario.cluster.router));
  load.notes.push_back("Verdict: " + s.stability + " (" + s.stability_reason + ").");
  load.notes.push_back(basis_sentence(s.basis.share) + fmt::format(" Host time {}. Error of step times +-{}.",
                                                                   percent(s.basis.host_share),
                                                                   percent(s.basis.relative_error)));
  std::vector<Table> tables{latency, load};
  if (!d.replica_pools.empty()) tables.push_back(pools_table(d, s));
  if (!m.priority_classes.empty()) tables.push_back(priority_table(m));
  if (!s.served.records.empty()) tables.push_back(slowest_first_tokens(s.served.records));
  return tables;
}

Table candidate_table(const std::vector<Candidate>& candidates) {
  Table t;
  t.columns = candidate_columns();
  for (const Candidate& c : candidates) t.add(candidate_row(c, static_cast<std::int64_t>(t.rows.size()) + 1));
  return t;
}

std::string where_to_start(const Candidate& c) {
  if (c.command.find('\n') != std::string::npos) return "On the replicas of each kind, in this order:";
  return c.replicas > 1 ? fmt::format("On each of the {} replicas:", c.replicas) : "Start it with:";
}

std::vector<Table> plan_tables(const PlanResult& p) {
  std::vector<Table> tables;
  constexpr std::size_t kShown = 10;
  Table ranked;
  ranked.title =
      p.ranked.empty() ? "No deployment meets the limits" : "Deployments that meet the limits, best first";
  ranked.columns = candidate_columns();
  if (const std::size_t more = add_candidates(ranked, p.ranked, kShown); more > 0)
    ranked.notes.push_back(fmt::format("{} more meet the limits; -o json lists them.", more));
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
    t.notes.push_back(where_to_start(best));
    for (std::size_t at = 0; at < best.command.size();) {
      const std::size_t end = std::min(best.command.find('\n', at), best.command.size());
      t.notes.push_back("  " + best.command.substr(at, end - at));
      at = end + 1;
    }
    tables.push_back(std::move(t));
  }
  if (p.ranked.empty()) {
    ranked.columns = {{"what", "what"}, {"count", "candidates"}};
    ranked.add({std::string("searched"), p.searched});
    ranked.add({std::string("can't be"), p.infeasible});
    ranked.add({std::string("pruned by estimate"), p.pruned});
    ranked.add({std::string("simulated"), p.simulated});
    ranked.notes.erase(ranked.notes.begin());
  }
  tables.push_back(std::move(ranked));

  if (p.ranked.empty() && !p.missed.empty()) {
    Table missed;
    missed.title = "Nearest to the limits";
    missed.columns = candidate_columns();
    add_candidates(missed, p.missed, kShown);
    tables.push_back(std::move(missed));
  }
  if (p.pareto.size() > 1) {
    Table pareto;
    pareto.title = "Pareto front: tokens/s a device against tokens/s a user";
    pareto.columns = candidate_columns();
    add_candidates(pareto, p.pareto, p.pareto.size());
    tables.push_back(std::move(pareto));
  }
  if (!p.rejected.empty()) {
    Table rejected;
    rejected.title = "Why the others are out";
    rejected.columns = {{"reason", "reason"}, {"count", "candidates"}};
    for (const auto& [reason, count] : p.rejected) {
      rejected.add({reason, count});
      if (const auto example = p.rejected_example.find(reason); example != p.rejected_example.end())
        rejected.notes.push_back(reason + ", for example: " + example->second + ".");
    }
    // With nothing to rank, the reasons are the answer.
    tables.insert(p.ranked.empty() ? tables.begin() + 1 : tables.end(), std::move(rejected));
  }
  return tables;
}

}  // namespace foretoken
