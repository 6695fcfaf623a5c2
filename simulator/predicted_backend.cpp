#include "simulator/predicted_backend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "base/random.h"

namespace foretoken {
namespace {

bool decode_only(const Step& step) {
  for (const Batch& b : step.ranks)
    if (!b.prefill.empty()) return false;
  return true;
}

}  // namespace

PredictedBackend::PredictedBackend(const Deployment& deployment, std::span<const CostModel> costs,
                                   double scale)
    : deployment_(&deployment), scale_(scale), windows_(deployment.model.attention_windows()) {
  if (windows_.empty()) windows_.push_back(0);
  const std::vector<const Deployment*> kinds = deployment.kinds();
  if (costs.size() != 1 && costs.size() != kinds.size())
    throw std::logic_error("a cost model for each kind of engines, or one for all");
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const Deployment& kind = *kinds[i];
    const CostModel& cost = costs[costs.size() == 1 ? 0 : i];
    Pool& pool = pools_.emplace_back();
    pool.deployment = &kind;
    for (const Shard& shard : kind.mapping.stages) pool.stages.emplace_back(kind, cost, shard);
    if (kinds.size() > 1)
      pool_of_engine_.insert(pool_of_engine_.end(), static_cast<std::size_t>(kind.mapping.engines()), i);
    if (!kind.speculation) continue;
    require_acceptance(*kind.speculation);
    drafts_ = kind.speculation->tokens();
    if (const Deployment* draft = kind.speculation->draft.get())
      for (const Shard& shard : draft->mapping.stages) pool.draft_stages.emplace_back(*draft, cost, shard);
  }
}

Picoseconds PredictedBackend::transfer(const KvTransfer& transfer) {
  // Prefill engines come first.
  const auto prefills = [this](std::int32_t e) { return pool_of_engine_[static_cast<std::size_t>(e)] == 0; };
  return to_picoseconds(rest_move_time(*deployment_->pools, transfer.done, transfer.tokens,
                                       {prefills(transfer.from), prefills(transfer.to)}));
}

PredictedBackend::StagePrice PredictedBackend::slowest(std::span<const StagePrice> prices) {
  const StagePrice* slow = &prices.front();
  std::int64_t steps = slow->steps;
  for (const StagePrice& p : prices.subspan(1)) {
    steps = std::min(steps, p.steps);
    if (p.first.time > slow->first.time ||
        (p.first.time == slow->first.time && p.increment() > slow->increment()))
      slow = &p;
  }
  StagePrice best = *slow;
  // Another one may overtake the slowest: the span ends before it does.
  for (const StagePrice& p : prices)
    if (p.increment() > best.increment())
      steps = std::min(steps, (best.first.time - p.first.time) / (p.increment() - best.increment()) + 1);
  best.steps = steps;
  return best;
}

PredictedBackend::StagePrice PredictedBackend::price_stage(const Deployment& deployment, StageModel& stage,
                                                           const Step& step, bool decoding,
                                                           std::int64_t max_steps) {
  // Captured graphs pad the ranks that share experts to the fullest one; other steps compute what they have.
  std::int64_t most = 0, all = 0;
  bool copies = false;
  std::int32_t sampled = 0;
  for (const Batch& b : step.ranks) {
    most = std::max(most, padded_rows(b.tokens(), decoding, deployment));
    copies |= b.copies();
    all += std::max<std::int64_t>(b.tokens(), 1);  // an idle rank steps along with one row
  }
  if (most == 0 && !copies) return {{}, {}, max_steps};

  if (deployment.behavior.overlaps_operators) {
    StagePrice p;
    p.steps = 1;
    const Batch& b = step.ranks.front();
    PricedPart decode;
    const PricedPart prompts = attention(deployment, stage, b, p, &decode);
    p.first = stage.nano_batches(b.tokens(), prompts, decode);
    if (b.sampled_rows > 0) p.first += stage.sampled(b.sampled_rows);
    return p;
  }

  // Each rank's own part is affine while no context sum crosses a knot; the slowest rank sets the pace.
  std::vector<StagePrice>& ranks = rank_prices_;
  ranks.clear();
  for (const Batch& b : step.ranks) {
    StagePrice r;
    r.steps = max_steps;
    if (most > 0) r.first += stage.tokens(decoding ? most : std::max<std::int64_t>(b.tokens(), 1));
    if (!b.empty()) {
      const std::int64_t block = deployment.memory.block_size;
      if (b.copies())
        r.first += stage.swap(static_cast<std::int64_t>(b.swap_out.size()) * block,
                              static_cast<std::int64_t>(b.swap_in.size()) * block, b.shifted_tokens());
      if (b.sampled_rows > 0) r.first += stage.sampled(b.sampled_rows);
      r.first += attention(deployment, stage, b, r);
      if (b.adapters > 0) r.first += stage.adapters(b.tokens(), b.adapters);
      if (!b.adapter_loads.empty())
        r.first += stage.adapter_loads(static_cast<std::int64_t>(b.adapter_loads.size()));
      sampled = std::max(sampled, b.sampled_rows);
    }
    ranks.push_back(r);
  }
  StagePrice best = slowest(ranks);

  if (most > 0)
    best.first += stage.group(decoding ? most * static_cast<std::int64_t>(step.ranks.size()) : all);
  if (stage.streams() && most > 0)
    best.first += stage.stall(best.first.time, sampled > 0 ? stage.sampled(sampled).time : 0);
  return best;
}

