#include "executor/instance_group.h"

#include <algorithm>
#include <numeric>

#include "executor/stored_rows.h"
#include "executor/transformer_state.h"

namespace foretoken {

void Transformer::State::plan_reaching(Plan& take, PerRank& w) const {
  const std::int64_t n = layout.max_tokens;
  std::int64_t heads = 0, keys = 0, values = 0, scales = 0;  // of a row
  for (std::int64_t i = 0; i < model.num_layers; ++i) {
    const CacheLayer& c = ranks.front().cache(i);
    heads = std::max(heads, ranks.front().heads(gqa(i)->heads).count);
    keys = std::max(keys, c.heads * c.k_dim), values = std::max(values, c.heads * c.v_dim);
    if (of_8_bits(layout.cache)) scales = std::max(scales, c.heads);
  }
  take(w.lse, n, heads), take(w.part_lse, n, heads);
  take(w.part, n, widths.heads_out), take(w.visitors, n, widths.qkv);
  const std::int64_t tokens = staged_blocks() * layout.block_size, width = element_bytes(layout.cache);
  for (PerRank::Staged& s : w.staged) {
    take(s.keys, tokens, keys * width), take(s.values, tokens, values * width);
    take(s.key_scales, tokens, scales), take(s.value_scales, tokens, scales);
  }
}

// Each sequence of a step begins one.
std::int64_t Transformer::State::staged_blocks() const {
  return layout.max_tokens / layout.block_size + layout.max_sequences;
}

CacheLayer Transformer::State::staged(std::size_t r, std::int64_t layer, std::size_t which) const {
  CacheLayer c = ranks[r].cache(layer);
  const PerRank::Staged& to = work[r].staged[which];
  c.keys = to.keys, c.values = to.values;
  c.key_scales = to.key_scales, c.value_scales = to.value_scales;
  return c;
}

void InstanceGroup::begin(std::span<Transformer* const> instances) {
  instances_.assign(instances.begin(), instances.end());
  lists_.clear(), blocks_.clear();
  places_.clear(), visits_.clear(), keeps_.clear(), turns_.clear();
  asked_.resize(instances.size());
  for (auto& asked : asked_) asked.clear();
  runs_.clear(), attended_.clear();
  beyond_ = sending_ = 0;
}

InstanceGroup::Range InstanceGroup::add(const SequenceRows& row, std::int64_t tokens, const Transformer& at) {
  const std::int64_t size = at.layout().block_size;
  places_.push_back(blocks_.size());
  for (std::int64_t b = 0; b * size < tokens; ++b) blocks_.push_back(row.blocks[b]);
  lists_.push_back(row);
  return {lists_.size() - 1, 1};
}

void InstanceGroup::publish() {
  for (std::size_t i = 0; i < lists_.size(); ++i) lists_[i].blocks = blocks_.own() + places_[i];
  lists_.publish(), blocks_.publish();
}

Sequences InstanceGroup::list(Range range) const {
  return {lists_.host().subspan(range.first, range.count), lists_.own() + range.first};
}

void InstanceGroup::prefill(std::span<Transformer* const> instances, std::span<const Prompt> prompts) {
  begin(instances);
  const auto k = static_cast<std::int64_t>(instances.size());
  const std::int64_t block = instances.front()->layout().block_size;
  const auto most = static_cast<std::size_t>(instances.front()->state_->staged_blocks());
  if (counting_.size() < most) {
    counting_.resize(most);
    std::iota(counting_.begin(), counting_.end(), 0);
  }
  // Of instance c and prompt p: rows, the first of them, and where its keys wait.
  struct Stripe {
    std::int64_t rows = 0, first_row = 0, first_block = 0;
  };
  std::vector<Stripe> stripes(instances.size() * prompts.size());
  const auto stripe = [&](std::int64_t c, std::size_t p) -> Stripe& {
    return stripes[static_cast<std::size_t>(c) * prompts.size() + p];
  };
  // One instance that keeps all writes to its cache at once.
  const bool staged = k > 1 || std::any_of(prompts.begin(), prompts.end(), [&](const Prompt& p) {
                        return p.kept.size() != 1 || p.kept.front().part.at != instances.front();
                      });
  stripes_.resize(instances.size());
  for (std::int64_t c = 0; c < k; ++c) {
    auto& tokens = stripes_[static_cast<std::size_t>(c)];
    tokens.clear();
    std::int64_t blocks = 0;
    for (std::size_t p = 0; p < prompts.size(); ++p) {
      Stripe& s = stripe(c, p);
      s.first_row = static_cast<std::int64_t>(tokens.size()), s.first_block = blocks;
      for (auto t = static_cast<std::size_t>(c); t < prompts[p].tokens.size();
           t += static_cast<std::size_t>(k))
        tokens.push_back(prompts[p].tokens[t]);
      s.rows = static_cast<std::int64_t>(tokens.size()) - s.first_row;
      blocks += (s.rows + block - 1) / block;
    }
    for (std::size_t p = 0; p < prompts.size(); ++p) {
      const Stripe& s = stripe(c, p);
      if (s.rows == 0) continue;
      StepSequence asked;
      asked.tokens =
          std::span(tokens).subspan(static_cast<std::size_t>(s.first_row), static_cast<std::size_t>(s.rows));
      asked.blocks = staged ? counting_.data() + s.first_block : prompts[p].kept.front().part.blocks;
      asked.sample = (static_cast<std::int64_t>(prompts[p].tokens.size()) - 1) % k == c;
      asked.first_position = c, asked.position_step = k;
      asked_[static_cast<std::size_t>(c)].push_back(asked);
    }
  }
  // In round t instance r attends to the keys of r - t. Row i of r, which is token r + i k, sees rows up to i
  // of who comes before, and up to i - 1 of who comes after.
  for (std::int64_t round = 1; round < k; ++round)
    for (std::int64_t r = 0; r < k; ++r) {
      const std::int64_t c = (r - round + k) % k, later = c > r;
      Turn turn{round, static_cast<std::size_t>(r), static_cast<std::size_t>(c), {lists_.size(), 0}, {}};
      for (std::size_t p = 0; p < prompts.size(); ++p) {
        const Stripe &own = stripe(r, p), &other = stripe(c, p);
        if (own.rows <= later) continue;
        add({own.first_row + later, own.rows - later, 0, counting_.data() + other.first_block},
            own.rows - later, *instances.front());
        ++turn.rows.count;
      }
      turn.staged.first = lists_.size();
      for (std::size_t p = 0; p < prompts.size(); ++p) {
        const Stripe& other = stripe(c, p);
        if (other.rows == 0) continue;
        add({other.first_row, other.rows, 0, counting_.data() + other.first_block}, other.rows,
            *instances.front());
        ++turn.staged.count;
      }
      if (turn.rows.count > 0) turns_.push_back(turn);
    }
  for (std::size_t p = 0; staged && p < prompts.size(); ++p)
    for (const Kept& kept : prompts[p].kept) {
      // Which token of the sequence lies where in its part doesn't matter.
      std::int64_t place = 0;
      const auto before = [&](std::int64_t c, std::int64_t end) {
        return end > c ? (end - c + k - 1) / k : std::int64_t{0};
      };
      for (std::int64_t c = 0; c < k; ++c) {
        std::int64_t first = before(c, kept.first), count = 0;
        if (kept.step == 1)
          count = before(c, kept.first + kept.part.tokens) - first;
        else if (kept.first % k == c)
          count = kept.part.tokens;
        if (count == 0) continue;
        keeps_.push_back({static_cast<std::size_t>(c), kept.part.at,
                          add({stripe(c, p).first_row + first, count, place, kept.part.blocks},
                              kept.part.tokens, *kept.part.at)});
        place += count;
      }
    }
  run(true, staged);
}

void InstanceGroup::decode(std::span<Transformer* const> instances, std::span<const std::vector<Row>> rows) {
  begin(instances);
  for (std::size_t m = 0; m < instances.size(); ++m) {
    std::vector<Transformer*> visited;
    for (const Row& row : rows[m]) {
      const Part& own = row.parts.front();
      StepSequence asked;
      asked.tokens = {&row.token, 1};
      asked.cached = own.tokens - 1;
      asked.blocks = own.blocks;
      asked.decode = asked.sample = true;
      asked.first_position = row.position;
      asked_[m].push_back(asked);
      for (const Part& part : std::span(row.parts).subspan(1))
        if (std::find(visited.begin(), visited.end(), part.at) == visited.end()) visited.push_back(part.at);
    }
    for (Transformer* at : visited) {
      Visit visit{m, at, {lists_.size(), 0}};
      for (std::size_t i = 0; i < rows[m].size(); ++i)
        for (const Part& part : std::span(rows[m][i].parts).subspan(1)) {
          if (part.at != at) continue;
          add({static_cast<std::int64_t>(i), 1, part.tokens - 1, part.blocks}, part.tokens, *at);
          ++visit.rows.count;
        }
      visits_.push_back(visit);
    }
  }
  run(false, false);
}

void InstanceGroup::run(bool prompts, bool staged) {
  publish();
  const auto each = [&](auto f) {
    for (std::size_t i = 0; i < instances_.size(); ++i)
      if (!asked_[i].empty()) f(*instances_[i]->state_);
  };
  for (std::size_t i = 0; i < instances_.size(); ++i) {
    if (asked_[i].empty()) continue;
    State& s = *instances_[i]->state_;
    s.swaps = {};
    s.reaches = true, s.stages_prompts = staged;
    s.prepare(asked_[i]);
  }
  while (run_apart()) {
    const auto start = Clock::now();
    const State* first = nullptr;
    each([&](const State& s) { first = first ? first : &s; });
    const State::Launch launch = first->launches[first->next_launch];
    const double seconds = prompts ? attend_ring(launch.layer) : attend_visits(launch.layer);
    OperatorRun run{*launch.op, launch.layer, launch.stage, seconds, seconds_since(start)};
    run.op.count = 1;
    runs_.push_back(run);
  }
  each([](State& s) {
    s.finish();
    s.reaches = s.stages_prompts = false;
  });
  logits_.assign(instances_.size(), {});
  for (std::size_t i = 0; i < instances_.size(); ++i) {
    if (asked_[i].empty()) continue;
    const State& s = *instances_[i]->state_;
    logits_[i] = {s.logits, s.logit_rows * static_cast<std::size_t>(s.model.vocab)};
  }
}

// Each instance up to its attention, or the end; they would do so side by side.
bool InstanceGroup::run_apart() {
  const State* slowest = nullptr;
  double longest = -1, all = 0;
  bool more = false;
  for (std::size_t i = 0; i < instances_.size(); ++i) {
    if (asked_[i].empty()) continue;
    State& s = *instances_[i]->state_;
    const double seconds = timed(s, [&] { more |= s.run_to_exchange(); });
    all += seconds;
    if (seconds > longest) longest = seconds, slowest = &s;
  }
  runs_.insert(runs_.end(), slowest->runs.begin(), slowest->runs.end());
  beyond_ += all - longest;
  return more;
}

// Seconds of the slowest rank; what ran one rank after another besides stands in the operators.
template <class F>
double InstanceGroup::timed(State& s, F&& run) {
  s.runs.clear(), s.timed.clear();
  s.stopwatch->restart();
  const auto start = Clock::now();
  run();
  kernels_.memory().wait();
  double seconds = seconds_since(start);
  s.read_times();
  for (const OperatorRun& o : s.runs) seconds -= o.all_seconds - o.seconds;
  return seconds;
}

// Seconds of the slowest of `count` ranks.
template <class F>
double InstanceGroup::slowest_rank(std::size_t count, F&& run) {
  double slowest = 0;
  for (std::size_t r = 0; r < count; ++r) {
    const auto start = Clock::now();
    run(r);
    kernels_.memory().wait();
    slowest = std::max(slowest, seconds_since(start));
  }
  return slowest;
}

double InstanceGroup::attend_own(State& s) {
  return timed(s, [&] {
    for (; s.next_launch < s.launches.size() && s.launches[s.next_launch].op->name == "attention";
         ++s.next_launch)
      s.run(s.launches[s.next_launch]);
  });
}

// Writes rows of `from` to `to`'s cache, or to where keys of others wait there.
double InstanceGroup::write(State& to, bool staged, const State& from, int layer, Range rows) {
  const GqaAttention& a = *from.gqa(layer);
  return slowest_rank(to.ranks.size(), [&](std::size_t r) {
    const Rank& rank = to.ranks[r];
    const QkvRow row(a, rank.heads(a.heads).count, rank.kv_heads(a.kv_heads).count);
    const float* const qkv = from.work[r].qkv;
    kernels_.cache_write(staged ? to.staged(r, layer, 1) : rank.cache(layer), list(rows), qkv + row.k_at,
                         row.width, qkv + row.v_at, row.width);
  });
}

double InstanceGroup::attend_ring(int layer) {
  const std::size_t k = instances_.size();
  std::vector<std::vector<double>> attends(k, std::vector<double>(k)),
      receives = attends;  // [round][instance]
  for (std::size_t i = 0; i < k; ++i)
    if (!asked_[i].empty()) attends[0][i] = attend_own(*instances_[i]->state_);
  for (const Turn& turn : turns_) {
    State& own = *instances_[turn.at]->state_;
    const auto round = static_cast<std::size_t>(turn.round);
    receives[round][turn.at] = write(own, true, *instances_[turn.from]->state_, layer, turn.staged);
    const GqaAttention& a = *own.gqa(layer);
    attends[round][turn.at] += slowest_rank(own.ranks.size(), [&](std::size_t r) {
      const Rank& rank = own.ranks[r];
      const State::PerRank& w = own.work[r];
      const std::int64_t heads = rank.heads(a.heads).count;
      const QkvRow row(a, heads, rank.kv_heads(a.kv_heads).count);
      AttentionArgs args = own.attention_args(layer, rank, heads);
      args.sinks = nullptr;  // once, with its own keys
      args.lse = w.part_lse;
      const std::int64_t width = heads * a.v_head_dim;
      kernels_.attention(args, own.staged(r, layer, 1), list(turn.rows), w.qkv, row.width, w.part, width,
                         own.scratch, own.threads);
      args.lse = w.lse;
      kernels_.merge_attention(args, list(turn.rows), w.part, width, w.part_lse, w.heads_out, width);
    });
  }
  for (const Keep& keep : keeps_) {
    const double seconds = write(*keep.at->state_, false, *instances_[keep.from]->state_, layer, keep.rows);
    const auto at = static_cast<std::size_t>(std::find(instances_.begin(), instances_.end(), keep.at) -
                                             instances_.begin());
    if (at == k)
      sending_ += seconds;
    else
      attends[(at + k - keep.from) % k][at] += seconds;
  }
  double seconds = 0;
  for (std::size_t round = 0; round < k; ++round) {
    double slowest = *std::max_element(attends[round].begin(), attends[round].end());
    if (round + 1 < k)
      slowest = std::max(slowest, *std::max_element(receives[round + 1].begin(), receives[round + 1].end()));
    seconds += slowest;
  }
  return seconds;
}

double InstanceGroup::attend_visits(int layer) {
  std::vector<Attended> busy;
  const auto of = [](std::vector<Attended>& all, const Transformer* at) -> double& {
    for (Attended& a : all)
      if (a.at == at) return a.seconds;
    return all.emplace_back(Attended{at, 0}).seconds;
  };
  std::vector<double> merges(instances_.size());
  for (std::size_t i = 0; i < instances_.size(); ++i)
    if (!asked_[i].empty()) of(busy, instances_[i]) += attend_own(*instances_[i]->state_);
  for (const Visit& visit : visits_) {
    State &master = *instances_[visit.from]->state_, &host = *visit.at->state_;
    const GqaAttention& a = *host.gqa(layer);
    const auto with = [&](auto f) {
      return slowest_rank(host.ranks.size(), [&](std::size_t r) {
        const Rank& rank = host.ranks[r];
        const std::int64_t heads = rank.heads(a.heads).count;
        AttentionArgs args = host.attention_args(layer, rank, heads);
        args.sinks = nullptr;  // once, at the master
        f(r, rank, args, QkvRow(a, heads, rank.kv_heads(a.kv_heads).count));
      });
    };
    const double sent = with([&](std::size_t r, const Rank&, const AttentionArgs&, const QkvRow& row) {
      kernels_.copy_rows(master.work[r].qkv, row.width, master.rows, row.k_at, host.work[r].visitors,
                         row.k_at);
    });
    const double attended = with([&](std::size_t r, const Rank& rank, AttentionArgs args, const QkvRow& row) {
      args.lse = host.work[r].part_lse;
      kernels_.attention(args, rank.cache(layer), list(visit.rows), host.work[r].visitors, row.k_at,
                         host.work[r].part, args.heads * args.v_dim, host.scratch, host.threads);
    });
    merges[visit.from] += with([&](std::size_t r, const Rank&, AttentionArgs args, const QkvRow&) {
      args.lse = master.work[r].lse;
      const std::int64_t width = args.heads * args.v_dim;
      kernels_.merge_attention(args, list(visit.rows), host.work[r].part, width, host.work[r].part_lse,
                               master.work[r].heads_out, width);
    });
    of(busy, visit.at) += sent + attended;
    of(attended_, visit.at) += attended;
  }
  double slowest = 0;
  for (const Attended& b : busy) slowest = std::max(slowest, b.seconds);
  return slowest + *std::max_element(merges.begin(), merges.end());
}

}  // namespace foretoken
