// Routing, sampling, likeliest tokens and beams of the device's set against the reference.
#include <algorithm>
#include <memory>
#include <set>

#include "tests/cuda/on_device.h"
#include "tests/executor/drafts.h"

#ifdef FORETOKEN_EMULATED
#include "executor/cuda/device.cuh"
#include "executor/cuda/launch.h"
#include "executor/cuda/order.cuh"
#endif

namespace foretoken {
namespace {

const Kernels& plain = reference_kernels();
constexpr float kNone = -std::numeric_limits<float>::infinity();

// Runs the check in every order of threads and blocks.
template <class F>
void in_every_order(F check) {
#ifdef FORETOKEN_EMULATED
  using cuda::emulation::Order;
  auto& settings = cuda::emulation::settings();
  const auto before = settings;
  for (const Order order : {Order::kForward, Order::kReverse, Order::kShuffled}) {
    SCOPED_TRACE(static_cast<int>(order));
    settings.threads = settings.blocks = order;
    check();
  }
  settings = before;
#else
  check();
#endif
}

// Scratch of exactly the size that is asked for, with a guard behind it.
class Scratch {
 public:
  Scratch(std::int64_t rows, std::int64_t vocab)
      : bytes_(cuda_set().sampling_scratch(rows, vocab)), memory_(bytes_ + kGuard, 0x5a) {}
  ~Scratch() {
    const auto after = memory_.back();
    for (std::size_t i = bytes_; i < after.size(); ++i)
      EXPECT_EQ(after[i], 0x5a) << "beyond scratch: " << i - bytes_;
  }
  std::byte* data() const { return reinterpret_cast<std::byte*>(memory_.data()); }

 private:
  static constexpr std::size_t kGuard = 512;
  std::size_t bytes_;
  OnDevice<std::uint8_t> memory_;
};

// Rows that begin anywhere: `skipped` floats before the first.
class Logits {
 public:
  Logits(const Floats& values, std::int64_t vocab, std::size_t skipped = 0)
      : values_(values), vocab_(vocab), skipped_(skipped), device_(shifted(values, skipped)) {}
  std::int64_t vocab() const { return vocab_; }
  std::int64_t rows() const { return static_cast<std::int64_t>(values_.size()) / vocab_; }
  const float* host() const { return values_.data(); }
  const float* row(std::int64_t r) const { return values_.data() + r * vocab_; }
  const float* device() const { return device_.data() + skipped_; }

