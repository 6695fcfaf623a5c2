#include "simulator/step_pricer.h"

#include <algorithm>
#include <cmath>

#include "simulator/nano_batches.h"

namespace foretoken {
namespace {

Batch batch_of(const Probe& probe, std::span<const std::int64_t> windows) {
  Batch b;
  b.prefill = probe.prefill;
  b.decode_sequences = static_cast<std::int32_t>(probe.sequences);
  b.drafted = static_cast<std::int32_t>(std::lround(static_cast<double>(probe.sequences) * probe.drafted));
  b.sampled_rows = b.decode_sequences + b.drafted;
  for (const PrefillPart& p : probe.prefill) b.sampled_rows += p.last ? 1 : 0;
  for (std::size_t g = 0; g < windows.size() && g < b.contexts.size(); ++g) {
    const double c =
        windows[g] > 0 ? std::min(probe.context, static_cast<double>(windows[g])) : probe.context;
    b.contexts[g] = std::llround(static_cast<double>(probe.sequences) * std::max(1.0, c));
  }
  return b;
}

// A link's half-width, which is what a stall rests on.
constexpr double kStallError = 0.5;

// Adds up what streaming_stall() asks for.
struct Streamed {
  std::int64_t layers = 0;
  double fetches = 0, computation = 0, outside = 0;
  void add(const Op& op, double seconds) {
    if (op.scope == OpScope::kStreaming) {
      layers += op.count;
      fetches += seconds;
      return;
    }
    computation += seconds;
    if (op.scope == OpScope::kSampled) outside += seconds;
  }
  double stall(const Deployment& d) const {
    const auto ps = [](double t) { return to_picoseconds(Seconds(t)); };
    return to_seconds(streaming_stall(d.streaming, layers, ps(fetches), ps(computation), ps(outside))).value;
  }
};

}  // namespace

WorkPrice price_work(const Deployment& d, const CostModel& cost, const Work& work) {
  WorkPrice w;
  double variance = 0;
  if (d.behavior.own_executor) w.seconds = d.behavior.host_step.value;
  for (const Shard& shard : d.mapping.stages) {
    Streamed streamed;
    for (const Op& op : operators(d.model, shard, work, d.precision, d.fusion).ops) {
      const Price p = cost.price(op);
      const double t = static_cast<double>(op.count) * p.time.value;
      streamed.add(op, t);
      if (op.scope == OpScope::kStreaming) continue;
      w.seconds += t;
      variance += t * p.relative_error * t * p.relative_error;
      const auto at = std::find_if(w.operators.begin(), w.operators.end(),
                                   [&](const auto& o) { return o.first == op.name; });
      if (at == w.operators.end())
        w.operators.emplace_back(std::string(op.name), t);
      else
        at->second += t;
    }
    const double stall = streamed.stall(d);
    if (stall > 0) w.operators.emplace_back("weight_fetch", stall);
    w.seconds += stall;
    variance += stall * stall * kStallError * kStallError;
  }
  w.half = std::sqrt(variance);
  return w;
}

StepPricer::StepPricer(const Deployment& d, const CostModel& cost, const WhatIf* what_if)
    : deployment_(d), cost_(cost), what_if_(what_if), windows_(d.model.attention_windows()) {
  if (windows_.empty()) windows_.push_back(0);
}

Price StepPricer::price_anew(const Op& op) const {
  Price p = cost_.price(op);
  if (what_if_) {
    const Seconds before = roofline_time(op, deployment_.device, deployment_.topology);
    if (before.value > 0) p.time *= roofline_time(op, what_if_->device, what_if_->topology) / before;
  }
  return p;
}

template <class Known>
Price StepPricer::price_once(Known& known, const typename Known::value_type::first_type& shape,
                             const Op& op) {
  for (const auto& [other, price] : known)
    if (other == shape) return price;
  return known.emplace_back(shape, price_anew(op)).second;
}

Price StepPricer::price(const Op& op) {
  if (op.host_bytes > 0) return price_anew(op);
  if (const auto* g = std::get_if<GemmShape>(&op.shape)) return price_once(products_, *g, op);
  if (const auto* a = std::get_if<AttentionShape>(&op.shape)) return price_once(attention_, *a, op);
  return price_anew(op);
}

StepEstimate StepPricer::estimate(std::string name, const Probe& probe, bool with_operators) {
  StepEstimate s;
  s.name = std::move(name);
  s.sequences = probe.sequences + static_cast<std::int64_t>(probe.prefill.size());
  s.context = probe.context;
  s.cached = probe.prefill.empty() ? 0 : probe.prefill.front().cached;
  products_.clear();
  attention_.clear();
  Batch b = batch_of(probe, windows_);
  s.tokens = b.tokens();
  const bool decode_only = probe.prefill.empty();
  const std::int64_t rows = padded_rows(b.tokens(), decode_only, deployment_);
  // Sequences of as many adapters as a batch may have.
  const LoraConfig& lora = deployment_.scheduler.lora;
  const std::int64_t requests =
      s.sequences - probe.sequences + probe.sequences / deployment_.scheduler.beam_width;
  b.adapters = static_cast<std::int32_t>(std::min({lora.max_loras, lora.num_adapters, requests}));
  const Work w = work(b, deployment_, rows * deployment_.mapping.ranks_per_engine());

  double total = 0, attention = 0, variance = 0, limit = 0, drafting_host = 0;
  std::int64_t kernels = 0;
  std::array<double, 4> by_bound{};
  constexpr std::array<std::string_view, 4> kBounds = {"compute", "memory", "link", "latency"};
  const auto add = [&](const Deployment& d, const Shard& shard, const Work& asked, std::int64_t times,
                       const char* prefix) {
    Streamed streamed;
    for (const Op& op : operators(d.model, shard, asked, d.precision, d.fusion).ops) {
      const Price p = price(op);
      const double n = static_cast<double>(op.count * times), t = n * p.time.value;
      streamed.add(op, t);
      if (op.scope == OpScope::kStreaming) continue;
      total += t;
      kernels += op.count * eager_kernels(op);
      if (op.scope == OpScope::kDecodeAttention) attention += t;
      limit += n * p.limit.value;
      variance += t * p.relative_error * t * p.relative_error;
      basis_[static_cast<std::size_t>(p.basis)] += t;
      for (std::size_t i = 0; i < kBounds.size(); ++i)
        if (p.bound_by == kBounds[i]) by_bound[i] += t;
      if (with_operators)
        s.operators.push_back({prefix + std::string(op.name), op.count * times, t, n * flops(op).value,
                               n * bytes(op).value, p.basis, p.relative_error, std::string(p.bound_by),
                               n * p.limit.value});
    }
    const double stall = streamed.stall(d);
    if (stall <= 0) return;
    total += stall;
    variance += stall * stall * kStallError * kStallError;
    basis_[static_cast<std::size_t>(Basis::kRoofline)] += stall;
    by_bound[2] += stall;
    if (with_operators)
      s.operators.push_back(
          {"weight_fetch", streamed.layers, stall, 0, 0, Basis::kRoofline, kStallError, "link"});
  };
  for (const Shard& shard : deployment_.mapping.stages) add(deployment_, shard, w, 1, "");
  if (deployment_.behavior.overlaps_operators) {
    // Beside the operators of the whole step: what their nano-batches take together, less their sum.
    const double saved = total - nano_batches_seconds(w, b.tokens());
    total -= saved;
    attention = 0;
    variance += saved * saved;
    if (with_operators)
      s.operators.push_back({"overlap_of_nano_batches", 1, -saved, 0, 0, Basis::kRoofline, 1, "latency"});
  }
  kernels /= static_cast<std::int64_t>(deployment_.mapping.stages.size());
  const std::int64_t own_kernels = kernels;
  const double own_floor = total - attention;
  std::vector<DraftPass> passes;
  draft_passes(b, deployment_, passes);
  for (const DraftPass& pass : passes) {
    const Deployment& draft = *deployment_.speculation->draft;
    const bool decoding = pass.batch.prefill.empty();
    const std::int64_t pass_rows = padded_rows(pass.batch.tokens(), decoding, draft);
    const double before = total - attention;
    kernels = 0;
    add(draft, draft.mapping.stages.front(),
        work(pass.batch, draft, pass_rows * deployment_.mapping.ranks_per_engine()), pass.times, "draft ");
    const double times = static_cast<double>(pass.times);
    const Seconds floor((total - attention - before) / times);
    drafting_host += times * (draft.behavior.own_executor
                                  ? draft.behavior.host_step
                                  : to_seconds(exposed_dispatch(draft, pass.batch.tokens(), decoding, kernels,
                                                                to_picoseconds(floor))))
                                 .value;
  }
  s.bound_by = kBounds[static_cast<std::size_t>(std::max_element(by_bound.begin(), by_bound.end()) -
                                                by_bound.begin())];
  s.host_seconds = to_seconds(exposed_host(deployment_, s.sequences, b.tokens(), decode_only, own_kernels,
                                           to_picoseconds(Seconds(own_floor))))
                       .value +
                   drafting_host;
  s.seconds = total + s.host_seconds;
  s.roofline_fraction = s.seconds > 0 ? limit / s.seconds : 0;
  const double half = std::sqrt(variance);
  s.low = std::max(limit, s.seconds - half);
  s.high = s.seconds + half;
  return s;
}

double StepPricer::nano_batches_seconds(const Work& whole, std::int64_t rows) {
  double compute = 0, memory = 0, network = 0, alone = 0;
  const Shard& shard = deployment_.mapping.stages.front();
  const auto each = [&](const Work& work, auto&& take) {
    for (const Op& op :
         operators(deployment_.model, shard, work, deployment_.precision, deployment_.fusion).ops)
      take(op, static_cast<double>(op.count) * price(op).time.value);
  };
  each(whole, [&](const Op& op, double t) {
    if (op.scope == OpScope::kTokens || op.scope == OpScope::kGroupTokens) return;
    (op.scope == OpScope::kDecodeAttention ? memory : op.scope == OpScope::kSampled ? alone : compute) += t;
  });
  for (const std::int64_t part : nano_batches(rows)) {
    if (part == 0) continue;
    Work w;
    w.decode_sequences = w.padded_tokens = w.group_tokens = part;
    w.contexts = {static_cast<double>(part)};
    each(w, [&](const Op& op, double t) {
      if (op.scope == OpScope::kTokens || op.scope == OpScope::kGroupTokens)
        (is_network_bound(op) ? network : compute) += t;
    });
  }
  return overlapped(compute, memory, network) + alone;
}

std::array<double, 4> StepPricer::basis() const {
  std::array<double, 4> share = basis_;
  const double total = share[0] + share[1] + share[2] + share[3];
  for (double& v : share) v = total > 0 ? v / total : 0;
  return share;
}

}  // namespace foretoken
