#include "simulator/estimate.h"

#include <algorithm>
#include <cmath>

#include "simulator/closed_forms.h"
#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

// reused: tokens that a prefix cache has.
Probe prefill_probe(double tokens, double reused, std::int64_t budget) {
  Probe p;
  // A prompt longer than the budget takes several steps; the probe is its last full step's share.
  const auto n = std::max<std::int64_t>(1, std::llround(tokens));
  PrefillPart part;
  part.new_tokens = static_cast<std::int32_t>(std::clamp<std::int64_t>(n - std::llround(reused), 1, budget));
  part.cached = static_cast<std::int32_t>(n - part.new_tokens);
  part.last = true;
  p.prefill.push_back(part);
  return p;
}

// Of a mean prompt: what prefix caches have of it as long as they keep all. A session's earlier calls lie on
// one engine, which its next call finds for certain only where the router looks for it.
double reused_tokens(const Deployment& d, const Workload::Means& load, double engines) {
  if (!d.scheduler.enable_prefix_caching || !d.scheduler.caches_tokens) return 0;
  const std::string& router = d.scenario.cluster.router;
  const bool finds = router == "session_sticky" || router == "prefix_affine" || router == "precise_prefix" ||
                     router == "kv_cost" || router == "mooncake";
  const double reused = load.shared_len + load.kept_len / (finds ? 1 : engines);
  // Whole blocks.
  return std::max(0.0, reused - static_cast<double>(d.scheduler.block_size - 1) / 2);
}

}  // namespace

Estimate estimate(const Deployment& d, const CostModel& cost, const Workload::Means& load,
                  std::int64_t concurrency, bool with_operators) {
  Estimate e;
  StepPricer pricer(d, cost);
  const double input = std::max(1.0, load.input_len), output = std::max(1.0, load.output_len);
  const double context = input + output / 2;
  e.tokens_per_step = d.speculation ? expected_tokens(*d.speculation) : 1;
  const double steps = output / e.tokens_per_step;  // that decode a request
  const double ranks = static_cast<double>(d.mapping.engines() * d.mapping.ranks_per_engine());
  // Requests whose mean context the KV cache holds, the prompt once for all beams.
  const std::int64_t beams = d.scheduler.beam_width;
  const double by_memory = std::max(
      1.0, static_cast<double>(d.memory.kv_cache_tokens) / (input + static_cast<double>(beams) * output / 2));
  const std::int64_t budget = d.scheduler.max_num_batched_tokens;
  // Drafted tokens count against the budget of a step.
  const double drafted = d.speculation ? d.speculation->mean_drafted() : 0;
  const std::int64_t seats = std::min(d.scheduler.max_num_seqs / beams,
                                      static_cast<std::int64_t>(static_cast<double>(budget) / (1 + drafted)));
  const double most = std::max(1.0, std::floor(std::min(static_cast<double>(seats), by_memory)));

  const double reused = reused_tokens(d, load, ranks);
  const Probe prompt = prefill_probe(input, reused, budget);
  const double prompt_steps = std::ceil(std::max(1.0, input - reused) / static_cast<double>(budget));
  const StepEstimate prompt_step = pricer.estimate("prefill", prompt, with_operators);
  const double prefill_s = prompt_step.seconds * prompt_steps;
  auto decode = [&](double n) {
    Probe p;
    p.sequences = beams * std::max<std::int64_t>(1, std::llround(n));
    p.context = context;
    p.drafted = drafted;
    return p;
  };
  // A running request costs `steps` decode steps and its share of everybody's prefills: in the time that one
  // request spends (T), each of the n running ones is replaced once, so T = steps x step(n) + n x prefill.
  StepEstimate one = pricer.estimate("decode_1", decode(1), with_operators);
  StepEstimate full = pricer.estimate("decode_max", decode(most), with_operators);
  auto residence = [&](double n, double step) { return steps * step + n * prefill_s; };
  const double full_residence = residence(most, full.seconds);
  e.capacity_requests_per_s = ranks * most / full_residence;
  double n = most;
  if (load.request_rate > 0) {
    const double rate = load.request_rate / ranks;
    e.utilization = load.request_rate / e.capacity_requests_per_s;
    if (rate * full_residence < most) {
      // n = rate x T(n). The step is taken as affine between the nearest batches priced so far; two rounds
      // settle it.
      double n0 = 1, t0 = one.seconds, n1 = most, t1 = full.seconds;
      for (int round = 0; round < 2; ++round) {
        const double slope = n1 > n0 ? (t1 - t0) / (n1 - n0) : 0;
        const double rest = 1 - rate * (steps * slope + prefill_s);
        n = rest > 0 ? rate * steps * (t0 - slope * n0) / rest : most;
        n = std::clamp(n, std::min(1.0, rate * residence(1, one.seconds)), most);
        if (n <= 1 || round == 1) break;
        const double t = pricer.seconds(decode(n));
        (rate * residence(n, t) > n ? n0 : n1) = n;
        (n0 == n ? t0 : t1) = t;
      }
    }
  } else if (concurrency > 0) {
    n = std::min(most, static_cast<double>(concurrency) / ranks);
  }
  e.expected_sequences = n;
  n = std::max(1.0, n);

  const StepEstimate expected = pricer.estimate("decode_expected", decode(n), with_operators);
  const double step = expected.seconds;
  e.steps = {prompt_step, std::move(one), expected, std::move(full)};

  const double around = d.behavior.ingress.value + d.behavior.egress.value;
  e.ttft_ms = 1e3 * (prefill_s + around);
  // Decoding is held up by the prefills of the requests that start meanwhile: one for each of the n in
  // `steps` steps.
  e.tpot_ms = 1e3 * (step / e.tokens_per_step + n * prefill_s / output);
  e.e2el_ms = e.ttft_ms + (output - 1) * e.tpot_ms;
  e.output_throughput = ranks * n * output / residence(n, step);
  if (load.request_rate > 0) e.output_throughput = std::min(e.output_throughput, load.request_rate * output);
  if (d.has_price)
    e.usd_per_million_tokens =
        usd_per_million_tokens(d.usd_per_device_hour * d.mapping.devices(), e.output_throughput);
  e.basis = pricer.basis();
  return e;
}

}  // namespace foretoken