 private:
  static Floats shifted(const Floats& values, std::size_t by) {
    Floats all(by, 1e9f);  // what is read by mistake would be chosen
    all.insert(all.end(), values.begin(), values.end());
    all.insert(all.end(), 8, 1e9f);
    return all;
  }
  Floats values_;
  std::int64_t vocab_;
  std::size_t skipped_;
  OnDevice<float> device_;
};

Floats random_logits(std::int64_t rows, std::int64_t vocab, unsigned seed, bool coarse = false,
                     float spread = 2) {
  Floats x = normal(static_cast<std::size_t>(rows * vocab), seed);
  for (float& v : x) {
    v *= spread;
    if (coarse) v = std::round(v);
    if (v > 3.4f * spread) v = kNone;
  }
  return x;
}

std::vector<double> random_uniforms(std::size_t count, unsigned seed) {
  std::mt19937_64 bits(seed);
  std::vector<double> u(count);
  for (double& v : u) v = (static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53;
  return u;
}

std::int32_t plain_sample(const SamplingArgs& args, const float* logits, std::int64_t vocab, double uniform) {
  Memory scratch(plain.sampling_scratch(1, vocab));
  std::int32_t token = -1;
  uniform = std::clamp(uniform, 1e-300, 1 - 0x1p-53);
  plain.sample(args, logits, vocab, {&uniform, 1}, &token, scratch.data());
  return token;
}

// The reference's token, but where a change of a millionth makes it another.
bool agrees(const SamplingArgs& args, const float* logits, std::int64_t vocab, double uniform,
            std::int32_t token) {
  if (plain_sample(args, logits, vocab, uniform) == token) return true;
  for (const double u : {uniform - 1e-6, uniform, uniform + 1e-6})
    for (const float p : {args.top_p - 1e-6f, args.top_p, args.top_p + 1e-6f}) {
      SamplingArgs near = args;
      if (args.top_p < 1) near.top_p = p;
      if (plain_sample(near, logits, vocab, u) == token) return true;
    }
  return false;
}

std::vector<std::int32_t> sample(const SamplingArgs& args, const Logits& logits,
                                 const std::vector<double>& uniforms) {
  const Scratch scratch(logits.rows(), logits.vocab());
  std::vector<std::int32_t> tokens(uniforms.size() + 1, -7);
  cuda_set().sample(args, logits.device(), logits.vocab(), uniforms, tokens.data(), scratch.data());
  EXPECT_EQ(tokens.back(), -7);
  tokens.pop_back();
  return tokens;
}

void check_sampling(const SamplingArgs& args, const Logits& logits, unsigned seed) {
  const auto uniforms = random_uniforms(static_cast<std::size_t>(logits.rows()), seed);
  const auto tokens = sample(args, logits, uniforms);
  for (std::size_t r = 0; r < tokens.size(); ++r)
    EXPECT_TRUE(
        agrees(args, logits.row(static_cast<std::int64_t>(r)), logits.vocab(), uniforms[r], tokens[r]))
        << "vocab " << logits.vocab() << " row " << r << " T " << args.temperature << " k " << args.top_k
        << " p " << args.top_p << ": " << tokens[r] << ", not "
        << plain_sample(args, logits.row(static_cast<std::int64_t>(r)), logits.vocab(), uniforms[r]);
}

TEST(CudaSampling, NoRows) {
  std::int32_t token = -7;
  cuda_set().sample({}, nullptr, 10, {}, &token, nullptr);
  cuda_set().best_tokens(nullptr, 0, 10, 3, &token, nullptr);
  cuda_set().best_tokens(nullptr, 3, 10, 0, &token, nullptr);
  std::vector<Continuation> none;
  cuda_set().select_beams(nullptr, 10, std::vector<double>{0.0}, none, nullptr);
  cuda_set().route({8, 2}, nullptr, 0, &token, nullptr);
  EXPECT_EQ(token, -7);
}

TEST(CudaSampling, GreedyTakesTheLargest) {
  for (const std::int64_t vocab : {1, 2, 3, 31, 64, 1000, 4099, 20001})
    for (const std::int64_t rows : {1, 3})
      for (const bool coarse : {false, true})
        for (const std::size_t skipped : {0u, 3u}) {
          Floats values = random_logits(rows, vocab, static_cast<unsigned>(vocab), coarse);
          if (rows == 3) std::fill_n(values.begin() + vocab, vocab, kNone);  // the first, then
          const Logits logits(values, vocab, skipped);
          const std::vector<double> uniforms(static_cast<std::size_t>(rows), 0.5);
          // Nothing else is left to choose from.
          for (const SamplingArgs& args :
               {SamplingArgs{}, SamplingArgs{1, 1, 1}, SamplingArgs{0.7f, 0, 0}, SamplingArgs{-1, 5, 0.5f}}) {
            const auto tokens = sample(args, logits, uniforms);
            for (std::int64_t r = 0; r < rows; ++r)
              EXPECT_EQ(tokens[static_cast<std::size_t>(r)],
                        std::max_element(logits.row(r), logits.row(r) + vocab) - logits.row(r));
          }
        }
}

TEST(CudaSampling, BothZerosAreEqual) {
  const Logits logits({-0.0f, 0, -1, 0, -0.0f, kNone}, 3);
  EXPECT_EQ(sample({}, logits, {0.5, 0.5}), (std::vector<std::int32_t>{0, 0}));
}

TEST(CudaSampling, TokensOfTheReference) {
  const SamplingArgs choices[] = {{1},
                                  {0.3f},
                                  {30},
                                  {1e-3f},
                                  {1, 2},
                                  {0.8f, 50},
                                  {1, 256},
                                  {1, 257},
                                  {2, 1000},
                                  {1, 0, 0.9f},
                                  {0.7f, 0, 0.2f},
                                  {1, 0, 1e-6f},
                                  {1, 40, 0.9f},
                                  {1, 300, 0.95f},
                                  {4, 700, 0.5f},
                                  {5, 200, 0.99f},
                                  {1, 1 << 30, 0.99f}};
  unsigned seed = 0;
  for (const auto& [rows, vocab] : {std::pair{2, 1}, {3, 2}, {4, 33}, {7, 1000}, {3, 4098}, {1, 20003}})
    for (const bool coarse : {false, true}) {
      const Logits logits(random_logits(rows, vocab, seed, coarse), vocab, seed % 4);
      for (const SamplingArgs& args : choices) check_sampling(args, logits, ++seed);
    }
}

TEST(CudaSampling, MoreRowsThanALaunchTakes) {
  const Logits logits(random_logits(260, 9, 3), 9);
  for (const SamplingArgs& args : {SamplingArgs{}, SamplingArgs{1, 0, 0.7f}, SamplingArgs{1, 4}})
    check_sampling(args, logits, 5);
  const Scratch scratch(260, 9);
  std::vector<std::int32_t> got(260 * 2), expected(got);
  cuda_set().best_tokens(logits.device(), 260, 9, 2, got.data(), scratch.data());
  plain.best_tokens(logits.host(), 260, 9, 2, expected.data(), nullptr);
  EXPECT_EQ(got, expected);
  std::vector<Continuation> best(4), of_reference(4);
  const std::vector<double> before = random_uniforms(260, 1);
  cuda_set().select_beams(logits.device(), 9, before, best, scratch.data());
  plain.select_beams(logits.host(), 9, before, of_reference, nullptr);
  for (std::size_t i = 0; i < best.size(); ++i) {
    EXPECT_EQ(best[i].parent, of_reference[i].parent);
    EXPECT_EQ(best[i].token, of_reference[i].token);
  }
}

// More equals than a list holds.
TEST(CudaSampling, ThousandsOfEquals) {
  const std::int64_t vocab = 5003;
  Floats values(static_cast<std::size_t>(4 * vocab), 1.25f);
  for (std::int64_t i = 0; i < vocab; i += 7) values[static_cast<std::size_t>(vocab + i)] = 1.5f;
  for (std::int64_t i = 0; i < vocab; i += 9) values[static_cast<std::size_t>(2 * vocab + i)] = kNone;
  for (std::int64_t i = 0; i < vocab; ++i)  // far below, and lowest, most
    values[static_cast<std::size_t>(3 * vocab + i)] = i % 1001 == 17 ? static_cast<float>(i % 3) : -1e9f;
  const Logits logits(values, vocab, 1);
  for (const SamplingArgs& args :
       {SamplingArgs{1}, SamplingArgs{1, 3000}, SamplingArgs{1, 0, 0.6f}, SamplingArgs{0.5f, 4500, 0.9f},
        SamplingArgs{1, 100, 0.5f}, SamplingArgs{1e-9f}, SamplingArgs{1e12f, 0, 0.5f}})
    for (const unsigned seed : {1u, 2u, 3u}) check_sampling(args, logits, seed);
}

TEST(CudaSampling, EveryUniformIsInTheRightPlace) {
  // Three tokens, of probabilities 1/2, 3/8 and 1/8.
  const float two = std::log(4.0f), one = std::log(3.0f);
  const Logits logits({0, two, one, 0, two, one, 0, two, one, 0, two, one}, 3);
  const std::vector<double> uniforms = {0.4999, 0.5001, 0.8749, 0.8751};
  EXPECT_EQ(sample({1}, logits, uniforms), (std::vector<std::int32_t>{1, 2, 2, 0}));
  EXPECT_EQ(sample({1, 0, 0.99f}, logits, uniforms), (std::vector<std::int32_t>{1, 2, 2, 0}));
  EXPECT_EQ(sample({1, 2}, logits, uniforms), (std::vector<std::int32_t>{1, 1, 2, 2}));
  EXPECT_EQ(sample({1, 0, 0.6f}, logits, uniforms), (std::vector<std::int32_t>{1, 1, 2, 2}));
  EXPECT_EQ(sample({1}, logits, {0x1p-54, 1 - 0x1p-53, 1e-300, 0.5}),
            (std::vector<std::int32_t>{1, 0, 1, 2}));
}

TEST(CudaSampling, NumbersThatAreNoneAreNotChosen) {
  const float inf = std::numeric_limits<float>::infinity();
  const Logits logits({kPoison, 1, kPoison, kNone, kNone, inf, 3, 5, kPoison, kPoison, kPoison, kPoison}, 4);
  for (const SamplingArgs& args :
       {SamplingArgs{}, SamplingArgs{1}, SamplingArgs{1, 3}, SamplingArgs{1, 3, 0.5f}}) {
    const auto tokens = sample(args, logits, {0.7, 0.7, 0.7});
    EXPECT_EQ(tokens[0], 1);
    EXPECT_EQ(tokens[1], 1);
    EXPECT_GE(tokens[2], 0);  // a token at least
    EXPECT_LT(tokens[2], 4);
  }
}

TEST(CudaSampling, TheSameInEveryOrder) {
  const Logits odd(random_logits(3, 4613, 8, false, 1), 4613, 2),
      wide(random_logits(1, 10000, 9, true), 10000);
  for (const Logits* logits : {&odd, &wide}) {
    const auto rows = static_cast<std::size_t>(logits->rows());
    std::vector<std::vector<std::int32_t>> first;
    in_every_order([&] {
      std::vector<std::vector<std::int32_t>> got;
      for (const SamplingArgs& args :
           {SamplingArgs{}, SamplingArgs{1}, SamplingArgs{1, 20}, SamplingArgs{1, 900, 0.9f}}) {
        check_sampling(args, *logits, 4);
        got.push_back(sample(args, *logits, random_uniforms(rows, 5)));
      }
      const Scratch scratch(logits->rows(), logits->vocab());
      got.emplace_back(5 * rows);
      cuda_set().best_tokens(logits->device(), logits->rows(), logits->vocab(), 5, got.back().data(),
                             scratch.data());
      std::vector<Continuation> best(3);
      cuda_set().select_beams(logits->device(), logits->vocab(), std::vector<double>(rows, -1.0), best,
                              scratch.data());
      for (const Continuation& b : best) got.push_back({b.parent, b.token});
      if (first.empty()) first = got;
      EXPECT_EQ(got, first);
    });
  }
}

TEST(CudaSampling, DraftsAreAcceptedAsTheyShould) {
  int accepted = 0;
  in_every_order([&] {
    for (unsigned seed = 0; seed < 8; ++seed)
      for (const SamplingArgs& args : {SamplingArgs{}, SamplingArgs{0.8f, 3, 0.9f}}) {
        if (args.temperature > 0 && seed > 1) continue;  // what follows sampling is the same
        std::vector<std::unique_ptr<OnDevice<float>>> logits;
        std::vector<std::unique_ptr<Scratch>> scratch;
        accepted += check_verification(
            cuda_set(), seed, args,
            [&](const Floats& x) {
              return logits.emplace_back(std::make_unique<OnDevice<float>>(x))->data();
            },
            [&](std::int64_t rows, std::int64_t vocab) {
              return scratch.emplace_back(std::make_unique<Scratch>(rows, vocab))->data();
            });
      }
  });
  EXPECT_GT(accepted, 20);
}

void check_best(const Logits& logits, int count) {
  const Scratch scratch(logits.rows(), logits.vocab());
  std::vector<std::int32_t> got(static_cast<std::size_t>(logits.rows() * count + 1), -7), expected(got);
  cuda_set().best_tokens(logits.device(), logits.rows(), logits.vocab(), count, got.data(), scratch.data());
  plain.best_tokens(logits.host(), logits.rows(), logits.vocab(), count, expected.data(), nullptr);
  EXPECT_EQ(got, expected) << "vocab " << logits.vocab() << " count " << count;
}

TEST(CudaSampling, BestTokensInTheirOrder) {
  for (const std::int64_t vocab : {1, 2, 5, 33, 700, 4097, 9001})
    for (const bool coarse : {false, true}) {
      const Logits logits(random_logits(3, vocab, static_cast<unsigned>(vocab), coarse), vocab,
                          static_cast<std::size_t>(vocab % 4));
      for (const int count : {1, 3, 64, 300}) check_best(logits, count);
    }
}

TEST(CudaSampling, BestTokensThatLieTogether) {
  // Half of the groups of a row's tokens hold all that are large: far more than a list holds come before the
  // least of the other groups. In rows enough for one slice each.
  const std::int64_t vocab = 16384, rows = 12;
  Floats values = random_logits(rows, vocab, 1);
  for (std::int64_t i = 0; i < vocab; ++i)
    if (i / 4 % 512 < 199) values[static_cast<std::size_t>(3 * vocab + i)] += 100;
  const Logits logits(values, vocab);
  check_best(logits, 200);
  check_best(Logits(random_logits(1, 5001, 3), 5001), 1100);  // more than there are groups
  check_sampling({50, 200}, logits, 3);
  EXPECT_ANY_THROW(check_best(logits, 5000));
}

TEST(CudaSampling, BeamsAreTheBestOfAllPairs) {
  for (const std::int64_t vocab : {1, 5, 33, 1000, 4500, 9001})
    for (const std::size_t rows : {1u, 2u, 4u})
      for (const bool coarse : {false, true}) {
        const Logits logits(random_logits(static_cast<std::int64_t>(rows), vocab, 7, coarse), vocab,
                            static_cast<std::size_t>(vocab % 3));
        const std::vector<double> all = {-1.5, -1.5, -0.25, -std::numeric_limits<double>::infinity()};
        const std::vector<double> before(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(rows));
        for (const std::size_t width : {1u, 3u, 8u, 17u, 40u}) {
          if (width > rows * static_cast<std::size_t>(vocab)) continue;
          std::vector<Continuation> got(width + 1, {-7, -7, kPoison}), expected(width);
          const Scratch scratch(logits.rows(), vocab);
          cuda_set().select_beams(logits.device(), vocab, before, std::span(got).first(width),
                                  scratch.data());
          plain.select_beams(logits.host(), vocab, before, expected, nullptr);
          EXPECT_TRUE(std::isnan(got.back().log_probability));
          for (std::size_t i = 0; i < width; ++i) {
            if (std::isinf(expected[i].log_probability))
              EXPECT_EQ(got[i].log_probability, expected[i].log_probability);
            else
              EXPECT_NEAR(got[i].log_probability, expected[i].log_probability, 3e-6);
            // Rows are as far from each other as their sums: others may come first where that is a rounding.
            const auto near = [&](std::size_t j) {
              return j < width &&
                     std::fabs(expected[j].log_probability - expected[i].log_probability) < 3e-6 &&
                     expected[j].parent != expected[i].parent;
            };
            if (!coarse && (near(i - 1) || near(i + 1))) continue;
            EXPECT_EQ(got[i].parent, expected[i].parent) << vocab << " " << rows << " " << width << " " << i;
            EXPECT_EQ(got[i].token, expected[i].token) << vocab << " " << rows << " " << width << " " << i;
          }
        }
      }
}

TEST(CudaSampling, BeamsOfNothing) {
  const Logits logits(Floats(40, kNone), 20);
  std::vector<Continuation> got(23), expected(23);
  const Scratch scratch(2, 20);
  cuda_set().select_beams(logits.device(), 20, std::vector<double>{0.0, 0.0}, got, scratch.data());
  plain.select_beams(logits.host(), 20, std::vector<double>{0.0, 0.0}, expected, nullptr);
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].parent, expected[i].parent);
    EXPECT_EQ(got[i].token, expected[i].token);
    EXPECT_EQ(got[i].log_probability, -INFINITY);
  }
}

