// Prices of steps of elastic instances: a prompt's tokens are striped over the instances of its group, whose
// keys and values go round a ring (Liu et al. 2023, Brandon et al. 2023); in decode the masters send their
// queries to all others and get partial results back (Wu et al. 2024).
#include "simulator/elastic_prices.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "simulator/instance_links.h"
#include "simulator/predicted_backend.h"

namespace foretoken {
namespace {

bool spans_nodes(const Deployment& d, std::span<const Batch> group) {
  return std::any_of(group.begin(), group.end(),
                     [&](const Batch& b) { return crosses_nodes(d, b.instance, group.front().instance); });
}

}  // namespace

// The first instance has the most tokens. In each of k rounds it attends from its tokens to a k-th of the
// keys and values, which is causal like a prompt of as many tokens since they are striped; meanwhile it sends
// what it has just used on, but for the last round.
PricedPart PredictedBackend::price_ring_prefill(const Deployment& d, StageModel& stage,
                                                std::span<const Batch> group) {
  std::int64_t rows = 0, sampled = 0;
  for (const Batch& b : group) {
    rows = std::max(rows, b.tokens());
    sampled = std::max<std::int64_t>(sampled, b.sampled_rows);
  }
  PricedPart sum = stage.tokens(rows), round;
  sum += stage.group(rows);
  if (sampled > 0) sum += stage.sampled(sampled);
  for (const PrefillPart& p : group.front().prefill) round += stage.prefill(p.new_tokens, 0, false);
  const auto k = static_cast<std::int64_t>(group.size());
  sum.add(round, k);
  if (k == 1) return sum;
  const Picoseconds send =
      send_time(d, static_cast<double>(rows) * kv_bytes_of_layer(d), spans_nodes(d, group));
  if (send > round.time) sum += link_part((k - 1) * (send - round.time));
  return sum;
}

// Masters compute their own sequences; every instance attends for all sequences that it holds tokens of. Who
// attends for another master begins when the queries are there and is done when the results are back.
void PredictedBackend::price_group_decode(const Deployment& d, StageModel& stage,
                                          std::span<const Batch> group, std::int64_t max_steps,
                                          std::vector<StagePrice>& prices) {
  std::int64_t rows = 0, all = 0;
  for (const Batch& b : group) {
    rows = std::max<std::int64_t>(rows, b.decode_sequences);
    all += b.decode_sequences;
  }
  PricedPart linear = stage.tokens(padded_rows(rows, true, d));
  linear += stage.group(padded_rows(rows, true, d));
  linear += stage.sampled(rows);
  PricedPart exchange;
  if (group.size() > 1) {
    // The busiest port: a master's towards all others, or that of who gets queries from all masters.
    const auto others = static_cast<std::int64_t>(group.size()) - 1;
    std::int64_t most = rows * others;
    for (const Batch& b : group) most = std::max<std::int64_t>(most, all - b.decode_sequences);
    const bool network = spans_nodes(d, group);
    exchange = link_part(query_exchange(d, most, network));
  }
  for (const Batch& b : group) {
    StagePrice p;
    p.first = linear;
    p.steps = max_steps;
    if (b.attended > 0) {
      const ContextPiece& piece = stage.decode(0, b.attended, b.contexts[0], false);
      PricedPart part = piece.base;
      const std::size_t main = part.main_basis();
      const Picoseconds more = piece.slope * (b.contexts[0] - piece.from);
      part.time += more;
      part.by_basis[main] += more;
      p.first += part;
      if (b.growing[0] > 0) {
        p.rise[main] = piece.slope * b.growing[0];
        p.steps = std::min(p.steps, (piece.to - b.contexts[0] + b.growing[0] - 1) / b.growing[0]);
      }
    }
    if (all > b.decode_sequences) p.first += exchange;
    prices.push_back(p);
  }
}

SpanTime PredictedBackend::run_groups(const Step& step, std::int64_t max_steps) {
  Pool& pool = pool_of(step);
  const Deployment& d = *pool.deployment;
  StageModel& stage = pool.stages.front();
  std::vector<StagePrice>& prices = rank_prices_;
  prices.clear();
  std::int64_t sequences = 0, rows = 0;
  Picoseconds floor = 0;
  bool decodes = true;
  for (std::size_t i = 0, end = 0; i < step.ranks.size(); i = end) {
    for (end = i; end < step.ranks.size() && step.ranks[end].group == step.ranks[i].group; ++end) {
      const Batch& b = step.ranks[end];
      rows = std::max(rows, b.tokens());
      sequences += b.decode_sequences;
      if (!b.prefill.empty()) decodes = false;
    }
    const auto group = step.ranks.subspan(i, end - i);
    if (!group.front().prefill.empty()) {
      sequences += static_cast<std::int64_t>(group.front().prefill.size());
      StagePrice p;
      p.first = price_ring_prefill(d, stage, group);
      p.steps = 1;
      floor = std::max(floor, p.first.time);
      prices.push_back(p);
    } else {
      price_group_decode(d, stage, group, max_steps, prices);
      std::int64_t most = 1;
      for (const Batch& b : group) most = std::max<std::int64_t>(most, b.decode_sequences);
      floor = std::max(floor, stage.tokens(padded_rows(most, true, d)).time);
    }
  }
  const StagePrice best = slowest(prices);
  const Picoseconds host = exposed_host(d, sequences, rows, decodes, stage.kernels_per_step(), floor);
  const SpanTime span{std::max<std::int64_t>(1, best.steps), scaled(best.first.time + host),
                      scaled(best.increment())};
  book(step, best, host, span);
  return span;
}

void PredictedBackend::cut(std::int32_t engine, std::int64_t steps) {
  pending_[static_cast<std::size_t>(engine)].span.steps = steps;
}

void profile_elastic(const Deployment& d, const CostModel& cost, LoongserveConfig& config) {
  PredictedBackend backend(d, std::span(&cost, 1));
  const double per_token = kv_bytes_of_layer(d);
  constexpr std::int64_t kMany = 1'000'000;
  config.move_per_token = send_time(d, per_token * static_cast<double>(kMany), false) / kMany;
  config.prefill_model.clear();
  const std::int64_t held = (d.scheduler.num_blocks - 1) * d.scheduler.block_size;
  for (std::int32_t k = 1; k <= d.mapping.replicas; ++k) {
    // Normal equations of sum over prompts of ((a + b l + c l^2) / t - 1)^2.
    std::array<std::array<long double, 4>, 3> m{};
    const std::int64_t longest = std::max<std::int64_t>(512, std::min(d.scheduler.max_model_len, held * k));
    for (std::int64_t length = 128; length <= longest; length *= 2) {
      std::vector<Batch> batches(static_cast<std::size_t>(k));
      std::vector<PrefillPart> parts(batches.size());
      for (std::int32_t r = 0; r < k; ++r) {
        const auto i = static_cast<std::size_t>(r);
        parts[i].new_tokens = static_cast<std::int32_t>((length - r + k - 1) / k);
        parts[i].last = (length - 1) % k == r;
        batches[i].prefill = {&parts[i], 1};
        batches[i].sampled_rows = parts[i].last;
        batches[i].instance = r;
      }
      const long double time = to_ms(backend.run({0, 0, batches}).tokens_out);
      const std::array<long double, 3> x{1 / time, length / time, length / time * length};
      for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t j = 0; j < 3; ++j) m[i][j] += x[i] * x[j];
        m[i][3] += x[i];
      }
    }
    for (std::size_t i = 0; i < 3; ++i)
      for (std::size_t row = 0; row < 3; ++row) {
        if (row == i) continue;
        const long double f = m[row][i] / m[i][i];
        for (std::size_t j = i; j < 4; ++j) m[row][j] -= f * m[i][j];
      }
    auto& fitted = config.prefill_model.emplace_back();
    for (std::size_t i = 0; i < 3; ++i) fitted[i] = static_cast<double>(m[i][3] / m[i][i]);
  }
}

}  // namespace foretoken
