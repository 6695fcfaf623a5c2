// The laws of a transformer that runs: how a prompt is cut, where its blocks lie, who else is in the batch
// and on how many ranks it is split must not change what it says; and what runs is the list that the
// simulator prices.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <map>

#include "executor/weight_stream.h"
#include "expect_error.h"
#include "model_support.h"

namespace foretoken {
namespace {

using namespace test;
using testing::HasSubstr;

struct Family {
  const char* name;
  Json (*config)();
};
class EveryFamily : public testing::TestWithParam<Family> {
 protected:
  SmallModel model{GetParam().config()};
  std::vector<std::int32_t> prompt = some_tokens(70, 128);
};
INSTANTIATE_TEST_SUITE_P(Families, EveryFamily,
                         testing::Values(Family{"Dense", dense_config}, Family{"Moe", moe_config},
                                         Family{"Gated", gated_config}, Family{"Latent", latent_config},
                                         Family{"Windowed", windowed_config},
                                         Family{"Linear", linear_config}),
                         [](const auto& family) { return std::string(family.param.name); });

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::fabs(double(a[i]) - b[i]));
  return most;
}
int best(const std::vector<float>& v) {
  return static_cast<int>(std::max_element(v.begin(), v.end()) - v.begin());
}

std::vector<float> whole(Runner& r, const std::vector<std::int32_t>& tokens) {
  auto s = r.sequence(0, 1, 256);
  return r.step({{&s, tokens}})[0];
}

TEST_P(EveryFamily, TheProcessorsKernelsAgreeWithTheReference) {
  Runner reference(model, small_layout(), reference_kernels()), own(model, small_layout(), tested_kernels());
  const auto a = whole(reference, prompt), b = whole(own, prompt);
  EXPECT_LT(distance(a, b), 1e-4);
  EXPECT_EQ(best(a), best(b));
  EXPECT_GT(distance(a, std::vector<float>(a.size(), 0.0f)), 0.1) << "logits say something";
}

// A device's sums depend on how rows and keys are shared out among its blocks.
bool exactly() { return tested_kernels().memory().host_reads(); }
void expect_equal(const std::vector<float>& a, const std::vector<float>& b, bool every_bit) {
  if (every_bit) {
    EXPECT_EQ(a, b);
  } else {
    EXPECT_LT(distance(a, b), 1e-4);
  }
}

// Latent attention projects prompts up and decodes absorbed, so its last bits differ with the cut.
TEST_P(EveryFamily, AChunkedPromptIsTheWholePrompt) {
  Runner r(model, small_layout(), tested_kernels());
  const auto at_once = whole(r, prompt);
  auto s = r.sequence(100, 1, 256);
  std::vector<float> logits;
  for (std::size_t first = 0; first < prompt.size(); first += 23) {
    const auto end = std::min(prompt.size(), first + 23);
    logits = r.step({{&s,
                      {prompt.begin() + static_cast<std::ptrdiff_t>(first),
                       prompt.begin() + static_cast<std::ptrdiff_t>(end)}}})[0];
  }
  expect_equal(at_once, logits, exactly());
}

TEST_P(EveryFamily, DecodingIsPrefillingOneByOne) {
  Runner r(model, small_layout(), tested_kernels());
  const auto at_once = whole(r, prompt);
  auto s = r.sequence(100, 1, 256);
  r.step({{&s, {prompt.begin(), prompt.begin() + 60}}});
  std::vector<float> logits;
  for (std::size_t i = 60; i < prompt.size(); ++i) logits = r.step({{&s, {prompt[i]}, true}})[0];
  expect_equal(at_once, logits, exactly() && std::string(GetParam().name) != "Latent");
}

TEST_P(EveryFamily, TheRestOfTheBatchAndTheBlocksDoNotMatter) {
  Runner r(model, small_layout(), tested_kernels()), three(model, small_layout(), tested_kernels(), 3);
  const auto alone = whole(r, prompt);
  auto a = r.sequence(150, -1, 70), b = r.sequence(1, 3, 200), c = r.sequence(160, 1, 40);
  r.step({{&b, some_tokens(33, 128, 5)}, {&c, some_tokens(20, 128, 6)}});
  const auto together = r.step({{&a, prompt}, {&b, {7}, true}, {&c, {9}, true}});
  EXPECT_EQ(alone, together[0]);
  auto d = three.sequence(0, 1, 200);
  EXPECT_EQ(alone, three.step({{&d, prompt}})[0]) << "three threads";
}

