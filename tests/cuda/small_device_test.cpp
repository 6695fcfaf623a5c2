// A deployment that a device holds to the byte is served, one that is larger is refused with its numbers
// before anything is allocated.
#include <gmock/gmock.h>

#include "base/error.h"
#include "executor/cuda/emulation.h"
#include "executor/cuda/runtime.h"
#include "tests/execution/served.h"

namespace foretoken {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::size_t taken() { return cuda::emulation::settings().memory_bytes - cuda::free_memory(); }

struct Loaded {
  Scenario scenario;
  Deployment deployment;
  explicit Loaded(const Json& engine, int engines = 1)
      : scenario(test_scenario(of(engine, engines).dump())),
        deployment(resolve_or_fail(scenario, 100, 120)) {}
  static Json of(const Json& engine, int engines) {
    Json json = small_scenario(small_config("dense"), engine, Json::object());
    json["hardware"]["count"] = json["hardware"]["devices_per_node"] = engines;
    json["hardware"]["scaleup_bandwidth"] = "10 GB/s";
    json["cluster"]["replicas"] = engines;
    return json;
  }
};

ExecutorOptions on_device() {
  ExecutorOptions options;
  options.kernels = &test::tested_kernels();
  return options;
}

class SmallDevice : public testing::Test {
 protected:
  void TearDown() override { cuda::emulation::settings().memory_bytes = before_; }
  // Bytes that it takes; serves it with `room` bytes on top of what was taken before.
  std::size_t serve_in(const Loaded& loaded, std::size_t room) {
    const std::size_t start = taken();
    cuda::emulation::settings().memory_bytes = start + room;
    const Resources resources = test_resources();
    const auto workload =
        make_workload(loaded.scenario.workload, resources.scenario_folder, "test.json:/workload");
    ExecutedBackend backend(loaded.deployment, *workload, scenario_model_text(loaded.scenario, resources),
                            on_device());
    const std::size_t loaded_bytes = taken() - start;
    SimulateOptions o;
    o.use_spans = false;
    EXPECT_EQ(serve_with(backend, *workload, loaded.deployment, o).served.metrics.completed, 12);
    EXPECT_EQ(taken() - start, loaded_bytes) << "serving allocates nothing of the device's memory";
    return loaded_bytes;
  }
  const std::size_t before_ = cuda::emulation::settings().memory_bytes;
};

TEST_F(SmallDevice, HoldsWhatFitsToTheByteAndRefusesMore) {
  test::tested_kernels();
  const Loaded loaded(Json{{"cuda_graph_sizes", {1, 4, 8}}});
  const std::size_t needed = serve_in(loaded, before_);
  EXPECT_EQ(serve_in(loaded, needed), needed);
  const std::size_t start = taken();
  try {
    serve_in(loaded, needed - 1);
    FAIL() << "it was not refused";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr("of weights"), HasSubstr("of KV cache"), HasSubstr("of workspace"),
                                HasSubstr("the device has"), HasSubstr("200 blocks"), HasSubstr("MiB")));
  }
  EXPECT_EQ(taken(), start);
}

// Engines share their weights, each has a cache and a workspace.
TEST_F(SmallDevice, SeveralEnginesAreCounted) {
  test::tested_kernels();
  const std::size_t one = serve_in(Loaded(Json::object()), before_),
                    two = serve_in(Loaded(Json::object(), 2), before_);
  EXPECT_GT(two, one);
  EXPECT_LT(two, 2 * one);
  EXPECT_EQ(serve_in(Loaded(Json::object(), 2), two), two);
  EXPECT_THROW(serve_in(Loaded(Json::object(), 2), two - 1), Error);
}

}  // namespace
}  // namespace foretoken