// ---- Routing ---------------------------------------------------------------------------------------------

struct Routed {
  std::vector<std::int32_t> chosen;
  Floats weights;
};

void check_routing(RoutingArgs args, const Floats& logits, const Floats* correction) {
  const auto rows = static_cast<std::int64_t>(logits.size()) / args.experts;
  const auto size = static_cast<std::size_t>(rows * args.top_k);
  Routed expected{std::vector<std::int32_t>(size), Floats(size)};
  args.correction = correction ? correction->data() : nullptr;
  plain.route(args, logits.data(), rows, expected.chosen.data(), expected.weights.data());
  const OnDevice<float> from(logits), corrections(correction ? *correction : Floats{});
  args.correction = correction ? corrections.data() : nullptr;
  const OnDevice<std::int32_t> chosen(size + 1, -7);
  const OnDevice<float> weights(size + 1, kPoison);
  cuda_set().route(args, from.data(), rows, chosen.data(), weights.data());
  Routed got{chosen.back(), weights.back()};
  EXPECT_EQ(got.chosen.back(), -7);
  EXPECT_TRUE(std::isnan(got.weights.back()));
  got.chosen.pop_back();
  got.weights.pop_back();
  EXPECT_EQ(got.chosen, expected.chosen)
      << args.experts << " experts, " << args.top_k << " of them, sigmoid " << args.sigmoid << " selected "
      << args.softmax_over_selected << " groups " << args.groups;
  EXPECT_LT(distance(got.weights, expected.weights), 2e-6);
}