// Also where a rank's part of a row is cut out of the checkpoint's.
TEST_P(EveryFamily, WeightsDoNotDependOnTheThreadsThatLoadThem) {
  for (const Storage storage : {Storage::kBf16, Storage::kInt8, Storage::kInt4}) {
    Layout l = small_layout(storage);
    l.plain = Storage::kBf16;
    l.ranks = l.moe_tensor_parallel = 2;
    Runner one(model, l, tested_kernels()), three(model, l, tested_kernels(), 3);
    EXPECT_EQ(whole(one, prompt), whole(three, prompt)) << "storage " << static_cast<int>(storage);
  }
}

// Wherever streamed layers come from, however many buffers they pass through, fetched ahead or not, and on
// every rank.
TEST_P(EveryFamily, StreamedWeightsAreResidentOnes) {
  for (const int ranks : {1, 2}) {
    Layout l = small_layout();
    l.ranks = l.moe_tensor_parallel = ranks;
    Runner resident(model, l, tested_kernels());
    const auto expected = whole(resident, prompt);
    auto s = resident.sequence(100, 1, 256);
    resident.step({{&s, prompt}});
    const auto next = resident.step({{&s, {5}, true}})[0];
    for (const bool from_storage : {false, true})
      for (const bool overlap : {false, true})
        for (const int layers : {1, 2, 3}) {
          l.streamed_layers = layers;
          l.stream = {layers == 3 ? 2 : 1, overlap, from_storage, testing::TempDir()};
          Runner streamed(model, l, tested_kernels());
          EXPECT_EQ(expected, whole(streamed, prompt)) << layers << " layers";
          auto t = streamed.sequence(100, 1, 256);
          streamed.step({{&t, prompt}});
          EXPECT_EQ(next, streamed.step({{&t, {5}, true}})[0]) << layers << " layers, the step after";
          std::int64_t fetches = 0;
          for (const OperatorRun& o : streamed.transformer().operators_run())
            fetches += o.op.name == "weight_fetch";
          EXPECT_EQ(fetches, layers);
        }
  }
}

// The file of this process's streamed weights, which has no name.
int streamed_file() {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone);
    if (target.find("/foretoken-") != std::string::npos) return std::stoi(entry.path().filename());
  }
  return -1;
}

// The last layer can't be read while one step runs: wherever its ring of layers stood then, the step that is
// asked for again is the one that it should have been, and so is the one after.
TEST_P(EveryFamily, AStepAfterAFailedOneIsAsItShouldBe) {
  if (model.config.is_recurrent()) return;  // its states have taken the failed step's token
  const std::vector<std::int32_t> few(prompt.begin(), prompt.begin() + 9);
  for (const bool overlap : {false, true})
    for (const int buffers : {1, 2}) {
      SCOPED_TRACE(testing::Message() << (overlap ? "fetched ahead, " : "") << buffers << " buffers");
      Layout l = small_layout();
      Runner resident(model, l, tested_kernels());
      l.streamed_layers = 3;
      l.stream = {buffers, overlap, true, testing::TempDir()};
      Runner streamed(model, l, tested_kernels());
      auto expected = resident.sequence(100, 1, 256), s = streamed.sequence(100, 1, 256);
      EXPECT_EQ(resident.step({{&expected, few}}), streamed.step({{&s, few}}));
      const int file = streamed_file();
      ASSERT_GE(file, 0);
      struct stat about {};
      ASSERT_EQ(fstat(file, &about), 0);
      const auto size = static_cast<std::size_t>(about.st_size), kept = size - 1;
      char last = 0;
      ASSERT_EQ(pread(file, &last, 1, static_cast<off_t>(kept)), 1);
      ASSERT_EQ(ftruncate(file, static_cast<off_t>(kept)), 0);
      for (int i = 0; i < 2; ++i) EXPECT_THROW(streamed.step({{&s, {5}, true}}), Error);
      ASSERT_EQ(pwrite(file, &last, 1, static_cast<off_t>(kept)), 1);
      for (const std::int32_t token : {5, 6, 7})
        EXPECT_EQ(resident.step({{&expected, {token}, true}}), streamed.step({{&s, {token}, true}}))
            << "token " << token;
    }
}

