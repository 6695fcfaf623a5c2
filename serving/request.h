// A request as the serving loop sees it. Lengths are known to the workload; an engine learns the output
// length only by producing it (schedulers must not look at output_len except to finish).
#pragma once

#include <cstdint>

#include "base/units.h"

namespace foretoken {

using RequestId = std::int64_t;

// What the tokens of a prompt are, as far as sharing goes: consecutive runs, each known by a content id. Two
// runs with the same id hold the same tokens (a shorter run is a prefix of the longer one).
struct ContentRun {
  std::uint64_t content = 0;
  std::int64_t tokens = 0;
};

struct Request {
  RequestId id = 0;             // 0, 1, 2, ... in order of creation
  Picoseconds arrival = 0;      // at the client
  std::int32_t input_len = 0;   // prompt tokens, at least 1
  std::int32_t output_len = 0;  // tokens to produce, at least 1
  std::int32_t session = -1;    // multi-turn conversation, -1: none
  std::int32_t turn = 0;
  std::int32_t first_run = 0,
               num_runs = 0;  // shared content of the prompt in Workload's run pool; 0 runs: private
  std::int32_t priority = 0;  // vLLM: lower goes first; SGLang: higher, unless it is told otherwise
  std::int32_t adapter = -1;  // low-rank adapter that serves it; -1: the base model
};

// A session of several requests, each sent after the one before had ended, from its client's side.
struct SessionRecord {
  Picoseconds begin = 0, end = 0;  // first request sent, last token arrived
  Picoseconds pauses = 0;          // of that between an answer and the next request: tools, or thinking
  std::int64_t calls = 0;
  bool broken = false;  // a request of it was refused
};

}  // namespace foretoken