TEST(CudaRouting, ChoosesTheBest) {
  for (const std::int64_t experts : {1, 2, 5, 32, 33, 60, 64, 128, 160, 256, 384, 512, 1000})
    for (const bool coarse : {false, true}) {
      Floats logits = normal(static_cast<std::size_t>(7 * experts), static_cast<unsigned>(experts));
      Floats correction = normal(static_cast<std::size_t>(experts), 5);
      if (coarse) {
        for (float& l : logits) l = std::round(2 * l) / 2;
        for (float& c : correction) c = std::round(c) / 4;
      }
      for (const std::int64_t top_k : {1, 2, 8, 32})
        for (const int kind : {0, 1, 2}) {
          if (top_k > experts) continue;
          RoutingArgs args{experts, top_k};
          args.sigmoid = kind == 1;
          args.softmax_over_selected = kind == 2;
          for (const bool normalise : {false, true}) {
            args.normalise = normalise;
            args.scale = normalise ? 2.5f : 1;
            check_routing(args, logits, nullptr);
            check_routing(args, logits, &correction);
          }
        }
    }
}

TEST(CudaRouting, ChoosesOfTheBestGroups) {
  for (const auto& [experts, groups, top_groups] :
       {std::tuple{8, 2, 1}, {256, 8, 4}, {160, 8, 3}, {60, 5, 2}, {66, 33, 9}, {64, 64, 40}, {96, 1, 1}})
    for (const bool coarse : {false, true}) {
      Floats logits = normal(static_cast<std::size_t>(5 * experts), static_cast<unsigned>(experts));
      Floats correction = normal(static_cast<std::size_t>(experts), 5);
      if (coarse) {
        for (float& l : logits) l = std::round(l);
        const Floats each = correction;
        // One a group: sums of different ones are equal by rounding alone.
        for (std::size_t e = 0; e < correction.size(); ++e)
          correction[e] = std::round(each[e / static_cast<std::size_t>(experts / groups)]) * 0.31f;
      }
      for (const int kind : {0, 1, 2})
        for (const bool two : {false, true}) {
          RoutingArgs args{experts, std::min<std::int64_t>(8, top_groups * (experts / groups))};
          args.groups = groups;
          args.top_groups = top_groups;
          args.group_by_top_two = two;
          args.sigmoid = kind == 1;
          args.softmax_over_selected = kind == 2;
          check_routing(args, logits, nullptr);
          check_routing(args, logits, &correction);
        }
    }
}

