// What a transformer says that it takes of a device's memory is what it takes, to the byte: the emulated
// device has no more.
#include <gtest/gtest.h>

#include <limits>

#include "executor/cuda/emulation.h"
#include "executor/cuda/runtime.h"
#include "tests/executor/model_support.h"

namespace foretoken::test {
namespace {

struct Case {
  const char* name;
  Json (*config)();
  void (*change)(Layout&);
};

class DeviceMemoryOf : public testing::TestWithParam<Case> {
 protected:
  void TearDown() override { cuda::emulation::settings().memory_bytes = before_; }
  const std::size_t before_ = cuda::emulation::settings().memory_bytes;
};

std::size_t taken() { return cuda::emulation::settings().memory_bytes - cuda::free_memory(); }

TEST_P(DeviceMemoryOf, IsWhatItSaysThatItNeeds) {
  const SmallModel model(GetParam().config());
  Layout layout = small_layout(Storage::kBf16, Storage::kBf16);
  GetParam().change(layout);
  const Kernels& kernels = tested_kernels();
  Threads threads;
  const std::size_t start = taken();
  const Transformer::Bytes bytes =
      Transformer::bytes_needed(model.config, model.numerics, *model.weights, kernels, layout, threads);
  EXPECT_EQ(taken(), start) << "found without allocating";
  EXPECT_TRUE(bytes.weights > 0 && bytes.cache > 0 && bytes.workspace > 0);
  const std::size_t needed = bytes.weights + bytes.cache + bytes.workspace;

  const auto run = [&](std::size_t room) {
    cuda::emulation::settings().memory_bytes = start + room;
    Runner runner(model, layout, kernels);
    // Of a streamed layer's packing nothing is left.
    if (layout.streamed_layers == 0) {
      EXPECT_EQ(taken(), start + needed);
    }
    std::vector<Runner::Sequence> sequences;
    std::vector<Runner::Part> prompts, decodes;
    for (std::int32_t i = 0; i < 3; ++i) sequences.push_back(runner.sequence(40 * i, 1, 256));
    for (Runner::Sequence& s : sequences) {
      prompts.push_back({&s, some_tokens(80, 128)});
      decodes.push_back({&s, {5}, true});
    }
    runner.step(prompts);
    for (int i = 0; i < 3; ++i) runner.step(decodes);  // launched, recorded, run again
    EXPECT_LE(taken(), start + needed);
  };
  EXPECT_NO_THROW(run(needed));
  EXPECT_EQ(taken(), start);
  if (layout.streamed_layers == 0) {
    EXPECT_THROW(run(needed - 64), Error);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, DeviceMemoryOf,
    testing::Values(Case{"Dense", dense_config,
                         [](Layout& l) {
                           l.step_sizes = {1, 2, 4};
                         }},
                    Case{"MoeOnTwoRanks", moe_config, [](Layout& l) { l.ranks = l.expert_parallel = 2; }},
                    Case{"Latent", latent_config, [](Layout& l) { l.step_sizes = {4}; }},
                    Case{"Linear", linear_config, [](Layout&) {}},
                    Case{"Int4", gated_config,
                         [](Layout& l) { l.weights = Storage::kInt4, l.cache = Storage::kInt8; }},
                    Case{"Streamed", dense_config, [](Layout& l) { l.streamed_layers = 2; }}),
    [](const auto& c) { return std::string(c.param.name); });

}  // namespace
}  // namespace foretoken::test
