// Every test of the program is skipped, with the reason, where there is no device.
#include <gtest/gtest.h>

#include "executor/cuda/runtime.h"

namespace foretoken::cuda {
namespace {

class Device final : public testing::Environment {
 public:
  void SetUp() override {
    if (device_count() == 0) GTEST_SKIP() << no_device_reason();
  }
};
[[maybe_unused]] const testing::Environment* const kDevice = testing::AddGlobalTestEnvironment(new Device);

}  // namespace
}  // namespace foretoken::cuda
