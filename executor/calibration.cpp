#include "executor/calibration.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/quantiles.h"
#include "base/random.h"
#include "executor/probe.h"
#include "hwdb/copy_rows.h"

namespace foretoken {
namespace {

// A step: prompts of equal size, or decoding sequences of equal context.
struct Size {
  std::int64_t prompts = 0, new_tokens = 0, cached = 0;
  std::int64_t decoding = 0, context = 0;
  std::int64_t queries = 1;   // tokens that each decoding sequence verifies
  std::int64_t adapters = 1;  // low-rank ones of the sequences, in turn, where the deployment has them
};

std::vector<std::int64_t> powers(std::int64_t first, std::int64_t last, std::int64_t factor) {
  std::vector<std::int64_t> all;
  for (std::int64_t v = first; v < last; v *= factor) all.push_back(v);
  if (last >= first) all.push_back(last);
  return all;
}

// Adapters that may share a batch; 1 where there are none.
std::int64_t most_adapters(const Layout& l) {
  return std::max<std::int64_t>(1, std::min(l.lora.slots, l.num_adapters));
}

std::vector<Size> measured_sizes(const Layout& l, std::int64_t drafts) {
  std::vector<Size> all;
  const std::int64_t most = std::min(l.max_tokens, l.max_length), room = (l.num_blocks - 1) * l.block_size;
  for (const std::int64_t q : powers(1, most, 2))
    for (const std::int64_t c : powers(64, l.max_length / 2, 4)) {
      if (q >= 8 && q + c <= l.max_length) all.push_back({1, q, c});
      if (c == 64) all.push_back({1, q, 0});
    }
  for (const std::int64_t b : powers(1, l.max_sequences, 2))
    for (const std::int64_t context : powers(16, l.max_length - 1, 4))
      if (b * (context + 1) <= room) {
        for (const std::int64_t adapters : powers(1, std::min(b, most_adapters(l)), 2))
          all.push_back({0, 0, 0, b, context, 1, adapters});
        if (drafts > 0 && context > drafts && b * (1 + drafts) <= l.sampled())
          all.push_back({0, 0, 0, b, context, 1 + drafts});
      }
  return all;
}

// Between the measured ones.
std::vector<Size> other_sizes(const Layout& l) {
  std::vector<Size> all;
  const std::int64_t most = std::min(l.max_tokens, l.max_length), room = (l.num_blocks - 1) * l.block_size;
  for (const std::int64_t q : {11, 45, 90, 179, 362})
    for (const std::int64_t c : {0, 37, 205})
      if (q <= most && q + c <= l.max_length) all.push_back({1, q, c});
  for (const std::int64_t b : {1, 3, 6, 12, 24})
    for (const std::int64_t context : {23, 90, 181, 450})
      if (b <= l.max_sequences && context < l.max_length && b * (context + 1) <= room)
        all.push_back({0, 0, 0, b, context, 1, std::min(b, most_adapters(l))});
  for (const std::int64_t b : {2, 5})
    if (b <= l.max_sequences && b + 70 <= most && (b + 1) * 130 <= room) all.push_back({1, 70, 30, b, 100});
  return all;
}

long involuntary_switches() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

class Sweep {
 public:
  Sweep(const Deployment& d, Executable& e) : deployment_(d), executable_(e) {
    const Layout& l = e.transformer().layout();
    if (l.lora.rank > 0)
      for (std::int32_t i = 0; i < most_adapters(l); ++i) loads_.push_back({i, i});
  }

