// Nothing allocates inside a step: once steps as large have run, operator new is not called, whatever the
// model is and however it is split. What would allocate instead is the operator list and the step's own
// lists.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <new>

#include "executor/replica.h"
#include "model_support.h"

#if defined(__has_feature)
#define FORETOKEN_HAS_FEATURE(x) __has_feature(x)
#else
#define FORETOKEN_HAS_FEATURE(x) 0
#endif
// Sanitizers replace operator new themselves, and find more with their own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                       \
    FORETOKEN_HAS_FEATURE(address_sanitizer) || FORETOKEN_HAS_FEATURE(memory_sanitizer) || \
    FORETOKEN_HAS_FEATURE(thread_sanitizer)
#define FORETOKEN_COUNTS_ALLOCATIONS 0
#else
#define FORETOKEN_COUNTS_ALLOCATIONS 1
#endif

namespace {

std::atomic<std::int64_t> allocations{0};  // by all threads of the test program

}  // namespace

#if FORETOKEN_COUNTS_ALLOCATIONS
namespace {

void* counted(std::size_t size, std::size_t alignment) {
  ++allocations;
  const std::size_t whole = (std::max<std::size_t>(size, 1) + alignment - 1) / alignment * alignment;
  if (void* p = std::aligned_alloc(alignment, whole)) return p;
  throw std::bad_alloc();
}

}  // namespace

