#include "executor/replica.h"

#include <algorithm>
#include <numeric>

#include "executor/transformer_state.h"

namespace foretoken {
Replica::Replica(const ModelConfig& model, const Numerics& numerics, const Checkpoint& checkpoint,
                 const Kernels& kernels, const Layout& layout, const Precision& precision, Threads& threads,
                 const AdapterSource* adapters)
    : Replica(layout, model, kernels) {
  for (int g = 0; g < layout.data_parallel; ++g) {
    Layout of_rank = layout;
    of_rank.group = g;
    ranks_.push_back(std::make_unique<Transformer>(model, numerics, checkpoint, kernels, of_rank, precision,
                                                   threads, adapters));
  }
  allocate();
}

std::unique_ptr<Replica> Replica::twin(const Layout& layout) const {
  auto other = std::unique_ptr<Replica>(new Replica(layout, model_, kernels_));
  for (int g = 0; g < layout.data_parallel; ++g) {
    Layout of_rank = layout;
    of_rank.group = g;
    other->ranks_.push_back(ranks_[static_cast<std::size_t>(g)]->twin(of_rank));
  }
  other->allocate();
  return other;
}

Replica::Exchanged::Exchanged(const ModelConfig& model, const Layout& layout) {
  const Widths widths(model, layout.ranks);
  if (layout.data_parallel == 1 || widths.experts == 0) return;
  const std::int64_t rows = layout.max_tokens * layout.data_parallel;
  hidden = count_of(rows, model.hidden), routed = count_of(rows, widths.experts),
  chosen = count_of(rows, widths.top_k), pairs = chosen * static_cast<std::size_t>(model.hidden);
}

std::size_t Replica::Exchanged::bytes() const {
  return Arena::padded(hidden * sizeof(float)) + Arena::padded(routed * sizeof(float)) +
         Arena::padded(pairs * sizeof(float)) + Arena::padded(chosen * sizeof(std::int32_t));
}

Transformer::Bytes Replica::bytes_needed(const ModelConfig& model, const Numerics& numerics,
                                         const Checkpoint& checkpoint, const Kernels& kernels, Layout layout,
                                         Threads& threads) {
  Transformer::Bytes all;
  all.workspace = Exchanged(model, layout).bytes();
  for (layout.group = 0; layout.group < layout.data_parallel; ++layout.group) {
    const Transformer::Bytes rank =
        Transformer::bytes_needed(model, numerics, checkpoint, kernels, layout, threads);
    all.weights += rank.weights, all.cache += rank.cache, all.workspace += rank.workspace;
  }
  return all;
}

void Replica::allocate() {
  const Exchanged e(model_, layout_);
  if (e.hidden == 0) return;
  const KernelMemory& memory = kernels_.memory();
  memory_ = Arena(e.bytes(), memory);
  rows_ = memory_.array<float>(e.hidden), routed_ = memory_.array<float>(e.routed);
  pairs_ = memory_.array<float>(e.pairs), order_ = memory_.array<std::int32_t>(e.chosen);
  std::vector<std::int32_t> order(e.chosen);
  std::iota(order.begin(), order.end(), 0);
  memory.copy(order_, order.data(), e.chosen * sizeof(std::int32_t));
}

void Replica::step(std::span<const std::vector<StepSequence>> ranks,
                   std::span<const Transformer::Swaps> swaps) {
  std::int64_t all = 0;
  for (const auto& sequences : ranks)
    for (const StepSequence& s : sequences) all += static_cast<std::int64_t>(s.tokens.size());
  for (std::size_t g = 0; g < ranks_.size(); ++g) {
    ranks_[g]->state_->swaps = swaps.empty() ? Transformer::Swaps{} : swaps[g];
    ranks_[g]->state_->prepare(ranks[g], ranks_.size() > 1 ? all : 0);
  }
  if (ranks_.size() == 1) return ranks_.front()->state_->execute();
  runs_.clear();
  for (bool more = true; more;) {
    run_apart();
    const auto waits = [](const auto& t) {
      const Transformer::State& s = *t->state_;
      return s.next_launch < s.launches.size();
    };
    more = std::any_of(ranks_.begin(), ranks_.end(), waits);
    if (more) exchange();
  }
  for (const auto& rank : ranks_) rank->state_->finish();
}

// Each rank up to the exchange; they would do so side by side, so the slowest one counts.
void Replica::run_apart() {
  const Transformer::State* slowest = nullptr;
  double longest = -1, all = 0;
  for (const auto& rank : ranks_) {
    Transformer::State& s = *rank->state_;
    s.runs.clear(), s.timed.clear();
    s.stopwatch->restart();
    s.run_to_exchange();
    s.kernels.memory().wait();
    s.read_times();
    double seconds = 0;
    for (const OperatorRun& o : s.runs) seconds += o.seconds, all += o.all_seconds;
    if (seconds > longest) longest = seconds, slowest = &s;
  }
  if (slowest->runs.empty()) return;
  for (const OperatorRun& o : slowest->runs) {
    runs_.push_back(o);
    all -= o.all_seconds;
  }
  runs_.back().all_seconds += all;
}

// Every rank gets the rows of all, multiplies them with its experts, and what comes of each pair of row and
// choice goes back to where the row lives, which adds its choices up in their order: as one rank alone would.
void Replica::exchange() {
  const auto waiting = std::find_if(ranks_.begin(), ranks_.end(), [](const auto& t) {
    return t->state_->next_launch < t->state_->launches.size();
  });
  const Transformer::State& first = *(*waiting)->state_;
  const Transformer::State::Launch* launches = &first.launches[first.next_launch];
  const int layer = launches->layer;
  const auto& e = std::get<MoeMlp>(first.kind_of(layer).mlp);
  const auto record = [&](std::size_t i, double seconds, double all_seconds) {
    OperatorRun run{*launches[i].op, layer, launches[i].stage, seconds, all_seconds};
    run.op.count = 1;
    runs_.push_back(run);
  };

  const KernelMemory& memory = kernels_.memory();
  const std::int64_t hidden = model_.hidden;
  auto start = Clock::now();
  std::int64_t total = 0;
  for (const auto& rank : ranks_) {
    const Transformer::State& s = *rank->state_;
    kernels_.copy_rows(s.normed, hidden, s.rows, hidden, rows_ + count_of(total, hidden), hidden);
    kernels_.copy_rows(s.router_logits, e.experts, s.rows, e.experts, routed_ + count_of(total, e.experts),
                       e.experts);
    total += s.rows;
  }
  memory.wait();
  double seconds = seconds_since(start);
  record(0, seconds, seconds);

  // Ranks that share experts add up what they compute of each pair, others hold pairs of their own.
  const bool shares = layout_.moe_tensor_parallel > 1;
  if (shares) memory.clear(pairs_, count_of(total * e.top_k, hidden) * sizeof(float));
  double slowest = 0, all = 0;
  for (const auto& rank : ranks_) {
    Transformer::State& s = *rank->state_;
    for (const Rank& r : s.ranks) {
      start = Clock::now();
      s.multiply_experts(layer, r, rows_, routed_, total);
      kernels_.place_rows(s.moe_out, hidden, s.place, total * e.top_k, shares, pairs_);
      memory.wait();
      seconds = seconds_since(start);
      slowest = std::max(slowest, seconds);
      all += seconds;
    }
  }
  record(1, slowest, all);

  start = Clock::now();
  const float* weights = ranks_.front()->state_->routing_weights;  // routed alike everywhere
  std::int64_t at = 0;
  for (const auto& rank : ranks_) {
    Transformer::State& s = *rank->state_;
    if (s.rows == 0) continue;
    kernels_.combine_rows(pairs_ + count_of(at * e.top_k, hidden), hidden, order_, weights + at * e.top_k,
                          s.rows, e.top_k, false, s.work.front().partial);
    for (std::size_t r = 1; r < s.work.size(); ++r)
      memory.clear(s.work[r].partial, count_of(s.rows, hidden) * sizeof(float));
    s.pending = true;
    s.next_launch += 3;
    at += s.rows;
  }
  memory.wait();
  seconds = seconds_since(start);
  record(2, seconds, seconds);
}

std::span<const float> Replica::logits(std::size_t rank) const {
  const Transformer::State& s = *ranks_[rank]->state_;
  return {s.logits, s.logit_rows * static_cast<std::size_t>(s.model.vocab)};
}

std::span<const OperatorRun> Replica::operators_run() const {
  return ranks_.size() == 1 ? ranks_.front()->operators_run() : std::span<const OperatorRun>(runs_);
}

}  // namespace foretoken