TEST(WeightStream, LeavesNoFileAndSaysWhereItCantMakeOne) {
  const std::string folder = testing::TempDir() + "/streamed_weights";
  std::filesystem::create_directories(folder);
  const std::vector<std::size_t> sizes{100, 5000, 7};
  WeightStream stream(sizes, {2, true, true, folder});
  EXPECT_TRUE(std::filesystem::is_empty(folder)) << "the file has no name while it is in use";
  std::vector<std::byte> layer(5000);
  for (std::size_t i = 0; i < 3; ++i) {
    std::fill(layer.begin(), layer.end(), std::byte(i + 1));
    stream.store(i, layer.data());
  }
  for (int n = 0; n < 20; ++n) {
    const std::byte* at = stream.acquire();
    const auto i = static_cast<std::size_t>(n % 3);
    EXPECT_EQ(at[0], std::byte(i + 1));
    EXPECT_EQ(at[sizes[i] - 1], std::byte(i + 1));
    stream.release();
  }
  EXPECT_THAT(error_of([] {
                WeightStream({10}, {1, false, true, "/no/such/folder"});
              }),
              HasSubstr("/no/such/folder"));
  std::filesystem::remove(folder);
}

// The sums of ranks are added up in another order than one rank's.
TEST_P(EveryFamily, RanksTogetherAreTheWholeModel) {
  Runner one(model, small_layout(), tested_kernels());
  const auto whole_model = whole(one, prompt);
  for (const int ranks : {2, 4}) {
    Layout l = small_layout();
    l.ranks = ranks, l.moe_tensor_parallel = ranks;
    Runner tensor(model, l, tested_kernels());
    EXPECT_LT(distance(whole_model, whole(tensor, prompt)), 1e-4) << ranks;
    l.moe_tensor_parallel = 1, l.expert_parallel = ranks;
    Runner expert(model, l, tested_kernels());
    EXPECT_LT(distance(whole_model, whole(expert, prompt)), 1e-4) << ranks;
  }
}

// Activations that are sent on, and norms of rows that are split over ranks, are the same numbers.
TEST_P(EveryFamily, StagesAndSplitRowsChangeNoBit) {
  Runner one(model, small_layout(), tested_kernels());
  const auto whole_model = whole(one, prompt);
  Layout l = small_layout();
  l.stages = stages_of(model.config, Shard{}, 2);
  Runner pipeline(model, l, tested_kernels());
  EXPECT_EQ(whole_model, whole(pipeline, prompt));
  int sends = 0;
  for (const OperatorRun& o : pipeline.transformer().operators_run()) sends += o.op.name == "stage_send";
  EXPECT_EQ(sends, 1);

  for (const int ranks : {2, 4}) {
    Layout tensor = small_layout();
    tensor.ranks = ranks, tensor.moe_tensor_parallel = ranks;
    Shard shard;
    shard.tensor_parallel = shard.moe_tensor_parallel = ranks;
    shard.sequence_parallel = true;
    Layout rows = tensor;
    rows.stages = {shard};
    Runner a(model, tensor, tested_kernels()), b(model, rows, tested_kernels());
    EXPECT_EQ(whole(a, prompt), whole(b, prompt)) << ranks;
    rows.stages = stages_of(model.config, shard, 2);
    Runner c(model, rows, tested_kernels());
    EXPECT_EQ(whole(a, prompt), whole(c, prompt)) << ranks << ", two stages";
    auto s = b.sequence(0, 1, 100);
    EXPECT_EQ(b.step({{&s, {prompt[0]}}}).size(), 1u) << "fewer rows than ranks";
  }
}

// A cache that moved is the cache: windows, latents, scales and all. Recurrent states lie in no cache; what
// would move them is refused by Executable.
TEST_P(EveryFamily, AMovedCacheGoesOnAsTheOneItWas) {
  if (model.config.is_recurrent()) return;
  for (const Storage cache : {Storage::kF32, Storage::kInt8}) {
    Runner a(model, small_layout(Storage::kF32, cache), tested_kernels()),
        b(model, small_layout(Storage::kF32, cache), tested_kernels());
    auto from = a.sequence(0, 1, 200), to = b.sequence(60, 2, 200);
    a.step({{&from, prompt}});
    EXPECT_GT(Transformer::copy_cache(a.transformer(), from.blocks, b.transformer(), to.blocks, from.cached),
              0);
    to.cached = from.cached;
    EXPECT_EQ(a.step({{&from, {5}, true}}), b.step({{&to, {5}, true}}));
  }
}

