// run: a scenario executed on this machine, beside what the simulator predicts of it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/json_full.h"
#include "base/quantiles.h"
#include "base/text.h"
#include "cli/answer.h"
#include "cli/executor_options.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/run_record.h"
#include "cli/scenario_input.h"
#include "cli/timing.h"
#include "cli/verbs.h"
#include "executor/executed_backend.h"
#include "executor/probe.h"
#include "simulator/simulate.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

struct Metric {
  const char *key, *title;
  double (*value)(const ServingMetrics&);
};
constexpr Metric kMetrics[] = {
    {"mean_ttft_ms", "TTFT mean, ms", [](const ServingMetrics& m) { return m.ttft.mean; }},
    {"p99_ttft_ms", "TTFT p99, ms", [](const ServingMetrics& m) { return m.ttft.p99; }},
    {"mean_tpot_ms", "TPOT mean, ms", [](const ServingMetrics& m) { return m.tpot.mean; }},
    {"p99_tpot_ms", "TPOT p99, ms", [](const ServingMetrics& m) { return m.tpot.p99; }},
    {"mean_itl_ms", "ITL mean, ms", [](const ServingMetrics& m) { return m.itl.mean; }},
    {"mean_e2el_ms", "end to end mean, ms", [](const ServingMetrics& m) { return m.e2el.mean; }},
    {"output_throughput", "output tokens/s", [](const ServingMetrics& m) { return m.output_throughput; }},
    {"num_steps", "steps", [](const ServingMetrics& m) { return static_cast<double>(m.num_steps); }}};
constexpr Metric kSpeculation[] = {
    {"spec_decode_acceptance_rate", "drafted tokens accepted, %",
     [](const ServingMetrics& m) { return 100 * m.speculation.acceptance_rate(); }},
    {"spec_decode_acceptance_length", "tokens of a sequence a step",
     [](const ServingMetrics& m) { return m.speculation.tokens_per_step(); }}};

Table metrics_table(const ServingMetrics& measured, const ServingMetrics& predicted) {
  Table t;
  t.title = "Serving, measured and predicted";
  t.columns = {{"metric", "metric"},
               {"measured", "measured", 4},
               {"predicted", "predicted", 4},
               {"error", "error %", 3}};
  const auto add = [&](const Metric& m) {
    const double a = m.value(measured), b = m.value(predicted);
    t.add({std::string(m.title), a, b, a > 0 ? 100 * (b / a - 1) : 0.0});
  };
  for (const Metric& m : kMetrics) add(m);
  if (measured.speculation.verifications > 0)
    for (const Metric& m : kSpeculation) add(m);
  return t;
}

struct Priced {
  std::vector<double> step_errors;  // of each step that no other process disturbed, absolute
  std::map<std::string, double> operator_seconds;
};

Priced price_steps(std::span<const StepRun> steps, const Deployment& d, std::span<const CostModel> costs) {
  Priced p;
  std::map<std::vector<std::int64_t>, WorkPrice> known;  // equal work costs the same
  const std::vector<const Deployment*> kinds = d.kinds();
  for (const StepRun& s : steps) {
    const Deployment& of = d.of_engine(s.engine);
    const std::ptrdiff_t kind = std::find(kinds.begin(), kinds.end(), &of) - kinds.begin();
    double predicted = 0;
    const auto add = [&](const Work& work, const Deployment& model, const char* prefix) {
      std::vector<std::int64_t> key{kind,
                                    *prefix,
                                    work.group_tokens,
                                    work.decode_sequences,
                                    work.decode_queries,
                                    work.sampled_rows,
                                    work.adapters,
                                    work.adapter_loads,
                                    work.swap_out_tokens,
                                    work.swap_in_tokens,
                                    work.shifted_tokens};
      for (const PrefillChunk& c : work.prefill) key.insert(key.end(), {c.new_tokens, c.cached, c.count});
      key.push_back(-1);
      for (const double c : work.contexts) key.push_back(static_cast<std::int64_t>(c));
      auto [at, added] = known.try_emplace(key);
      if (added) at->second = price_work(model, costs[static_cast<std::size_t>(kind)], work);
      const WorkPrice& w = at->second;
      predicted += w.seconds;
      for (const auto& [name, seconds] : w.operators) p.operator_seconds[prefix + name] += seconds;
    };
    add(s.work, of, "");
    for (const Work& work : s.drafting) add(work, *of.speculation->draft, "draft ");
    if (!s.polluted) p.step_errors.push_back(std::fabs(predicted / s.seconds - 1));
  }
  return p;
}

