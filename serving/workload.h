// Where requests come from: synthetic arrivals, closed loops, multi-turn chats, or a trace. Requests are
// produced one at a time, in order of arrival, so that memory does not grow with their number.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fields.h"
#include "serving/request.h"

namespace foretoken {

inline constexpr std::string_view kDistributionNames[] = {"fixed", "uniform", "lognormal", "empirical"};
inline constexpr std::string_view kArrivalNames[] = {"poisson", "constant", "gamma"};

// Token counts: fixed{value}, uniform{min,max}, lognormal{mean,p99}, empirical{file: one length, or
// "length,weight", a line}. Samples are at least 1 and at most `max` where it is given.
struct LengthDistribution {
  std::string distribution = "fixed";
  std::optional<double> value, min, max, mean, p99;
  std::string file;
};
template <>
inline constexpr auto fields_of<LengthDistribution> = std::tuple{
    field("distribution", &LengthDistribution::distribution, "fixed, uniform, lognormal or empirical",
          one_of(kDistributionNames)),
    field("value", &LengthDistribution::value, "tokens (fixed)", at_least(1)),
    field("min", &LengthDistribution::min, "least tokens (uniform; lower clip elsewhere)", at_least(1)),
    field("max", &LengthDistribution::max, "most tokens (uniform; upper clip elsewhere)", at_least(1)),
    field("mean", &LengthDistribution::mean, "mean tokens (lognormal)", above(0)),
    field("p99", &LengthDistribution::p99, "99th percentile of tokens (lognormal)", above(0)),
    field("file", &LengthDistribution::file, "file of lengths (empirical)")};
template <>
inline constexpr std::string_view shorthand_of<LengthDistribution> = "value";

struct RateStage {
  double request_rate = 0;
  double duration_s = 0;
};
template <>
inline constexpr auto fields_of<RateStage> =
    std::tuple{field("request_rate", &RateStage::request_rate, "requests a second in this stage", above(0)),
               field("duration_s", &RateStage::duration_s, "seconds that the stage lasts", above(0))};

struct SharedPrefix {
  std::int64_t groups = 1;
  std::int64_t users_per_group = 1;
  std::int64_t prefix_len = 0;
  bool multi_turn = false;
  std::int64_t turns = 4;
  double think_time_s = 0;
};
template <>
inline constexpr auto fields_of<SharedPrefix> = std::tuple{
    field("groups", &SharedPrefix::groups, "distinct shared prefixes (system prompts)", at_least(1)),
    field("users_per_group", &SharedPrefix::users_per_group,
          "users that share one prefix; groups x users is the most conversations under way (multi_turn), "
          "single "
          "requests are spread evenly over the groups",
          at_least(1)),
    field("prefix_len", &SharedPrefix::prefix_len, "tokens of the shared prefix, part of input_len's prompt",
          at_least(0)),
    field("multi_turn", &SharedPrefix::multi_turn,
          "a user's next prompt repeats the conversation so far (prompt and answer) before its input_len new "
          "tokens; a user holds one conversation at a time, and request_rate counts conversations"),
    field("turns", &SharedPrefix::turns, "turns of a conversation (multi_turn)", at_least(1)),
    field("think_time_s", &SharedPrefix::think_time_s, "seconds between an answer and the user's next turn",
          at_least(0))};

// Sessions of an agent: calls of the model with tools in between. A prompt is all that was said before and,
// after the first, a tool's result.
struct AgenticSection {
  std::optional<LengthDistribution> calls, tool_tokens, tool_ms;
};
template <>
inline constexpr auto fields_of<AgenticSection> = std::tuple{
    field("calls", &AgenticSection::calls, "requests of a session"),
    field("tool_tokens", &AgenticSection::tool_tokens,
          "tokens of a tool's result, which a prompt has beyond the one before and its answer"),
    field("tool_ms", &AgenticSection::tool_ms,
          "milliseconds from an answer's last token to the session's next request (default: none)")};
// A share of the requests, drawn for each from the seed; turns of a conversation have one priority.
struct PriorityClass {
  std::int64_t priority = 0;
  double share = 1;
};
template <>
inline constexpr auto fields_of<PriorityClass> =
    std::tuple{field("priority", &PriorityClass::priority,
                     "sent with the request: vLLM serves lower values first, SGLang higher ones",
                     between(-2147483647, 2147483647)),
               field("share", &PriorityClass::share, "of the requests, relative to the other classes' shares",
                     above(0))};

// The scenario's "workload" section.
struct WorkloadConfig {
  std::string trace;  // file; excludes the synthetic keys
  std::optional<std::int64_t>
      num_prompts;                     // default: whole trace; 10 x max_concurrency; stages' total; else 1000
  double rate_scale = 1.0;             // trace arrivals come this many times faster
  std::optional<double> request_rate;  // a second
  std::string arrival = "poisson";
  double burstiness = 1.0;  // gamma shape: 1 is Poisson, below 1 burstier
  std::optional<std::int64_t> max_concurrency;
  std::vector<RateStage> stages;
  std::optional<LengthDistribution> input_len, output_len;
  std::optional<SharedPrefix> shared_prefix;
  std::optional<AgenticSection> agentic;
  std::vector<PriorityClass> priority_classes;
  std::int64_t seed = 0;
  bool all_at_once = false;  // every request arrives at time 0 (static batch measurements)
  // How requests sample, as clients ask for it; absent: greedily, and no token is left out.
  std::optional<double> temperature, top_p;
  std::optional<std::int64_t> top_k;
  std::optional<std::int64_t> beam_width;  // absent: 1, no beam search
  std::optional<double> expert_skew;       // absent: as in the rows that operators were measured with
  // Probabilities must be ordered to find the tokens that may be drawn.
  bool sorts_logits() const {
    return temperature.value_or(0) > 0 && (top_k.value_or(0) > 0 || top_p.value_or(1) < 1);
  }
};
template <>
inline constexpr auto fields_of<WorkloadConfig> = std::tuple{
    field("trace", &WorkloadConfig::trace, "request trace (csv, jsonl or json, also .gz)"),
    field("num_prompts", &WorkloadConfig::num_prompts, "requests in all", at_least(1)),
    field("rate_scale", &WorkloadConfig::rate_scale, "trace arrivals come this many times faster", above(0)),
    field("request_rate", &WorkloadConfig::request_rate, "arrivals a second", above(0)),
    field("arrival", &WorkloadConfig::arrival, "poisson, constant or gamma", one_of(kArrivalNames)),
    field("burstiness", &WorkloadConfig::burstiness,
          "shape of gamma arrivals; 1 is Poisson, below 1 burstier", above(0)),
    field("max_concurrency", &WorkloadConfig::max_concurrency,
          "closed loop: requests in flight over all replicas; each end starts the next (with request_rate, "
          "not before its arrival)",
          at_least(1)),
    field("stages", &WorkloadConfig::stages, "request rates one after the other"),
    field("input_len", &WorkloadConfig::input_len, "prompt tokens"),
    field("output_len", &WorkloadConfig::output_len, "tokens to produce"),
    field("shared_prefix", &WorkloadConfig::shared_prefix, "prompts that begin alike, and conversations"),
    field(
        "agentic", &WorkloadConfig::agentic,
        "sessions of several calls with tools in between; input_len is then the first prompt's, request_rate "
        "and max_concurrency count sessions"),
    field("priority_classes", &WorkloadConfig::priority_classes,
          "priorities of requests, for those that a trace's priority column gives none (default: all 0)"),
    field("seed", &WorkloadConfig::seed, "seed of lengths and arrivals", at_least(0)),
    field("all_at_once", &WorkloadConfig::all_at_once, "every request arrives at time 0"),
    field("temperature", &WorkloadConfig::temperature,
          "logits are divided by it; 0 takes the likeliest token", at_least(0)),
    field("top_p", &WorkloadConfig::top_p, "draws from the likeliest tokens that have this probability",
          above_up_to(0, 1)),
    field("top_k", &WorkloadConfig::top_k, "draws from so many likeliest tokens; 0 is all", at_least(0)),
    field("beam_width", &WorkloadConfig::beam_width,
          "beam search: a request keeps so many likeliest continuations and answers with the best one (vLLM; "
          "default: 1)",
          between(1, 1024)),
    field("expert_skew", &WorkloadConfig::expert_skew,
          "mixtures of experts: the r-th most popular expert is chosen like r^-skew; 0: all alike (default: "
          "as in the measured rows, evenly over the ranks)",
          between(0, 4))};

// A stream of requests. Open-loop requests come out in order of arrival. A request that waits for another
// one's end (closed loop, next turn of a conversation) is released by finished(), which every popped request
// needs once, a rejected one too: it also gives back the storage of the prompt's content.
class Workload {
 public:
  virtual ~Workload() = default;
  // Arrival of the next request that is already certain; nullopt when none is (all served, or all wait for an
  // end).
  virtual std::optional<Picoseconds> next_arrival() const = 0;
  virtual Request pop() = 0;
  virtual void finished(const Request& request, Picoseconds at) = 0;
  // Instead of it for a request that was refused.
  virtual void refused(const Request& request, Picoseconds at) { finished(request, at); }
  // Asked after either: the session that ended with that request.
  virtual std::optional<SessionRecord> take_ended_session() { return std::nullopt; }
  virtual std::int64_t total_requests() const = 0;  // -1 when not known beforehand (a trace being streamed)
  // Shared content of a popped request's prompt; empty for a private prompt. Valid until finished(request).
  // May name private_prompt_content and generated_content (content.h) of another request only if that one has
  // session >= 0 and, for its answer, has finished.
  virtual std::span<const ContentRun> content(const Request& request) const = 0;
  virtual std::string describe() const = 0;  // "Azure 2023 trace, 19,366 requests" for reports
  // Means over the requests, for estimate; exact for distributions; for traces over the requests
  // that are used, so the whole file unless num_prompts cuts it.
  struct Means {
    double input_len = 0, output_len = 0, request_rate = 0;  // request_rate 0: closed loop or all at once
    // Tokens of the prompt that earlier requests had: of the session's own calls, and of a prefix that many
    // share. As far as the workload itself says: recorded contents are not counted.
    double kept_len = 0, shared_len = 0;
  };
  virtual Means means() const = 0;
  // Longest prompt + output, when it is known (0: not).
  virtual std::int64_t longest() const = 0;
};

// folder: relative paths start there. where: JSON pointer prefix for errors, "file:/workload".
std::unique_ptr<Workload> make_workload(const WorkloadConfig& config, const std::filesystem::path& folder,
                                        const std::string& where);

}  // namespace foretoken