// The forms for arrays and those that don't throw call these. Inlined, one without the other, they would look
// to the compiler like memory that is given back the wrong way.
[[gnu::noinline]] void* operator new(std::size_t size) {
  return counted(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
#endif

namespace foretoken {
namespace {

using namespace test;

class Allocations : public testing::Test {
 protected:
  void SetUp() override {
    if (!FORETOKEN_COUNTS_ALLOCATIONS) GTEST_SKIP() << "the sanitizer has operator new";
  }
};

TEST_F(Allocations, OfEveryFormAreCounted) {
  const std::int64_t before = allocations;
  ::operator delete(::operator new(8));
  ::operator delete[](::operator new[](8));
  ::operator delete(::operator new(8, std::align_val_t(64)), std::align_val_t(64));
  ::operator delete[](::operator new[](8, std::align_val_t(64)), std::align_val_t(64));
  ::operator delete(::operator new(8, std::nothrow));
  EXPECT_EQ(allocations - before, 5);
}

// Parents of a root's drafts: two tokens after it, one after the first of them.
constexpr std::array<std::int32_t, 4> kTree{-1, 0, 0, 1};

struct Options {
  bool trees = false;     // decoding sequences verify one each
  bool adapters = false;  // of sequences, one without; loaded anew by every step
  bool swaps = false;     // a block out to host memory and one in, by every step
};

// Three prompts in chunks, two of them alike, then three sequences that decode.
class Sequences {
 public:
  explicit Sequences(const Options& options) : options_(options), tokens_(some_tokens(kNew[0], 128)) {
    for (std::size_t i = 0; i < kNew.size(); ++i) {
      const bool decode = i >= kFirstDecode;
      for (std::int32_t b = 0; b < kBlocks; ++b)
        blocks_[i][static_cast<std::size_t>(b)] = static_cast<std::int32_t>(i) * kBlocks + b;
      StepSequence s;
      const std::size_t count = decode && options.trees ? kTree.size() : static_cast<std::size_t>(kNew[i]);
      s.tokens = std::span(tokens_).first(count);
      s.blocks = blocks_[i].data();
      s.decode = decode, s.sample = i != 1;
      s.state = static_cast<std::int32_t>(i);
      if (options.adapters) s.adapter = static_cast<std::int32_t>(i % 3) - 1;
      if (decode && options.trees) s.parents = kTree.data(), s.every_row = true;
      all_.push_back(s);
    }
  }
  // What decodes has a prompt first.
  std::vector<StepSequence> prompts_before() {
    std::vector<StepSequence> prompts(all_.begin() + kFirstDecode, all_.end());
    for (StepSequence& s : prompts) {
      s.tokens = tokens_;
      s.decode = s.every_row = false;
      s.parents = nullptr;
    }
    for (std::size_t i = kFirstDecode; i < all_.size(); ++i)
      all_[i].cached = static_cast<std::int64_t>(tokens_.size());
    return prompts;
  }
  enum Which { kAll, kPrompts, kDecodes };
  std::vector<StepSequence> next(Which which) {
    std::vector<StepSequence> step;
    for (StepSequence& s : all_) {
      if (which != kAll && s.decode != (which == kDecodes)) continue;
      step.push_back(s);
      s.cached += s.parents ? 1 : static_cast<std::int64_t>(s.tokens.size());
    }
    return step;
  }
  Transformer::Swaps swaps() const {
    Transformer::Swaps s;
    if (options_.adapters) s.loads = kLoads;
    if (options_.swaps) s.out = kOut, s.in = kIn;
    return s;
  }

 private:
  static constexpr std::array<std::int64_t, 6> kNew{8, 8, 5, 1, 1, 1};
  static constexpr std::size_t kFirstDecode = 3;
  static constexpr std::int32_t kBlocks = 32;  // of each, in small_layout()'s 200
  static constexpr std::array<AdapterLoad, 2> kLoads{{{0, 0}, {1, 1}}};
  static constexpr std::array<BlockCopy, 1> kOut{{{199, 0}}}, kIn{{{1, 198}}};

  Options options_;
  std::vector<std::int32_t> tokens_;
  std::array<std::array<std::int32_t, kBlocks>, kNew.size()> blocks_{};
  std::vector<StepSequence> all_;
};

// step(sequences, swaps) runs one.
template <class Step>
void expect_none(const Options& options, Step&& step) {
  Sequences sequences(options);
  step(sequences.prompts_before(), sequences.swaps());
  for (int warm_up = 0; warm_up < 2; ++warm_up) step(sequences.next(Sequences::kAll), sequences.swaps());
  for (const auto which : {Sequences::kAll, Sequences::kDecodes, Sequences::kPrompts, Sequences::kAll}) {
    const std::vector<StepSequence> next = sequences.next(which);
    const Transformer::Swaps swaps = sequences.swaps();
    const std::int64_t before = allocations;
    step(next, swaps);
    EXPECT_EQ(allocations - before, 0) << "step " << which;
  }
}

struct Case {
  const char* name;
  Json (*config)();
  void (*lay_out)(Layout&, const ModelConfig&) = nullptr;
  Options options = {};
  int threads = 1;
};

void on_two_ranks(Layout& l, const ModelConfig&) { l.ranks = l.expert_parallel = 2; }
void rows_split_over_two_stages(Layout& l, const ModelConfig& config) {
  Shard shard;
  shard.tensor_parallel = shard.moe_tensor_parallel = l.ranks = l.moe_tensor_parallel = 2;
  shard.sequence_parallel = true;
  l.stages = stages_of(config, shard, 2);
}
void in_stages(Layout& l, const ModelConfig& config) { l.stages = stages_of(config, Shard{}, 3); }
void streamed(Layout& l, const ModelConfig&) {
  l.streamed_layers = 2;
  l.stream = {1, true, true, testing::TempDir()};
}
void adapted(Layout& l, const ModelConfig&) {
  l.ranks = 2;
  l.lora = {4, 2, 0x7f};
  l.num_adapters = 2;
}
void swapped(Layout& l, const ModelConfig&) { l.num_host_blocks = 4; }

class StepAllocations : public Allocations, public testing::WithParamInterface<Case> {};
const Case kCases[] = {{"Dense", dense_config},
                       {"Windowed", windowed_config},
                       {"Moe", moe_config},
                       {"Gated", gated_config},
                       {"Latent", latent_config},
                       {"Recurrent", linear_config},
                       {"Trees", dense_config, nullptr, {.trees = true}},
                       {"LatentTrees", latent_config, nullptr, {.trees = true}},
                       {"Adapters", dense_config, adapted, {.adapters = true}},
                       {"Ranks", moe_config, on_two_ranks},
                       {"LatentRanks", latent_config, on_two_ranks},
                       {"RecurrentRanks", linear_config, on_two_ranks},
                       {"Stages", dense_config, in_stages},
                       {"SplitRows", moe_config, rows_split_over_two_stages},
                       {"Streamed", moe_config, streamed},
                       {"Swapped", dense_config, swapped, {.swaps = true}},
                       {"Threads", latent_config, nullptr, {}, 3}};
INSTANTIATE_TEST_SUITE_P(Cases, StepAllocations, testing::ValuesIn(kCases),
                         [](const auto& of) { return std::string(of.param.name); });

constexpr Precision kPrecision{DType::kF32, DType::kF32, WeightFormat::kPlain};

TEST_P(StepAllocations, AreNone) {
  const Case& c = GetParam();
  const SmallModel model(c.config());
  Layout layout = small_layout();
  if (c.lay_out) c.lay_out(layout, model.config);
  const auto adapters = synthetic_adapters(model.config, layout.lora.rank, 1);
  Threads threads(c.threads);
  Transformer transformer(model.config, model.numerics, *model.weights, *cpu_kernels(), layout, kPrecision,
                          threads, adapters.get());
  expect_none(c.options, [&](const std::vector<StepSequence>& sequences, const Transformer::Swaps& swaps) {
    transformer.step(sequences, swaps);
  });
}

TEST_F(Allocations, AreNoneWhereDataParallelRanksShareExperts) {
  const SmallModel model(moe_config());
  Layout layout = small_layout();
  layout.data_parallel = layout.expert_parallel = 2;
  Shard shard;
  shard.data_parallel = shard.expert_parallel = 2;
  layout.stages = {shard};
  Threads threads;
  Replica replica(model.config, model.numerics, *model.weights, *cpu_kernels(), layout, kPrecision, threads);
  std::vector<std::vector<StepSequence>> ranks(2);
  expect_none({}, [&](const std::vector<StepSequence>& sequences, const Transformer::Swaps&) {
    for (auto& rank : ranks) rank.assign(sequences.begin(), sequences.end());
    replica.step(ranks);
  });
}

}  // namespace
}  // namespace foretoken
