// Static batches and Triton's dynamic batcher (docs/policies.md), against schedules computed by hand. Blocks
// of 4 tokens, steps of 1000 ps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;
using toy::ListWorkload;
using toy::run;
using toy::Served;

ServeOptions batches_of(std::int64_t max_batch_size, std::int64_t usable_blocks = 100) {
  ServeOptions o = toy::options(usable_blocks + 1, 4, 100, max_batch_size);
  SchedulerConfig& c = o.engines[0].scheduler;
  c.policy = SchedulerPolicy::kStaticBatch;
  c.enable_prefix_caching = false;
  c.max_model_len = 24;
  c.reservation = KvReservation::kMaxModelLen;
  return o;
}
StaticBatchConfig& batching(ServeOptions& o) { return o.engines[0].scheduler.static_batch; }

// Request 1 ends first and leaves a hole; request 2 waits for the batch's end.
TEST(StaticBatch, StartsTogetherAndEndsTogether) {
  ListWorkload w;
  w.add(0, 4, 4);
  w.add(0, 6, 2);
  w.add(500, 4, 1);
  const Served r = run(w, batches_of(4));
  EXPECT_THAT(r.batches, ElementsAre("p0:4/0! p1:6/0!", "d0@5 d1@7", "d0@6 hole1", "d0@7 hole1", "p2:4/0!"));
  EXPECT_EQ(r.result.records[1].finish, 2000) << "tokens are streamed";
  EXPECT_EQ(r.result.scheduled_tokens, 10 + 2 + 2 + 2 + 4);
  EXPECT_EQ(r.result.discarded_tokens, 2) << "rows of the hole";
}

// Padded, the batch is a rectangle: 3 x 6 rows for 13 tokens.
TEST(StaticBatch, PaddedPromptsAreARectangle) {
  ListWorkload w;
  w.add(0, 4, 1);
  w.add(0, 6, 1);
  w.add(0, 3, 1);
  ServeOptions o = batches_of(4);
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0! p1:6/0! p2:3/0!"));
  batching(o).remove_padding = false;
  const Served r = run(w, o);
  EXPECT_THAT(r.batches, ElementsAre("p0:4/0! pad0:2 p1:6/0! p2:3/0! pad2:3"));
  EXPECT_EQ(r.result.scheduled_tokens, 18);
  EXPECT_EQ(r.result.discarded_tokens, 5);
}

// Regions of 6 blocks each in 13: two fit, and the memory of the one that has ended stays with the batch.
TEST(StaticBatch, MemoryStaysWithTheBatch) {
  ListWorkload w;
  w.add(0, 4, 3);
  w.add(0, 4, 1);
  w.add(0, 4, 1);
  const Served r = run(w, batches_of(4, 13));
  EXPECT_THAT(r.batches, ElementsAre("p0:4/0! p1:4/0!", "d0@5 hole1", "d0@6 hole1", "p2:4/0!"));
  EXPECT_EQ(r.result.reserved_tokens, 3 * 24);
}

// Adds the sums that prices go by.
class Rectangles : public toy::BatchLog {
 public:
  StepTime run(const Step& step) override {
    const Batch& b = step.ranks[0];
    contexts.push_back(b.contexts[0]);
    growing.push_back(b.growing[0]);
    return BatchLog::run(step);
  }
  std::vector<std::int64_t> contexts;
  std::vector<std::int32_t> growing;
};

ServeOptions generating(std::int64_t max_batch_size, std::int64_t usable_blocks = 100) {
  ServeOptions o = batches_of(max_batch_size, usable_blocks);
  o.engines[0].scheduler.policy = SchedulerPolicy::kTransformers;
  o.engines[0].scheduler.reservation = KvReservation::kPaged;
  return o;
}

// Prompts of 4 and 6 are 2 x 6 tokens; then every row, that of the ended request too, attends to 7, 8 and 9.
TEST(Generate, ComputesARectangleUntilTheLastRequestHasEnded) {
  ListWorkload w;
  w.add(0, 4, 4);
  w.add(0, 6, 2);
  w.add(500, 4, 1);
  Rectangles log;
  const ServeResult r = serve(w, log, generating(4));
  EXPECT_THAT(log.batches,
              ElementsAre("p0:4/0! pad0:2 p1:6/0!", "d0@5 d1@7", "d0@6 hole1", "d0@7 hole1", "p2:4/0!"));
  EXPECT_THAT(log.contexts, ElementsAre(0, 2 * 7, 2 * 8, 2 * 9, 0));
  EXPECT_THAT(log.growing, ElementsAre(0, 2, 2, 2, 0));
  EXPECT_EQ(r.scheduled_tokens, 12 + 2 + 2 + 2 + 4);
  EXPECT_EQ(r.discarded_tokens, 2 + 2) << "padding, and rows of the ended request";
}