  struct Timed {
    double seconds, beside;  // beside: of them, what no operator took
    bool polluted;           // another process ran meanwhile
  };
  Timed run(const Size& size) {
    const Layout& l = executable_.transformer().layout();
    sequences_.clear();
    std::int64_t next = 1;
    std::size_t used = 0;
    const auto add = [&](std::int64_t tokens, std::int64_t cached, bool decode) {
      const std::int64_t blocks = (cached + tokens + l.block_size - 1) / l.block_size;
      if (blocks_.size() <= used) blocks_.emplace_back();
      blocks_[used].clear();
      for (std::int64_t b = 0; b < blocks; ++b)
        blocks_[used].push_back(static_cast<std::int32_t>(1 + next++ % (l.num_blocks - 1)));
      if (tokens_.size() <= used) tokens_.emplace_back();
      tokens_[used].clear();
      for (std::int64_t t = 0; t < tokens; ++t)
        tokens_[used].push_back(
            static_cast<std::int32_t>(mix64(++draws_) % static_cast<std::uint64_t>(deployment_.model.vocab)));
      const auto i = static_cast<std::int32_t>(used);
      const std::int32_t adapter = l.lora.rank > 0 ? i % static_cast<std::int32_t>(size.adapters) : -1;
      sequences_.push_back({tokens_[used], cached, blocks_[used].data(), decode, true, adapter, i});
      ++used;
    };
    // Vectors of vectors move when they grow: sequences refer to what no longer grows.
    tokens_.reserve(static_cast<std::size_t>(l.max_sequences)),
        blocks_.reserve(static_cast<std::size_t>(l.max_sequences));
    for (std::int64_t i = 0; i < size.prompts; ++i) add(size.new_tokens, size.cached, false);
    for (std::int64_t i = 0; i < size.decoding; ++i) {
      add(size.queries, size.context - size.queries, true);
      sequences_.back().every_row = size.queries > 1;
    }
    const long before = involuntary_switches();
    const auto start = std::chrono::steady_clock::now();
    executable_.transformer().step(sequences_, loads_);
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (const OperatorRun& o : executable_.transformer().operators_run())
      seconds -= o.all_seconds - o.seconds;
    double operators = 0;
    for (const OperatorRun& o : executable_.transformer().operators_run()) operators += o.seconds;
    loads_.clear();  // they stay
    return {seconds, seconds - operators, involuntary_switches() != before};
  }

  Work work(const Size& size) const {
    Work w;
    if (size.prompts > 0) w.prefill = {{size.new_tokens, size.cached, size.prompts}};
    w.decode_sequences = size.decoding;
    w.decode_queries = size.queries;
    if (executable_.transformer().layout().lora.rank > 0)
      w.adapters = std::min(size.adapters, size.prompts + size.decoding);
    w.sampled_rows = size.prompts + size.decoding * size.queries;
    std::vector<std::int64_t> windows = deployment_.model.attention_windows();
    if (windows.empty()) windows.push_back(0);
    for (const std::int64_t window : windows)
      w.contexts.push_back(
          static_cast<double>(size.decoding * (window > 0 ? std::min(size.context, window) : size.context)));
    return w;
  }

