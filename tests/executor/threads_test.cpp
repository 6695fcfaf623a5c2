// Each task runs once, in nested runs and in many runs one after another.
#include "executor/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
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

TEST(Threads, WhatATaskThrowsIsThrownOnceTheOthersAreDone) {
  for (const int count : {1, 4})
    for (const bool nested : {false, true}) {
      Threads threads(count);
      std::atomic<int> running = 0, calls = 0;
      auto task = [&](std::int64_t i) {
        ++running, ++calls;
        if (i == 5) {
          --running;
          throw std::runtime_error("task 5");
        }
        // All of them together would take ten seconds: longer than the failure needs to be seen.
        if (i > 5) std::this_thread::sleep_for(std::chrono::microseconds(100));
        --running;
      };
      for (int repeat = 0; repeat < 200; ++repeat) {
        calls = 0;
        try {
          if (nested)
            threads.run(2, [&](std::int64_t) { threads.run(100000, task); });
          else
            threads.run(100000, task);
          FAIL() << "nothing was thrown";
        } catch (const std::runtime_error& error) {
          EXPECT_STREQ(error.what(), "task 5");
        }
        EXPECT_EQ(running, 0);
        EXPECT_LT(calls, 100000) << "tasks went on being begun";
        calls = 0;
        threads.run(9, [&](std::int64_t) { ++calls; });
        ASSERT_EQ(calls, 9) << "the run after";
      }
    }
}

}  // namespace
}  // namespace foretoken