// Prompts of at most 8 and outputs of 3 take 10 tokens a row, 3 blocks: 7 blocks hold two rows.
TEST(Generate, StartsAsManyRowsOfTheLongestLengthAsMemoryHolds) {
  ListWorkload w;
  w.add(0, 4, 3);
  w.add(0, 8, 1);
  w.add(0, 4, 1);
  const Served r = run(w, generating(4, 7));
  EXPECT_THAT(r.batches, ElementsAre("p0:4/0! pad0:4 p1:8/0!", "d0@5 hole1", "d0@6 hole1", "p2:4/0!"));
}

// Padded, a step of 100 tokens holds 4 prompts of 22; nobody passes the one that doesn't fit.
TEST(Generate, PromptsOfAStepAreCountedPadded) {
  ListWorkload w;
  for (int i = 0; i < 4; ++i) w.add(0, 2, 1);
  w.add(0, 22, 1);
  w.add(0, 2, 1);
  EXPECT_THAT(run(w, generating(8)).batches,
              ElementsAre("p0:2/0! p1:2/0! p2:2/0! p3:2/0!", "p4:22/0! p5:2/0! pad5:20"));
}

// Nobody to wait for: the batch is whoever waits, up to max_batch_size.
TEST(DynamicBatcher, WithoutADelayTakesWhoeverWaits) {
  ListWorkload w;
  for (int i = 0; i < 3; ++i) w.add(0, 4, 1);
  EXPECT_THAT(run(w, batches_of(2)).batches, ElementsAre("p0:4/0! p1:4/0!", "p2:4/0!"));
}

// Triton waits max_queue_delay from the arrival of the oldest, and not at all once the batch is full.
TEST(DynamicBatcher, WaitsForCompanyUntilTheDelayIsOver) {
  ListWorkload w;
  w.add(100, 4, 1);
  w.add(600, 4, 1);
  ServeOptions o = batches_of(4);
  batching(o).max_queue_delay = 700;
  toy::BatchLog log;
  ListWorkload copy = w;
  const ServeResult r = serve(copy, log, o);
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0! p1:4/0!"));
  EXPECT_EQ(log.starts[0], 800) << "100 + 700";
  EXPECT_EQ(r.records[1].scheduled, 800);
  toy::BatchLog full;
  o.engines[0].scheduler.max_num_seqs = 2;
  copy = w;
  serve(copy, full, o);
  EXPECT_EQ(full.starts[0], 600) << "a full batch does not wait";
}

// The largest preferred size that is there goes at once; what is too few for any waits for the delay. Six
// wait at 0: four go, two don't make four and leave 700 after their arrival, which the first batch has
// passed.
TEST(DynamicBatcher, PreferredSizesGoAtOnce) {
  ListWorkload w;
  for (int i = 0; i < 6; ++i) w.add(0, 4, 1);
  ServeOptions o = batches_of(8);
  batching(o).preferred_batch_size = {2, 4};
  batching(o).max_queue_delay = 5000;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0! p1:4/0! p2:4/0! p3:4/0!", "p4:4/0! p5:4/0!"));
  batching(o).preferred_batch_size = {4};
  toy::BatchLog log;
  serve(w, log, o);
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0! p1:4/0! p2:4/0! p3:4/0!", "p4:4/0! p5:4/0!"));
  EXPECT_THAT(log.starts, ElementsAre(0, 5000));
}

// More than the largest preferred size wait, whose delay is over: all go.
TEST(DynamicBatcher, WhoHasWaitedTooLongTakesAllAlong) {
  ListWorkload w;
  w.add(0, 4, 3);
  for (int i = 0; i < 3; ++i) w.add(500, 4, 1);
  ServeOptions o = batches_of(8);
  batching(o).preferred_batch_size = {1, 2};
  batching(o).max_queue_delay = 1000;
  EXPECT_THAT(run(w, o).batches, ElementsAre("p0:4/0!", "d0@5", "d0@6", "p1:4/0! p2:4/0! p3:4/0!"));
  batching(o).max_queue_delay = 2600;
  EXPECT_EQ(run(w, o).batches[3], "p1:4/0! p2:4/0!") << "not yet over";
}

TEST(DynamicBatcher, SizesBeyondTheBatchAreRefused) {
  ListWorkload w;
  w.add(0, 4, 1);
  ServeOptions o = batches_of(4);
  batching(o).preferred_batch_size = {5};
  EXPECT_THROW(run(w, o), Error);
  batching(o).preferred_batch_size = {};
  batching(o).max_queue_delay = -1;
  EXPECT_THROW(run(w, o), Error);
}

}  // namespace
}  // namespace foretoken
