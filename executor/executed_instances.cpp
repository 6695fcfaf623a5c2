// Steps of instances whose attention reaches over several caches.
#include "executor/executed_instances.h"

#include <algorithm>
#include <chrono>

#include "executor/executed_state.h"

namespace foretoken {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Seconds that ranks ran one after another beyond the slowest.
double saved_by(std::span<const OperatorRun> runs) {
  double saved = 0;
  for (const OperatorRun& o : runs) saved += o.all_seconds - o.seconds;
  return saved;
}

}  // namespace

double ExecutedBackend::State::copy(std::span<const KvParts::Move> moves) {
  double seconds = 0;
  const std::int64_t block = deployment.scheduler.block_size;
  for (const KvParts::Move& m : moves)
    seconds += Transformer::copy_cache(executable.engine(static_cast<std::size_t>(m.from)).rank(0), m.source,
                                       executable.engine(static_cast<std::size_t>(m.to)).rank(0), m.target,
                                       std::ssize(m.source) * block);
  return seconds;
}

// Tokens from the logits of each instance, side by side; seconds that the others took beyond the slowest.
double ExecutedBackend::State::sample_instances(std::span<const Batch> group, std::size_t first) {
  double slowest = 0, all = 0;
  for (std::size_t i = 0; i < group.size(); ++i) {
    if (sequences[first + i].empty()) continue;
    const auto start = Clock::now();
    sample(static_cast<std::size_t>(group[i].instance), first + i, *group[i].sequences,
           instances->group.logits(i).data());
    const double seconds = since(start);
    all += seconds, slowest = std::max(slowest, seconds);
  }
  instances->seconds["sampling"] += slowest;
  return all - slowest;
}

double ExecutedBackend::State::run_prompts(std::span<const Batch> group) {
  ExecutedInstances& own = *instances;
  const Batch& lead = group.front();
  const auto k = static_cast<std::int64_t>(group.size());
  const auto place = static_cast<std::size_t>(group.data() - batches.data());
  std::vector<Transformer*> at;
  for (const Batch& b : group) at.push_back(&executable.engine(static_cast<std::size_t>(b.instance)).rank(0));
  std::vector<InstanceGroup::Prompt> prompts;
  for (const PrefillPart& part : lead.prefill) {
    const SequenceTable& table = *lead.sequences;
    History& h = history_of(table[part.slot].request);
    std::int64_t length = 0, striped = 0, holders = 0;
    for (const CachedPart& p : lead.held)
      if (p.request == part.request) length += p.tokens, ++holders;
    InstanceGroup::Prompt prompt{std::span(h.tokens).first(static_cast<std::size_t>(length)), {}};
    // Where each instance keeps as many as it computes it keeps these.
    for (std::int64_t r = 0; r < k; ++r)
      for (const CachedPart& p : lead.held)
        striped += p.request == part.request && p.instance == group[static_cast<std::size_t>(r)].instance &&
                   p.tokens == (length - r + k - 1) / k;
    const bool stays = k > 1 && striped == holders && holders == std::min(k, length);
    std::int64_t first = 0;
    // What others hold comes first, but in a ring, which keeps the order of its instances.
    const auto keep = [&](const CachedPart& p) {
      const KvParts::Part& to = own.parts.grow(p.request, p.instance, p.tokens);
      std::int64_t from = first;
      for (std::int64_t r = 0; stays && r < k; ++r)
        if (group[static_cast<std::size_t>(r)].instance == p.instance) from = r;
      prompt.kept.push_back(
          {{&executable.engine(static_cast<std::size_t>(p.instance)).rank(0), to.blocks.data(), p.tokens},
           from,
           stays ? k : 1});
      first += p.tokens;
    };
    for (const bool here : {false, true})
      for (const CachedPart& p : lead.held)
        if (p.request == part.request && (p.instance == lead.instance) == here) keep(p);
    const std::int64_t sampler = (length - 1) % k;
    const auto list = place + static_cast<std::size_t>(sampler);
    sequences[list].push_back({prompt.tokens, 0, nullptr, false, true});
    slots[list].push_back(part.slot);
    prompts.push_back(std::move(prompt));
  }
  own.group.prefill(at, prompts);
  return own.group.beyond();
}

