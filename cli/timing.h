// Wall time of a verb: on stderr for people, in the result only with --timing.
#pragma once

#include <chrono>
#include <string>

#include "base/json.h"
#include "cli/command.h"

namespace foretoken {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  void report(const Invocation& invocation, Json& json) const;

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// "2026-11-28", in UTC.
std::string today();

// The number of --threads, 0 when it is absent.
int threads_of(const Invocation& invocation);

}  // namespace foretoken
