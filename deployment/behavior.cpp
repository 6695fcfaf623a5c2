// The serving systems that this build models, with the defaults of each version.
#include "deployment/behavior.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/text.h"

namespace foretoken {
namespace {

constexpr int kOldestMinor = 8, kNewestMinor = 24;

// When vLLM's defaults moved.
constexpr int kAsyncSchedulingMinor = 14;    // vllm pull request 27614
constexpr int kCoarseGraphsMinor = 12;       // capture sizes in steps of 16 above 256
constexpr int kCheckpointCacheMinor = 12;    // auto takes kv_cache_quant_algo of a ModelOpt checkpoint
constexpr int kAsyncPipelineMinor = 15;      // vllm pull request 32359
constexpr int kReserveFullPromptMinor = 20;  // vllm pull request 37307, first an option, then the default
constexpr int kGraphMemoryMinor = 21;        // log message "enabled (default since v0.21.0)"
constexpr int kHigherUtilizationMinor = 22;  // 0.90 to 0.92, to make up for the line above

// Host times. None of them is fitted to the measurements that the program is checked with.
constexpr Seconds kHostStep{
    0.3e-3};  // schedule, prepare inputs, copy tokens out: a few hundred us in vLLM V1
constexpr Seconds kHostPerSequence{
    3e-6};  // Python work for each running request in scheduling and output handling
// HTTP, tokenizer, queue to the engine process. Published fits range from 0 (simulators that stop at the
// engine) to 15.6 ms a request for a loaded server (BLIS, latency-models guide, alpha0).
constexpr Seconds kIngress{4e-3};
constexpr Seconds kEgress{0.8e-3};       // detokenize and stream one chunk (same guide, alpha1 0.78 ms)
constexpr Seconds kLaunchEager{5e-6};    // enqueue of one kernel on x86: 4 to 6 us
constexpr Seconds kLaunchGraph{2.5e-6};  // a straight-line CUDA graph of any length, Ampere and later

constexpr double kLargeDeviceGib = 70;  // vLLM's own threshold

Behavior vllm(int minor) {
  Behavior b;
  b.name = fmt::format("vllm-0.{}", minor);
  b.family = "vllm";
  b.minor = minor;
  b.gpu_memory_utilization = minor >= kHigherUtilizationMinor ? 0.92 : 0.9;
  b.async_scheduling = minor >= kAsyncSchedulingMinor;
  b.reserve_full_prompt = minor >= kReserveFullPromptMinor;
  b.fp8_cache_of_checkpoint = minor >= kCheckpointCacheMinor;
  b.graph_memory_counted = minor >= kGraphMemoryMinor;
  b.host_step = kHostStep;
  b.host_per_sequence = kHostPerSequence;
  b.ingress = kIngress;
  b.egress = kEgress;
  b.launch_eager = kLaunchEager;
  b.launch_graph = kLaunchGraph;
  b.source = "vLLM source and release notes";
  return b;
}

[[noreturn]] void refuse(const std::string& name, const std::string& where) {
  throw Error(where, fmt::format("\"{}\" is not modelled by this build; it models vllm-0.{} to vllm-0.{}",
                                 name, kOldestMinor, kNewestMinor));
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Leading digits of a text, consumed; nullopt when there are none. Huge numbers are clamped.
std::optional<int> take_number(std::string_view& text) {
  if (text.empty() || !is_digit(text.front())) return std::nullopt;
  int value = 0;
  while (!text.empty() && is_digit(text.front())) {
    value = std::min(value * 10 + (text.front() - '0'), 1'000'000);
    text.remove_prefix(1);
  }
  return value;
}

}  // namespace

Behavior find_behavior(const std::string& name, const std::string& where) {
  const std::string text = lower(trim(name));
  std::string_view rest = text;
  if (!rest.starts_with("vllm")) refuse(name, where);
  rest.remove_prefix(4);
  int minor = kNewestMinor;
  if (!rest.empty()) {
    const auto begin = rest.find_first_not_of("-_ =");
    if (begin == 0 || begin == std::string_view::npos) refuse(name, where);
    rest.remove_prefix(begin);
    const bool prefixed = rest.starts_with("v");
    if (prefixed) rest.remove_prefix(1);
    const bool development = rest.find("dev") != std::string_view::npos || rest == "nightly" ||
                             rest == "main" || rest == "latest" || rest.starts_with("nightly");
    if (!development) {
      const auto major = take_number(rest);
      if (!major) refuse(name, where);
      if (rest.empty()) {
        // "vllm-v1" is the engine generation that is modelled, "vllm-v0" the one before.
        if (*major == 0) refuse(name, where);
      } else {
        if (rest.front() != '.') refuse(name, where);
        rest.remove_prefix(1);
        const auto asked = take_number(rest);
        if (!asked) refuse(name, where);
        if (*major == 0) minor = std::clamp(*asked, kOldestMinor, kNewestMinor);
      }
    }
  }
  Behavior b = vllm(minor);
  b.asked = name;
  return b;
}

std::vector<std::string> modelled_behaviors() {
  std::vector<std::string> names;
  for (int minor = kOldestMinor; minor <= kNewestMinor; ++minor)
    names.push_back(fmt::format("vllm-0.{}", minor));
  return names;
}

std::vector<std::int64_t> default_graph_sizes(const Behavior& behavior, std::int64_t max_num_seqs) {
  constexpr std::int64_t kLargest = 512, kFineUpTo = 256;
  const std::int64_t largest = std::min(std::min(max_num_seqs, kLargest) * 2, kLargest);
  std::vector<std::int64_t> sizes;
  for (const std::int64_t size : {1, 2, 4})
    if (size <= largest) sizes.push_back(size);
  const bool coarse = behavior.minor >= kCoarseGraphsMinor;
  for (std::int64_t size = 8; size <= largest; size += coarse && size >= kFineUpTo ? 16 : 8)
    sizes.push_back(size);
  return sizes;
}

bool default_async_scheduling(const Behavior& behavior, std::int64_t pipeline_parallel) {
  return behavior.async_scheduling && (pipeline_parallel == 1 || behavior.minor >= kAsyncPipelineMinor);
}

BatchLimits default_limits(const Behavior&, double device_memory_gib, const std::string& device_name) {
  const bool a100 = lower(device_name).find("a100") != std::string::npos;
  if (device_memory_gib >= kLargeDeviceGib && !a100) return {8192, 1024};
  return {2048, 256};
}

}  // namespace foretoken
