// Experts of mixtures, and their routing.
#include "benchmarks/cuda_benchmark.h"

namespace foretoken::cuda_benchmark {
namespace {

struct Mixture {
  const char* name;
  Index hidden, inter, top_k, experts;
};
constexpr Mixture kMixtures[] = {{"mixtral-8x7b", 4096, 14336, 2, 8}, {"qwen3-30b-a3b", 2048, 768, 8, 128}};

// Which experts each row takes: alike often, or by a power law, whose busiest expert takes many times the
// mean.
std::vector<std::int32_t> choices(const Mixture& m, Index rows, bool skewed, unsigned seed) {
  std::mt19937 bits(seed);
  std::uniform_real_distribution<double> uniform(1e-12, 1);
  std::vector<std::pair<double, std::int32_t>> keys(static_cast<std::size_t>(m.experts));
  std::vector<std::int32_t> out;
  for (Index r = 0; r < rows; ++r) {
    for (Index e = 0; e < m.experts; ++e) {
      const double weight = skewed ? std::pow(static_cast<double>(e + 1), -1.2) : 1;
      // The largest of u^(1 / weight) are a weighted draw without putting back (Efraimidis and Spirakis).
      keys[static_cast<std::size_t>(e)] = {std::log(uniform(bits)) / weight, static_cast<std::int32_t>(e)};
    }
    std::partial_sort(keys.begin(), keys.begin() + m.top_k, keys.end(), std::greater<>());
    for (Index j = 0; j < m.top_k; ++j) out.push_back(keys[static_cast<std::size_t>(j)].second);
  }
  return out;
}

struct ExpertWeights {
  ExpertWeights(const Mixture& m, Storage storage) : mixture(&m) {
    const std::size_t up = kernels().packed_bytes(storage, 2 * m.inter, m.hidden),
                      down = kernels().packed_bytes(storage, m.hidden, m.inter);
    bytes = up + down;
    experts.stride = Arena::padded(up) + Arena::padded(down);
    experts.count = m.experts;
    arena = Arena(experts.stride * static_cast<std::size_t>(m.experts), memory());
    std::byte* const first = arena.bytes(arena.size());
    experts.gate_up = packed(storage, 2 * m.inter, m.hidden, first);
    experts.down = packed(storage, m.hidden, m.inter, first + Arena::padded(up));
    for (Index e = 1; e < m.experts; ++e)
      memory().copy(first + experts.stride * static_cast<std::size_t>(e), first, experts.stride);
  }
  const Mixture* mixture;
  std::size_t bytes = 0;  // of one
  Experts experts;
  Arena arena;
};

std::unique_ptr<ExpertWeights> known_experts;

// Gathering rows by expert, both products, the activation between them. quantised: what they multiply, of 8
// bits too.
void run_experts(State& state, const Mixture& m, Storage storage, Index rows, bool skewed, bool quantised) {
  auto& kept = known_experts;
  if (!kept || kept->mixture != &m || kept->experts.down.storage != storage) {
    kept.reset();
    kept = std::make_unique<ExpertWeights>(m, storage);
  }
  kept->experts.gate_up.quantised_x = kept->experts.down.quantised_x = quantised;
  constexpr int kDraws = 16;
  std::vector<Array<std::int32_t>> chosen;
  double read = 0;
  for (int i = 0; i < kDraws; ++i) {
    const auto drawn = choices(m, rows, skewed, static_cast<unsigned>(7 + i));
    std::vector<char> used(static_cast<std::size_t>(m.experts));
    for (const std::int32_t e : drawn) used[static_cast<std::size_t>(e)] = 1;
    read += static_cast<double>(std::accumulate(used.begin(), used.end(), 0)) / kDraws;
    chosen.emplace_back(drawn);
  }
  const Index pairs = rows * m.top_k;
  const Array<float> x = normal(rows * m.hidden), in(pairs * m.hidden), mid(pairs * 2 * m.inter),
                     act(pairs * m.inter), out(pairs * m.hidden);
  const Array<std::int32_t> place(pairs), order(pairs), begin(m.experts + 1);
  const Array<std::byte> scratch(static_cast<Index>(kernels().expert_scratch(kept->experts, pairs)));
  const ExpertRows to{in, mid, act, out, place, order, begin};
  const double seconds = measure(state, kDraws, [&](int i) {
    kernels().run_experts(kept->experts, {}, x, chosen[static_cast<std::size_t>(i % kDraws)], rows, m.top_k,
                          to, scratch, bench->threads);
  });
  state.counters["experts_read"] = read;
  add_bytes(state, read * static_cast<double>(kept->bytes), seconds);
  add_flops(state, 6.0 * static_cast<double>(pairs * m.inter * m.hidden), seconds);
}

void route(State& state, Index rows) {
  constexpr Index kExperts = 128, kTopK = 8;
  const Array<float> logits = normal(rows * kExperts), routed(rows * kTopK);
  const Array<std::int32_t> chosen(rows * kTopK);
  RoutingArgs args;
  args.experts = kExperts, args.top_k = kTopK;
  measure(state, kLeastLaunches, [&](int) { kernels().route(args, logits, rows, chosen, routed); });
}

}  // namespace

void register_experts() {
  for (const Mixture& m : kMixtures)
    for (const Storage storage : {Storage::kBf16, Storage::kFp8})
      for (const Index rows : {1, 8, 64, 2048, 8192})
        for (const bool skewed : {false, true}) {
          if (skewed && (rows < 64 || storage != Storage::kBf16)) continue;
          row("experts/" + std::string(m.name) + "/" + kFormats.at(storage) + number("rows", rows) +
                  (skewed ? "/power_law" : ""),
              [&m, storage, rows, skewed](State& state) {
                run_experts(state, m, storage, rows, skewed, false);
              });
        }
  for (const Mixture& m : kMixtures)
    for (const Storage storage : {Storage::kFp8, Storage::kFp8Block})
      for (const Index rows : {1, 64, 2048, 8192})
        row("quantised_experts/" + std::string(m.name) + "/" + kFormats.at(storage) + number("rows", rows),
            [&m, storage, rows](State& state) { run_experts(state, m, storage, rows, false, true); });
  for (const Index rows : {1, 64, 8192})
    row("route" + number("rows", rows), [=](State& state) { route(state, rows); });
}

void release_experts() { known_experts.reset(); }

}  // namespace foretoken::cuda_benchmark
