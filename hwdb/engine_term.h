// A term of an engine's model that was fitted to the user's own server, with what it rests on.
#pragma once

#include <cstdint>
#include <string>

namespace foretoken {

struct EngineTerm {
  std::string device, engine;  // "H100-SXM5-80GB", "vllm-0.19" as modelled
  std::string term;            // a key of a scenario's engine.host_times, whose unit the value has
  double value = 0;
  std::string model;  // of the server that was measured
  std::int64_t tensor_parallel = 1, runs = 0;
  // Mean |predicted / measured - 1| of all values: with the engine's own terms, with the fitted ones, and of
  // each run with terms fitted to the others.
  double error_before = 0, error_after = 0, error_left_out = 0;
  std::string date, source;
};

}  // namespace foretoken
