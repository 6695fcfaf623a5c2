// The pool of threads: every task once, runs inside tasks, many short runs.
#include "executor/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace foretoken {
namespace {

TEST(Threads, EveryTaskRunsOnce) {
  for (const int count : {1, 2, 5}) {
    Threads threads(count);
    EXPECT_EQ(threads.count(), count);
    for (const std::int64_t tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> times(static_cast<std::size_t>(tasks));
      threads.run(tasks, [&](std::int64_t i) { ++times[static_cast<std::size_t>(i)]; });
      for (const auto& t : times) EXPECT_EQ(t, 1);
    }
  }
}

TEST(Threads, RunsInsideTasksAndManyShortOnes) {
  Threads threads(3);
  std::atomic<std::int64_t> sum = 0;
  threads.run(10, [&](std::int64_t i) { threads.run(10, [&](std::int64_t j) { sum += i * 10 + j; }); });
  EXPECT_EQ(sum, 99 * 100 / 2);
  sum = 0;
  for (int r = 0; r < 2000; ++r) threads.run(3, [&](std::int64_t i) { sum += i; });
  EXPECT_EQ(sum, 2000 * 3);
}

}  // namespace
}  // namespace foretoken