TEST_P(EveryFamily, StoredWeightsAndCachesComeClose) {
  Runner exact(model, small_layout(), tested_kernels());
  const auto a = whole(exact, prompt);
  double norm = 0;
  for (const float v : a) norm = std::max<double>(norm, std::fabs(v));
  struct {
    Storage weights, cache;
    double most;
  } const cases[] = {{Storage::kBf16, Storage::kBf16, 0.05},     {Storage::kF16, Storage::kF16, 0.02},
                     {Storage::kInt8, Storage::kInt8, 0.1},      {Storage::kFp8, Storage::kFp8, 0.25},
                     {Storage::kFp8Block, Storage::kBf16, 0.25}, {Storage::kInt4, Storage::kBf16, 0.9}};
  for (const auto& c : cases) {
    Runner r(model, small_layout(c.weights, c.cache), tested_kernels());
    const double d = distance(a, whole(r, prompt)) / norm;
    EXPECT_LT(d, c.most * (std::string(GetParam().name) == "Linear" ? 3 : 1)) << static_cast<int>(c.weights);
    EXPECT_GT(d, 0);
  }
}

// Products that round x to their weights' format: of every family, near what is not stored in 8 bits, and the
// same numbers in both sets; however a prompt is cut, as a row's scale is its own.
TEST_P(EveryFamily, QuantisedActivationsComeClose) {
  Runner exact(model, small_layout(), tested_kernels());
  const auto a = whole(exact, prompt);
  double norm = 0;
  for (const float v : a) norm = std::max<double>(norm, std::fabs(v));
  const bool linear = std::string(GetParam().name) == "Linear";
  for (const auto& [storage, most] :
       {std::pair{Storage::kInt8, 0.2}, std::pair{Storage::kFp8, 0.5}, std::pair{Storage::kFp8Block, 0.5}}) {
    SCOPED_TRACE(testing::Message() << "storage " << static_cast<int>(storage));
    Layout l = small_layout(storage, Storage::kF32);
    l.plain = Storage::kBf16;
    Runner plain(model, l, tested_kernels());
    l.quantised_x = true;
    Runner own(model, l, tested_kernels()), reference(model, l, reference_kernels());
    const auto b = whole(own, prompt);
    EXPECT_LT(distance(a, b) / norm, most * (linear ? 3 : 1));
    EXPECT_GT(distance(b, whole(plain, prompt)) / norm, 1e-4) << "activations are rounded";
    EXPECT_LT(distance(b, whole(reference, prompt)) / norm, most / 4 * (linear ? 3 : 1));
    auto s = own.sequence(100, 1, 256);
    own.step({{&s, {prompt.begin(), prompt.begin() + 41}}});
    const auto cut = own.step({{&s, {prompt.begin() + 41, prompt.end()}}})[0];
    if (exactly())
      EXPECT_EQ(b, cut);
    else
      EXPECT_LT(distance(b, cut) / norm, most / 4);
  }
}

// One scale for a matrix, and a fixed one for what it multiplies, or a token's, or (but for experts) that of
// all tokens: near what is not stored in 8 bits, and the same numbers in both sets.
TEST_P(EveryFamily, OneFp8ScaleComesClose) {
  const auto tokens = std::vector<std::int32_t>(prompt.begin(), prompt.begin() + 30);
  Runner exact(model, small_layout(), tested_kernels());
  const auto a = whole(exact, tokens);
  double norm = 0;
  for (const float v : a) norm = std::max<double>(norm, std::fabs(v));
  const double most = std::string(GetParam().name) == "Linear" ? 1.5 : 0.5;
  const auto& kinds = model.config.kinds;
  const bool experts = std::any_of(kinds.begin(), kinds.end(), [](const LayerKind& kind) {
    return std::holds_alternative<MoeMlp>(kind.mlp);
  });
  Layout l = small_layout(Storage::kFp8, Storage::kF32);
  l.plain = Storage::kBf16, l.quantised_x = true;
  std::vector<std::vector<float>> all;
  for (const auto scales : {Fp8Scales::kStatic, Fp8Scales::kTensorToken, Fp8Scales::kTensors}) {
    if (scales == Fp8Scales::kTensors && experts) continue;
    SCOPED_TRACE(testing::Message() << "scales " << static_cast<int>(scales));
    l.fp8_scales = scales;
    Runner own(model, l, tested_kernels()), reference(model, l, reference_kernels());
    all.push_back(whole(own, tokens));
    EXPECT_LT(distance(a, all.back()) / norm, most);
    EXPECT_LT(distance(all.back(), whole(reference, tokens)) / norm, most / 4);
    if (all.size() > 1) {
      EXPECT_NE(all.back(), all.front()) << "another rounding";
    }
  }
}