Table operators_table(const std::map<std::string, double>& seconds, const Priced& priced) {
  std::vector<std::pair<std::string, double>> all(seconds.begin(), seconds.end());
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  double total = 0;
  for (const auto& [name, s] : all) total += s;
  Table t;
  t.title = "Operators, measured and predicted";
  t.columns = {{"operator", "operator"},
               {"seconds", "measured s", 4},
               {"share", "share %", 3},
               {"predicted_seconds", "predicted s", 4},
               {"error", "error %", 3}};
  for (const auto& [name, s] : all) {
    const auto at = priced.operator_seconds.find(name);
    const double p = at == priced.operator_seconds.end() ? 0 : at->second;
    t.add({name, s, total > 0 ? 100 * s / total : 0.0, p, s > 0 ? 100 * (p / s - 1) : 0.0});
  }
  return t;
}

Table steps_table(std::span<const StepRun> steps, Priced& priced) {
  std::vector<double> prompts, decodes, speeds;
  std::int64_t polluted = 0;
  for (const StepRun& s : steps) {
    (s.work.prefill.empty() ? decodes : prompts).push_back(1e3 * s.seconds);
    polluted += s.polluted;
    if (s.speed != 1) speeds.push_back(s.speed);
  }
  Table t;
  t.title = "Steps";
  t.columns = {{"what", "what"},
               {"number", "number"},
               {"p20", "20th percentile", 4},
               {"median", "median", 4},
               {"p90", "90th", 4}};
  const auto add = [&](const char* name, std::vector<double>& v, double unit) {
    std::sort(v.begin(), v.end());
    const auto at = [&](double q) { return v.empty() ? 0.0 : unit * linear_quantile(v, q); };
    t.add({std::string(name), static_cast<std::int64_t>(v.size()), at(0.2), at(0.5), at(0.9)});
  };
  add("with prompts, ms", prompts, 1);
  add("decode alone, ms", decodes, 1);
  if (!priced.step_errors.empty()) add("error of the prediction, %", priced.step_errors, 100);
  t.add({std::string("while another process ran"), polluted, 0.0, 0.0, 0.0});
  if (!speeds.empty()) add("speed of the machine, % of calibration", speeds, 100);
  return t;
}

Processes* processes = nullptr;  // of this program's job

// By position: of the drafts that were accepted up to there, how many were there, too.
std::vector<double> measured_acceptance(const SpeculationCounts& counts, const Speculation& speculation) {
  std::vector<double> rates;
  double before = 1;
  for (double reached : counts.rates()) {
    rates.push_back(before > 0 ? std::min(1.0, reached / before) : 0.0);
    before = reached;
  }
  rates.resize(speculation.widths.size());
  return rates;
}

// Without where its results went, and whose database it was.
std::string command_of(const Invocation& invocation) {
  std::string command = "foretoken " + invocation.verb;
  for (const std::string& argument : invocation.arguments) command += " " + argument;
  for (const auto& [name, value] : invocation.values)
    if (name != "record" && name != "save" && name != "output" && name != "tokens" && name != "db")
      command += " --" + name + (value == "true" ? "" : " " + value);
  return command;
}

