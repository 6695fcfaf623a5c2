#include "executor/executed_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/json_full.h"
#include "executor/executed_state.h"

namespace foretoken {

ExecutedBackend::ExecutedBackend(const Deployment& deployment, const Workload& workload,
                                 const ModelText& model, const ExecutorOptions& options)
    : state_(std::make_unique<State>(deployment, workload, model, options)) {}

ExecutedBackend::~ExecutedBackend() = default;

void ExecutedBackend::set_usual_probe(double seconds) {
  state_->usual_probe = seconds;
  state_->probe.emplace(state_->executable.kernels());
}

std::span<const std::int64_t> ExecutedBackend::windows() const { return state_->windows; }

StepTime ExecutedBackend::run(const Step& step) {
  State& s = *state_;
  if (s.instances) return s.run_instances(step);
  const std::size_t ranks = step.ranks.size();
  const auto at = static_cast<std::size_t>(step.engine);
  double drafting = 0;  // before the step
  s.sequences.resize(ranks), s.slots.resize(ranks), s.swaps.resize(ranks), s.copies.resize(ranks);
  s.shifts.resize(ranks);
  bool any = false;
  for (std::size_t r = 0; r < ranks; ++r) {
    const Batch& batch = step.ranks[r];
    const SequenceTable& table = *batch.sequences;
    s.sequences[r].clear(), s.slots[r].clear(), s.copies[r].clear();
    for (const PrefillPart& p : batch.prefill)
      if (p.slot < 0)
        continue;  // padding
      else if (s.searches() && p.cached >= table[p.slot].request.input_len)
        s.add_beam(r, table, p.slot, p.cached, p.new_tokens, false, p.last, p.beam);
      else
        s.add(step.engine, r, table, p.slot, p.cached, p.new_tokens, false, p.last);
    if (s.drafts_in_step() && !batch.skips_draft_model) {
      const auto begun = std::chrono::steady_clock::now();
      s.propose_first(at, batch);
      drafting = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    }
    for (const DecodePart& p : batch.decode)
      if (s.searches())
        s.add_beam(r, table, p.slot, p.context - 1, 1, true, true, p.beam);
      else if (p.slot >= 0)
        s.add(step.engine, r, table, p.slot, p.context - 1 - p.drafted, 1, true, true, p.drafted);
    s.shifts[r].clear();
    for (const KvShift& k : batch.shifts)
      s.shifts[r].push_back({table[k.slot].blocks.data(), k.from, k.to, k.tokens, k.distance});
    s.swaps[r] = {batch.swap_out, batch.swap_in, batch.adapter_loads, s.shifts[r]};
    any |= !s.sequences[r].empty() || batch.copies();
  }
  Replica& engine = s.executable.engine(at);
  StepRun run;
  run.engine = step.engine;
  const Deployment& deployment = s.deployment.of_engine(step.engine);
  std::vector<double> stages(deployment.mapping.stages.size(), 0.0);
  double saved = 0, launched = 0, sampling = 0;
  const long before = involuntary_switches();
  const auto start = std::chrono::steady_clock::now();
  if (any) {
    for (std::size_t r = 0; r < ranks; ++r)
      for (const BlockCopy& c : s.copies[r])
        Transformer::copy_cache(engine.rank(r), {&c.from, 1}, engine.rank(r), {&c.to, 1},
                                deployment.scheduler.block_size);
    engine.step(s.sequences, s.swaps);
    const auto computed = std::chrono::steady_clock::now();
    for (std::size_t r = 0; r < ranks; ++r)
      s.sample(at, r, *step.ranks[r].sequences, engine.logits(r).data());
    sampling = std::chrono::duration<double>(std::chrono::steady_clock::now() - computed).count();
    const bool drafts_now = !s.drafts_in_step();
    if (s.drafter && drafts_now) s.propose(at, *step.ranks.front().sequences);
    for (const OperatorRun& o : engine.operators_run()) {
      saved += o.all_seconds - o.seconds;
      launched += o.seconds;
      stages[static_cast<std::size_t>(o.stage)] += o.seconds;
    }
    if (s.drafter && (drafts_now || drafting > 0)) saved += s.drafter->saved;
  }
  const double wall =
      drafting + std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  run.seconds = std::max(1e-9, wall - saved);
  stages.back() += run.seconds - launched;  // what is no operator: sampling or copies of beams, mostly
  s.settle(run, stages);
  if (any) {
    for (const OperatorRun& o : engine.operators_run())
      s.operator_seconds[std::string(o.op.name)] += o.seconds * run.speed;
    s.operator_seconds["sampling"] += sampling * run.speed;  // the operator's, whose logits these are
  }
  if (s.drafter && any && (drafting > 0 || !s.drafts_in_step())) {
    for (const auto& [name, seconds] : s.drafter->operator_seconds)
      s.operator_seconds["draft " + name] += seconds * run.speed;
    run.drafting = s.drafter->work;
  }
  run.polluted = involuntary_switches() != before;
  const Batch& fullest =
      *std::max_element(step.ranks.begin(), step.ranks.end(),
                        [](const Batch& a, const Batch& b) { return a.tokens() < b.tokens(); });
  // What was computed: padding and rows of ended requests were not.
  for (const PrefillPart& p : fullest.prefill)
    if (p.slot >= 0) run.work.prefill.push_back({p.new_tokens, p.cached, 1});
  run.work.contexts.assign(s.windows.size(), 0.0);
  for (const DecodePart& p : fullest.decode) {
    if (p.slot < 0) continue;
    ++run.work.decode_sequences;
    for (std::size_t g = 0; g < s.windows.size(); ++g)
      run.work.contexts[g] +=
          static_cast<double>(s.windows[g] > 0 ? std::min<std::int64_t>(p.context, s.windows[g]) : p.context);
  }
  run.work.decode_queries = fullest.decode_queries();
  run.work.sampled_rows = fullest.sampled_rows -
                          (fullest.decode_sequences - static_cast<std::int32_t>(run.work.decode_sequences));
  const std::int64_t block = deployment.scheduler.block_size;
  run.work.swap_out_tokens = static_cast<std::int64_t>(fullest.swap_out.size()) * block;
  run.work.swap_in_tokens = static_cast<std::int64_t>(fullest.swap_in.size()) * block;
  run.work.shifted_tokens = fullest.shifted_tokens();
  run.work.adapters = fullest.adapters;
  run.work.adapter_loads = static_cast<std::int64_t>(fullest.adapter_loads.size());
  if (ranks > 1)
    for (const Batch& b : step.ranks) run.work.group_tokens += b.tokens();
  s.steps.push_back(std::move(run));
  if (stages.size() > 1) return s.through_stages(step, stages);
  const Picoseconds t = to_picoseconds(Seconds(s.steps.back().seconds));
  return {t, t};
}

void ExecutedBackend::verify(const Step&, std::size_t, std::span<Verification> sequences) {
  for (Verification& v : sequences) {
    const State::History& h = state_->histories.at(v.request);
    v.accepted = h.accepted;
    v.drafts =
        state_->drafts_in_step() ? state_->tree->nodes() - 1 : static_cast<std::int32_t>(h.drafts.size());
  }
}

Picoseconds ExecutedBackend::transfer(const KvTransfer& t) {
  State& s = *state_;
  const auto of = [&](std::int32_t engine, std::int32_t rank) -> Transformer& {
    return s.executable.engine(static_cast<std::size_t>(engine)).rank(static_cast<std::size_t>(rank));
  };
  double seconds = Transformer::copy_cache(of(t.from, t.from_rank), t.source, of(t.to, t.to_rank), t.target,
                                           t.tokens, t.done);
  if (s.options.processes) s.options.processes->maximum({&seconds, 1});
  s.moved.count += t.done == 0;
  s.moved.seconds += seconds;
  const Disaggregation& pools = *s.deployment.pools;
  const std::int32_t prefill = pools.prefill.mapping.engines();
  const MoveEnds ends{t.from < prefill, t.to < prefill};
  s.moved.bytes += moved_bytes(pools, t.tokens, ends) - (t.done > 0 ? moved_bytes(pools, t.done, ends) : 0);
  return to_picoseconds(Seconds(seconds));
}

Picoseconds ExecutedBackend::move_blocks(const TierMove& m) {
  State& s = *state_;
  Replica& engine = s.executable.engine(static_cast<std::size_t>(m.engine));
  double seconds = engine.rank(static_cast<std::size_t>(m.rank)).move_blocks(m.from, m.to, m.blocks);
  const auto stores = [&](std::int32_t tier) {
    return tier >= 0 &&
           s.deployment.scenario.engine.kv_tiers[static_cast<std::size_t>(tier)].kind == "storage";
  };
  const char* name = stores(m.to)     ? "storage_write"
                     : stores(m.from) ? "storage_read"
                     : m.to < 0       ? "swap_in"
                                      : "swap_out";
  s.operator_seconds[name] += seconds;
  if (s.prices != nullptr) s.predicted_copy_seconds[name] += to_seconds(s.prices->move_blocks(m)).value;
  if (s.options.processes) s.options.processes->maximum({&seconds, 1});
  return to_picoseconds(Seconds(std::max(1e-9, seconds)));
}

bool ExecutedBackend::worth_loading(const TierLoad& load) {
  if (state_->prices == nullptr) throw std::logic_error("nobody says what loading takes, and computing");
  return state_->prices->worth_loading(load);
}

void ExecutedBackend::set_prices(Backend& prices) { state_->prices = &prices; }

ExecutedBackend::Moved ExecutedBackend::moved() const { return state_->moved; }

std::span<const StepRun> ExecutedBackend::steps() const { return state_->steps; }
std::map<std::string, double> ExecutedBackend::operator_seconds() const { return state_->operator_seconds; }
std::map<std::string, double> ExecutedBackend::predicted_copy_seconds() const {
  return state_->predicted_copy_seconds;
}
std::vector<std::int32_t> ExecutedBackend::output(RequestId request) const {
  const auto at = state_->outputs.find(request);
  return at == state_->outputs.end() ? std::vector<std::int32_t>{} : at->second;
}

std::vector<std::int32_t> ExecutedBackend::prompt(RequestId request) const {
  const auto at = state_->histories.find(request);
  if (at == state_->histories.end()) return {};
  const State::History& h = at->second;
  return {h.tokens.begin(), h.tokens.begin() + static_cast<std::ptrdiff_t>(h.prompt)};
}
ExecutedBackend::BeamSharing ExecutedBackend::beam_sharing() const { return state_->beam_sharing; }

std::string ExecutedBackend::condition() const { return state_->executable.kernels().condition(); }
std::vector<std::string> ExecutedBackend::remarks() const { return state_->executable.kernels().remarks(); }
std::string ExecutedBackend::description() const { return state_->executable.description(); }

}  // namespace foretoken
