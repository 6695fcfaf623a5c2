// Tokens that go to an earlier position (Transformer::Shift): in a model of one layer, whose keys and values
// depend on the token and its position alone, nothing is left of what was taken out before them. Of several
// layers: wherever the tokens lie and on however many ranks and stages, the same is said.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "model_support.h"

namespace foretoken {
namespace {

using namespace test;

double distance(const std::vector<float>& a, const std::vector<float>& b) {  // relative
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]), size += double(b[i]) * b[i];
  return std::sqrt(difference / size);
}

bool on_host() { return tested_kernels().memory().host_reads(); }

const std::vector<std::int32_t> kTokens = some_tokens(60, 128), kNew = some_tokens(6, 128, 9);
// What stays of them: 10, 20 behind a hole of 5, 15 behind one of 3.
std::vector<std::int32_t> kept() {
  std::vector<std::int32_t> t(kTokens.begin(), kTokens.begin() + 10);
  t.insert(t.end(), kTokens.begin() + 15, kTokens.begin() + 35);
  t.insert(t.end(), kTokens.begin() + 38, kTokens.begin() + 53);
  return t;
}

std::vector<float> next(Runner& r, Runner::Sequence& s, const Transformer::Swaps& swaps, bool decode,
                        std::int64_t vocab, const Kernels& kernels) {
  const std::span<const std::int32_t> tokens(kNew);
  const StepSequence asked{tokens.first(decode ? 1 : kNew.size()), s.cached, s.blocks.data(), decode, true};
  return rows_of(r.transformer().step(std::span(&asked, 1), swaps), vocab, kernels.memory())[0];
}

// in_place: blocks of one token, which go along.
std::vector<float> shifted(const SmallModel& m, Layout l, const Kernels& kernels, bool in_place,
                           bool decode = false, int threads = 1, bool turns = true) {
  if (in_place) l.block_size = 1;
  Runner r(m, l, kernels, threads);
  Runner::Sequence s = r.sequence(3, 1, 120);
  r.step({{&s, kTokens}});
  std::vector<Transformer::Shift> shifts;
  const auto shift = [&](std::int64_t from, std::int64_t to, std::int64_t tokens) {
    if (in_place)
      std::rotate(s.blocks.begin() + to, s.blocks.begin() + from, s.blocks.begin() + from + tokens);
    shifts.push_back({nullptr, in_place ? to : from, to, tokens, turns ? from - to : 0});
  };
  shift(15, 10, 20), shift(38, 30, 15);
  for (Transformer::Shift& x : shifts) x.blocks = s.blocks.data();
  s.cached = 45;
  auto logits = next(r, s, {{}, {}, {}, shifts}, decode, m.config.vocab, kernels);
  std::size_t ran = 0;
  for (const OperatorRun& o : r.transformer().operators_run()) ran += o.op.name == "key_shift";
  EXPECT_EQ(ran, std::max<std::size_t>(1, l.stages.size()));
  return logits;
}

std::vector<float> without_a_hole(const SmallModel& m, const Layout& l, bool decode) {
  Runner r(m, l, tested_kernels());
  Runner::Sequence s = r.sequence(3, 1, 120);
  r.step({{&s, kept()}});
  return next(r, s, {{}, {}}, decode, m.config.vocab, tested_kernels());
}

Json one_layer(Json config) {
  config["num_hidden_layers"] = 1;
  return config;
}
Json with(Json config, const Json& more) {
  config.update(more);
  return config;
}
const Json kYarn{{"rope_scaling",
                  {{"rope_type", "yarn"},
                   {"factor", 4.0},
                   {"original_max_position_embeddings", 128},
                   {"rope_theta", 10000.0}}}};

TEST(Shifts, OneLayerForgetsTheHole) {
  for (const Json& config :
       {dense_config(), with(dense_config(), kYarn), with(dense_config(), {{"partial_rotary_factor", 0.5}}),
        latent_config(), windowed_config()}) {
    // A device's kernels have tests of all kinds of rotation; emulated ones take long.
    if (!on_host() && config != latent_config() && !config.contains("rope_scaling")) continue;
    SCOPED_TRACE(config.dump());
    const SmallModel m(one_layer(config));
    for (const auto& [storage, limit] : {std::pair{Storage::kF32, 1e-5},
                                         {Storage::kBf16, 0.01},
                                         {Storage::kInt8, 0.02},
                                         {Storage::kFp8, 0.06}})
      for (const bool decode : {false, true}) {
        if (!on_host() && decode != (storage == Storage::kF32)) continue;
        const Layout l = small_layout(Storage::kF32, storage);
        const auto expected = without_a_hole(m, l, decode);
        for (const bool in_place : {false, true})
          EXPECT_LT(distance(shifted(m, l, tested_kernels(), in_place, decode), expected), limit)
              << static_cast<int>(storage) << in_place << decode;
        if (storage != Storage::kF32) continue;
        EXPECT_GT(distance(shifted(m, l, tested_kernels(), false, decode, 1, false), expected), 1e-3)
            << "keys that aren't turned";
      }
  }
}

TEST(Shifts, WhereTokensLieDoesNotMatter) {
  for (const Json& config : {dense_config(), moe_config(), latent_config()}) {
    if (!on_host() && config == moe_config()) continue;
    SCOPED_TRACE(config.dump());
    const SmallModel m(config);
    const Layout l = small_layout();
    const auto moved = shifted(m, l, tested_kernels(), false);
    const auto expect = [&](const std::vector<float>& other, bool every_bit) {
      if (every_bit && on_host()) {
        EXPECT_EQ(moved, other);
      } else {
        EXPECT_LT(distance(moved, other), 1e-4);
      }
    };
    expect(shifted(m, l, tested_kernels(), true), true);
    expect(shifted(m, l, tested_kernels(), false, false, 3), true);
    expect(shifted(m, l, reference_kernels(), false), false);
    Layout staged = l, split = l;
    staged.stages = stages_of(m.config, Shard{}, 2);
    expect(shifted(m, staged, tested_kernels(), false), true);
    split.ranks = split.moe_tensor_parallel = 2;
    expect(shifted(m, split, tested_kernels(), true), false);
    EXPECT_GT(distance(moved, without_a_hole(m, l, false)), 1e-3) << "deeper layers have seen the hole";
  }
}

TEST(Shifts, NobodyLeavesTheirSequence) {
  const SmallModel m(one_layer(dense_config()));
  Runner r(m, small_layout(), tested_kernels());
  Runner::Sequence s = r.sequence(0, 1, 64);
  for (const auto& [from, to, tokens] : {std::array<std::int64_t, 3>{3, 5, 2}, {250, 5, 7}, {3, -1, 2}}) {
    const Transformer::Shift shift{s.blocks.data(), from, to, tokens, 1};
    EXPECT_THROW(r.transformer().step({}, Transformer::Swaps{{}, {}, {}, {&shift, 1}}), std::logic_error);
  }
}

}  // namespace
}  // namespace foretoken
