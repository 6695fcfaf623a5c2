// Norms and activations of every set against the reference; the operators that all share by hand.
#include "tests/executor/kernels_testing.h"

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

FORETOKEN_EVERY_SET();

const Kernels& plain = reference_kernels();

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
  float* pointers[] = {state.data()};
  const SequenceRows all{0, 10, 0, nullptr}, head{0, 4, 0, nullptr}, tail{4, 6, 4, nullptr};
  plain.causal_conv({&all, 1}, pointers, x.data(), 3, 3, 4, w.data(), nullptr, false, whole.data(), 3);
  EXPECT_FLOAT_EQ(whole[3], w[3] * x[3] + w[2] * x[0]);  // channel 0 of the second token
  pointers[0] = states.data();
  plain.causal_conv({&head, 1}, pointers, x.data(), 3, 3, 4, w.data(), nullptr, false, cut.data(), 3);
  plain.causal_conv({&tail, 1}, pointers, x.data(), 3, 3, 4, w.data(), nullptr, false, cut.data(), 3);
  EXPECT_TRUE(same_bits(whole, cut));
}

TEST(Operators, RecurrenceByHand) {
  // S = 2 at first, halved by the decay; k 1, v 5, beta 0.5: delta rule S = 1 + 0.5 (5 - 1) = 3, else 3.5.
  const Floats one = {1}, v = {5}, decay = {std::log(0.5f)}, beta = {0.5f};
  const SequenceRows rows{0, 1, 0, nullptr};
  Threads threads;
  for (const bool delta : {true, false}) {
    Floats state = {2}, out = {kPoison};
    float* pointer = state.data();
    plain.recurrence({1, 1, 1, delta}, {&rows, 1}, {&pointer, 1}, one.data(), one.data(), v.data(),
                     decay.data(), beta.data(), out.data(), threads);
    EXPECT_FLOAT_EQ(out[0], delta ? 3 : 3.5f);
  }
}

TEST(Operators, SampleFollowsTheDistribution) {
  const Floats logits = {std::log(1.0f), std::log(2.0f), std::log(5.0f), std::log(2.0f)};
  Floats scratch(8);
  const auto at = [&](SamplingArgs args, double u) {
    return plain.sample(args, logits.data(), 4, u, scratch.data());
  };
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
