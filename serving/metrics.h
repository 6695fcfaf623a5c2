// What serving means to its users: TTFT, TPOT, ITL, E2EL, throughput, goodput. vLLM's definitions and keys
// (serving-policies.md 4.1); docs/metrics.md states them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/quantiles.h"
#include "base/units.h"
#include "serving/request.h"

namespace foretoken {

// Filled by the serving loop when a request ends.
struct RequestRecord {
  RequestId id = 0;
  std::int32_t engine = 0;
  std::int32_t session = -1;
  std::int32_t input_len = 0, output_len = 0, priority = 0;
  Picoseconds arrival = 0;
  Picoseconds queued = 0;        // reached an engine's queue (after ingress)
  Picoseconds scheduled = 0;     // first scheduled
  Picoseconds prefill_done = 0;  // start of the step that yields the first token
  Picoseconds first_token = 0;   // at the client
  // Disaggregated: the prompt's step ended, and its cache was where it goes on; 0: it never moved.
  Picoseconds handed_over = 0, moved = 0;
  Picoseconds loading = 0;  // before it was first scheduled its blocks came from a KV tier for so long
  Picoseconds finish = 0;   // last token at the client
  std::int32_t preemptions = 0;
  std::int32_t cached_tokens = 0;  // prompt tokens found in the prefix cache when first scheduled
};

// What its time to first token is made of; they add up to first_token - arrival.
struct TtftParts {
  Picoseconds ingress = 0;     // to the engine's queue; with autoscale also in front of the router
  Picoseconds queue = 0;       // until it is first scheduled, but for:
  Picoseconds load = 0;        // KV blocks on their way from a tier
  Picoseconds prefill = 0;     // until the step with its last chunk begins
  Picoseconds transfer = 0;    // of its cache, where the decode engine makes the first token
  Picoseconds first_step = 0;  // that step, and the way to the client
};
TtftParts ttft_parts(const RequestRecord& record);
// Of the tokens after the first, to the nearest picosecond; 0 of a single one.
Picoseconds time_per_output_token(const RequestRecord& record);

// Limits that a request must meet. Goodput counts requests within ttft_ms, tpot_ms and e2el_ms, as vLLM's
// --goodput does; itl_ms limits the percentile of the gaps of the whole run, which no single request decides.
struct Slo {
  std::optional<double> ttft_ms, tpot_ms, e2el_ms, itl_ms;
  double percentile = 99;
};

struct Distribution {
  double mean = 0, median = 0, std = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0, min = 0, max = 0;  // ms
  std::int64_t count = 0;
  bool exact = true;  // else from the 0.1 % histogram
};

// Speculative decoding. vLLM's counters: what is drafted beyond a request's end counts too.
struct SpeculationCounts {
  std::int64_t verifications = 0, drafted = 0, accepted = 0;
  std::int64_t asked = 0, proposed = 0;   // sampled sequences; those for which something was drafted then
  std::vector<std::int64_t> accepted_at;  // [i]: verifications that accepted more than i tokens
  double acceptance_rate() const;         // accepted over drafted
  double tokens_per_step() const;         // 1 + accepted over verifications: "acceptance length"
  // Share of verifications that accepted the token at position i.
  std::vector<double> rates() const;
};

struct ServingMetrics {
  std::int64_t completed = 0, total_input_tokens = 0, total_output_tokens = 0;
  double duration = 0;  // s, first arrival to last token
  double request_throughput = 0, output_throughput = 0, total_token_throughput = 0;
  std::optional<double> request_goodput;  // requests a second that meet all of the SLO's limits
  std::optional<double> slo_attainment;   // share of requests that meet them
  Distribution ttft, tpot, itl, e2el;
  struct Parts {
    double ingress = 0, queue = 0, load = 0, prefill = 0, transfer = 0,
           first_step = 0;  // ms, means; sum is mean TTFT
  } ttft_parts;
  // Of a disaggregated deployment; count 0 in any other.
  struct Transfers {
    std::int64_t count = 0;
    double mean_ms = 0;      // from the end of the prompt's step to the cache at the decode engine
    double link_ms = 0;      // of these on the link itself
    double mean_moving = 0;  // requests on the link or queued for it, time average
  } transfers;
  // Of a workload whose requests follow one another in sessions; those that a refused request broke are left
  // out.
  struct Sessions {
    std::int64_t completed = 0, broken = 0;
    double mean_calls = 0;
    Distribution e2el, pauses;  // first request sent to last token; of that tools, or thinking
  } sessions;
  std::int64_t preemptions = 0, num_steps = 0;
  double prefix_cache_hit_rate = 0;           // hit prompt tokens over queried prompt tokens
  double peak_kv_usage = 0;                   // largest share of usable blocks in use, over engines
  double mean_running = 0, mean_waiting = 0;  // time averages over the run, all engines together
  SpeculationCounts speculation;
  // Requests of one priority; by priority, and empty where all have the same.
  struct PriorityClass {
    std::int32_t priority = 0;
    std::int64_t preemptions = 0;
    double mean_queue = 0;  // ms
    std::optional<double> slo_attainment;
    Distribution ttft, tpot, e2el;  // count of ttft: requests
  };
  std::vector<PriorityClass> priority_classes;
  double busy_share = 0;  // engine time in steps over duration x engines
};

// Collects records; keeps values exactly for up to 1,000,000 requests, a histogram beyond. All sums are
// integers, so that the result does not depend on the order of the adds.
class MetricsCollector {
 public:
  static constexpr std::size_t kExactRequests = 1'000'000;

