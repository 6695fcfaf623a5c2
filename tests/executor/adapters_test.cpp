// Low-rank adapters that run: several in one batch are each alone, nothing added is the base model, and an
// adapter is the matrix that W + B A is.
#include <gmock/gmock.h>

#include <cmath>

#include "expect_error.h"
#include "model_support.h"

namespace foretoken {
namespace {

using namespace test;
using testing::HasSubstr;

constexpr std::int64_t kRank = 4, kAdapters = 5;

Layout adapted_layout(std::int64_t slots = 3, Storage storage = Storage::kF32) {
  Layout l = small_layout(storage);
  l.lora = {kRank, slots, 0x7f};
  l.num_adapters = kAdapters;
  return l;
}

class Adapted {
 public:
  Adapted(const SmallModel& m, const Layout& layout, const AdapterSource& source, int threads = 1,
          const Kernels& kernels = tested_kernels())
      : pool_(threads),
        transformer_(m.config, m.numerics, *m.weights, kernels, layout,
                     Precision{DType::kF32, DType::kF32, WeightFormat::kPlain}, pool_, &source),
        vocab_(m.config.vocab),
        memory_(kernels.memory()) {}

  struct Part {
    std::int32_t adapter = -1, block = 0;
    std::vector<std::int32_t> tokens;
    std::int64_t cached = 0;
    bool decode = false;
  };
  std::vector<std::vector<float>> step(const std::vector<Part>& parts,
                                       const std::vector<AdapterLoad>& loads = {}) {
    std::vector<StepSequence> all;
    std::vector<std::vector<std::int32_t>> blocks;
    for (const Part& p : parts) {
      blocks.emplace_back();
      for (std::int32_t b = 0; b < 10; ++b) blocks.back().push_back(p.block + b);
    }
    for (std::size_t i = 0; i < parts.size(); ++i)
      all.push_back(
          {parts[i].tokens, parts[i].cached, blocks[i].data(), parts[i].decode, true, parts[i].adapter});
    const auto logits = transformer_.step(all, loads);
    return rows_of(logits, vocab_, memory_);
  }
  Transformer& transformer() { return transformer_; }

 private:
  Threads pool_;
  Transformer transformer_;
  std::int64_t vocab_;
  const KernelMemory& memory_;
};

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::fabs(double(a[i]) - b[i]));
  return most;
}

class AdapterFamilies : public testing::TestWithParam<bool> {
 protected:
  SmallModel model{GetParam() ? windowed_config() : dense_config()};
  std::unique_ptr<AdapterSource> source = synthetic_adapters(model.config, kRank, 9);
  std::vector<std::int32_t> prompt = some_tokens(41, 128);
};
INSTANTIATE_TEST_SUITE_P(Families, AdapterFamilies, testing::Values(false, true));

TEST_P(AdapterFamilies, ABatchOfSeveralIsEachAlone) {
  std::vector<std::vector<float>> alone, alone_next;
  for (const std::int32_t adapter : {0, 3, -1, 4, 3}) {
    Adapted one(model, adapted_layout(1), *source);
    std::vector<AdapterLoad> loads;
    if (adapter >= 0) loads.push_back({adapter, 0});
    alone.push_back(one.step({{adapter, 0, prompt}}, loads)[0]);
    alone_next.push_back(one.step({{adapter, 0, {7}, 41, true}})[0]);
  }
  EXPECT_GT(distance(alone[0], alone[1]), 0.05) << "adapters say different things";
  EXPECT_GT(distance(alone[0], alone[2]), 0.05) << "and another than the base model";
  EXPECT_EQ(alone[1], alone[4]);
  for (const int threads : {1, 3}) {
    Adapted all(model, adapted_layout(3), *source, threads);
    EXPECT_EQ(all.step({{0, 0, prompt}, {3, 10, prompt}, {-1, 20, prompt}, {4, 30, prompt}, {3, 40, prompt}},
                       {{4, 0}, {3, 1}, {0, 2}}),
              alone);
    EXPECT_EQ(all.step({{0, 0, {7}, 41, true},
                        {3, 10, {7}, 41, true},
                        {-1, 20, {7}, 41, true},
                        {4, 30, {7}, 41, true},
                        {3, 40, {7}, 41, true}}),
              alone_next);
  }
}

TEST_P(AdapterFamilies, ASlotHoldsWhatWasLoadedLast) {
  Adapted one(model, adapted_layout(1), *source), other(model, adapted_layout(1), *source);
  const auto first = one.step({{2, 0, prompt}}, {{2, 0}});
  one.step({{1, 0, prompt}}, {{1, 0}});
  EXPECT_EQ(one.step({{2, 0, prompt}}, {{2, 0}}), first);
  EXPECT_THAT(error_of([&] { one.step({{1, 0, prompt}}); }), HasSubstr("1 is in no slot"));
  EXPECT_THAT(error_of([&] { one.step({{1, 0, prompt}}, {{1, 4}}); }), HasSubstr("can't be loaded"));
}

