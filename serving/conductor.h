// Mooncake's conductor (Qin et al., FAST 2025, algorithm 1; arXiv 2407.00079, sections 6 and 7): for each
// request the prefill engine with the shortest predicted time to first token, whether it computes what others
// have in their caches or fetches it from them, and a decode engine; requests whose limits would be missed
// are refused.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "serving/request.h"

namespace foretoken {

// How long engines would take, for those who decide by it. Engines as in the serving loop.
class TimeEstimates {
 public:
  virtual ~TimeEstimates() = default;
  // A prompt of so many tokens, computed alone; `cached` of them are there.
  virtual Picoseconds prefill(std::int32_t engine, std::int64_t tokens, std::int64_t cached) = 0;
  // A decode step of so many sequences with so many tokens of context in all.
  virtual Picoseconds decode_step(std::int32_t engine, std::int64_t sequences, std::int64_t contexts) = 0;
  // The cache of tokens from `done` to `tokens` on its way over a link that is idle.
  virtual Picoseconds transfer(std::int32_t from, std::int32_t to, std::int64_t done,
                               std::int64_t tokens) = 0;
};

// When a decode engine's load refuses a request (arXiv 2407.00079, section 7): when it comes (early
// rejection), when its prompt has been computed (the baseline there, whose prefill is then lost), or both.
enum class Rejection : std::uint8_t { kEarly, kLate, kBoth };

struct ConductorConfig {
  // kvcache_balancing_threshold: the longest cached prefix anywhere over an engine's own above which the
  // engine would fetch it. The paper sets it by hand and states no value.
  double balancing_threshold = 1;
  // Requests predicted to miss one are refused; nullopt: none is.
  std::optional<Picoseconds> ttft_slo, tbt_slo;
  Rejection rejection = Rejection::kEarly;  // by tbt_slo; by ttft_slo always when the request comes
  // How long a request is taken to decode (t_d of section 7.4): the decode engine's load is predicted for the
  // time at which the prompt will be computed. nullopt: its load at the arrival counts.
  std::optional<Picoseconds> decode_time;
};

class Conductor {
 public:
  // Decode engines come after the prefill ones. `estimates` must outlive it.
  Conductor(const ConductorConfig& config, TimeEstimates& estimates, std::size_t prefill, std::size_t decode);

  enum class Verdict : std::uint8_t { kAccepted, kMissesTtft, kMissesTbt };
  struct Decision {
    Verdict verdict = Verdict::kAccepted;
    std::int32_t prefill = 0, decode = 0;  // engines
    std::int32_t holder = -1;              // of the longest prefix, if it is fetched from there
    std::int64_t cached = 0, fetched = 0;  // tokens that the prefill engine has, and those that it fetches
    Picoseconds prefill_time = 0, ttft = 0, tbt = 0;  // predicted
  };
  // cached: leading tokens of the prompt in each prefill engine's cache. link_wait(from, to): how long a
  // cache would wait for its ports. Lowest index on ties.
  using LinkWait = std::function<Picoseconds(std::int32_t, std::int32_t)>;
  Decision decide(const Request& request, std::span<const std::int64_t> cached, const LinkWait& link_wait,
                  Picoseconds now);
  // Of a request whose prompt is computed: the step of its decode engine with it beside those that decode
  // there, where that is above tbt_slo and refuses it now.
  std::optional<Picoseconds> too_late(const Request& request);
  // The decision is carried out; the prompt is computed; the request has ended, after its prompt or later.
  void accept(const Request& request, const Decision& decision, Picoseconds now);
  void computed(RequestId request, Picoseconds now);
  void ended(RequestId request);
  std::int32_t decode_of(RequestId request) const { return jobs_.at(request).decode; }

 private:
  struct Job {
    std::int32_t prefill = 0, decode = 0;
    Picoseconds prefill_time = 0;
    bool is_computed = false;
  };
  struct Decoding {  // a request at its decode engine, or on its way there
    RequestId request = 0;
    std::int64_t tokens = 0;
    Picoseconds ready = 0;  // its prompt is computed, as predicted or as it was
    bool is_computed = false;
  };
  Picoseconds step_with(std::size_t decode, const Request& request, Picoseconds at);
  std::vector<Decoding>::iterator find(std::size_t decode, RequestId request);

  const ConductorConfig config_;
  TimeEstimates& estimates_;
  std::vector<Picoseconds> queued_;              // by prefill engine: prompts that it has yet to compute
  std::vector<std::vector<Decoding>> decoding_;  // by decode engine
  std::unordered_map<RequestId, Job> jobs_;
};

}  // namespace foretoken
