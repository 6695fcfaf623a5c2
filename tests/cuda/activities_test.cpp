// Which operator each recorded kernel belongs to, from records that are made up here.
#include "executor/cuda/activities.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <utility>

#include "executor/cuda/runtime.h"
#include "expect_error.h"

namespace foretoken::cuda {
namespace {

using test::error_of;
using testing::HasSubstr;

// A driver whose calls have correlations 1, 2, ... and whose kernels take what they are told.
struct Driver {
  ActivityRecords records;
  std::vector<std::uint64_t> ids, pushed;
  std::uint32_t calls = 0;
  std::uint64_t now = 1000;

  // A call that launches kernels with gaps of 10 ns before them.
  void launch(const std::vector<std::uint64_t>& nanoseconds) {
    ++calls;
    if (!ids.empty()) records.ids.emplace_back(calls, ids.back());
    for (const std::uint64_t t : nanoseconds) add(now + 10, t);
  }
  void add(std::uint64_t start, std::uint64_t nanoseconds) {
    records.activities.push_back({start, start + nanoseconds, calls});
    now = start + nanoseconds;
  }
};

class Source final : public ActivitySource {
 public:
  explicit Source(Driver& driver) : driver_(driver) {}
  void push(std::uint64_t id) override { driver_.ids.push_back(id), driver_.pushed.push_back(id); }
  void pop() override {
    ASSERT_FALSE(driver_.ids.empty());
    driver_.ids.pop_back();
  }
  ActivityRecords collect() override {
    std::reverse(driver_.records.activities.begin(), driver_.records.activities.end());  // in no order
    return std::exchange(driver_.records, {});
  }

 private:
  Driver& driver_;
};

struct Times : testing::Test {
  Driver driver;
  ActivityTimes times{std::make_unique<Source>(driver)};
  int mark() { return times.mark(std::nullopt); }
  double nanoseconds(int from, int to) { return 1e9 * times.seconds(from, to); }
};

TEST_F(Times, AreOfTheKernelsBetweenTwoPlaces) {
  times.restart();
  driver.launch({500});  // before the first place: of nobody
  const int a = mark();
  driver.launch({3}), driver.launch({4});
  const int b = mark();
  driver.launch({100});
  const int c = mark(), d = mark();
  driver.launch({20});
  const int e = mark();
  EXPECT_NEAR(nanoseconds(a, b), 7, 1e-6);
  EXPECT_NEAR(nanoseconds(b, c), 100, 1e-6);
  EXPECT_NEAR(nanoseconds(c, d), 0, 1e-6);
  EXPECT_NEAR(nanoseconds(a, e), 127, 1e-6);
  EXPECT_LE(driver.ids.size(), 1u) << "ids are not nested";
}

TEST_F(Times, ANewStepForgetsTheLast) {
  times.restart();
  mark();
  driver.launch({3});
  mark();
  times.restart();
  const int a = mark();
  driver.launch({8});
  const int b = mark();
  EXPECT_EQ(a, 0);
  EXPECT_NEAR(nanoseconds(a, b), 8, 1e-6);
}

// A kernel that starts before the last one ends counts from there on; one that lies within it counts nothing.
TEST_F(Times, OverlappingKernelsCountOnce) {
  times.restart();
  const int a = mark();
  driver.launch({});
  driver.add(2000, 100);
  const int b = mark();
  driver.launch({});
  driver.add(2080, 50);  // 30 of its own
  driver.add(2090, 20);
  const int c = mark();
  EXPECT_NEAR(nanoseconds(a, b), 100, 1e-6);
  EXPECT_NEAR(nanoseconds(b, c), 30, 1e-6);
}

// One call launches all nodes of a graph: places are told apart by how many nodes were captured before them.
TEST_F(Times, OfARecordedStepGoByTheOrderOfItsNodes) {
  int owner = 0;
  times.restart();
  const int a = times.mark(1), b = times.mark(3), c = times.mark(3), d = times.mark(4);
  times.keep(&owner, 7, 5);
  EXPECT_TRUE(driver.pushed.empty()) << "what is captured doesn't run";
  times.replay(&owner, 7, [&] { driver.launch({1, 20, 30, 400, 5000}); });
  EXPECT_NEAR(nanoseconds(a, b), 50, 1e-6);
  EXPECT_NEAR(nanoseconds(b, c), 0, 1e-6);
  EXPECT_NEAR(nanoseconds(c, d), 400, 1e-6);
  EXPECT_NEAR(nanoseconds(a, d), 450, 1e-6);
  // Later, after another recording and a step that was launched kernel by kernel.
  times.restart();
  times.mark(0), times.mark(2);
  times.keep(&owner, 8, 2);
  times.replay(&owner, 8, [&] { driver.launch({7, 8}); });
  EXPECT_NEAR(nanoseconds(0, 1), 15, 1e-6);
  times.restart();
  mark();
  driver.launch({3});
  EXPECT_NEAR(nanoseconds(0, mark()), 3, 1e-6);
  times.restart();
  times.replay(&owner, 7, [&] { driver.launch({2, 40, 60, 800, 1}); });
  EXPECT_NEAR(nanoseconds(a, b), 100, 1e-6);
  EXPECT_NEAR(nanoseconds(c, d), 800, 1e-6);
}

TEST_F(Times, MissingRecordsAreRefused) {
  int owner = 0;
  times.restart();
  times.mark(0), times.mark(2);
  times.keep(&owner, 1, 2);
  times.replay(&owner, 1, [&] { driver.launch({7}); });
  EXPECT_THAT(error_of([&] { times.seconds(0, 1); }), HasSubstr("1 of the 2 kernels"));
  times.restart();
  mark();
  driver.launch({3});
  mark();
  driver.records.dropped = 4;
  EXPECT_THAT(error_of([&] { times.seconds(0, 1); }), HasSubstr("lost 4 records"));
}

// The emulated device's: one record a kernel, copy and fill, under the id of the call that launched it, and
// of a graph one for each of its nodes under the id of the graph's launch.
TEST(Activities, AreRecordedByTheDevice) {
  std::string why_not;
  const auto source = open_activities(why_not);
  ASSERT_NE(source, nullptr) << why_not;
  Stream stream;
  const DeviceMemory memory(64);
  fill(stream, memory.data(), 1, 64);
  source->push(5);
  fill(stream, memory.data(), 2, 32);
  source->pop();
  Graph graph;
  graph.capture(stream, [&] {
    EXPECT_EQ(stream.captured(), 0u);
    fill(stream, memory.data(), 3, 64), fill(stream, memory.data(), 4, 8);
    EXPECT_EQ(stream.captured(), 2u);
  });
  EXPECT_EQ(stream.captured(), std::nullopt);
  source->push(6);
  graph.launch(stream);
  source->pop();
  stream.synchronize();
  const ActivityRecords records = source->collect();
  ASSERT_EQ(records.activities.size(), 4u);
  ASSERT_EQ(records.ids.size(), 2u) << "the first fill was under no id";
  EXPECT_EQ(records.ids[0], (std::pair<std::uint32_t, std::uint64_t>{records.activities[1].correlation, 5}));
  for (const std::size_t of_graph : {2, 3})
    EXPECT_EQ(records.ids[1],
              (std::pair<std::uint32_t, std::uint64_t>{records.activities[of_graph].correlation, 6}));
  for (const Activity& a : records.activities) EXPECT_GE(a.end, a.start);
  EXPECT_TRUE(source->collect().activities.empty());
}

}  // namespace
}  // namespace foretoken::cuda
