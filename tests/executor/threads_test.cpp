// Each task runs once, in nested runs and in many runs one after another.
#include "executor/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace foretoken {
namespace {

TEST(Threads, EachTaskRunsOnce) {
  for (const int count : {1, 2, 5}) {
    Threads threads(count);
    EXPECT_EQ(threads.count(), count);
    for (int repeat = 0; repeat < 2000; ++repeat) {
      const std::size_t tasks = static_cast<std::size_t>(repeat % 13);
      std::vector<std::atomic<int>> calls(tasks);
      threads.run(static_cast<std::int64_t>(tasks),
                  [&](std::int64_t i) { ++calls[static_cast<std::size_t>(i)]; });
      for (const auto& c : calls) ASSERT_EQ(c, 1);
    }
  }
}

TEST(Threads, ARunInsideATask) {
  Threads threads(3);
  std::atomic<int> calls = 0;
  for (int repeat = 0; repeat < 200; ++repeat)
    threads.run(7, [&](std::int64_t) { threads.run(5, [&](std::int64_t) { ++calls; }); });
  EXPECT_EQ(calls, 200 * 35);
}

}  // namespace
}  // namespace foretoken