Answer run_answer(const Invocation& invocation) {
  const Stopwatch watch;
  const ScenarioInput input =
      read_scenario_input(invocation, invocation.arguments.empty() ? "" : invocation.arguments[0], false);
  World world(invocation, input);
  world.resources.executed = true;
  const Prepared p = prepare(input, world);
  const std::string title = "Run: " + input.scenario.name;
  if (const auto* no = std::get_if<Infeasible>(&p.verdict))
    return infeasible_answer(title, *no, input.scenario, world);
  Deployment d = std::get<Deployment>(p.verdict);
  if (invocation.has("print-scenario")) return {{}, dump_json(scenario_to_json(d.scenario)), kDone};
  if (invocation.value("draft-weights") && !(d.speculation && d.speculation->draft))
    throw Error("--draft-weights",
                "there is no draft model; give speculative_config a model or leave it out");
  print_warnings(d.warnings);

  ExecutorOptions executor = executor_options(invocation, world.paths.user);
  executor.weights = invocation.value("weights").value_or("");
  executor.processes = processes;
  const std::string times = invocation.value("operator-times").value_or("on");
  executor.operator_times = times == "off"     ? OperatorTimes::kNone
                            : times == "cupti" ? OperatorTimes::kActivities
                                               : OperatorTimes::kMarks;
  executor.draft_weights = invocation.value("draft-weights").value_or("");
  executor.seed = static_cast<std::uint64_t>(d.scenario.workload.seed);
  const auto workload = make_workload(d.scenario.workload, world.resources.scenario_folder,
                                      world.resources.scenario_file + ":/workload");
  const auto usual = p.kernels.front()->find(MachineProbe::op());
  const bool calibrated = usual && usual->basis == Basis::kMeasured;
  executor.probe = calibrated;
  ExecutedBackend backend(d, *workload, scenario_model_text(d.scenario, world.resources), executor);
  if (calibrated) backend.set_usual_probe(usual->time.value);
  const std::string before = backend.condition();
  SimulateOptions options;
  options.use_spans = false;
  options.keep_records = true;
  options.stop = &stop_flag();
  const std::vector<CostModel> costs = make_cost_models(d, p);
  options.costs = costs;
  PredictedBackend prices(d, costs);
  backend.set_prices(prices);
  Simulation measured;
  {
    ProgressBar bar("executing");
    options.progress = [&](double share) { bar.update(share); };
    measured = serve_with(backend, *workload, d, options);
  }
  const bool takes_acceptance = d.speculation && d.speculation->acceptance.empty();
  bool takes_proposal = false;
  if (d.speculation) {
    const SpeculationCounts& counts = measured.served.metrics.speculation;
    if (takes_acceptance) d.speculation->acceptance = measured_acceptance(counts, *d.speculation);
    takes_proposal = d.speculation->method == Speculation::Method::kNgram && counts.asked > 0 &&
                     !d.scenario.engine.speculative_config->proposal_rate;
    if (takes_proposal)
      d.speculation->proposal = static_cast<double>(counts.proposed) / static_cast<double>(counts.asked);
  }
  SimulateOptions quiet;
  quiet.intervals = false;
  quiet.stop = &stop_flag();
  const Simulation predicted = simulate(d, costs, world.resources, quiet);
  Priced priced = price_steps(backend.steps(), d, costs);
  for (const auto& [name, seconds] : backend.predicted_copy_seconds())
    priced.operator_seconds[name] += seconds;

  if (const auto path = invocation.value("tokens")) {
    Json all = Json::array();
    std::vector<RequestRecord> records = measured.served.records;
    std::sort(records.begin(), records.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
    for (const RequestRecord& r : records) all.push_back(backend.output(r.id));
    OutputFile out(*path);
    out.write(all.dump() + "\n");
    out.commit();
  }
  const ReportContext context = report_context(d.scenario, world, d.warnings);
  Json json = context_json(context, d.scenario);
  json["executor"] = backend.description();
  const std::string after = backend.condition();
  if (!after.empty()) json["device_condition"] = Json{{"before", before}, {"after", after}};
  if (const auto remarks = backend.remarks(); !remarks.empty()) json["remarks"] = remarks;
  json["measured"] = simulation_json(d, measured, false);
  json["predicted"] = simulation_json(d, predicted, false);
  Json operators = Json::object();
  for (const auto& [name, seconds] : backend.operator_seconds()) operators[name] = seconds;
  json["operator_seconds"] = operators;
  const ExecutedBackend::Moved moved = backend.moved();
  const bool moves = moved.count > 0 && moved.seconds > 0;
  if (moves) json["kv_link_bytes_per_s"] = moved.bytes / moved.seconds;
  const ExecutedBackend::BeamSharing beams = backend.beam_sharing();
  if (beams.unshared > 0)
    json["beam_blocks"] =
        Json{{"read", beams.blocks}, {"unshared", beams.unshared}, {"shared_share", beams.share()}};
  Json predicted_operators = Json::object();
  for (const auto& [name, seconds] : priced.operator_seconds) predicted_operators[name] = seconds;
  json["predicted_operator_seconds"] = predicted_operators;
  std::sort(priced.step_errors.begin(), priced.step_errors.end());
  json["median_step_error"] = priced.step_errors.empty() ? 0.0 : linear_quantile(priced.step_errors, 0.5);
  if (const auto folder = invocation.value("record"))
    record_run(*folder, {&d, scenario_model_text(d.scenario, world.resources), input.folder,
                         command_of(invocation), &json});
  watch.report(invocation, json);
  std::vector<std::string> lines{context_line(context), "Executed: " + backend.description()};
  if (!after.empty()) lines.push_back("The device before: " + before + "; after: " + after + ".");
  for (const std::string& remark : backend.remarks()) lines.push_back(remark + ".");
  if (moves)
    lines.push_back(
        fmt::format("{} caches moved between engines at {:.3g} GB/s; the prediction has {:.3g} GB/s "
                    "(kv_link.bandwidth).",
                    moved.count, moved.bytes / moved.seconds / 1e9, d.pools->link.bandwidth.value / 1e9));
  if (beams.unshared > 0)
    lines.push_back(fmt::format(
        "Beams shared {:.1f} % of the KV blocks that they read, prompts and what they had in common; "
        "sharing prompts alone kept {:.1f} % from being held.",
        100 * beams.share(), 100 * measured.served.shared_block_share()));
  if (takes_acceptance)
    lines.push_back("The prediction takes the measured acceptance; acceptance_rate sets it.");
  if (takes_proposal)
    lines.push_back(
        fmt::format("The prediction takes it that something was drafted after {:.3g} % of the steps, as "
                    "measured; proposal_rate sets it.",
                    100 * d.speculation->proposal));
  if (!calibrated)
    lines.push_back("The prediction rests on the datasheet of " + d.device.name +
                    "; `foretoken calibrate` measures this machine's operators.");
  std::vector<Table> tables{metrics_table(measured.served.metrics, predicted.served.metrics),
                            steps_table(backend.steps(), priced)};
  if (executor.operator_times != OperatorTimes::kNone)
    tables.push_back(operators_table(backend.operator_seconds(), priced));
  return {{title, lines, tables, 0, dump_json(json), {}},
          "",
          measured.served.aborted || measured.served.metrics.completed == 0 ? kNegative : kDone};
}

constexpr AnswerColumn kColumns[] = {
    {"/measured/mean_ttft_ms", "mean_ttft_ms", "TTFT mean ms", 4},
    {"/measured/mean_tpot_ms", "mean_tpot_ms", "TPOT mean ms", 4},
    {"/measured/output_throughput", "output_throughput", "output tok/s", 4},
    {"/predicted/mean_ttft_ms", "predicted_ttft_ms", "predicted TTFT ms", 4},
    {"/predicted/mean_tpot_ms", "predicted_tpot_ms", "predicted TPOT ms", 4}};

}  // namespace

// In a job each process computes its rank of every step; the first one answers.
int run_run(const Invocation& invocation) {
  const auto job = mpi_processes();
  processes = job.get();
  if (!job || job->rank() == 0) return answer_all(invocation, run_answer, kColumns);
  for (std::FILE* stream : {stdout, stderr})
    if (std::freopen("/dev/null", "w", stream) == nullptr) return kFault;
  Invocation silent = invocation;
  std::erase_if(silent.values, [](const auto& v) {
    return v.first == "save" || v.first == "tokens" || v.first == "record";
  });
  return answer_all(silent, run_answer, kColumns);
}

}  // namespace foretoken