// Norms and gates that round to the 8 bits of the products that read them change no bit, with their sums
// within or beside them, and for few rows as for many.
TEST_P(EveryFamily, RoundedWhereItIsMadeIsTheSame) {
  for (const auto& [storage, format] :
       {std::pair{Storage::kInt8, WeightFormat::kInt8}, std::pair{Storage::kFp8, WeightFormat::kFp8},
        std::pair{Storage::kFp8Block, WeightFormat::kFp8Block}})
    for (const int ranks : {1, 2}) {
      if (storage == Storage::kFp8 && ranks == 2) continue;
      SCOPED_TRACE(testing::Message() << "storage " << static_cast<int>(storage) << " ranks " << ranks);
      Layout l = small_layout(storage, Storage::kF32);
      l.plain = Storage::kBf16, l.quantised_x = true;
      l.fp8_scales = Fp8Scales::kStatic;
      l.ranks = l.expert_parallel = ranks;
      l.fusion.norm_residual = ranks == 1;
      const auto logits = [&](bool fused) {
        l.fusion.quantisation = fused;
        Runner r(model, l, tested_kernels(), 1, format);
        auto s = r.sequence(100, 1, 256);
        std::vector<float> all = r.step({{&s, {prompt.begin(), prompt.begin() + 21}}})[0];
        for (const auto& row : r.step({{&s, {3}, true}})) all.insert(all.end(), row.begin(), row.end());
        const auto& ran = r.transformer().operators_run();
        const auto rounded = std::count_if(ran.begin(), ran.end(), [](const OperatorRun& o) {
          const auto* g = std::get_if<GemmShape>(&o.op.shape);
          return g != nullptr && g->quantised_input;
        });
        EXPECT_EQ(rounded > 0, fused);
        return all;
      };
      expect_equal(logits(true), logits(false), exactly());
    }
}

TEST_P(EveryFamily, WhatRunsIsTheListThatIsPriced) {
  Runner r(model, small_layout(), tested_kernels());
  auto a = r.sequence(0, 1, 100), b = r.sequence(100, 1, 100);
  r.step({{&b, some_tokens(20, 128)}});
  r.step({{&a, some_tokens(30, 128)}, {&b, {3}, true}});
  Work w;
  w.prefill = {{30, 0, 1}};
  w.decode_sequences = 1;
  w.sampled_rows = 2;
  for (const std::int64_t window : model.config.attention_windows())
    w.contexts.push_back(window > 0 ? std::min<double>(21, static_cast<double>(window)) : 21);
  const OpList list = operators(model.config, Shard{}, w, {DType::kF32, DType::kF32, WeightFormat::kPlain});
  // Norms that the list counts twice a layer run as one kernel here.
  std::map<std::string, std::int64_t> priced, run;
  for (const Op& op : list.ops) priced[std::string(op.name)] += op.count;
  for (const OperatorRun& o : r.transformer().operators_run()) {
    run[std::string(o.op.name)] += 1;
    EXPECT_GE(o.seconds, 0);
  }
  EXPECT_EQ(priced, run);
}

// Weights whose scales the test says.
class WithScales final : public Checkpoint {
 public:
  using Scale = std::function<float(Role role, std::int64_t layer, std::int64_t expert)>;
  WithScales(const Checkpoint& weights, Scale of_weight, Scale of_input)
      : weights_(weights), of_weight_(std::move(of_weight)), of_input_(std::move(of_input)) {}
  Extent extent(Role role, std::int64_t layer, std::int64_t expert) const override {
    return weights_.extent(role, layer, expert);
  }
  void read(Role role, std::int64_t layer, std::int64_t expert, std::int64_t first, std::int64_t count,
            float* out) const override {
    weights_.read(role, layer, expert, first, count, out);
  }
  float weight_scale(Role role, std::int64_t layer, std::int64_t expert) const override {
    return of_weight_(role, layer, expert);
  }
  float input_scale(Role role, std::int64_t layer, std::int64_t expert) const override {
    return of_input_(role, layer, expert);
  }