TEST(CudaRouting, ScoresThatRoundToEquals) {
  // All sigmoids are 1 in float32; small scores of a softmax are nothing.
  const Floats logits = {20.5f, 21, 40, 39, -200, -201, -200.5f, 30};
  RoutingArgs args{8, 4};
  args.sigmoid = true;
  check_routing(args, logits, nullptr);
  args.sigmoid = false;
  check_routing(args, logits, nullptr);
  args.top_k = 8;
  args.normalise = false;
  check_routing(args, logits, nullptr);
  // Those of a softmax that a correction prefers.
  const Floats correction = {0, 0, 0, 0, 3, 2, 1, 0};
  args.top_k = 3;
  args.normalise = true;
  check_routing(args, logits, &correction);
}

TEST(CudaRouting, TheSameInEveryOrder) {
  const Floats logits = normal(9 * 256, 4), correction = normal(256, 5);
  RoutingArgs args{256, 8};
  args.sigmoid = args.group_by_top_two = true;
  args.groups = 8;
  args.top_groups = 4;
  in_every_order([&] { check_routing(args, logits, &correction); });
}

TEST(CudaRouting, RefusesMoreThanItHolds) {
  EXPECT_ANY_THROW(cuda_set().route({2000, 2}, nullptr, 1, nullptr, nullptr));
  EXPECT_ANY_THROW(cuda_set().route({64, 33}, nullptr, 1, nullptr, nullptr));
}

