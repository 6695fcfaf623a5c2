// What is under way in a pool of elastic instances.
#pragma once

#include <vector>

#include "serving/elastic/pool.h"
#include "serving/engine.h"
#include "serving/timeline.h"

namespace foretoken::elastic {

// Groups that step together, and the step or span of decode steps that they are in.
struct Lane {
  std::vector<Group> groups;
  std::vector<std::int32_t> idle;  // instances that have left them in this macro iteration
  bool prefills = false;           // the step under way
  bool awaited = false;            // a prefill that the macro iteration waits for
  bool rests = false;              // until the macro iteration ends
  Picoseconds end = kNever;
  std::vector<std::int32_t> instances;  // busy in it
  TimelineWriter::StepEvent event;
  Picoseconds length(std::int64_t steps) const {
    return event.first * steps + event.increment * (steps * (steps - 1) / 2);
  }
  // Steps of the span that have started before that time, the first one in any case.
  std::int64_t steps_until(Picoseconds time) const {
    std::int64_t low = 1, high = event.steps;
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (event.start + length(middle) >= time)
        high = middle;
      else
        low = middle + 1;
    }
    return low;
  }
};

}  // namespace foretoken::elastic