 private:
  const Checkpoint& weights_;
  Scale of_weight_, of_input_;
};

TEST(Transformer, MatricesThatAreMultipliedAsOneShareTheLargestFp8Scale) {
  const SmallModel plain(moe_config());
  const auto tokens = some_tokens(20, 128);
  const auto logits = [&](const WithScales::Scale& of_weight, const WithScales::Scale& of_input) {
    SmallModel m(moe_config());
    m.weights = std::make_unique<WithScales>(*plain.weights, of_weight, of_input);
    Layout l = small_layout(Storage::kFp8, Storage::kF32);
    l.plain = Storage::kBf16, l.quantised_x = true, l.fp8_scales = Fp8Scales::kStatic;
    Runner r(m, l, tested_kernels());
    return whole(r, tokens);
  };
  const auto all = [](float scale) { return [=](Role, std::int64_t, std::int64_t) { return scale; }; };
  const auto odd = [](Role role, std::int64_t of_layer, std::int64_t of_expert, float scale, float others) {
    return [=](Role r, std::int64_t layer, std::int64_t expert) {
      return r == role && layer == of_layer && expert == of_expert ? scale : others;
    };
  };
  const auto expected = logits(all(0.003f), all(0.05f));
  // Keys stand beside queries and values; smaller scales count for nothing.
  EXPECT_EQ(logits(odd(Role::kK, 1, 0, 0.001f, 0.003f), odd(Role::kV, 2, 0, 0.02f, 0.05f)), expected);
  EXPECT_EQ(logits(all(0.003f), odd(Role::kExpertDown, 0, 5, 0.02f, 0.05f)), expected);
  EXPECT_NE(logits(odd(Role::kK, 1, 0, 0.007f, 0.003f), all(0.05f)), expected);
  // Inputs' scales are those of all experts of a layer.
  const auto largest = [&](std::int64_t expert) {
    return logits(all(0.003f), odd(Role::kExpertUp, 1, expert, 0.09f, 0.05f));
  };
  EXPECT_EQ(largest(0), largest(7));
  EXPECT_NE(largest(0), expected);
  // Without a scale of its own a matrix gets that of its largest value.
  EXPECT_EQ(logits(odd(Role::kQ, 0, 0, 0, 0), all(0.05f)),
            logits([](Role, std::int64_t, std::int64_t) { return -1.0f; }, all(0.05f)));
  EXPECT_THAT(error_of([&] { logits(all(0.003f), odd(Role::kO, 1, 0, 0, 0.05f)); }),
              HasSubstr("a matrix of layer 1 has no input_scale"));
}

TEST(Transformer, BadStepsAreRefused) {
  const SmallModel m(dense_config());
  Runner r(m, small_layout(), tested_kernels());
  auto a = r.sequence(0, 1, 256), b = r.sequence(50, 1, 256);
  EXPECT_THAT(error_of([&] { r.step({{&a, {1, 128}}}); }), HasSubstr("vocabulary of 128"));
  EXPECT_THAT(error_of([&] { r.step({{&a, {-1}}}); }), HasSubstr("vocabulary"));
  EXPECT_THAT(error_of([&] { r.step({{&a, {}}}); }), HasSubstr("at least 1"));
  EXPECT_THAT(error_of([&] { r.step({{&a, some_tokens(257, 128)}}); }), HasSubstr("at most 256"));
  EXPECT_THAT(error_of([&] {
                r.step({{&a, some_tokens(200, 128)}, {&b, some_tokens(100, 128)}});
              }),
              HasSubstr("more than 256 rows"));
  EXPECT_THAT(error_of([&] { r.step({{&a, {1}, true}, {&b, {1, 2}}}); }), HasSubstr("before decoding"));
  Json odd = dense_config();
  odd["num_attention_heads"] = 6, odd["num_key_value_heads"] = 6, odd["head_dim"] = 16;
  const SmallModel six(odd);
  Layout l = small_layout();
  l.ranks = 4;
  EXPECT_THAT(error_of([&] { Runner(six, l, tested_kernels()); }), HasSubstr("number of heads"));
}

}  // namespace
}  // namespace foretoken