#ifdef FORETOKEN_EMULATED
// ---- What the kernels are made of ------------------------------------------------------------------------

void reduce_words(const unsigned* from, unsigned* to, unsigned long long* sum) {
  cuda::grid_dependency_wait();
  const unsigned value = from[cuda::lane()];
  const unsigned most = cuda::warp_max(value), least = cuda::warp_min(value);
  to[2 * cuda::lane()] = most;
  to[2 * cuda::lane() + 1] = least;
  cuda::atomic_add(sum, 0xfffffffful + value);
}

TEST(CudaPrimitives, WordsOfAWarp) {
  std::vector<unsigned> values(32);
  for (unsigned i = 0; i < 32; ++i) values[i] = 0x80000000u + 77 * ((i * 13) % 32);
  values[5] = 3;
  const OnDevice<unsigned> from(values), to(64, 0u);
  const OnDevice<unsigned long long> sum(1, 5ull);
  cuda::launch(reduce_words, {.grid = 1, .block = 32, .name = "reduce_words"}, cuda_set().stream(),
               from.data(), to.data(), sum.data());
  unsigned long long expected = 5;
  for (const unsigned v : values) expected += 0xfffffffful + v;
  EXPECT_EQ(sum.back()[0], expected);
  const auto got = to.back();
  for (unsigned i = 0; i < 32; ++i) {
    EXPECT_EQ(got[2 * i], *std::max_element(values.begin(), values.end()));
    EXPECT_EQ(got[2 * i + 1], 3u);
  }
}

TEST(CudaPrimitives, OrderOfFloats) {
  const float inf = std::numeric_limits<float>::infinity();
  const Floats ascending = {kPoison, -inf, -3e38f, -2, -1e-40f, 0, 1e-45f, 1, 1.0000001f, inf};
  for (std::size_t i = 0; i < ascending.size(); ++i) {
    EXPECT_GT(cuda::ordered(ascending[i]), i == 0 ? 0u : cuda::ordered(ascending[i - 1]));
    if (i > 0) {
      EXPECT_EQ(cuda::from_ordered(cuda::ordered(ascending[i])), ascending[i]);
    }
  }
  EXPECT_TRUE(std::isnan(cuda::from_ordered(cuda::ordered(kPoison))));
  EXPECT_EQ(cuda::ordered(-0.0f), cuda::ordered(0.0f));
}
#endif

}  // namespace
}  // namespace foretoken