// Adds the decoding rows' rise to `r`. decode: gets their part, which is else in the sum.
PricedPart PredictedBackend::attention(const Deployment& deployment, StageModel& stage, const Batch& b,
                                       StagePrice& r, PricedPart* decode) {
  const bool one_call = deployment.one_attention_call && !b.prefill.empty() && b.decode_sequences > 0;
  PricedPart sum;
  Picoseconds longest = 0;  // a prompt's chunk in a call of its own
  Picoseconds apart = 0;    // all of them, and the decoding rows in another
  for (const PrefillPart& p : b.prefill) {
    const PricedPart alone = stage.prefill(p.new_tokens, p.cached, false);
    sum += one_call ? stage.prefill(p.new_tokens, p.cached, true) : alone;
    longest = std::max(longest, alone.time);
    apart += alone.time;
  }
  if (b.decode_sequences == 0) return sum;
  for (std::size_t g = 0; g < stage.attention_groups(); ++g) {
    const auto at = [&](const ContextPiece& piece) {
      return piece.base.time + piece.slope * (b.contexts[g] - piece.from);
    };
    const ContextPiece& piece =
        stage.decode(static_cast<int>(g), b.decode_sequences, b.contexts[g], one_call, b.decode_queries());
    PricedPart part = piece.base;
    // The slope rests on what the piece rests on; book it to the larger share.
    const std::size_t main = part.main_basis();
    const Picoseconds skew =
        b.prefill.empty() && b.longest_context > 0 && windows_[g] == 0
            ? stage.skew(static_cast<int>(g), b.decode_sequences, b.contexts[g], b.longest_context)
            : 0;
    part.by_basis[main] += at(piece) + skew - part.time;
    part.time = at(piece) + skew;
    (decode != nullptr ? *decode : sum) += part;
    if (one_call)
      apart +=
          at(stage.decode(static_cast<int>(g), b.decode_sequences, b.contexts[g], false, b.decode_queries()));
    if (b.growing[g] > 0) {
      r.rise[main] += piece.slope * b.growing[g];
      r.steps = std::min(r.steps, (piece.to - b.contexts[g] + b.growing[g] - 1) / b.growing[g]);
    }
  }
  if (!one_call) return sum;
  // The call ends no sooner than its longest chunk would alone.
  if (longest > sum.time) {
    sum.by_basis[sum.main_basis()] += longest - sum.time;
    sum.time = longest;
  }
  r.excess = std::max<Picoseconds>(0, sum.time - apart);
  return sum;
}