double ExecutedBackend::State::run_decodes(std::span<const Batch> group) {
  ExecutedInstances& own = *instances;
  const auto place = static_cast<std::size_t>(group.data() - batches.data());
  std::vector<Transformer*> at;
  std::vector<std::vector<InstanceGroup::Row>> rows(group.size());
  const auto part_of = [&](const KvParts::Part& p, std::int32_t instance) {
    return InstanceGroup::Part{&executable.engine(static_cast<std::size_t>(instance)).rank(0),
                               p.blocks.data(), p.tokens};
  };
  // Blocks move before anybody grows, so that there is room.
  std::vector<KvParts::Move> moves;
  for (const Batch& b : group)
    for (const DecodePart& d : b.decode)
      for (KvParts::Move& m : own.parts.arrange(d.request, b.held, b.instance, 1))
        moves.push_back(std::move(m));
  own.sending += copy(moves);
  for (std::size_t i = 0; i < group.size(); ++i) {
    const Batch& b = group[i];
    at.push_back(&executable.engine(static_cast<std::size_t>(b.instance)).rank(0));
    for (const DecodePart& d : b.decode) {
      History& h = histories.at(d.request);
      const KvParts::Part* before = own.parts.find(d.request, b.instance);
      InstanceGroup::Row row{h.tokens.at(static_cast<std::size_t>(d.context - 1)), d.context - 1, {}};
      row.parts.push_back(
          part_of(own.parts.grow(d.request, b.instance, (before ? before->tokens : 0) + 1), b.instance));
      for (std::int32_t other = 0; other < static_cast<std::int32_t>(own.of.size()); ++other)
        if (const KvParts::Part* p = other == b.instance ? nullptr : own.parts.find(d.request, other))
          row.parts.push_back(part_of(*p, other));
      rows[i].push_back(std::move(row));
      sequences[place + i].push_back(
          {{h.tokens.data() + (d.context - 1), 1}, d.context - 1, nullptr, true, true});
      slots[place + i].push_back(d.slot);
    }
  }
  own.group.decode(at, rows);
  return own.group.beyond();
}

// Groups run side by side. Blocks that an instance sends away go on beside its step; what it has attended for
// others since its last step comes on top.
StepTime ExecutedBackend::State::run_instances(const Step& step) {
  ExecutedInstances& own = *instances;
  batches = step.ranks;
  sequences.resize(batches.size()), slots.resize(batches.size());
  for (auto& s : sequences) s.clear();
  for (auto& s : slots) s.clear();
  StepRun run;
  run.engine = step.engine;
  const long before = involuntary_switches();
  std::vector<Served> served;
  own.seconds.clear();
  for (std::size_t i = 0, end = 0; i < batches.size(); i = end) {
    for (end = i; end < batches.size() && batches[end].group == batches[i].group; ++end) {
    }
    const auto group = batches.subspan(i, end - i);
    own.sending = 0;
    const auto start = Clock::now();
    double saved = group.front().prefill.empty() ? run_decodes(group) : run_prompts(group);
    saved += saved_by(own.group.operators_run());
    const double copied = own.sending;
    saved += sample_instances(group, i);
    double seconds = since(start) - saved - copied;
    own.sending += own.group.sending();
    for (const Batch& b : group) {
      std::vector<KvParts::Move> moves;
      for (const CachedPart& p : b.leaving)
        moves.push_back(own.parts.move(p.request, b.instance, p.instance, p.tokens));
      own.sending += copy(moves);
    }
    for (const OperatorRun& o : own.group.operators_run()) own.seconds[std::string(o.op.name)] += o.seconds;
    for (const InstanceGroup::Attended& a : own.group.attended())
      for (std::size_t other = 0; other < own.of.size(); ++other) {
        const bool inside = std::any_of(group.begin(), group.end(), [&](const Batch& b) {
          return b.instance == static_cast<std::int32_t>(other);
        });
        if (!inside && &executable.engine(other).rank(0) == a.at) served.push_back({other, a.seconds});
      }
    for (const Batch& b : group)
      if (!b.served.empty()) seconds += own.of[static_cast<std::size_t>(b.instance)].owed();
    run.seconds = std::max({run.seconds, seconds, own.sending});
  }
  run.seconds = std::max(run.seconds, 1e-9);
  std::vector<double> stages;
  settle(run, stages);
  for (const auto& [name, seconds] : own.seconds) operator_seconds[name] += seconds * run.speed;
  run.polluted = involuntary_switches() != before;
  const Picoseconds t = to_picoseconds(Seconds(run.seconds));
  for (const Batch& b : batches) {
    ExecutedInstances::Instance& at = own.of[static_cast<std::size_t>(b.instance)];
    at.start = step.start, at.end = step.start + t;
    std::erase_if(at.served, [&](const auto& s) { return s.at < step.start; });
  }
  for (const Served& s : served) own.of[s.instance].served.push_back({step.start, s.seconds});
  // What the fullest instance computes by itself.
  const Batch& fullest = *std::max_element(
      batches.begin(), batches.end(), [](const Batch& a, const Batch& b) { return a.tokens() < b.tokens(); });
  for (const PrefillPart& p : fullest.prefill) run.work.prefill.push_back({p.new_tokens, 0, 1});
  run.work.decode_sequences = fullest.decode_sequences;
  run.work.contexts.assign(windows.size(), static_cast<double>(fullest.contexts[0]));
  run.work.sampled_rows = fullest.sampled_rows;
  steps.push_back(std::move(run));
  return {t, t};
}

Picoseconds ExecutedBackend::rearrange(std::span<const CachedPart> held, Picoseconds, Picoseconds) {
  State& s = *state_;
  std::vector<KvParts::Move> moves;
  for (std::size_t i = 0; i < held.size(); ++i) {
    if (i > 0 && held[i].request == held[i - 1].request) continue;
    for (KvParts::Move& m : s.instances->parts.arrange(held[i].request, held, -1, 0))
      moves.push_back(std::move(m));
  }
  return to_picoseconds(Seconds(std::max(1e-9, s.copy(moves))));
}

void ExecutedBackend::release(RequestId request) {
  if (state_->instances) state_->instances->parts.release(request);
}

}  // namespace foretoken
