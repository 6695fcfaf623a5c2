// TetriInfer's two levels of scheduling (Hu et al., arXiv 2401.11181v1, sections 3.2 to 3.5): prompts go to
// the prefill engine with the least to compute, computed ones, by the output length that is predicted for
// them, to one of two decode engines drawn by chance, which takes them in when its memory will last; engines
// that are idle for long change sides.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <unordered_map>
#include <vector>

#include "serving/engine_place.h"
#include "serving/request.h"

namespace foretoken {

// Greedy: vLLM's, whoever has room now. Reserve-static: whose predicted memory is free now. Reserve-dynamic:
// whose memory and the others' suffices until the first of them is predicted to end.
enum class DecodePolicy { kGreedy, kReserveStatic, kReserveDynamic };

struct TetriInferConfig {
  // A request's output length is predicted to lie in a range of so many tokens; rightly so in this share of
  // cases, else in one of the ranges beside it.
  std::int64_t length_granularity = 200;
  double length_accuracy = 0.749;
  std::int64_t heavy_decode_tokens = 128;  // predicted outputs above this are heavy
  DecodePolicy decode_policy = DecodePolicy::kReserveDynamic;
  Picoseconds load_interval = 100'000'000'000;  // how old decode loads may be; 0: as they are
  // An engine that was idle for so long changes sides where none of the other side is idle; nullopt: none.
  std::optional<Picoseconds> flip_idle = 60'000'000'000'000;
};

struct TetriInferCounts {
  std::int64_t flips = 0;
  std::int64_t mispredicted = 0;  // requests whose range was not the right one
  std::int64_t crowded = 0;       // that no decode engine seemed to have memory for
};

class TetriInfer {
 public:
  // The first `prefill` engines begin as prefill engines. capacity: of each, KV tokens.
  TetriInfer(const TetriInferConfig& config, std::uint64_t seed, std::size_t prefill,
             std::vector<std::int64_t> capacity, std::int64_t max_model_len);

  // The prefill engine of a request that comes; lowest index on ties.
  std::int32_t assign(const Request& request, Picoseconds now);
  // Its prompt is computed; the decode engine that it goes to; it has been given memory there; it has ended.
  void computed(RequestId request, Picoseconds now);
  std::int32_t dispatch(const Request& request, Picoseconds now);
  void withdrawn(const Request& request, Picoseconds now);  // it is computed again, and dispatched again
  void placed(RequestId request, const EnginePlace& place);
  void ended(RequestId request, Picoseconds now);
  // Whether the decode engine takes it in. free: KV tokens there; tokens: of a sequence there, so far.
  bool admits(const Request& request, std::int32_t engine, std::int64_t free,
              const std::function<std::int64_t(const EnginePlace&)>& tokens) const;

  // The lower end of the range that its output length is predicted to lie in, by which all is decided.
  std::int64_t predicted(const Request& request) const;
  bool is_prefill(std::int32_t engine) const { return engines_[static_cast<std::size_t>(engine)].prefill; }
  const TetriInferCounts& counts() const { return counts_; }

 private:
  struct Load {
    std::int64_t memory = 0, heavy = 0, light = 0;  // tokens, requests
  };
  struct Engine {
    bool prefill = false;
    std::int64_t capacity = 0;
    std::int64_t prompt_tokens = 0, requests = 0;  // to compute; that are there in any way
    Picoseconds idle_since = 0;
    Load load, seen;  // of a decode engine, and as the dispatchers know it
    Picoseconds changed = 0;
    std::vector<RequestId> placed;
  };
  struct Job {
    std::int32_t prefill = 0, decode = -1;
    std::int64_t input_len = 0, length = 0;  // predicted
    bool is_computed = false, is_placed = false;
    EnginePlace place;
  };
  Engine& at(std::int32_t e) { return engines_[static_cast<std::size_t>(e)]; }
  void flip(Picoseconds now);
  void enter(std::int32_t e);
  void leave(std::int32_t e, Picoseconds now);
  Picoseconds broadcast_before(Picoseconds now) const {
    return config_.load_interval > 0 ? now / config_.load_interval * config_.load_interval : now;
  }
  const Load& seen(Engine& e, Picoseconds now);
  void change(Engine& e, const Job& job, std::int64_t by, Picoseconds now);

  const TetriInferConfig config_;
  const std::uint64_t seed_;
  const std::int64_t max_model_len_;
  std::vector<Engine> engines_;
  std::unordered_map<RequestId, Job> jobs_;
  std::vector<std::int32_t> candidates_;  // scratch
  TetriInferCounts counts_;
};

}  // namespace foretoken
