// Conversations: a turn repeats everything before it, and its content ids say so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serving/content.h"
#include "support.h"

namespace foretoken {
namespace {

using test::make;
using test::synthetic;
using ::testing::HasSubstr;

constexpr Picoseconds kSecond = 1'000'000'000'000;

WorkloadConfig chat() {
  WorkloadConfig c = synthetic(100, 10);
  c.request_rate = 1;
  c.arrival = "constant";
  c.num_prompts = 6;
  c.shared_prefix = SharedPrefix{
      .groups = 2, .users_per_group = 4, .prefix_len = 60, .multi_turn = true, .turns = 3, .think_time_s = 2};
  return c;
}

TEST(Chat, TurnsRepeatTheConversation) {
  const auto workload = make(chat());
  const Request first = workload->pop();  // conversation 0
  EXPECT_EQ(first.session, 0);
  EXPECT_EQ(first.turn, 0);
  EXPECT_EQ(first.input_len, 100);
  const auto runs = workload->content(first);
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].content, shared_prefix_content(0));
  EXPECT_EQ(runs[0].tokens, 60);
  EXPECT_EQ(runs[1].content, private_prompt_content(0));
  EXPECT_EQ(runs[1].tokens, 40);
  workload->finished(first, kSecond / 2);

  EXPECT_EQ(workload->next_arrival(), kSecond);  // conversation 1 begins
  const Request other = workload->pop();
  EXPECT_EQ(other.session, 1);
  EXPECT_EQ(workload->content(other)[0].content, shared_prefix_content(1));

  EXPECT_EQ(workload->next_arrival(), kSecond / 2 + 2 * kSecond);  // answer + think time
  const Request second = workload->pop();
  EXPECT_EQ(second.session, 0);
  EXPECT_EQ(second.turn, 1);
  EXPECT_EQ(second.input_len, 100 + 10 + 100);
  const auto more = workload->content(second);
  ASSERT_EQ(more.size(), 4u);
  EXPECT_EQ(more[1].content, private_prompt_content(first.id));
  EXPECT_EQ(more[2].content, generated_content(first.id));
  EXPECT_EQ(more[2].tokens, 10);
  EXPECT_EQ(more[3].content, private_prompt_content(second.id));
  EXPECT_EQ(more[3].tokens, 100);
}

TEST(Chat, MeansAndLongestFollowFromTheTurns) {
  const auto workload = make(chat());
  EXPECT_EQ(workload->total_requests(), 6);
  EXPECT_DOUBLE_EQ(workload->means().input_len, (100 + 210 + 320) / 3.0);
  EXPECT_DOUBLE_EQ(workload->means().output_len, 10);
  EXPECT_DOUBLE_EQ(workload->means().request_rate, 3);
  EXPECT_EQ(workload->longest(), 330);
  EXPECT_EQ(workload->describe(), "conversations of 3 turns by 8 users, 1 begun a second, 6 requests");
}

TEST(Chat, TheLastConversationIsCutToNumPrompts) {
  WorkloadConfig c = chat();
  c.num_prompts = 7;
  const auto workload = make(c);
  double input = 0;
  int count = 0;
  while (workload->next_arrival()) {
    const Request r = workload->pop();
    input += r.input_len;
    ++count;
    workload->finished(r, r.arrival + 1);
  }
  EXPECT_EQ(count, 7);
  EXPECT_DOUBLE_EQ(workload->means().input_len, input / 7);
}

TEST(Chat, LengthsDoNotDependOnHowFastAnswersCome) {
  WorkloadConfig c = chat();
  c.num_prompts = 60;
  c.input_len = test::uniform(70, 500);
  c.output_len = test::uniform(1, 300);
  const auto outputs = [&](Picoseconds service) {
    const auto workload = make(c);
    std::vector<std::int32_t> by_turn(60);
    std::vector<std::pair<Picoseconds, Request>> running;
    while (workload->next_arrival() || !running.empty()) {
      if (!running.empty() &&
          (!workload->next_arrival() || running.front().first <= *workload->next_arrival())) {
        workload->finished(running.front().second, running.front().first);
        running.erase(running.begin());
        continue;
      }
      const Request r = workload->pop();
      by_turn[static_cast<std::size_t>(r.session * 3 + r.turn)] = r.output_len;
      running.emplace_back(r.arrival + service, r);
    }
    return by_turn;
  };
  EXPECT_EQ(outputs(kSecond / 10), outputs(7 * kSecond));
}

TEST(Chat, AUserHoldsOneConversationAtATime) {
  WorkloadConfig c = chat();
  c.shared_prefix->groups = c.shared_prefix->users_per_group = 1;
  c.shared_prefix->turns = 1;
  const auto workload = make(c);
  const Request first = workload->pop();
  EXPECT_EQ(workload->next_arrival(), std::nullopt);  // the one user is busy
  workload->finished(first, 10 * kSecond);
  EXPECT_EQ(workload->next_arrival(), 12 * kSecond);
}

TEST(Chat, UsersTakeTurnsInAClosedLoop) {
  WorkloadConfig c = chat();
  c.request_rate.reset();
  c.arrival = "poisson";
  c.max_concurrency = 1;
  c.num_prompts = 24;
  const auto workload = make(c);
  std::vector<std::uint64_t> prefixes;
  while (workload->next_arrival()) {
    const Request r = workload->pop();
    if (r.turn == 0) prefixes.push_back(workload->content(r)[0].content);
    workload->finished(r, r.arrival + 1);
  }
  ASSERT_EQ(prefixes.size(), 8u);
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(prefixes[i], shared_prefix_content(static_cast<std::int64_t>(i % 2)));
  }
}

TEST(Chat, RefusesConversationsBeyond31Bits) {
  WorkloadConfig c = chat();
  c.input_len = test::fixed(1'000'000'000);
  const auto workload = make(c);
  EXPECT_THAT(test::error_of([&] {
                while (workload->next_arrival()) {
                  const Request r = workload->pop();
                  workload->finished(r, r.arrival);
                }
              }),
              HasSubstr("grows beyond 2,147,483,647 tokens by turn 3"));
}

}  // namespace
}  // namespace foretoken