// A step that nothing but loads tells apart from recorded ones.
TEST(Adapters, AreLoadedBetweenRecordedSteps) {
  const SmallModel model(dense_config());
  const auto source = synthetic_adapters(model.config, kRank, 7);
  const auto prompt = some_tokens(41, 128, 3);
  Layout recorded = adapted_layout();
  recorded.step_sizes = {1};
  Adapted steps(model, recorded, *source), plain(model, adapted_layout(), *source);
  steps.step({{-1, 0, prompt}});
  for (std::int64_t i = 0; i < 3; ++i) steps.step({{-1, 0, {7}, 41 + i, true}});
  steps.step({{-1, 0, {7}, 44, true}}, {{2, 0}});
  EXPECT_EQ(steps.step({{2, 20, prompt}}), plain.step({{2, 20, prompt}}, {{2, 0}}));
}

struct NoChange final : AdapterSource {
  const AdapterSource& a;
  explicit NoChange(const AdapterSource& source) : a(source) {}
  void read(std::int64_t adapter, std::int64_t layer, LoraTarget target, bool expand, std::int64_t row,
            float* out) const override {
    if (expand)
      std::fill_n(out, kRank, 0.0f);
    else
      a.read(adapter, layer, target, false, row, out);
  }
};

TEST_P(AdapterFamilies, AnExpansionOfZerosIsTheBaseModel) {
  const NoChange none(*source);
  Adapted with(model, adapted_layout(), none);
  Runner base(model, small_layout(), tested_kernels());
  auto s = base.sequence(0, 1, 80);
  EXPECT_EQ(with.step({{1, 0, prompt}}, {{1, 0}})[0], base.step({{&s, prompt}})[0]);
  EXPECT_EQ(with.step({{-1, 0, prompt}})[0], with.step({{1, 0, prompt}})[0]);
}

// The base model with B A added to its weights.
class Merged final : public Checkpoint {
 public:
  Merged(const SmallModel& m, const AdapterSource& source, std::int64_t adapter)
      : base_(*m.weights), source_(source), adapter_(adapter), hidden_(m.config.hidden) {}
  Extent extent(Role role, std::int64_t layer, std::int64_t expert) const override {
    return base_.extent(role, layer, expert);
  }
  void read(Role role, std::int64_t layer, std::int64_t expert, std::int64_t first, std::int64_t count,
            float* out) const override {
    base_.read(role, layer, expert, first, count, out);
    constexpr std::pair<Role, LoraTarget> kTargets[] = {
        {Role::kQ, LoraTarget::kQ},      {Role::kK, LoraTarget::kK},       {Role::kV, LoraTarget::kV},
        {Role::kO, LoraTarget::kO},      {Role::kGate, LoraTarget::kGate}, {Role::kUp, LoraTarget::kUp},
        {Role::kDown, LoraTarget::kDown}};
    for (const auto& [of, target] : kTargets) {
      if (of != role) continue;
      const std::int64_t width = extent(role, layer, expert).columns;
      std::vector<float> a(static_cast<std::size_t>(width)), b(kRank);
      for (std::int64_t r = 0; r < count; ++r) {
        source_.read(adapter_, layer, target, true, first + r, b.data());
        for (std::int64_t k = 0; k < kRank; ++k) {
          source_.read(adapter_, layer, target, false, k, a.data());
          for (std::int64_t c = 0; c < width; ++c)
            out[r * width + c] += b[static_cast<std::size_t>(k)] * a[static_cast<std::size_t>(c)];
        }
      }
    }
  }

 private:
  const Checkpoint& base_;
  const AdapterSource& source_;
  std::int64_t adapter_, hidden_;
};

TEST_P(AdapterFamilies, AnAdapterIsTheMergedMatrix) {
  SmallModel merged{GetParam() ? windowed_config() : dense_config()};
  merged.weights = std::make_unique<Merged>(model, *source, 3);
  Runner whole(merged, small_layout(), tested_kernels());
  auto s = whole.sequence(0, 1, 80);
  const auto expected = whole.step({{&s, prompt}})[0];
  for (const int ranks : {1, 2, 4}) {
    Layout l = adapted_layout();
    l.ranks = ranks, l.moe_tensor_parallel = ranks;
    Adapted beside(model, l, *source);
    EXPECT_LT(distance(beside.step({{3, 0, prompt}}, {{3, 1}})[0], expected), 1e-4) << ranks << " ranks";
  }
  Adapted reference(model, adapted_layout(), *source, 1, reference_kernels());
  EXPECT_LT(distance(reference.step({{3, 0, prompt}}, {{3, 1}})[0], expected), 1e-4);
}

TEST_P(AdapterFamilies, OnlyTheTargetsChange) {
  Layout l = adapted_layout();
  l.lora.targets = 1u << static_cast<int>(LoraTarget::kV) | 1u << static_cast<int>(LoraTarget::kUp);
  Adapted some(model, l, *source);
  some.step({{3, 0, prompt}}, {{3, 1}});
  std::vector<std::string> names;
  for (const OperatorRun& o : some.transformer().operators_run())
    if (o.layer <= 0 && o.op.name.starts_with("lora")) names.emplace_back(o.op.name);
  EXPECT_THAT(names, testing::ElementsAre("lora_load", "lora_shrink_qkv", "lora_expand_qkv",
                                          "lora_shrink_gate_up", "lora_expand_gate_up"));
}

}  // namespace
}  // namespace foretoken