 private:
  const Deployment& deployment_;
  Executable& executable_;
  std::vector<StepSequence> sequences_;
  std::vector<std::vector<std::int32_t>> tokens_, blocks_;
  std::vector<AdapterLoad> loads_;  // before the first step
  std::uint64_t draws_ = 0;
};

struct Spread {
  double median = 0, relative = 0;
};
Spread spread_of(std::vector<double>& v) {
  std::sort(v.begin(), v.end());
  Spread s{linear_quantile(v, 0.5), 0};
  if (v.size() > 2 && s.median > 0)
    s.relative = (linear_quantile(v, 0.9) - linear_quantile(v, 0.1)) / 2 / s.median;
  return s;
}

}  // namespace

std::optional<Measurement> measurement_of(const Op& op) {
  Measurement m;
  const auto plain = [&](DType t) { m.series.dtype = std::string(name_of(t)); };
  const auto whole = [](double v) { return v == std::floor(v); };
  if (const auto* g = std::get_if<GemmShape>(&op.shape)) {
    if (g->weight_is_activation) return std::nullopt;
    m.series.kind = MeasuredKind::kGemm;
    if (g->weight == WeightFormat::kPlain)
      plain(g->activation);
    else
      m.series.dtype = std::string(name_of(g->weight));
    m.point.shape = {g->n, g->k, g->batch, g->m};
  } else if (const auto* a = std::get_if<AttentionShape>(&op.shape)) {
    if (a->window > 0 || a->top_k > 0 || a->compress_ratio > 0) return std::nullopt;
    plain(a->activation);
    m.series.kv_dtype = std::string(name_of(a->kv));
    const auto length =
        a->decode ? static_cast<std::int64_t>(a->kv_tokens / static_cast<double>(a->sequences)) : 0;
    if (a->mla) {
      if ((a->decode ? a->qk_dim : a->qk_dim + a->v_dim) != (a->decode ? 576 : 320)) return std::nullopt;
      m.series.kind = a->decode ? MeasuredKind::kMlaDecode : MeasuredKind::kMlaPrefill;
      if (a->decode)
        m.point.shape = {a->heads, a->new_tokens, a->sequences, length};
      else
        m.point.shape = {a->heads, a->cached, a->sequences, a->new_tokens};
    } else {
      if (a->qk_dim != a->v_dim) return std::nullopt;
      m.series.kind = a->decode ? MeasuredKind::kDecodeAttention : MeasuredKind::kPrefillAttention;
      if (a->decode)
        m.point.shape = {a->heads, a->kv_heads, a->qk_dim, a->new_tokens, a->sequences, length};
      else
        m.point.shape = {a->heads, a->kv_heads, a->qk_dim, a->cached, a->sequences, a->new_tokens};
    }
  } else if (const auto* e = std::get_if<MoeShape>(&op.shape)) {
    m.series.kind = MeasuredKind::kMoe;
    if (e->weight == WeightFormat::kPlain)
      plain(e->activation);
    else
      m.series.dtype = std::string(name_of(e->weight));
    m.series.kernel = "foretoken";
    m.series.distribution = "power_law_1.01";  // what random routing comes to
    m.point.shape = {e->hidden,        e->inter,         e->top_k, e->num_experts,
                     e->local_experts, e->gated ? 1 : 0, e->tokens};
  } else if (const auto* r = std::get_if<ElementwiseShape>(&op.shape)) {
    if (!whole(r->bytes_per_row) || !whole(r->flops_per_row) || r->bytes_per_row <= 0) return std::nullopt;
    m.series.kind = MeasuredKind::kElementwise;
    m.series.dtype = "bfloat16";
    m.series.kernel = op.name.ends_with("_norm") && op.name != "qk_norm" ? "norm" : std::string(op.name);
    m.point.shape = {static_cast<std::int64_t>(r->bytes_per_row), static_cast<std::int64_t>(r->flops_per_row),
                     r->rows};
  } else if (const auto* c = std::get_if<CopyShape>(&op.shape)) {
    if (c->from_storage) return std::nullopt;
    m.series.kind = MeasuredKind::kElementwise;
    m.series.dtype = "bfloat16";
    m.series.kernel = std::string(kCopyKernel);
    m.point.shape = {static_cast<std::int64_t>(kCopyRowBytes), 0,
                     static_cast<std::int64_t>(std::ceil(c->bytes / kCopyRowBytes))};
  } else {
    return std::nullopt;
  }
  return m;
}

Calibration calibrate(const Deployment& deployment, const ModelText& model, const ExecutorOptions& executor,
                      const CalibrationOptions& options) {
  if (deployment.mapping.ranks_per_engine() > 1)
    throw Error(
        "data_parallel_size",
        "one transformer is calibrated; data-parallel ranks that share experts are not one: use 1 here");
  // A fetch that overlaps is waited for, not timed: here layers and fetches take turns. Rows of products are
  // with the pass that rounds their input, whoever makes it: prices take it off again (CostModel).
  Deployment in_turns = deployment;
  in_turns.streaming.overlap = false;
  in_turns.fusion.quantisation = false;
  ExecutorOptions probed = executor;
  probed.probe = true;
  Executable executable(in_turns, model, probed);
  Sweep sweep(deployment, executable);
  const Layout& layout = executable.transformer().layout();
  const std::vector<Size> sizes = measured_sizes(
                              layout, deployment.speculation ? deployment.scheduler.draft_tokens : 0),
                          others = other_sizes(layout);
  std::map<std::pair<MeasurementSeries, std::array<std::int64_t, kMaxShapeColumns>>, std::vector<double>>
      times;
  std::vector<std::vector<double>> held_out(others.size());
  Calibration result;
  const auto start = std::chrono::steady_clock::now();
  const auto spent = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const std::string engine = "foretoken cpu " + std::string(executable.kernels().name());
  sweep.run(sizes.front());  // warm
  MachineProbe probe(executable.kernels());
  std::vector<double> overheads;
  std::vector<double> probes;  // times are stated for the machine as fast as it was on the whole
  // Measured and held-out steps in turn, in another order each round, so that a drift of the machine reaches
  // both.
  constexpr int kMostRounds = 50;
  for (int round = 0; round < kMostRounds && (round == 0 || spent() < options.budget_seconds); ++round) {
    std::vector<std::size_t> order(sizes.size() + others.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return mix64(a * 1000 + static_cast<std::size_t>(round)) <
             mix64(b * 1000 + static_cast<std::size_t>(round));
    });
    for (std::size_t n = 0; n < order.size(); ++n) {
      if (options.stop && options.stop->load()) throw Interrupted();
      if (round > 0 && spent() > options.budget_seconds) break;
      if (options.progress)
        options.progress(std::min(
            1.0,
            std::max(spent() / options.budget_seconds,
                     round > 0 ? 0.0 : 0.5 * static_cast<double>(n) / static_cast<double>(order.size()))));
      const bool measured = order[n] < sizes.size();
      const auto [seconds, beside, polluted] =
          sweep.run(measured ? sizes[order[n]] : others[order[n] - sizes.size()]);
      ++result.steps;
      const double speed = probe.run();
      probes.push_back(speed);
      if (!polluted) overheads.push_back(beside / speed);
      if (polluted) {
        ++result.polluted;
        if (round > 0) continue;
      }
      if (!measured) {
        held_out[order[n] - sizes.size()].push_back(seconds / speed);
        continue;
      }
      for (const OperatorRun& o : executable.transformer().operators_run()) {
        auto m = measurement_of(o.op);
        if (!m) continue;
        m->series.device = options.device, m->series.engine = engine;
        m->series.date = options.date, m->series.source = options.source;
        times[{m->series, m->point.shape}].push_back(o.seconds / speed);
      }
    }
  }
  // Blocks to the host and back, as many as a preempted sequence may have.
  constexpr int kCopyRepeats = 9;
  std::vector<BlockCopy> blocks;
  const std::int64_t most_blocks =
      std::min({layout.num_host_blocks, layout.num_blocks - 1, layout.max_length / layout.block_size + 1});
  for (const std::int64_t n : powers(1, most_blocks, 4)) {
    for (auto b = static_cast<std::int32_t>(blocks.size()); b < n; ++b) blocks.push_back({b + 1, b});
    for (int repeat = 0; repeat < kCopyRepeats; ++repeat) {
      executable.transformer().step({}, {blocks, {}});
      const double speed = probe.run();
      for (const OperatorRun& o : executable.transformer().operators_run()) {
        auto m = measurement_of(o.op);
        m->series.device = options.device, m->series.engine = engine;
        m->series.date = options.date, m->series.source = options.source;
        times[{m->series, m->point.shape}].push_back(o.seconds / speed);
      }
    }
  }
  const double usual = spread_of(probes).median;
  for (auto& [key, v] : times) {
    for (double& t : v) t *= usual;
    Measurement m;
    m.series = key.first, m.point.shape = key.second;
    const Spread s = spread_of(v);
    m.point.seconds = s.median, m.point.spread = s.relative;
    if (s.median > 0) result.rows.push_back(std::move(m));
  }
  const auto add = [&](const Op& op, double seconds) {
    auto m = measurement_of(op);
    if (!m || !(seconds > 0)) return;
    m->series.device = options.device, m->series.engine = engine;
    m->series.date = options.date, m->series.source = options.source;
    m->point.seconds = seconds;
    result.rows.push_back(std::move(*m));
  };
  add(MachineProbe::op(), usual);
  add(step_overhead(), usual * spread_of(overheads).median);
  for (std::size_t i = 0; i < others.size(); ++i) {
    for (double& t : held_out[i]) t *= usual;
    const Spread s = spread_of(held_out[i]);
    result.held_out.push_back({sweep.work(others[i]), s.median, false});
    result.spread.push_back(s.relative);
  }
  return result;
}

}  // namespace foretoken
