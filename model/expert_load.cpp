// Popularity, copies and placement of experts (see the header).
#include "model/expert_load.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include "base/random.h"

namespace foretoken {
namespace {

// Orders of experts that stand for those of the layers.
constexpr std::uint64_t kLayers = 16;
constexpr std::uint64_t kOrderStream = 0x65787065;

// Each further slot is a copy of the expert whose copies have most to do. Chances of the slots.
std::vector<double> with_copies(const std::vector<double>& chances, std::int64_t redundant) {
  std::vector<double> copies(chances.size(), 1);
  for (std::int64_t i = 0; i < redundant; ++i) {
    std::size_t busiest = 0;
    for (std::size_t e = 1; e < chances.size(); ++e)
      if (chances[e] / copies[e] > chances[busiest] / copies[busiest]) busiest = e;
    ++copies[busiest];
  }
  std::vector<double> slots;
  for (std::size_t e = 0; e < chances.size(); ++e)
    slots.insert(slots.end(), static_cast<std::size_t>(copies[e]), chances[e] / copies[e]);
  return slots;
}

// Busiest slot first, each to the emptiest rank that has a place. Slots of rank r: [r * each, (r + 1) *
// each).
std::vector<double> packed(std::vector<double> slots, std::size_t ranks) {
  std::stable_sort(slots.begin(), slots.end(), std::greater<>());
  const std::size_t each = slots.size() / ranks;
  std::vector<double> placed(slots.size()), load(ranks);
  std::vector<std::size_t> filled(ranks);
  for (const double slot : slots) {
    std::size_t to = ranks;
    for (std::size_t r = 0; r < ranks; ++r)
      if (filled[r] < each && (to == ranks || load[r] < load[to])) to = r;
    placed[to * each + filled[to]++] = slot;
    load[to] += slot;
  }
  return placed;
}

void shuffle(std::vector<double>& slots, std::uint64_t layer) {
  CounterRandom random(0, kOrderStream, layer);
  for (std::size_t i = slots.size(); i > 1; --i)
    std::swap(slots[i - 1],
              slots[static_cast<std::size_t>(random.uniform_int(0, static_cast<std::int64_t>(i) - 1))]);
}

}  // namespace

std::vector<double> expert_chances(std::int64_t experts, std::int64_t top_k, double exponent) {
  std::vector<double> weights(static_cast<std::size_t>(experts));
  for (std::size_t r = 0; r < weights.size(); ++r)
    weights[r] = exact_exp(-exponent * exact_log(static_cast<double>(r + 1)));
  // The first `certain` experts are in every token's choice; the others share what is left of it.
  std::vector<double> chances(weights.size(), 1);
  double rest = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::size_t certain = 0;
  const auto left = [&] { return static_cast<double>(top_k) - static_cast<double>(certain); };
  while (left() > 0 && weights[certain] * left() >= rest) rest -= weights[certain++];
  for (std::size_t r = certain; r < weights.size(); ++r)
    chances[r] = left() > 0 ? std::min(1.0, weights[r] * left() / rest) : 0;
  return chances;
}

ExpertLoad::ExpertLoad(std::int64_t experts, std::int64_t top_k, std::int64_t ranks, const ExpertSkew& skew) {
  const std::vector<double> chances = expert_chances(experts, top_k, skew.exponent);
  const std::vector<double> slots = with_copies(chances, skew.redundant);
  const std::size_t each = slots.size() / static_cast<std::size_t>(ranks);
  const double mean = static_cast<double>(top_k) / static_cast<double>(ranks);
  // A packing knows no order, and on one rank there is none.
  layers_ = skew.balanced || ranks == 1 ? 1 : static_cast<double>(kLayers);
  double sum = 0;
  for (std::uint64_t layer = 0; layer < static_cast<std::uint64_t>(layers_); ++layer) {
    std::vector<double> placed = slots;
    if (skew.balanced)
      placed = packed(std::move(placed), static_cast<std::size_t>(ranks));
    else
      shuffle(placed, layer);
    std::span<const double> fullest;
    double most = -1;
    for (std::size_t first = 0; first < placed.size(); first += each) {
      const std::span<const double> rank = std::span(placed).subspan(first, each);
      const double load = std::accumulate(rank.begin(), rank.end(), 0.0);
      if (load > most) most = load, fullest = rank;
    }
    sum += most / mean;
    for (const double chance : fullest) misses_.push_back(std::log1p(-chance));
  }
  fullest_rank_ = std::max(1.0, sum / layers_);
}

double ExpertLoad::distinct(double tokens) const {
  if (tokens <= 0) return 0;
  double hit = 0;
  for (const double miss : misses_) hit -= std::expm1(tokens * miss);
  return hit / layers_;
}

}  // namespace foretoken
