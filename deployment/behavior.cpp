// The serving systems that this build models, with the defaults of each version.
#include "deployment/behavior.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <compare>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "deployment/block_systems.h"

namespace foretoken {
namespace {

constexpr int kOldestMinor = 8, kNewestMinor = 24;
constexpr int kOldestV0Minor = 6, kNewestV0Minor = 7;  // V1 is the default from 0.8

struct Version {
  int major, minor;
  auto operator<=>(const Version&) const = default;
};
constexpr Version kSglangVersions[] = {{0, 4}, {0, 5}};
constexpr Version kTrtllmVersions[] = {{0, 17}, {0, 18}, {0, 19}, {0, 20}, {0, 21},
                                       {1, 0},  {1, 1},  {1, 2},  {1, 3}};

// When vLLM's defaults moved.
constexpr int kAsyncSchedulingMinor = 14;    // vllm pull request 27614
constexpr int kCoarseGraphsMinor = 12;       // capture sizes in steps of 16 above 256
constexpr int kCheckpointCacheMinor = 12;    // auto takes kv_cache_quant_algo of a ModelOpt checkpoint
constexpr int kAsyncPipelineMinor = 15;      // vllm pull request 32359
constexpr int kReserveFullPromptMinor = 20;  // vllm pull request 37307, first an option, then the default
constexpr int kGraphMemoryMinor = 21;        // log message "enabled (default since v0.21.0)"
constexpr int kHigherUtilizationMinor = 22;  // 0.90 to 0.92, to make up for the line above

// Host times. Only those that say so below were chosen with measurements of whole servers.
constexpr Seconds kHostStep{
    0.3e-3};  // schedule, prepare inputs, copy tokens out: a few hundred us in vLLM V1
constexpr Seconds kHostPerSequence{
    3e-6};  // Python work for each running request in scheduling and output handling
// HTTP, tokenizer, queue to the engine process. Published fits range from 0 (simulators that stop at the
// engine) to 15.6 ms a request for a loaded server (BLIS, latency-models guide, alpha0).
constexpr Seconds kIngress{4e-3};
constexpr Seconds kEgress{0.8e-3};     // detokenize and stream one chunk (same guide, alpha1 0.78 ms)
constexpr Seconds kLaunchEager{5e-6};  // enqueue of one kernel on x86: 4 to 6 us
// Prompts outside graphs go through Python module by module, which costs more than the enqueue alone. Chosen
// from six settings of published servers; with any one model left out the choice is the same or its neighbour
// (docs/cost-model.md).
constexpr Seconds kLaunchSglang{100e-6}, kLaunchTrtllm{40e-6};
// generate() around a forward pass: inputs, logits, who has ended; measured as kPythonEnqueue was, in which
// the model's own embedding, masks and head are.
constexpr Seconds kGenerateStep{0.5e-3};
constexpr Seconds kLaunchGraph{2.5e-6};  // a straight-line CUDA graph of any length, Ampere and later

// Between vLLM's captured pieces a step with prompt tokens returns to Python once a layer. Chosen by hand
// among four settings tried on all vLLM rows of one published set of servers, so those rows are no
// independent check of it. aiconfigurator's own account is 0.8 ms a layer.
constexpr Seconds kPrefillLayer{0.35e-3}, kPrefillLayerDoubling{0.1e-3};

// Learned from published servers; with any one model left out they hold 86 to 91 % of its values
// (docs/cost-model.md).
constexpr double kVllmErrors[] = {0.45, 0.38}, kSglangErrors[] = {0.62, 0.32}, kTrtllmErrors[] = {0.85, 0.24};

constexpr double kLargeDeviceGib = 70;  // vLLM's own threshold

void set_host_times(Behavior& b) {
  b.host_step = kHostStep;
  b.host_per_sequence = kHostPerSequence;
  b.ingress = kIngress;
  b.egress = kEgress;
  b.launch_eager = kLaunchEager;
  b.launch_graph = kLaunchGraph;
}

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
  set_host_times(b);
  b.prefill_layer = kPrefillLayer;
  b.prefill_layer_doubling = kPrefillLayerDoubling;
  b.first_token_error = kVllmErrors[0];
  b.engine_error = kVllmErrors[1];
  b.source = "vLLM source and release notes";
  return b;
}

Behavior vllm_v0(int minor) {
  Behavior b = vllm(minor);
  b.policy = SchedulerPolicy::kVllmV0;
  b.prefix_caching = b.chunked_prefill = b.reserve_full_prompt = false;
  b.source = "vLLM source (core/scheduler.py)";
  return b;
}

// No measured server of these is known here: the widest of the errors above.
Behavior block_system(Behavior b) {
  set_host_times(b);
  if (b.policy == SchedulerPolicy::kTransformers) {  // called by its client, with nothing between layers
    b.host_step = kGenerateStep;
    b.host_per_sequence = b.ingress = b.egress = Seconds{0};
    b.launch_eager = kPythonEnqueue;
    b.composed_modules = true;
  } else if (b.in_python) {
    b.prefill_layer = kPrefillLayer;
    b.prefill_layer_doubling = kPrefillLayerDoubling;
  }
  b.first_token_error = std::max({kVllmErrors[0], kSglangErrors[0], kTrtllmErrors[0]});
  b.engine_error = std::max({kVllmErrors[1], kSglangErrors[1], kTrtllmErrors[1]});
  return b;
}

// The executor of this program: vLLM V1's scheduler in the process that computes. No server around it, no
// graphs, and what its steps take beyond their operators is their own.
Behavior executor() {
  Behavior b;
  b.name = "foretoken";
  b.family = "vllm";
  b.minor = kNewestMinor;
  b.own_executor = true;
  b.reserve_full_prompt = true;
  b.first_token_error = b.engine_error = 0.15;
  b.source = "this program";
  return b;
}

Behavior sglang(Version version) {
  Behavior b;
  b.name = fmt::format("sglang-{}.{}", version.major, version.minor);
  b.family = "sglang";
  b.major = version.major;
  b.minor = version.minor;
  b.policy = SchedulerPolicy::kSglang;
  b.memory_rule = MemoryRule::kStaticShare;
  b.block_size = 1;
  b.async_scheduling = true;  // the overlap scheduler, default since 0.4
  set_host_times(b);
  b.launch_eager = kLaunchSglang;
  b.first_token_error = kSglangErrors[0];
  b.engine_error = kSglangErrors[1];
  b.source = "SGLang source (server_args.py, managers/scheduler.py)";
  return b;
}

Behavior trtllm(Version version) {
  Behavior b;
  b.name = fmt::format("trtllm-{}.{}", version.major, version.minor);
  b.family = "trtllm";
  b.major = version.major;
  b.minor = version.minor;
  b.policy = SchedulerPolicy::kTrtllm;
  b.memory_rule = MemoryRule::kShareOfRest;
  b.block_size = 32;
  b.chunked_prefill = false;
  b.async_scheduling = version.major >= 1;  // overlap scheduler of the PyTorch backend, the default from 1.0
  b.fp8_cache_of_checkpoint = true;         // kv_cache_quant_algo of a ModelOpt checkpoint
  set_host_times(b);
  b.launch_eager = kLaunchTrtllm;
  b.first_token_error = kTrtllmErrors[0];
  b.engine_error = kTrtllmErrors[1];
  b.source = "TensorRT-LLM source (batch_manager, llmapi/llm_args.py)";
  return b;
}

// Names under which another system schedules, and what to ask for (docs/policies.md).
constexpr std::pair<std::string_view, std::string_view> kOthersInside[] = {
    {"ollama", "runs llama.cpp: use llama.cpp, with n_parallel as its OLLAMA_NUM_PARALLEL (1)"},
    {"lm-studio", "runs llama.cpp: use llama.cpp, with n_parallel as its parallel requests (4)"},
    {"lmstudio", "runs llama.cpp: use llama.cpp, with n_parallel as its parallel requests (4)"},
    {"xinference", "starts other engines: use the one that serves the model, such as vllm or llama.cpp"},
    {"gpt-fast", "serves one request at a time: use fastertransformer with max_batch_size 1"},
    {"megatron", "serves static batches: use fastertransformer"},
    {"deepspeed-inference", "serves static batches: use fastertransformer, or deepspeed-fastgen"}};

[[noreturn]] void refuse(const std::string& name, const std::string& where) {
  const std::string text = lower(trim(name));
  for (const auto& [other, advice] : kOthersInside)
    if (text.starts_with(other))
      throw Error(where, fmt::format("\"{}\" is not modelled by itself; it {}", name, advice));
  throw Error(where, fmt::format("\"{}\" is not modelled by this build; it models vllm-0.{} to vllm-0.{}, "
                                 "V0 as vllm-0.{} and vllm-0.{}, "
                                 "sglang-0.4 and sglang-0.5, trtllm-0.17 to trtllm-0.21 and trtllm-1.0 to "
                                 "trtllm-1.3, {}, and its own executor, foretoken",
                                 name, kOldestMinor, kNewestMinor, kOldestV0Minor, kNewestV0Minor,
                                 join(block_system_names(), ", ")));
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

namespace {

// What follows the family's name: nothing, or a separator and a version.
struct Asked {
  bool newest = false;
  Version version{0, 0};
  bool has_minor = false;
  int patch = -1;
};
std::optional<Asked> read_version(std::string_view rest) {
  Asked asked;
  if (rest.empty()) return Asked{true, {}, false, -1};
  const auto begin = rest.find_first_not_of("-_ =");
  if (begin == 0 || begin == std::string_view::npos) return std::nullopt;
  rest.remove_prefix(begin);
  if (rest.starts_with("v")) rest.remove_prefix(1);
  if (rest.find("dev") != std::string_view::npos || rest == "main" || rest == "latest" ||
      rest.starts_with("nightly"))
    return Asked{true, {}, false, -1};
  const auto major = take_number(rest);
  if (!major) return std::nullopt;
  asked.version.major = *major;
  if (rest.empty()) return asked;
  if (rest.front() != '.') return std::nullopt;
  rest.remove_prefix(1);
  const auto minor = take_number(rest);
  if (!minor) return std::nullopt;
  asked.version.minor = *minor;
  asked.has_minor = true;
  if (rest.starts_with(".")) {
    rest.remove_prefix(1);
    asked.patch = take_number(rest).value_or(-1);
  }
  return asked;
}

template <std::size_t N>
Version nearest(const Version (&versions)[N], const Asked& asked) {
  if (asked.newest) return versions[N - 1];
  Version chosen = versions[0];
  for (const Version& v : versions)
    if (asked.has_minor ? v <= asked.version : v.major <= asked.version.major) chosen = v;
  return chosen;
}

}  // namespace

Behavior find_behavior(const std::string& name, const std::string& where) {
  const std::string text = lower(trim(name));
  constexpr std::pair<std::string_view, std::string_view> kFamilies[] = {
      {"vllm", "vllm"},      {"sglang", "sglang"},       {"trtllm", "trtllm"},
      {"trt-llm", "trtllm"}, {"tensorrt-llm", "trtllm"}, {"tensorrt_llm", "trtllm"}};
  for (const auto& [prefix, family] : kFamilies) {
    if (!text.starts_with(prefix)) continue;
    const auto asked = read_version(std::string_view(text).substr(prefix.size()));
    if (!asked) refuse(name, where);
    Behavior b;
    if (family == "sglang") {
      b = sglang(nearest(kSglangVersions, *asked));
    } else if (family == "trtllm") {
      b = trtllm(nearest(kTrtllmVersions, *asked));
    } else {
      // "vllm-v1" is an engine's generation, "vllm-v0" the one before.
      const bool is_generation = !asked->newest && !asked->has_minor && asked->version.major == 0;
      const bool versioned = asked->has_minor && asked->version.major == 0;
      if (is_generation || (versioned && asked->version.minor < kOldestMinor))
        b = vllm_v0(versioned ? std::max(asked->version.minor, kOldestV0Minor) : kNewestV0Minor);
      else
        b = vllm(versioned ? std::min(asked->version.minor, kNewestMinor) : kNewestMinor);
    }
    b.asked = name;
    b.patch = asked->patch;
    return b;
  }
  if (const auto system = find_block_system(text)) {
    Behavior b = block_system(*system);
    b.asked = name;
    return b;
  }
  if (text == "foretoken") {
    Behavior b = executor();
    b.asked = name;
    return b;
  }
  refuse(name, where);
}

Behavior as_executed(const Behavior& behavior) {
  const Behavior own = executor();
  Behavior b = behavior;
  b.own_executor = true;
  b.overlaps_operators = b.composed_modules = b.in_python = false;
  for (Seconds Behavior::*time :
       {&Behavior::host_step, &Behavior::host_per_sequence, &Behavior::ingress, &Behavior::egress,
        &Behavior::launch_eager, &Behavior::launch_graph, &Behavior::prefill_layer,
        &Behavior::prefill_layer_doubling, &Behavior::prefill_step, &Behavior::kernel})
    b.*time = own.*time;
  b.first_token_error = own.first_token_error;
  b.engine_error = own.engine_error;
  return b;
}

std::vector<std::string> modelled_behaviors() {
  std::vector<std::string> names = {executor().name};
  for (int minor = kOldestV0Minor; minor <= kNewestMinor; ++minor)
    names.push_back(fmt::format("vllm-0.{}", minor));
  for (const Version& v : kSglangVersions) names.push_back(sglang(v).name);
  for (const Version& v : kTrtllmVersions) names.push_back(trtllm(v).name);
  for (std::string& name : block_system_names()) names.push_back(std::move(name));
  return names;
}

std::vector<std::int64_t> default_graph_sizes(const Behavior& behavior, std::int64_t max_num_seqs,
                                              bool own_memory) {
  constexpr std::int64_t kLargest = 512;
  if (behavior.own_executor) {
    if (!own_memory) return {};
    const std::int64_t largest = std::min(max_num_seqs, kLargest);
    auto sizes = vllm_graph_sizes_up_to(behavior, largest);
    if (sizes.empty() || sizes.back() < largest) sizes.push_back(largest);
    return sizes;
  }
  return vllm_graph_sizes_up_to(behavior, std::min(std::min(max_num_seqs, kLargest) * 2, kLargest));
}

std::vector<std::int64_t> vllm_graph_sizes_up_to(const Behavior& behavior, std::int64_t largest) {
  constexpr std::int64_t kFineUpTo = 256;
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

std::vector<std::int64_t> graph_sizes_up_to(const Behavior& behavior, std::int64_t largest) {
  std::vector<std::int64_t> sizes;
  const auto add = [&](std::int64_t from, std::int64_t to, std::int64_t step) {
    for (std::int64_t size = from; size < to; size += step) sizes.push_back(size);
  };
  sizes = {1, 2, 4};
  add(8, 257, 8);
  if (behavior.family == "sglang" && behavior.minor >= 5) {
    sizes.insert(std::find(sizes.begin(), sizes.end(), 16), 12);
    add(272, 512, 16);
    add(512, largest + 1, 32);
  }
  std::erase_if(sizes, [&](std::int64_t size) { return size > largest; });
  if (largest > 0 && (sizes.empty() || sizes.back() != largest)) sizes.push_back(largest);
  return sizes;
}

std::int64_t default_largest_graph(const Behavior& behavior, double gib, int tensor_parallel) {
  if (behavior.family == "trtllm") return 128;  // CudaGraphConfig.max_batch_size
  const bool few = tensor_parallel < 4;
  if (behavior.minor < 5) return gib * 1024 < 25'000 ? (few ? 8 : 80) : 160;
  if (gib < 20) return 8;
  if (gib < 35) return few ? 24 : 80;
  if (gib < 60) return few ? 32 : 160;
  if (gib < 160) return few ? 256 : 512;
  return 512;
}

double default_memory_share(const Behavior& behavior, double gib, std::int64_t chunk,
                            std::int64_t largest_graph, int tensor_parallel, int pipeline_parallel) {
  if (behavior.family != "sglang") return behavior.gpu_memory_utilization;
  if (behavior.minor < 5) {  // by tensor parallelism alone
    if (tensor_parallel >= 16) return 0.79;
    if (tensor_parallel >= 8) return 0.81;
    if (tensor_parallel >= 4) return 0.85;
    return tensor_parallel >= 2 ? 0.87 : 0.88;
  }
  const double mib = gib * 1024;
  double reserve = 512 + 1.5 * static_cast<double>(std::max<std::int64_t>(chunk, 2048)) +
                   2 * static_cast<double>(largest_graph) +
                   static_cast<double>(tensor_parallel * pipeline_parallel) / 8 * 1024;
  if (gib > 60) reserve = std::max(reserve, 10.0 * 1024);
  return std::max(0.05, std::round((mib - reserve) / mib * 1000) / 1000);
}

BatchLimits default_limits(const Behavior& behavior, double device_memory_gib,
                           const std::string& device_name) {
  if (behavior.family == "trtllm") return {8192, 2048};
  if (behavior.family == "sglang") {
    const double gib = device_memory_gib;
    if (behavior.minor < 5) return {gib * 1024 < 25'000 ? 2048 : 8192, 2048};
    return {gib < 35 ? 2048 : gib < 60 ? 4096 : gib < 160 ? 8192 : 16384, 2048};
  }
  const auto is = [device = lower(device_name)](std::string_view name) {
    return device.find(name) != std::string::npos;
  };
  const bool first = behavior.policy == SchedulerPolicy::kVllmV1 && behavior.minor == kOldestMinor;
  if (first && behavior.patch >= 0 && behavior.patch <= 4) {  // by name, up to pull request 17073
    const bool large = is("h100") || is("h200");
    return {large ? 8192 : 2048, large || behavior.patch <= 3 ? 1024 : 256};  // pull request 16158
  }
  const bool small_steps = is("a100") && !first;  // pull request 17885, in 0.9
  if (device_memory_gib >= kLargeDeviceGib && !small_steps) return {8192, 1024};
  return {2048, 256};
}

}  // namespace foretoken
