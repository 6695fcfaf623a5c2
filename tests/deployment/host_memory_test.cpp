// What lies outside device memory: swapped blocks, offloaded and streamed weights, by hand.
#include <gtest/gtest.h>

#include <cmath>

#include "model/parameters.h"
#include "models.h"

namespace foretoken {
namespace {

constexpr double kLayer = (8030261248.0 - 2 * 525336576.0 - 4096) / 32 * 2;  // bytes of a Llama-3.1-8B layer
constexpr double kBlock = 131072.0 * 16;                                     // and of a KV block

Scenario linked() {
  Scenario s = scenario_on("H100");
  s.hardware.host_link_bandwidth = "64 GB/s";
  return s;
}
std::variant<Deployment, Infeasible> result(const Scenario& s, const ModelConfig& model = llama_8b(),
                                            const Device& device = h100()) {
  Resources r;
  r.scenario_file = "s.json";
  return resolve_on(s, r, model, device, nvlink_node(), 0, 4000);
}
std::string error(const Scenario& s, const ModelConfig& model = llama_8b(), const Device& device = h100()) {
  return error_of([&] { result(s, model, device); });
}
Device processor() {
  Device d = h100();
  d.name = "EPYC", d.memory = Bytes(0), d.memory_bandwidth = BytesPerSecond(460e9);
  return d;
}

TEST(HostMemory, SwapSpaceIsBlocksOfTheHost) {
  Scenario s = linked();
  const Deployment without = deployment_of(result(s));
  EXPECT_EQ(without.scheduler.num_host_blocks, 0);
  EXPECT_EQ(without.memory.host_bytes, 0);
  s.engine.preemption_mode = "swap";
  const Deployment d = deployment_of(result(s));
  EXPECT_EQ(d.scenario.engine.swap_space_gib, 4);
  EXPECT_EQ(d.memory.num_host_blocks, static_cast<std::int64_t>(4 * kGiB / kBlock));
  EXPECT_EQ(d.scheduler.num_host_blocks, d.memory.num_host_blocks);
  EXPECT_EQ(d.memory.num_gpu_blocks, without.memory.num_gpu_blocks);
  EXPECT_EQ(d.memory.host_bytes, 4 * kGiB);
  s.engine.tensor_parallel_size = 2, s.hardware.count = 2;  // each device swaps its half of a block
  EXPECT_EQ(deployment_of(result(s)).memory.num_host_blocks, 2 * d.memory.num_host_blocks);
  s.hardware.host_memory = "7 GiB";
  EXPECT_NE(verdict_of(result(s)).reason.find("2 devices of a node keep 4.0 GiB each"), std::string::npos);
}

TEST(HostMemory, AProcessorSwapsWithinItsOwnMemory) {
  Scenario s = scenario_on("EPYC");
  s.engine.behavior = "foretoken";
  s.hardware.host_memory = "64 GiB", s.hardware.devices_per_node = 1;
  const MemoryPlan without = deployment_of(result(s, llama_8b(), processor())).memory;
  s.engine.preemption_mode = "swap", s.engine.swap_space_gib = 8;
  const Deployment d = deployment_of(result(s, llama_8b(), processor()));
  EXPECT_DOUBLE_EQ(d.memory.kv_cache_bytes, without.kv_cache_bytes - 8 * kGiB);
  EXPECT_EQ(d.device.pcie_bandwidth.value, d.device.memory_bandwidth.value / 2) << "read and written";
}

TEST(HostMemory, OffloadedWeightsMakeRoomForTheCache) {
  Scenario s = linked();
  const MemoryPlan all = deployment_of(result(s)).memory;
  s.engine.cpu_offload_gib = 4;
  const Deployment d = deployment_of(result(s));
  const double layers = std::ceil(4 * kGiB / kLayer);
  EXPECT_EQ(d.mapping.stages[0].offloaded_layers, layers);
  EXPECT_DOUBLE_EQ(d.memory.outside_bytes, layers * kLayer);
  EXPECT_DOUBLE_EQ(d.memory.weights_bytes, all.weights_bytes - layers * kLayer);
  EXPECT_DOUBLE_EQ(d.memory.kv_cache_bytes, all.kv_cache_bytes + layers * kLayer);
  EXPECT_DOUBLE_EQ(d.memory.host_bytes, layers * kLayer);
  s.engine.cpu_offload_gib = 1000;
  EXPECT_EQ(deployment_of(result(s)).mapping.stages[0].offloaded_layers, 32) << "embedding and head stay";
}

TEST(HostMemory, StreamedLayersLeaveARing) {
  Scenario s = linked();
  const MemoryPlan all = deployment_of(result(s)).memory;
  s.engine.layer_streaming.layers = 24;
  Deployment d = deployment_of(result(s));
  EXPECT_EQ(d.streaming.buffers, 2);
  EXPECT_TRUE(d.streaming.overlap);
  EXPECT_DOUBLE_EQ(d.memory.weights_bytes, all.weights_bytes - 22 * kLayer);
  EXPECT_DOUBLE_EQ(d.memory.host_bytes, 24 * kLayer);
  s.engine.layer_streaming.source = "storage";
  EXPECT_EQ(error(s).substr(0, 36), "s.json:/hardware/storage_bandwidth: ");
  s.hardware.storage_bandwidth = "6 GB/s";
  d = deployment_of(result(s));
  EXPECT_EQ(d.memory.host_bytes, 0);
  EXPECT_EQ(d.device.storage_bandwidth.value, 6e9);
  // A model that does not fit otherwise.
  s = linked();
  EXPECT_EQ(verdict_of(result(s, llama_70b())).category, "does not fit in memory");
  s.engine.layer_streaming.layers = 60;
  EXPECT_TRUE(deployment_of(result(s, llama_70b())).memory.fits);
}

TEST(HostMemory, StreamedLayersAreSpreadEvenly) {
  Shard shard;
  const ModelConfig model = llama_8b();
  for (const int streamed : {1, 5, 16, 31, 32}) {
    shard.streamed_layers = streamed;
    int count = 0, gap = 0, longest = 0;
    for (int i = 0; i < 32; ++i) {
      const bool s = is_streamed(model, shard, i);
      count += s;
      gap = s ? 0 : gap + 1;
      longest = std::max(longest, gap);
    }
    EXPECT_EQ(count, streamed);
    EXPECT_LE(longest, (32 + streamed - 1) / streamed);
  }
}

TEST(HostMemory, WhatIsWrongIsSaid) {
  Scenario s = scenario_on("H100");
  s.engine.preemption_mode = "swap";
  EXPECT_EQ(
      error(s),
      "s.json:/hardware/host_link_bandwidth: no link to host memory is known for H100-SXM5-80GB; give its "
      "bandwidth, such as \"64 GB/s\"");
  s = linked();
  s.engine.swap_space_gib = 4;
  EXPECT_EQ(error(s).substr(0, 31), "s.json:/engine/swap_space_gib: ");
  s = linked();
  s.engine.preemption_mode = "swap";
  EXPECT_NE(error(s, recurrent_only()).find("recurrent states"), std::string::npos);
  s.engine.behavior = "sglang-0.5";
  EXPECT_NE(error(s).find("swap is a mode of vLLM's scheduler"), std::string::npos);
  s = linked();
  s.engine.layer_streaming.prefetch_depth = 2;
  EXPECT_EQ(error(s),
            "s.json:/engine/layer_streaming/layers: is missing: it says how many layers are streamed");
  s.engine.layer_streaming.layers = 33;
  EXPECT_EQ(error(s), "s.json:/engine/layer_streaming/layers: is 33, and llama-3.1-8b has 32 layers");
  s.engine.layer_streaming.layers = 4, s.engine.layer_streaming.prefetch_depth = 4;
  EXPECT_NE(error(s).find("all 4 streamed layers would stay"), std::string::npos);
  s.engine.layer_streaming.prefetch_depth = 2, s.engine.cpu_offload_gib = 1;
  EXPECT_EQ(error(s).substr(0, 32), "s.json:/engine/cpu_offload_gib: ");
  s = scenario_on("EPYC");
  s.hardware.host_memory = "64 GiB", s.engine.cpu_offload_gib = 1;
  EXPECT_NE(error(s, llama_8b(), processor()).find("computes in host memory already"), std::string::npos);
}

TEST(HostMemory, ContiguousMemoryRulesOutSharing) {
  Scenario s = scenario_on("H100");
  s.engine.kv_layout = "contiguous";
  const Deployment d = deployment_of(result(s));
  EXPECT_EQ(d.scheduler.reservation, KvReservation::kMaxModelLen);
  EXPECT_FALSE(d.scheduler.enable_prefix_caching);
  s.engine.kv_reservation = "power_of_two";
  EXPECT_EQ(deployment_of(result(s)).scheduler.reservation, KvReservation::kPowerOfTwo);
  s.engine.enable_prefix_caching = true;
  EXPECT_EQ(error(s), "s.json:/engine/enable_prefix_caching: contiguous regions share nothing; turn it off");
  s.engine.enable_prefix_caching = std::nullopt;
  s.engine.preemption_mode = "swap";
  EXPECT_EQ(error(s).substr(0, 32), "s.json:/engine/preemption_mode: ");
  s.engine.preemption_mode = std::nullopt;
  s.engine.kv_layout = "paged";
  EXPECT_EQ(error(s).substr(0, 31), "s.json:/engine/kv_reservation: ");
  EXPECT_EQ(deployment_of(result(scenario_on("H100"))).scheduler.reservation, KvReservation::kPaged);
}

}  // namespace
}  // namespace foretoken