  // exact_requests: smaller only in tests.
  explicit MetricsCollector(Slo slo = {}, bool keep_records = false,
                            std::size_t exact_requests = kExactRequests);
  void add(const RequestRecord& record);
  void add_gaps(Picoseconds first, Picoseconds increment, std::int64_t steps,
                std::int64_t sequences);  // ITL ramps
  void add_session(const SessionRecord& session);
  void note_first_token(Picoseconds ttft) {
    recent_ttft_ += ttft;
    ++recent_first_tokens_;
  }
  // Mean of those noted since the last call; nullopt: none.
  std::optional<Picoseconds> take_recent_ttft() {
    if (recent_first_tokens_ == 0) return std::nullopt;
    const auto mean = static_cast<Picoseconds>(recent_ttft_ / recent_first_tokens_);
    recent_ttft_ = recent_first_tokens_ = 0;
    return mean;
  }
  // A sequence verified so many drafted tokens and has so many drafts for its next step.
  void add_verification(std::int32_t drafted, std::int32_t accepted, std::int32_t drafts) {
    ++speculation_.asked;
    speculation_.proposed += drafts > 0;
    if (drafted <= 0) return;
    ++speculation_.verifications;
    speculation_.drafted += drafted;
    speculation_.accepted += accepted;
    if (speculation_.accepted_at.size() < static_cast<std::size_t>(accepted))
      speculation_.accepted_at.resize(static_cast<std::size_t>(accepted));
    for (std::size_t i = 0; i < static_cast<std::size_t>(accepted); ++i) ++speculation_.accepted_at[i];
  }
  // Fills what follows from the records; the loop fills the rest (num_steps, peak_kv_usage, mean_running,
  // mean_waiting, busy_share).
  ServingMetrics summarize() const;
  const std::vector<RequestRecord>& records() const { return records_; }  // by id; empty unless kept
  const LogHistogram& itl() const { return itl_; }

 private:
  __extension__ using Sum = __int128;  // 1,000,000 waits of an hour are 3.6e21 ps, beyond 64 bits

  // Durations: a list while it is short, then a histogram.
  struct Samples {
    std::vector<Picoseconds> values;
    LogHistogram histogram;
    bool exact = true;
    void add(Picoseconds value, std::size_t most);
    Distribution summarize() const;
  };

  struct ClassSamples {
    Samples ttft, tpot, e2el;
    std::int64_t good = 0, preemptions = 0;
    Sum queue = 0;
  };
  void add_to_class(const RequestRecord& r, Picoseconds ttft, Picoseconds tpot, Picoseconds e2el, bool good);
  std::vector<ServingMetrics::PriorityClass> summarize_classes() const;

  Slo slo_;
  bool keep_records_;
  std::size_t exact_requests_;
  std::vector<RequestRecord> records_;
  Samples ttft_, tpot_, e2el_, session_, pauses_;
  LogHistogram itl_;
  SpeculationCounts speculation_;
  std::int64_t completed_ = 0, input_tokens_ = 0, output_tokens_ = 0, cached_tokens_ = 0, good_ = 0,
               preemptions_ = 0;
  Picoseconds first_arrival_ = 0, last_finish_ = 0;
  Sum ingress_ = 0, queue_ = 0, load_ = 0, prefill_ = 0, transfer_ = 0, first_step_ = 0, moving_ = 0;
  std::int64_t moved_ = 0, broken_sessions_ = 0, session_calls_ = 0;
  std::int32_t first_priority_ = 0;
  std::map<std::int32_t, ClassSamples> classes_;  // from the second priority on
  Sum recent_ttft_ = 0;
  std::int64_t recent_first_tokens_ = 0;
};

}  // namespace foretoken
