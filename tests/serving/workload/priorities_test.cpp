// Priorities of requests: drawn by class, or a column of the trace.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "serving/trace_reader.h"
#include "support.h"

namespace foretoken {
namespace {

using test::drain;
using test::make;
using test::synthetic;

WorkloadConfig with_classes() {
  WorkloadConfig c = synthetic(10, 5);
  c.request_rate = 10;
  c.num_prompts = 20'000;
  c.priority_classes = {{-1, 1}, {5, 3}};
  return c;
}

TEST(Priorities, SharesAreThoseOfTheClasses) {
  std::map<std::int32_t, int> count;
  for (const Request& r : drain(*make(with_classes()))) ++count[r.priority];
  ASSERT_EQ(count.size(), 2u);
  EXPECT_NEAR(count[-1], 5000, 5 * 61) << "five standard deviations";
  EXPECT_EQ(count[-1] + count[5], 20'000);
}

TEST(Priorities, ADrawIsTheRequestsAndChangesNothingElse) {
  const std::vector<Request> all = drain(*make(with_classes()));
  WorkloadConfig c = with_classes();
  c.num_prompts = 100;
  c.max_concurrency = 7;
  c.request_rate.reset();
  const auto closed = make(c);
  for (int i = 0; i < 100; ++i) {
    const Request r = closed->pop();
    EXPECT_EQ(r.priority, all[static_cast<std::size_t>(i)].priority);
    closed->finished(r, r.arrival);
  }
  c = with_classes();
  c.priority_classes.clear();
  const std::vector<Request> plain = drain(*make(c));
  for (std::size_t i = 0; i < all.size(); ++i) {
    ASSERT_EQ(plain[i].arrival, all[i].arrival);
    ASSERT_EQ(plain[i].priority, 0);
  }
}

TEST(Priorities, TurnsOfAConversationHaveOne) {
  WorkloadConfig c = with_classes();
  c.num_prompts = 400;
  c.shared_prefix = SharedPrefix{4, 5, 0, true, 4, 0};
  std::map<std::int32_t, std::int32_t> of;
  for (const Request& r : drain(*make(c))) {
    const auto [at, first] = of.try_emplace(r.session, r.priority);
    EXPECT_EQ(at->second, r.priority);
  }
  EXPECT_EQ(of.size(), 100u);
}

TEST(Priorities, ATracesColumnGoesBeforeTheClasses) {
  const test::TemporaryFolder folder;
  folder.write("t.csv", "arrived_at,num_prefill_tokens,num_decode_tokens,priority\n0,1,1,3\n1,1,1,-4\n");
  folder.write("t.jsonl",
               "{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"priority\": 2}\n"
               "{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1}\n");
  WorkloadConfig c;
  c.trace = "t.csv";
  c.priority_classes = {{9, 1}};
  std::vector<Request> r = drain(*make(c, folder.path()));
  EXPECT_EQ(r[0].priority, 3);
  EXPECT_EQ(r[1].priority, -4);
  c.trace = "t.jsonl";
  r = drain(*make(c, folder.path()));
  EXPECT_EQ(r[0].priority, 2);
  EXPECT_EQ(r[1].priority, 9);
}

}  // namespace
}  // namespace foretoken
