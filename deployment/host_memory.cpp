// What a deployment keeps outside device memory: swap space of preempted sequences, offloaded and streamed
// weights.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "deployment/parts.h"
#include "model/kv_cache.h"
#include "model/parameters.h"

namespace foretoken {
namespace {

constexpr double kDefaultSwapGib = 4;  // vLLM V0's --swap-space
constexpr double kMostBlocks = 2'147'483'647;
constexpr std::int64_t kDefaultDepth = 2;  // one layer computes while the next is fetched

double layer_bytes(const ModelConfig& model, const Shard& shard, const Precision& precision, int layer) {
  return layer_weight_bytes(model, model.kinds[model.layers[static_cast<std::size_t>(layer)]], shard,
                            precision);
}

// As many of the first layers as make up the size that was asked for; vLLM stops at the parameter with which
// they do, here it is the layer.
int offloaded_layers(const Deployment& d, const Shard& shard, double wanted) {
  const auto [first, last] = layer_range(d.model, shard);
  double sum = 0;
  int i = first;
  for (; i < last && sum < wanted; ++i) sum += layer_bytes(d.model, shard, d.precision, i);
  return i - first;
}

// Weights of one device that live in host memory.
double weights_on_host(const Deployment& d, const Shard& shard) {
  if (shard.streams_from_storage) return 0;
  return weights_outside(d.model, shard, d.precision, 0);
}

}  // namespace

double weights_outside(const ModelConfig& model, const Shard& shard, const Precision& precision,
                       std::int64_t buffers) {
  if (shard.offloaded_layers == 0 && shard.streamed_layers == 0) return 0;
  const auto [first, last] = layer_range(model, shard);
  double sum = 0, largest = 0;
  std::int64_t streamed = 0;
  for (int i = first; i < last; ++i) {
    const double bytes = layer_bytes(model, shard, precision, i);
    const bool streams = is_streamed(model, shard, i);
    if (i - first < shard.offloaded_layers || streams) sum += bytes;
    if (!streams) continue;
    ++streamed;
    largest = std::max(largest, bytes);
  }
  return sum - static_cast<double>(std::min(buffers, streamed)) * largest;
}

void place_weights(Deployment& d, const std::string& where) {
  EngineSection& e = d.scenario.engine;
  LayerStreaming& s = e.layer_streaming;
  const std::string at = where + "/engine/";
  const double offload = e.cpu_offload_gib.value_or(0) * kGiB;
  if (offload > 0) {
    if (d.shares_host_memory)
      throw Error(at + "cpu_offload_gib",
                  fmt::format("{} computes in host memory already; leave it out, or use layer_streaming",
                              d.device.name));
    if (s.layers)
      throw Error(at + "cpu_offload_gib", "is another way than layer_streaming; leave one of them out");
    use_host_link(d, where);
    for (Shard& shard : d.mapping.stages) shard.offloaded_layers = offloaded_layers(d, shard, offload);
  }
  if (!s.layers) {
    if (s.prefetch_depth || s.overlap || s.source)
      throw Error(at + "layer_streaming/layers", "is missing: it says how many layers are streamed");
    return;
  }
  if (*s.layers > d.model.num_layers)
    throw Error(at + "layer_streaming/layers",
                fmt::format("is {}, and {} has {} layers", *s.layers, d.model.name, d.model.num_layers));
  if (d.mapping.pipeline_parallel > 1)
    throw Error(at + "layer_streaming", "is not modelled for pipelines; use pipeline_parallel_size 1");
  if (!s.prefetch_depth) s.prefetch_depth = std::min(kDefaultDepth, std::max<std::int64_t>(1, *s.layers - 1));
  if (*s.prefetch_depth >= std::max<std::int64_t>(2, *s.layers))
    throw Error(
        at + "layer_streaming/prefetch_depth",
        fmt::format("is {}: all {} streamed layers would stay in device memory; lower it or stream more",
                    *s.prefetch_depth, *s.layers));
  if (!s.overlap) s.overlap = !d.behavior.own_executor;
  if (!s.source) s.source = "host";
  d.streaming = {*s.layers, *s.prefetch_depth, *s.overlap};
  const bool from_storage = *s.source == "storage";
  for (Shard& shard : d.mapping.stages) {
    shard.streamed_layers = static_cast<int>(*s.layers);
    shard.streams_from_storage = from_storage;
  }
  if (!from_storage) return use_host_link(d, where);
  const std::string storage = where + "/hardware/storage_bandwidth";
  if (!d.scenario.hardware.storage_bandwidth)
    throw Error(storage, "is not known; say how fast a device reads from storage, such as \"6 GB/s\"");
  d.device.storage_bandwidth = parse_bandwidth(*d.scenario.hardware.storage_bandwidth, storage);
  if (!(d.device.storage_bandwidth.value > 0) || !std::isfinite(d.device.storage_bandwidth.value))
    throw Error(storage,
                fmt::format("\"{}\" is not a positive bandwidth", *d.scenario.hardware.storage_bandwidth));
}

double host_bytes(const Deployment& d) {
  double weights = 0;
  for (const Shard& shard : d.mapping.stages) {
    double own = weights_on_host(d, shard);
    if (shard.lora.rank > 0)
      own += static_cast<double>(*d.scenario.engine.lora->max_cpu_loras * adapter_elements(d.model, shard)) *
             bytes_of(d.precision.activation);
    weights = std::max(weights, own);
  }
  const bool swaps = d.scenario.engine.preemption_mode.value_or("") == "swap";
  double tiers = 0;
  for (const KvTierLink& tier : d.kv_tiers) tiers += tier.host_bytes;
  return weights + tiers + (swaps ? *d.scenario.engine.swap_space_gib * kGiB : 0);
}

void read_kv_layout(Deployment& d, const std::string& where) {
  EngineSection& e = d.scenario.engine;
  const std::string at = where + "/engine/";
  const SchedulerPolicy p = d.behavior.policy;
  const bool always =
      p == SchedulerPolicy::kOrca || p == SchedulerPolicy::kStaticBatch || p == SchedulerPolicy::kLlamaCpp;
  if (p == SchedulerPolicy::kLlamaCpp && e.kv_unified.value_or(false)) {
    if (e.kv_layout.value_or("paged") != "paged" || e.kv_reservation)
      throw Error(at + (e.kv_reservation ? "kv_reservation" : "kv_layout"),
                  "nothing is reserved in the cache that llama.cpp's slots share; leave it out, or turn "
                  "kv_unified off");
    return;
  }
  if (always) {
    if (!e.kv_layout) e.kv_layout = "contiguous";
    if (*e.kv_layout != "contiguous" && p != SchedulerPolicy::kOrca)
      throw Error(at + "kv_layout",
                  fmt::format("{} takes a sequence's memory in one piece; use contiguous", d.behavior.name));
    if (p == SchedulerPolicy::kLlamaCpp && e.kv_reservation.value_or("max_model_len") != "max_model_len")
      throw Error(at + "kv_reservation",
                  "a slot of llama.cpp has the length of its context; use max_model_len");
    if (!e.kv_reservation) e.kv_reservation = "max_model_len";
    return;
  }
  if (e.kv_layout.value_or("paged") == "paged") {
    if (e.kv_reservation)
      throw Error(at + "kv_reservation",
                  "is said of contiguous memory, and kv_layout is paged; leave it out");
    return;
  }
  if (*e.kv_layout == "buddy")
    throw Error(at + "kv_layout", fmt::format("a buddy allocator is modelled with Orca, and the behaviour is "
                                              "{}; use contiguous or paged",
                                              d.behavior.name));
  if (p != SchedulerPolicy::kVllmV1)
    throw Error(at + "kv_layout",
                fmt::format("contiguous is modelled with vLLM V1's scheduler, Orca, static batches and "
                            "llama.cpp, and the behaviour is {}; use paged",
                            d.behavior.name));
  if (e.preemption_mode.value_or("") == "swap")
    throw Error(at + "preemption_mode", "nobody is preempted whose memory is reserved; use recompute");
  if (e.enable_prefix_caching.value_or(false))
    throw Error(at + "enable_prefix_caching", "contiguous regions share nothing; turn it off");
  e.enable_prefix_caching = false;
  if (!e.kv_reservation) e.kv_reservation = "max_model_len";
}

void read_swap(Deployment& d, const std::string& where) {
  EngineSection& e = d.scenario.engine;
  const bool swaps = e.preemption_mode && *e.preemption_mode == "swap";
  if (!swaps) {
    if (e.swap_space_gib.value_or(0) > 0)
      throw Error(where + "/engine/swap_space_gib",
                  "takes effect with preemption_mode swap alone; set that or leave it out");
    return;
  }
  const std::string at = where + "/engine/preemption_mode";
  if (d.behavior.policy != SchedulerPolicy::kVllmV1 && d.behavior.policy != SchedulerPolicy::kVllmV0)
    throw Error(at, fmt::format("swap is a mode of vLLM's scheduler, and the behaviour is {}; use recompute",
                                d.behavior.name));
  if (d.model.is_recurrent())
    throw Error(at, fmt::format("swap is not modelled for {}, whose recurrent states lie in no block; use "
                                "recompute",
                                d.model.name));
  if (!e.swap_space_gib) e.swap_space_gib = kDefaultSwapGib;
  use_host_link(d, where);
}

void use_host_link(Deployment& d, const std::string& where) {
  const std::string at = where + "/hardware/host_link_bandwidth";
  BytesPerSecond& link = d.device.pcie_bandwidth;
  // A processor's host memory is its own: a copy reads and writes each byte there.
  if (d.shares_host_memory) link = d.device.memory_bandwidth / 2;
  if (const auto& given = d.scenario.hardware.host_link_bandwidth) link = parse_bandwidth(*given, at);
  if (!(link.value > 0) || !std::isfinite(link.value))
    throw Error(at,
                fmt::format("no link to host memory is known for {}; give its bandwidth, such as \"64 GB/s\"",
                            d.device.name));
}

void plan_host_memory(Deployment& d) {
  MemoryPlan& m = d.memory;
  m.host_bytes = host_bytes(d);
  if (d.scenario.engine.preemption_mode.value_or("") != "swap") return;
  double block = 0;
  for (const Shard& shard : d.mapping.stages)
    block = std::max(block, kv_bytes_per_token(d.model, shard, d.precision.kv) * m.block_size);
  if (block > 0)
    m.num_host_blocks = static_cast<std::int64_t>(
        std::min(std::floor(*d.scenario.engine.swap_space_gib * kGiB / block), kMostBlocks));
}

std::optional<Infeasible> host_memory_verdict(const Deployment& d, const std::string& where) {
  const auto& given = d.scenario.hardware.host_memory;
  if (!given || d.shares_host_memory || !(d.memory.host_bytes > 0)) return std::nullopt;
  const double has = parse_bytes(*given, where + "/hardware/host_memory").value;
  const double devices =
      static_cast<double>(std::min<std::int64_t>(d.mapping.devices(), d.topology.devices_per_node));
  if (devices * d.memory.host_bytes <= has) return std::nullopt;
  return Infeasible{
      "does not fit in memory",
      fmt::format("{:.0f} devices of a node keep {:.1f} GiB each in host memory, which has {:.1f} GiB: "
                  "keep less there or raise --host-memory",
                  devices, d.memory.host_bytes / kGiB, has / kGiB),
      d.memory};
}

}  // namespace foretoken
