// Tiers of the KV cache in host memory and on storage: what a scenario says of them, and what it must not
// say.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "deployment/parts.h"
#include "model/kv_cache.h"

namespace foretoken {
namespace {

constexpr double kMostBlocks = 2'147'483'647;

// HiCache as it has been since 0.5: host memory of each rank, loaded from layer by layer.
void refuse_beyond_hicache(const Deployment& d, const std::string& where) {
  const EngineSection& e = d.scenario.engine;
  constexpr const char* kLast[] = {"host", "storage"};
  const bool stores = e.kv_tiers.size() > 1;
  const auto refuse = [&](bool is, const std::string& key, const std::string& message) {
    if (is) throw Error(where + "/engine/" + key, message);
  };
  refuse(d.behavior.name.starts_with("sglang-0.4"), "kv_tiers",
         fmt::format("are modelled as SGLang's HiCache has them since 0.5, and the behaviour is {}; use "
                     "sglang-0.5, or leave them out",
                     d.behavior.name));
  refuse(
      e.kv_tiers.size() > 2 || e.kv_tiers[0].kind != "host" || e.kv_tiers.back().kind != kLast[stores],
      "kv_tiers",
      "are modelled as host memory alone or with storage below it under SGLang; give one tier of kind host, "
      "and perhaps one of kind storage");
  for (std::size_t t = 0; t < e.kv_tiers.size(); ++t) {
    refuse(e.kv_tiers[t].shared, fmt::format("kv_tiers/{}/shared", t),
           "is not modelled under SGLang, where each rank has its own; leave it out");
    refuse(e.kv_tiers[t].eviction_policy != "lru", fmt::format("kv_tiers/{}/eviction_policy", t),
           "is modelled as lru under SGLang; use that");
  }
  refuse(stores && e.kv_tiers[1].write_policy.value_or("write_through") != "write_through",
         "kv_tiers/1/write_policy",
         "must be write_through under SGLang, which stores what has come to host memory; leave it out");
  refuse(e.kv_load_policy.value_or("always") != "always", "kv_load_policy",
         "must be always under SGLang, which loads whatever host memory has");
  refuse(e.kv_load_mode.value_or("layerwise") != "layerwise", "kv_load_mode",
         "must be layerwise under SGLang, which computes while blocks come");
}

constexpr double kHicacheRatio = 2;

// HiCache's own keys become a tier. Its room by a ratio is known when the device's memory is planned.
void take_hicache(Deployment& d, const std::string& where) {
  EngineSection& e = d.scenario.engine;
  const auto fail = [&](const char* key, const std::string& message) {
    throw Error(where + "/engine/" + key, message);
  };
  if (e.hicache_storage_backend)
    fail("hicache_storage_backend",
         "is not modelled by name under SGLang; leave it out for host memory alone, or give kv_tiers, one of "
         "kind host and one of kind storage");
  if (e.hicache_io_backend.value_or("kernel") != "kernel")
    fail("hicache_io_backend",
         fmt::format("\"{}\" is not modelled, whose calls for each page have no known cost; use kernel",
                     *e.hicache_io_backend));
  if (!e.enable_hierarchical_cache.value_or(false)) {
    const char* given = e.hicache_ratio          ? "hicache_ratio"
                        : e.hicache_size         ? "hicache_size"
                        : e.hicache_write_policy ? "hicache_write_policy"
                        : e.hicache_io_backend   ? "hicache_io_backend"
                                                 : nullptr;
    if (given != nullptr)
      fail(given, "belongs to HiCache, which is off; set enable_hierarchical_cache, or leave it out");
    e.enable_hierarchical_cache.reset();
    return;
  }
  if (!e.kv_tiers.empty())
    fail("enable_hierarchical_cache", "and kv_tiers mean the same under SGLang; give one");
  if (!e.hicache_size && d.shares_host_memory)
    fail("hicache_size", fmt::format("is missing: {} has one memory for both, of which HiCache's share can't "
                                     "follow from what is left; say how many GB",
                                     d.device.name));
  KvTierSection& tier = e.kv_tiers.emplace_back();
  tier.write_policy = e.hicache_write_policy;
  if (e.hicache_size)
    tier.capacity_gib = *e.hicache_size * 1e9 / kGiB;
  else
    d.hicache_ratio = e.hicache_ratio.value_or(kHicacheRatio);
  e.enable_hierarchical_cache.reset();
  e.hicache_ratio.reset();
  e.hicache_size.reset();
  e.hicache_write_policy.reset();
  e.hicache_io_backend.reset();
}

void refuse_with_tiers(const Deployment& d, const std::string& where) {
  const EngineSection& e = d.scenario.engine;
  const auto refuse = [&](bool is, const char* key, const std::string& message) {
    if (is) throw Error(where + key, message);
  };
  const bool hicache = d.behavior.policy == SchedulerPolicy::kSglang;
  refuse(!hicache && d.behavior.policy != SchedulerPolicy::kVllmV1, "/engine/kv_tiers",
         fmt::format("are modelled for vLLM V1's scheduler and SGLang's, and the behaviour is {}; leave them "
                     "out",
                     d.behavior.name));
  if (hicache) refuse_beyond_hicache(d, where);
  refuse(d.model.is_recurrent(), "/engine/kv_tiers",
         fmt::format("are not modelled for {}, whose recurrent states lie in no block; leave them out",
                     d.model.name));
  refuse(!e.enable_prefix_caching.value_or(true), "/engine/enable_prefix_caching",
         "is how KV tiers are searched; turn it on or leave kv_tiers out");
  refuse(e.kv_layout.value_or("paged") != "paged", "/engine/kv_layout",
         "must be paged where KV tiers hold blocks");
  refuse(e.preemption_mode.value_or("") == "swap", "/engine/preemption_mode",
         "swap is another use of host memory; beside kv_tiers use recompute, which finds its blocks there");
  refuse(e.speculative_config.has_value(), "/engine/kv_tiers",
         "don't hold what speculative decoding caches; leave one of them out");
  refuse(e.lora.has_value(), "/engine/kv_tiers",
         "are not modelled with low-rank adapters; leave one of them out");
  refuse(d.scenario.workload.beam_width.value_or(1) > 1, "/engine/kv_tiers",
         "are not modelled for beam search; leave them out");
  refuse(d.mapping.pipeline_parallel > 1, "/engine/kv_tiers",
         "are not modelled in a pipeline; use pipeline_parallel_size 1");
}

BytesPerSecond default_bandwidth(Deployment& d, const KvTierSection& tier, const std::string& at,
                                 const std::string& where) {
  if (tier.kind == "host") {
    use_host_link(d, where);
    return d.device.pcie_bandwidth;
  }
  const auto& storage = d.scenario.hardware.storage_bandwidth;
  if (!storage)
    throw Error(at + "bandwidth",
                "is not known; say how fast a device reads from that tier, such as \"6 GB/s\", or give "
                "hardware.storage_bandwidth");
  return parse_bandwidth(*storage, where + "/hardware/storage_bandwidth");
}

}  // namespace

void read_kv_tiers(Deployment& d, const std::string& where) {
  EngineSection& e = d.scenario.engine;
  take_hicache(d, where);
  if (e.hicache_storage_prefetch_policy && e.kv_tiers.size() < 2)
    throw Error(
        where + "/engine/hicache_storage_prefetch_policy",
        "belongs to storage below HiCache's host memory, and there is none; give kv_tiers, one of kind "
        "host and one of kind storage, or leave it out");
  if (e.kv_tiers.empty()) {
    if (e.kv_load_policy || e.kv_load_mode)
      throw Error(where + (e.kv_load_policy ? "/engine/kv_load_policy" : "/engine/kv_load_mode"),
                  "says how blocks are loaded from kv_tiers, and there are none; leave it out");
    return;
  }
  refuse_with_tiers(d, where);
  const bool hicache = d.behavior.policy == SchedulerPolicy::kSglang;
  if (hicache && e.kv_tiers.size() > 1 && !e.hicache_storage_prefetch_policy)
    e.hicache_storage_prefetch_policy = "best_effort";
  if (!e.kv_load_policy) e.kv_load_policy = "always";
  if (!e.kv_load_mode) e.kv_load_mode = hicache ? "layerwise" : "async";
  double block = 0;
  for (const Shard& shard : d.mapping.stages)
    block = std::max(block,
                     kv_bytes_per_token(d.model, shard, d.precision.kv) * static_cast<double>(*e.block_size));
  for (std::size_t t = 0; t < e.kv_tiers.size(); ++t) {
    KvTierSection& tier = e.kv_tiers[t];
    const std::string at = fmt::format("{}/engine/kv_tiers/{}/", where, t);
    if (!tier.capacity_gib && !d.hicache_ratio)
      throw Error(at + "capacity_gib", "is missing: how much the tier holds, such as 100");
    if (!tier.write_policy) tier.write_policy = t == 0 || hicache ? "write_through" : "write_back";
    if (t > 0 && *tier.write_policy == "write_through_selective")
      throw Error(at + "write_policy", "write_through_selective is the first tier's alone; use write_back");
    if (t > 0 && e.kv_tiers[t - 1].shared && !tier.shared)
      throw Error(at + "shared", "is false below a tier that is shared; share this one, too");
    KvTierLink& link = d.kv_tiers.emplace_back();
    link.is_host_link = tier.kind == "host" && !tier.bandwidth && !tier.latency_us && !tier.shared;
    link.bandwidth = tier.bandwidth ? parse_bandwidth(*tier.bandwidth, at + "bandwidth")
                                    : default_bandwidth(d, tier, at, where);
    if (!(link.bandwidth.value > 0) || !std::isfinite(link.bandwidth.value))
      throw Error(at + "bandwidth", "is not positive");
    if (!tier.latency_us) tier.latency_us = 0;
    link.latency = Seconds(*tier.latency_us * 1e-6);
    link.block_bytes = block * (tier.shared ? d.mapping.tensor_parallel : 1);
    if (!tier.capacity_gib) continue;
    if (tier.kind == "host")
      link.host_bytes = *tier.capacity_gib * kGiB / (tier.shared ? d.mapping.devices() : 1);
    if (*tier.capacity_gib * kGiB < link.block_bytes)
      throw Error(at + "capacity_gib",
                  fmt::format("holds no block, which takes {:.3g} GiB; raise it", link.block_bytes / kGiB));
  }
}

void size_hicache(Deployment& d) {
  if (!d.hicache_ratio) return;
  KvTierLink& link = d.kv_tiers.front();
  const double blocks = std::floor(*d.hicache_ratio * static_cast<double>(d.memory.num_gpu_blocks - 1));
  link.host_bytes = std::max(blocks, 1.0) * link.block_bytes;
  d.scenario.engine.kv_tiers.front().capacity_gib =
      link.host_bytes / kGiB * (1 + 1e-9);  // which is rounded down to blocks again
}

KvTiersConfig kv_tiers_config(const Deployment& d) {
  const EngineSection& e = d.scenario.engine;
  KvTiersConfig c;
  for (std::size_t t = 0; t < d.kv_tiers.size(); ++t) {
    const KvTierSection& tier = e.kv_tiers[t];
    using Write = KvTierConfig::Write;
    using Eviction = KvTierConfig::Eviction;
    c.tiers.push_back({static_cast<std::int64_t>(std::min(
                           std::floor(*tier.capacity_gib * kGiB / d.kv_tiers[t].block_bytes), kMostBlocks)),
                       *tier.write_policy == "write_back"      ? Write::kBack
                       : *tier.write_policy == "write_through" ? Write::kThrough
                                                               : Write::kSelective,
                       tier.eviction_policy == "lru"   ? Eviction::kLru
                       : tier.eviction_policy == "lfu" ? Eviction::kLfu
                                                       : Eviction::kLengthAware,
                       tier.shared});
  }
  if (c.tiers.empty()) return c;
  c.by_cost = *e.kv_load_policy == "cost";
  using Prefetch = KvTiersConfig::Prefetch;
  const std::string prefetch = e.hicache_storage_prefetch_policy.value_or("best_effort");
  c.prefetch = prefetch == "timeout"         ? Prefetch::kTimeout
               : prefetch == "wait_complete" ? Prefetch::kWaitComplete
                                             : Prefetch::kBestEffort;
  c.layers = *e.kv_load_mode == "layerwise" ? static_cast<int>(d.model.num_layers) : 0;
  return c;
}

Seconds copy_time(const KvTierLink& tier, std::int64_t blocks) {
  return tier.latency + Bytes(static_cast<double>(blocks) * tier.block_bytes) / tier.bandwidth;
}

}  // namespace foretoken