Picoseconds PredictedBackend::host_time(const Pool& pool, const Step& step, Picoseconds device_floor,
                                        Picoseconds excess) const {
  std::int64_t sequences = 0, rows = 0;
  for (const Batch& b : step.ranks) {
    sequences =
        std::max<std::int64_t>(sequences, b.decode_sequences + static_cast<std::int64_t>(b.prefill.size()));
    rows = std::max(rows, b.tokens());
  }
  return exposed_host(*pool.deployment, sequences, rows, decode_only(step),
                      pool.stages.front().kernels_per_step(), device_floor, excess);
}

void PredictedBackend::Booked::add(const Pending& p, std::int64_t steps) {
  const Sum n = steps, pairs = n * (n - 1) / 2;
  for (std::size_t i = 0; i < by_basis.size(); ++i)
    by_basis[i] += n * p.price.first.by_basis[i] + pairs * p.price.rise[i];
  host += n * p.host;
  error += n * std::llround(std::sqrt(p.price.first.variance));
  total += n * (p.price.first.time + p.host) + pairs * p.price.increment();
}

void PredictedBackend::book(const Step& step, const StagePrice& price, Picoseconds host,
                            const SpanTime& span) {
  const auto e = static_cast<std::size_t>(step.engine);
  if (e >= pending_.size()) pending_.resize(e + 1);
  Pending& p = pending_[e];
  // An arrival may have cut the span: its steps that began before now were run.
  std::int64_t low = 0, high = p.span.steps;
  while (low < high) {
    const std::int64_t middle = (low + high + 1) / 2;
    const Picoseconds begin =
        (middle - 1) * p.span.first + p.span.increment * ((middle - 1) * (middle - 2) / 2);
    if (p.start + begin < step.start) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  booked_.add(p, low);
  p = {price, step.start, host, span};
}

Picoseconds PredictedBackend::price_drafts(Pool& pool, const Step& step, StagePrice& sum) {
  const Deployment& draft = *pool.deployment->speculation->draft;
  StageModel& stage = pool.draft_stages.front();
  passes_.resize(step.ranks.size());
  std::size_t count = 0;
  for (std::size_t r = 0; r < step.ranks.size(); ++r) {
    draft_passes(step.ranks[r], *pool.deployment, passes_[r]);
    count = std::max(count, passes_[r].size());
  }
  Picoseconds host = 0;
  for (std::size_t p = 0; p < count; ++p) {
    std::int64_t times = 1, rows = 0;
    pass_batches_.clear();
    for (const std::vector<DraftPass>& own : passes_) {
      pass_batches_.push_back(p < own.size() ? own[p].batch : Batch());
      if (p < own.size()) times = own[p].times;
      rows = std::max(rows, pass_batches_.back().tokens());
    }
    const Step pass{step.engine, step.start, pass_batches_};
    const bool decoding = decode_only(pass);
    const StagePrice price = price_stage(draft, stage, pass, decoding, 1);
    sum.first.add(price.first, times);
    host += times * (draft.behavior.own_executor
                         ? to_picoseconds(draft.behavior.host_step)
                         : exposed_dispatch(draft, rows, decoding, stage.kernels_per_step(),
                                            price.first.time - context_part(pass, stage), price.excess));
  }
  return host;
}

void PredictedBackend::verify(const Step&, std::size_t, std::span<Verification> sequences) {
  constexpr std::uint64_t kAcceptance = 0xacce97, kProposal = 0x9209051;
  const Speculation& s = *deployment_->speculation;
  const auto seed = static_cast<std::uint64_t>(deployment_->scenario.workload.seed);
  for (Verification& v : sequences) {
    v.drafts = drafts_;
    if (s.proposal < 1) {
      CounterRandom random(
          seed, kProposal,
          static_cast<std::uint64_t>(v.request) << 32 | static_cast<std::uint64_t>(v.tokens));
      if (random.uniform() >= s.proposal) v.drafts = 0;
    }
    const int levels = s.whole_levels(v.drafted);
    for (; v.accepted < levels; ++v.accepted) {
      const auto place = static_cast<std::uint64_t>(v.tokens + v.accepted);
      CounterRandom random(seed, kAcceptance, static_cast<std::uint64_t>(v.request) << 32 | place);
      if (random.uniform() >= s.acceptance[static_cast<std::size_t>(v.accepted)]) break;
    }
  }
}

StepTime PredictedBackend::run(const Step& step) {
  const bool decoding = decode_only(step);
  StagePrice sum;
  Picoseconds slowest = 0, floor = 0;
  Pool& pool = pool_of(step);
  if (pool.deployment->scheduler.policy == SchedulerPolicy::kLoongserve) {
    const Picoseconds time = run_groups(step, 1).first;
    return {time, time};
  }
  for (StageModel& stage : pool.stages) {
    const StagePrice p = price_stage(*pool.deployment, stage, step, decoding, 1);
    sum.first += p.first;
    sum.excess += p.excess;
    slowest = std::max(slowest, p.first.time);
    // Steps with nano-batches are no spans.
    const bool overlaps = pool.deployment->behavior.overlaps_operators;
    floor = std::max(floor, p.first.time - (overlaps ? 0 : context_part(step, stage)));
  }
  if (pool.deployment->scheduler.policy == SchedulerPolicy::kInfiniteLlm)
    sum.first += lending(*pool.deployment, pool.stages.front(), step.ranks.front(), sum.first.time);
  Picoseconds host = host_time(pool, step, floor, sum.excess);
  if (!pool.draft_stages.empty()) host += price_drafts(pool, step, sum);
  StepTime t;
  t.tokens_out = scaled(sum.first.time + host);
  // A pipeline takes the next batch as soon as its slowest stage is free.
  t.next_start = pool.stages.size() > 1 ? scaled(slowest + host) : t.tokens_out;
  book(step, sum, host, {1, t.tokens_out, 0});
  return t;
}

SpanTime PredictedBackend::run_span(const Step& step, std::int64_t max_steps) {
  Pool& pool = pool_of(step);
  if (pool.stages.size() > 1 || !decode_only(step)) return {};
  if (pool.deployment->scheduler.policy == SchedulerPolicy::kLoongserve) return run_groups(step, max_steps);
  if (pool.deployment->behavior.overlaps_operators) return {};  // nor here
  if (pool.stages.front().streams()) return {};  // what it waits for is no straight line of the contexts
  for (const Batch& b : step.ranks)
    if (b.copies()) return {};  // the next step has none
  const StagePrice p = price_stage(*pool.deployment, pool.stages.front(), step, true, max_steps);
  const Picoseconds host = host_time(pool, step, p.first.time - context_part(step, pool.stages.front()), 0);
  const SpanTime span{std::max<std::int64_t>(1, p.steps), scaled(p.first.time + host), scaled(p.increment())};
  book(step, p, host, span);
  return span;
}

// Time of decode attention above its value at the piece's first knot; left out of what host time can hide
// behind, so that the exposed host time is constant over a span.
Picoseconds PredictedBackend::context_part(const Step& step, StageModel& stage) {
  Picoseconds most = 0;
  for (const Batch& b : step.ranks) {
    Picoseconds t = 0;
    if (b.decode_sequences > 0)
      for (std::size_t g = 0; g < stage.attention_groups(); ++g) {
        const ContextPiece& piece = stage.decode(static_cast<int>(g), b.decode_sequences, b.contexts[g],
                                                 !b.prefill.empty(), b.decode_queries());
        t += piece.base.time + piece.slope * (b.contexts[g] - piece.from);
      }
    most = std::max(most, t);
  }
  return most;
}

Picoseconds PredictedBackend::scaled(Picoseconds t) const {
  return scale_ == 1.0 ? t : static_cast<Picoseconds>(std::llround(static_cast<double>(t) * scale_));
}

TimeBasis PredictedBackend::basis() const {
  Booked all = booked_;
  for (const Pending& p : pending_) all.add(p, p.span.steps);
  TimeBasis b;
  Sum device = 0;
  for (const Sum v : all.by_basis) device += v;
  if (all.total <= 0 || device <= 0) return b;
  for (std::size_t i = 0; i < b.share.size(); ++i)
    b.share[i] = static_cast<double>(all.by_basis[i]) / static_cast<double>(device);
  b.host_share = static_cast<double>(all.host) / static_cast<double>(all.total);
  b.relative_error = static_cast<double>(all.error) / static_cast<double>(all.total);
  return b;
}

}  // namespace foretoken
