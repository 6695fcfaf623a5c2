// Asynchronous scheduling: a step is decided when the one before it starts, so a request that arrives
// meanwhile waits for the step after (vLLM's step_with_batch_queue, SGLang's event_loop_overlap).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "toy.h"

namespace foretoken {
namespace {

using testing::ElementsAre;

ServeOptions ahead(bool schedules_ahead) {
  ServeOptions o = toy::options(100, 4, 16, 8);
  o.engines[0].scheduler.schedules_ahead = schedules_ahead;
  return o;
}

TEST(Async, AnArrivalDuringAStepMissesTheNextOne) {
  for (const bool on : {false, true}) {
    toy::ListWorkload w;
    w.add(0, 4, 5);
    w.add(1500, 4, 2);
    toy::BatchLog log(1000);
    const ServeResult r = serve(w, log, ahead(on));
    if (on) {
      EXPECT_THAT(log.batches, ElementsAre("p0:4/0!", "d0@5", "d0@6", "p1:4/0! d0@7", "d0@8 d1@5"));
    } else {
      EXPECT_THAT(log.batches, ElementsAre("p0:4/0!", "d0@5", "p1:4/0! d0@6", "d0@7 d1@5", "d0@8"));
    }
    EXPECT_EQ(r.records.back().queued, 1500) << "the wait is part of the queueing time";
  }
}

TEST(Async, AnIdleEngineStartsAtOnce) {
  toy::ListWorkload w;
  w.add(0, 4, 1);
  w.add(5000, 4, 2);
  toy::BatchLog log(1000);
  serve(w, log, ahead(true));
  EXPECT_THAT(log.starts, ElementsAre(0, 5000, 6000));
}

TEST(Async, NothingIsHeldOnceTheOthersHaveEnded) {
  toy::ListWorkload w;
  w.add(0, 4, 2);
  w.add(1500, 4, 1);
  toy::BatchLog log(1000);
  serve(w, log, ahead(true));
  EXPECT_THAT(log.batches, ElementsAre("p0:4/0!", "d0@5", "p1:4/0!"));
  EXPECT_THAT(log.starts, ElementsAre(0, 1000, 2000));
}

TEST(Async, LateRequestsKeepTheirOrder) {
  toy::ListWorkload w;
  w.add(0, 4, 6);
  w.add(1100, 4, 1);
  w.add(1200, 4, 1);
  w.add(2500, 4, 1);
  toy::BatchLog log(1000);
  serve(w, log, ahead(true));
  EXPECT_THAT(log.batches,
              ElementsAre("p0:4/0!", "d0@5", "d0@6", "p1:4/0! p2:4/0! d0@7", "p3:4/0! d0@8", "d0@9"));
}

}  // namespace
}  // namespace foretoken
