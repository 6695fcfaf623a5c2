// Norms and activations of every set against the reference; the operators that all share by hand.
#include <algorithm>

#include "executor/kernels_shared.h"
#include "tests/executor/drafts.h"

namespace foretoken {
namespace {

TEST_P(EverySet, Norms) {
  for (const std::int64_t width : {1, 3, 64, 129, 4096})
    for (const auto kind : {NormKind::kRms, NormKind::kLayer}) {
      if (width == 1 && kind == NormKind::kLayer) continue;  // nothing but rounding is left
      const auto x = normal(static_cast<std::size_t>(3 * (width + 1)), 1);
      const auto w = normal(static_cast<std::size_t>(width), 2),
                 b = normal(static_cast<std::size_t>(width), 3);
      for (const NormArgs& args :
           {NormArgs{kind, 1e-6f, 0, nullptr, nullptr}, NormArgs{kind, 1e-5f, 1, w.data(), b.data()}}) {
        Floats got(static_cast<std::size_t>(3 * width + 1), kPoison), expected(got);
        kernels->norm(args, x.data(), width + 1, 3, width, got.data(), width);
        reference.norm(args, x.data(), width + 1, 3, width, expected.data(), width);
        EXPECT_TRUE(std::isnan(got.back()));
        got.pop_back();
        expected.pop_back();
        EXPECT_LT(distance(got, expected), 1e-6) << width;
      }
    }
}

TEST_P(EverySet, Activations) {
  for (const auto kind : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu,
                          Activation::kReluSquared, Activation::kClampedSwiglu})
    for (const bool gated : {false, true})
      for (const std::int64_t width : {1, 21, 256}) {
        auto x = normal(static_cast<std::size_t>(3 * 2 * width), 4);
        for (auto& value : x) value = std::fabs(value) < 1.9f ? 3 * value : 60 * value;  // far tails too
        Floats got(static_cast<std::size_t>(3 * width + 1), kPoison), expected(got);
        const ActivationArgs args{kind, gated};
        kernels->activation(args, x.data(), 3, width, got.data());
        reference.activation(args, x.data(), 3, width, expected.data());
        EXPECT_TRUE(std::isnan(got.back()));
        got.pop_back();
        expected.pop_back();
        EXPECT_LE(distance(got, expected), 1e-6) << static_cast<int>(kind) << " " << width;
      }
}

double log_sum_exp(const Kernels& kernels, const float* x, std::int64_t count) {
  return dynamic_cast<const SharedKernels&>(kernels).log_sum_exp(x, count);
}

std::int32_t sample_one(const Kernels& kernels, const SamplingArgs& args, const Floats& logits,
                        double uniform) {
  const auto vocab = static_cast<std::int64_t>(logits.size());
  Memory scratch(kernels.sampling_scratch(1, vocab));
  std::int32_t token = -1;
  kernels.sample(args, logits.data(), vocab, {&uniform, 1}, &token, scratch.data());
  return token;
}

// All pairs sorted: what beams are to be selected from. Rows as many as log_probabilities.
std::vector<Continuation> every_continuation(const Kernels& kernels, const Floats& logits, std::int64_t vocab,
                                             const std::vector<double>& log_probabilities) {
  std::vector<Continuation> all;
  for (std::size_t row = 0; row < log_probabilities.size(); ++row) {
    const float* x = logits.data() + static_cast<std::int64_t>(row) * vocab;
    const double sum = log_sum_exp(kernels, x, vocab);
    for (std::int64_t t = 0; t < vocab; ++t)
      all.push_back({static_cast<std::int32_t>(row), static_cast<std::int32_t>(t),
                     std::isinf(sum) ? -INFINITY : log_probabilities[row] - sum + x[t]});
  }
  std::stable_sort(all.begin(), all.end(), [](const Continuation& a, const Continuation& b) {
    return a.log_probability > b.log_probability;
  });
  return all;
}

TEST_P(EverySet, BeamsAreTheBestOfAllPairs) {
  const float none = -std::numeric_limits<float>::infinity();
  for (const std::int64_t vocab : {1, 5, 16, 33, 257, 1000})
    for (const std::size_t rows : {1u, 2u, 4u})
      for (const bool coarse : {false, true}) {  // coarse: many equal logits
        Floats logits = normal(rows * static_cast<std::size_t>(vocab), 7);
        for (float& l : logits) {
          if (coarse) l = std::round(l);
          if (vocab > 5 && l > 2) l = none;
        }
        const std::vector<double> before = {-1.5, -1.5, -0.25, -std::numeric_limits<double>::infinity()};
        const std::vector<double> sums(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(rows));
        const auto all = every_continuation(*kernels, logits, vocab, sums);
        for (const std::size_t width : {1u, 3u, 8u}) {
          if (width > all.size()) continue;
          std::vector<Continuation> got(width + 1, {-7, -7, kPoison});
          kernels->select_beams(logits.data(), vocab, sums, std::span(got).first(width), nullptr);
          EXPECT_TRUE(std::isnan(got.back().log_probability));
          for (std::size_t i = 0; i < width; ++i) {
            EXPECT_EQ(got[i].parent, all[i].parent);
            EXPECT_EQ(got[i].token, all[i].token) << vocab << " " << i;
            EXPECT_EQ(got[i].log_probability, all[i].log_probability);
          }
        }
        // The likelihoods themselves, of rows with anything likely in them.
        for (std::size_t r = 0; r < rows; ++r) {
          const float* x = logits.data() + static_cast<std::int64_t>(r) * vocab;
          EXPECT_NEAR(log_sum_exp(*kernels, x, vocab), log_sum_exp(reference, x, vocab), 3e-6);
        }
      }
  const Floats nothing(20, none);
  EXPECT_EQ(log_sum_exp(*kernels, nothing.data(), 20), -INFINITY);
  std::vector<Continuation> got(2);
  kernels->select_beams(nothing.data(), 20, std::vector<double>{0.0}, got, nullptr);
  EXPECT_EQ(got[1].token, 1) << "nothing is likely: the lowest tokens";
}

TEST_P(EverySet, OneBeamIsTheLikeliestToken) {
  for (const std::int64_t vocab : {7, 256, 1001}) {
    const Floats logits = normal(static_cast<std::size_t>(vocab), static_cast<unsigned>(vocab));
    Continuation best;
    kernels->select_beams(logits.data(), vocab, std::vector<double>{-3.0}, {&best, 1}, nullptr);
    EXPECT_EQ(best.token, sample_one(*kernels, {}, logits, 0.5));
  }
}

// Once for all files that have tests of every set.
INSTANTIATE_TEST_SUITE_P(Sets, EverySet, testing::Values("avx512-bf16", "avx512", "avx2", "scalar"),
                         [](const auto& set) {
                           std::string name = set.param;
                           std::erase(name, '-');
                           return name;
                         });

const Kernels& plain = reference_kernels();

TEST_P(EverySet, DraftsAreAcceptedAsTheyShould) {
  int accepted = 0;
  for (unsigned seed = 0; seed < 60; ++seed)
    for (const SamplingArgs& args : {SamplingArgs{}, SamplingArgs{0.8f, 3, 0.9f}})
      for (const Kernels* set : {kernels, &reference}) {
        std::vector<Memory> scratch;
        accepted += check_verification(
            *set, seed, args, [](const Floats& x) { return x.data(); },
            [&](std::int64_t rows, std::int64_t vocab) {
              return scratch.emplace_back(set->sampling_scratch(rows, vocab)).data();
            });
      }
  EXPECT_GT(accepted, 200);
}

// A tree of two levels, cut off in one sequence; a sequence without drafts.
TEST(Operators, DraftsByHand) {
  const std::vector<std::int32_t> parents{-1, 0, 0, 1, 1, 2, 2}, starts{0, 7, 8, 12};
  const std::vector<std::int32_t> drafted{9, 1, 2, 2, 2, 0, 1, 9, 9, 2, 0, 2};
  // Chosen: 2 -> node 2, there 1 -> node 6, there anything; anything; 2 -> node 1, whose first child is not
  // it.
  const std::vector<std::int32_t> wanted{2, 0, 1, 0, 0, 0, 2, 1, 2, 1, 0, 0};
  Floats logits(3 * wanted.size(), 0.0f);
  for (std::size_t i = 0; i < wanted.size(); ++i) logits[3 * i + static_cast<std::size_t>(wanted[i])] = 1;
  const std::vector<double> uniforms(wanted.size(), 0.5);
  std::vector<std::int32_t> tokens(wanted.size()), accepted(3), path(wanted.size());
  const Kernels& set = reference_kernels();
  Memory scratch(set.sampling_scratch(12, 3));
  set.sample_and_verify({}, logits.data(), 3, uniforms, {starts, drafted, parents}, tokens.data(),
                        accepted.data(), path.data(), scratch.data());
  EXPECT_EQ(tokens, wanted);
  EXPECT_EQ(accepted, (std::vector<std::int32_t>{2, 0, 1}));
  EXPECT_EQ(path[0], 2);
  EXPECT_EQ(path[1], 6);
  EXPECT_EQ(path[8], 1);
}

TEST(Operators, NormByHand) {
  const Floats x = {3, 4}, w = {0, 1};
  Floats y(2);
  plain.norm({NormKind::kRms, 0, 1, w.data(), nullptr}, x.data(), 2, 1, 2, y.data(), 2);
  EXPECT_FLOAT_EQ(y[0], 3 / std::sqrt(12.5f));
  EXPECT_FLOAT_EQ(y[1], 8 / std::sqrt(12.5f));
}

TEST(Operators, RopeTurnsAQuarter) {
  const Floats cosines = {1, 1, 0, 1}, sines = {0, 0, 1, 0};
  const std::int32_t positions[] = {1};
  Floats halves = {9, 1, 2, 3, 4}, pairs = {9, 1, 2, 3, 4};
  plain.rope(cosines.data(), sines.data(), 2, false, positions, halves.data(), 5, 1, 5, 1);
  plain.rope(cosines.data(), sines.data(), 2, true, positions, pairs.data(), 5, 1, 5, 1);
  EXPECT_EQ(halves, (Floats{9, -3, 2, 1, 4}));
  EXPECT_EQ(pairs, (Floats{9, -2, 1, 3, 4}));
}

// Keys as they are written at their new place, but for another rounding; a factor that they have (yarn)
// stays. Moved by fewer places than there are tokens, and turned where they are.
TEST(Operators, ShiftedKeysAreThoseOfTheirNewPlace) {
  struct Shape {
    std::int64_t k_dim, v_dim, pairs, first;
    bool interleaved;
  };
  constexpr std::int64_t kHeads = 3, kFrom = 5, kTo = 2, kTokens = 10, kEnd = 16, kDistance = 3;
  constexpr float kFactor = 1.3f;
  std::vector<std::int32_t> blocks;
  for (const std::int32_t b : {4, 0, 5, 1, 3, 2}) blocks.push_back(b);
  for (const Storage storage : {Storage::kF32, Storage::kBf16, Storage::kF16, Storage::kInt8, Storage::kFp8})
    for (const Shape& s : {Shape{8, 4, 4, 0, false}, Shape{10, 3, 3, 0, true}, Shape{20, 0, 4, 12, true},
                           Shape{21, 5, 4, 12, false}, Shape{6, 6, 0, 0, false}})
      for (const std::int64_t from : {kFrom, kTo}) {
        SCOPED_TRACE(testing::Message() << static_cast<int>(storage) << ", " << s.k_dim << " from " << from);
        const Floats plain_keys = normal(kEnd * kHeads * s.k_dim, 1), values = normal(kEnd * kHeads * 7, 2);
        const auto frequency = [](std::int64_t pair) { return 0.9 / static_cast<double>(1 + 3 * pair); };
        // Turned to positions that begin at `first_position`.
        const auto turned = [&](double first_position) {
          Floats x(plain_keys);
          for (std::int64_t row = 0; row < kEnd * kHeads; ++row)
            for (std::int64_t i = 0; i < s.pairs; ++i) {
              const double angle = (first_position + static_cast<double>(row / kHeads)) * frequency(i);
              const std::int64_t at = row * s.k_dim + s.first;
              float &a = x[static_cast<std::size_t>(at + (s.interleaved ? 2 * i : i))],
                    &b = x[static_cast<std::size_t>(at + (s.interleaved ? 2 * i + 1 : i + s.pairs))];
              const double c = kFactor * std::cos(angle), sine = kFactor * std::sin(angle), was = a;
              a = static_cast<float>(was * c - b * sine);
              b = static_cast<float>(b * c + was * sine);
            }
          return x;
        };
        const std::size_t slots = 6 * 3 * kHeads, width = static_cast<std::size_t>(cache_width(storage));
        struct Cache {
          Memory keys, values;
          Floats key_scales, value_scales;
        };
        const auto fill = [&](const Floats& keys) {
          return Cache{Memory(slots * static_cast<std::size_t>(s.k_dim) * width), Memory(slots * 7 * width),
                       Floats(slots, keys.empty() ? 0.0f : 1.0f), Floats(slots, 1)};
        };
        const auto layer = [&](Cache& c) {
          return CacheLayer{storage,
                            3,
                            kHeads,
                            s.k_dim,
                            s.v_dim,
                            c.keys.data(),
                            c.values.data(),
                            of_8_bits(storage) ? c.key_scales.data() : nullptr,
                            of_8_bits(storage) ? c.value_scales.data() : nullptr};
        };
        const SequenceRows all{0, kEnd, 0, blocks.data()};
        const auto read = [&](Cache& c, Floats& v) {
          Floats k(plain_keys.size());
          v.assign(static_cast<std::size_t>(kEnd * kHeads * s.v_dim), 0.0f);
          plain.cache_read(layer(c), blocks.data(), kEnd, k.data(), v.data());
          return k;
        };
        const auto written = [&](Cache& c, const Floats& keys, Floats& v) {
          plain.cache_write(layer(c), std::span(&all, 1), keys.data(), kHeads * s.k_dim, values.data(),
                            kHeads * s.v_dim);
          return read(c, v);
        };
        Cache cache = fill(plain_keys), target = fill(plain_keys);
        Floats v_before, v_after, unused, cosines, sines;
        const Floats exact = turned(0), before = written(cache, turned(kDistance), v_before),
                     at_target = written(target, exact, unused);
        for (std::int64_t i = 0; i < s.pairs; ++i) {
          cosines.push_back(static_cast<float>(std::cos(-kDistance * frequency(i))));
          sines.push_back(static_cast<float>(std::sin(-kDistance * frequency(i))));
        }
        Threads two(2);
        plain.shift_cached(layer(cache),
                           {blocks.data(),
                            from,
                            kTo,
                            kTokens,
                            {cosines.data(), sines.data(), s.pairs, s.interleaved},
                            s.first},
                           two);
        const Floats after = read(cache, v_after);
        const auto rows = [&](const Floats& x, std::int64_t first, std::int64_t count, std::int64_t dim) {
          const auto begin = x.begin() + first * kHeads * dim;
          return Floats(begin, begin + count * kHeads * dim);
        };
        // Token `from + i` of exact's tokens, at place kTo + i.
        const Floats wanted = rows(exact, from, kTokens, s.k_dim), got = rows(after, kTo, kTokens, s.k_dim);
        const double rounding = distance(rows(at_target, from, kTokens, s.k_dim), wanted);
        EXPECT_LT(distance(got, wanted), 1.7 * rounding + 1e-6);
        if (s.pairs == 0) {
          EXPECT_EQ(got, rows(before, from, kTokens, s.k_dim));
        }
        EXPECT_EQ(rows(v_after, kTo, kTokens, s.v_dim), rows(v_before, from, kTokens, s.v_dim));
        for (const auto& [first, count] :
             {std::pair{std::int64_t{0}, kTo}, {from + kTokens, kEnd - from - kTokens}})
          EXPECT_EQ(rows(after, first, count, s.k_dim), rows(before, first, count, s.k_dim)) << "beside them";
      }
}

TEST(Operators, RouteChoosesTheBest) {
  const Floats logits = {0, 1, 1, -1};
  std::int32_t chosen[2];
  Floats weights(2);
  RoutingArgs args{4, 2};
  plain.route(args, logits.data(), 1, chosen, weights.data());
  EXPECT_EQ(chosen[0], 1);  // of equals the lower
  EXPECT_EQ(chosen[1], 2);
  EXPECT_FLOAT_EQ(weights[0], 0.5f);
  args.normalise = false;
  plain.route(args, logits.data(), 1, chosen, weights.data());
  EXPECT_FLOAT_EQ(weights[0], std::exp(1.0f) / (1 + 2 * std::exp(1.0f) + std::exp(-1.0f)));
  args.groups = 2;  // {0, 1} and {2, 3}: equal best, so the first group alone
  plain.route(args, logits.data(), 1, chosen, weights.data());
  EXPECT_EQ(chosen[0], 1);
  EXPECT_EQ(chosen[1], 0);
  const Floats correction = {0, 0, 0, 5};
  args = {4, 1, true, false, correction.data()};
  plain.route(args, logits.data(), 1, chosen, weights.data());
  EXPECT_EQ(chosen[0], 3);
}

TEST(Operators, RowsGoToExpertsAndBack) {
  const Floats x = {1, 2, 3, 4};
  const std::int32_t rows[] = {1, 0, 1}, place[] = {0, 1, 2, -1};
  Floats gathered(6), out = {10, 10, kPoison, kPoison};
  plain.gather_rows(x.data(), 2, rows, gathered.data());
  EXPECT_EQ(gathered, (Floats{3, 4, 1, 2, 3, 4}));
  const Floats weights = {2, 1, 0.5f, kPoison};
  plain.combine_rows(gathered.data(), 2, place, weights.data(), 1, 2, true, out.data());
  plain.combine_rows(gathered.data(), 2, place + 2, weights.data() + 2, 1, 2, false, out.data() + 2);
  EXPECT_EQ(out, (Floats{17, 20, 1.5f, 2}));
}

TEST(Operators, ConvolutionGoesOnWhereItStopped) {
  const Floats x = normal(10 * 3, 1), w = normal(3 * 4, 2);
  Floats state(9, 0), whole(30), cut(30), states(9, 0);
  const std::int32_t slots[] = {0};
  const SequenceRows all{0, 10, 0, nullptr}, head{0, 4, 0, nullptr}, tail{4, 6, 4, nullptr};
  plain.causal_conv(std::span(&all, 1), {state.data(), 9, slots}, x.data(), 3, 3, 4, w.data(), nullptr, false,
                    whole.data(), 3);
  EXPECT_FLOAT_EQ(whole[3], w[3] * x[3] + w[2] * x[0]);  // channel 0 of the second token
  std::fill(states.begin(), states.end(), kPoison);      // a sequence's first rows start from zeros
  plain.causal_conv(std::span(&head, 1), {states.data(), 9, slots}, x.data(), 3, 3, 4, w.data(), nullptr,
                    false, cut.data(), 3);
  plain.causal_conv(std::span(&tail, 1), {states.data(), 9, slots}, x.data(), 3, 3, 4, w.data(), nullptr,
                    false, cut.data(), 3);
  EXPECT_TRUE(same_bits(whole, cut));
}

TEST(Operators, RecurrenceByHand) {
  // S = 2 at first, halved by the decay; k 1, v 5, beta 0.5: delta rule S = 1 + 0.5 (5 - 1) = 3, else 3.5.
  const Floats one = {1}, v = {5}, decay = {std::log(0.5f)}, beta = {0.5f};
  const SequenceRows rows{0, 1, 1, nullptr};
  const std::int32_t slots[] = {0};
  Threads threads;
  for (const bool delta : {true, false}) {
    Floats state = {2}, out = {kPoison};
    plain.recurrence({1, 1, 1, delta}, std::span(&rows, 1), {state.data(), 1, slots}, one.data(), one.data(),
                     v.data(), decay.data(), beta.data(), out.data(), threads);
    EXPECT_FLOAT_EQ(out[0], delta ? 3 : 3.5f);
  }
}

TEST(Operators, BeamsByHand) {
  // Probabilities 1/2, 1/4, 1/4 after a sequence of 1/2; 3/4, 1/8, 1/8 after one of 1/4.
  const Floats logits = {std::log(2.0f), 0, 0, std::log(6.0f), 0, 0};
  const std::vector<double> before = {std::log(0.5), std::log(0.25)};
  std::vector<Continuation> best(3);
  plain.select_beams(logits.data(), 3, before, best, nullptr);
  EXPECT_EQ(best[0].parent, 0);
  EXPECT_EQ(best[0].token, 0);
  EXPECT_EQ(best[1].parent, 1);
  EXPECT_NEAR(std::exp(best[0].log_probability), 1.0 / 4, 1e-6);
  EXPECT_NEAR(std::exp(best[1].log_probability), 3.0 / 16, 1e-6);
  EXPECT_EQ(best[2].parent, 0);
  EXPECT_EQ(best[2].token, 1) << "of equals the lower";
  EXPECT_NEAR(std::exp(best[2].log_probability), 1.0 / 8, 1e-6);
}

TEST(Operators, SampleFollowsTheDistribution) {
  const Floats logits = {std::log(1.0f), std::log(2.0f), std::log(5.0f), std::log(2.0f)};
  const auto at = [&](SamplingArgs args, double u) { return sample_one(plain, args, logits, u); };
  EXPECT_EQ(at({}, 0.9), 2);
  EXPECT_EQ(at({1}, 0.49), 2);
  EXPECT_EQ(at({1}, 0.51), 1);
  EXPECT_EQ(at({1}, 0.71), 3);
  EXPECT_EQ(at({1}, 0.91), 0);
  EXPECT_EQ(at({1, 2}, 0.99), 1);
  EXPECT_EQ(at({1, 0, 0.45f}, 0.99), 2);
}

}  // namespace
}  // namespace foretoken
