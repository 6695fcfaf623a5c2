// What fits on a device. As vLLM V1 finds out by a profile run: the budget is a share of the memory that the
// CUDA runtime sees, minus weights, the peak of a forward of max_num_batched_tokens rows with max_num_seqs
// sampled ones, and what is allocated outside of PyTorch; the rest becomes KV blocks. SGLang and TensorRT-LLM
// take other shares (share_memory).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "deployment/deployment.h"
#include "model/activations.h"
#include "model/kv_cache.h"
#include "model/parameters.h"

namespace foretoken {
namespace {

// The driver's total is larger than what the CUDA runtime reports to a process: H100 79.65 and 79.19 GiB, RTX
// 4090 23.99 and 23.6 GiB, as in vLLM logs against nvidia-smi. The CUDA context lies outside of vLLM's
// budget.
constexpr double kDriverReserve = 0.45 * kGiB;
// Loaded kernels and cuBLAS workspaces; vLLM logs show 0.16 to 0.39 GiB as non_torch_memory on one device.
constexpr double kNonTorch = 0.3 * kGiB;
// NCCL channels and the buffers of the custom all-reduce, once there is anyone to talk to (342 MiB in
// NVIDIA's aiconfigurator for up to 8 ranks).
constexpr double kCommunication = 342 * kMiB;
// A captured graph with its pool: vLLM 0.2x logs "Estimated CUDA graph memory: 0.36 GiB" for 16 sizes.
constexpr double kCapturedGraph = 23 * kMiB;
// The sampler sorts fp32 logits: sorted values (4 B), their int64 places (8), probabilities (4), cumulative
// sum (4), and the logits scattered back (4), beside the fp32 logits themselves (4). Full vocabulary on every
// rank.
constexpr double kSamplerBytes = 28;
constexpr double kMostBlocks = 9.0e15;  // exact in a double

std::string gib(double bytes) { return fmt::format("{:.1f} GiB", bytes / kGiB); }

// Cosines and sines for every position that the model knows, whatever max_model_len; shared by all layers and
// the same on every rank. In the activation type, but as 64-bit complex numbers for Llama 4 (5 GiB for its 10
// M positions).
double rotary_table_bytes(const ModelConfig& model, const Precision& precision) {
  double row = 0;
  for (const LayerKind& kind : model.kinds) {
    if (const auto* a = std::get_if<GqaAttention>(&kind.mixer); a != nullptr && a->rotary)
      row =
          std::max(row, static_cast<double>(a->head_dim) * (a->chunked ? 4 : bytes_of(precision.activation)));
    if (const auto* m = std::get_if<MlaAttention>(&kind.mixer); m != nullptr && m->rotary)
      row = std::max(row, static_cast<double>(m->rope_dim) * bytes_of(precision.activation));
  }
  return static_cast<double>(model.max_positions) * row;
}

// What weights, activations and buffers leave for the KV cache. All of the budget is accounted for: memory
// that a rule sets aside counts as overhead.
void share_memory(MemoryPlan& m, const MemoryLimits& limits, double outside) {
  const double seen = std::max(0.0, m.device_bytes - kDriverReserve), share = limits.gpu_memory_utilization;
  switch (limits.rule) {
    case MemoryRule::kShareOfDevice:
      m.budget_bytes = seen * share;
      break;
    case MemoryRule::kStaticShare: {
      // A share of what is free once the processes talk to each other; activations and graphs live in the
      // rest, and take from the cache only what they need beyond it.
      m.budget_bytes = seen;
      const double reserve = (seen - outside) * (1 - share);
      m.overhead_bytes += std::max(0.0, reserve - m.activation_peak_bytes);
      break;
    }
    case MemoryRule::kShareOfFree: {
      m.budget_bytes = seen;
      const double reserve = std::max(0.0, seen - m.weights_bytes - m.overhead_bytes) * (1 - share);
      m.overhead_bytes += std::max(0.0, reserve - m.activation_peak_bytes);
      break;
    }
    case MemoryRule::kShareOfRest:
      m.budget_bytes = seen;
      m.overhead_bytes +=
          std::max(0.0, seen - m.weights_bytes - m.activation_peak_bytes - m.overhead_bytes) * (1 - share);
      break;
  }
  m.kv_cache_bytes =
      std::max(0.0, m.budget_bytes - m.weights_bytes - m.activation_peak_bytes - m.overhead_bytes);
}

struct StagePlan {
  MemoryPlan plan;
  double longest_bytes = 0;  // cache of one sequence of max_model_len
};

StagePlan plan_stage(const ModelConfig& model, const Shard& shard, const Precision& precision,
                     Bytes device_memory, const MemoryLimits& limits, int ranks) {
  StagePlan s;
  MemoryPlan& m = s.plan;
  m.block_size = limits.block_size;
  m.device_bytes = device_memory.value;
  m.outside_bytes = weights_outside(model, shard, precision, limits.stream_buffers);
  m.weights_bytes =
      weight_bytes(model, shard, precision).value - m.outside_bytes +
      static_cast<double>(shard.lora.slots * adapter_elements(model, shard)) * bytes_of(precision.activation);
  if (const Deployment* draft = limits.draft) {
    m.draft_weights_bytes = weight_bytes(draft->model, draft->mapping.stages.front(), draft->precision).value;
    m.weights_bytes += m.draft_weights_bytes;
  }
  const std::int64_t tokens = std::max<std::int64_t>(limits.max_num_batched_tokens, 1);
  const std::int64_t sampled =
      shard.has_head ? std::min(limits.sampled_rows > 0 ? limits.sampled_rows : limits.max_num_seqs, tokens)
                     : 0;
  const double sampler =
      static_cast<double>(tokens) * static_cast<double>(model.hidden) * bytes_of(precision.activation) +
      static_cast<double>(sampled) * static_cast<double>(model.vocab) * kSamplerBytes;
  m.activation_peak_bytes = std::max(inference_peak_bytes(model, shard, precision, tokens, sampled).value,
                                     sampled > 0 ? sampler : 0.0);
  const double outside = kNonTorch + (ranks > 1 ? kCommunication : 0);
  m.overhead_bytes = outside + rotary_table_bytes(model, precision) +
                     kCapturedGraph * static_cast<double>(limits.captured_graphs) + limits.shared_bytes;
  if (limits.draft) m.overhead_bytes += rotary_table_bytes(limits.draft->model, limits.draft->precision);
  share_memory(m, limits, outside);

  // Windowed layers stop growing and constant states never grow: a block is charged the average at the length
  // that sequences have, not at the longest one.
  const std::int64_t reference =
      std::clamp<std::int64_t>(limits.reference_tokens > 0 ? limits.reference_tokens : limits.max_model_len,
                               1, std::max<std::int64_t>(limits.max_model_len, 1));
  // The draft model's cache is in blocks of the same numbers.
  const auto draft_bytes = [&](std::int64_t length) {
    return limits.draft == nullptr ? 0.0
                                   : kv_bytes(limits.draft->model, limits.draft->mapping.stages.front(),
                                              limits.draft->precision.kv, length, limits.block_size);
  };
  const auto sequence_bytes = [&](std::int64_t length) {
    return kv_bytes(model, shard, precision.kv, length, limits.block_size) +
           recurrent_state_bytes(model, shard) + draft_bytes(length);
  };
  const std::int64_t blocks = (reference + limits.block_size - 1) / limits.block_size;
  m.block_bytes = sequence_bytes(reference) / static_cast<double>(blocks);
  m.draft_block_bytes = draft_bytes(reference) / static_cast<double>(blocks);
  s.longest_bytes = sequence_bytes(std::max<std::int64_t>(limits.max_model_len, 1));

  if (limits.num_gpu_blocks_override > 0) {
    m.num_gpu_blocks = limits.num_gpu_blocks_override;
    m.kv_cache_bytes = static_cast<double>(m.num_gpu_blocks) * m.block_bytes;
  } else if (m.block_bytes > 0) {
    m.num_gpu_blocks = static_cast<std::int64_t>(std::min(m.kv_cache_bytes / m.block_bytes, kMostBlocks));
  } else {
    // Nothing is kept between steps: blocks only count tokens, and every sequence has room.
    const std::int64_t longest = (limits.max_model_len + limits.block_size - 1) / limits.block_size;
    m.num_gpu_blocks = limits.max_num_seqs * longest + 1;
  }
  m.kv_cache_tokens = std::max<std::int64_t>(0, m.num_gpu_blocks - 1) * limits.block_size;
  return s;
}

void judge(StagePlan& s, const MemoryLimits& limits) {
  MemoryPlan& m = s.plan;
  const double others = m.activation_peak_bytes + m.overhead_bytes;
  const double usable = std::max(0.0, m.budget_bytes - others);
  if (m.weights_bytes > usable) {
    m.reason = fmt::format(
        "weights need {}, {} usable: raise --tensor-parallel-size or choose smaller weights with "
        "--quantization",
        gib(m.weights_bytes), gib(usable));
    if (m.budget_bytes - m.weights_bytes > 0)
      m.reason = fmt::format(
          "weights need {}, activations and buffers {}, {} usable: lower "
          "--max-num-batched-tokens or raise --tensor-parallel-size",
          gib(m.weights_bytes), gib(others), gib(m.budget_bytes));
    return;
  }
  // An override of the number of blocks is checked in blocks, everything else in bytes: at the longest length
  // windowed layers take less a token than on average.
  const bool room =
      limits.num_gpu_blocks_override > 0
          ? m.kv_cache_tokens * limits.sharing_instances >= limits.max_model_len
          : s.longest_bytes <= m.kv_cache_bytes * static_cast<double>(limits.sharing_instances) &&
                m.num_gpu_blocks > 1;
  if (!room) {
    m.reason = fmt::format("KV cache holds {} tokens, max_model_len is {}: lower --max-model-len or {}",
                           with_commas(m.kv_cache_tokens), with_commas(limits.max_model_len),
                           limits.num_gpu_blocks_override > 0 ? "raise --num-gpu-blocks-override"
                                                              : "raise --tensor-parallel-size");
    return;
  }
  m.fits = true;
}

}  // namespace

MemoryPlan plan_memory(const ModelConfig& model, const Mapping& mapping, const Precision& precision,
                       Bytes device_memory, const MemoryLimits& limits) {
  MemoryPlan fullest;
  double least_room = 0;
  std::string refusal;
  for (std::size_t i = 0; i < mapping.stages.size(); ++i) {
    StagePlan s =
        plan_stage(model, mapping.stages[i], precision, device_memory, limits, mapping.devices_per_replica());
    judge(s, limits);
    if (refusal.empty()) refusal = s.plan.reason;
    // The stage with the fewest blocks sets the number for all; where none is left, the one that lacks most.
    const MemoryPlan& m = s.plan;
    const double left = m.budget_bytes - m.weights_bytes - m.activation_peak_bytes - m.overhead_bytes;
    const double room = left < 0 || m.block_bytes <= 0 ? std::min(left, 0.0) : left / m.block_bytes;
    const bool constrains = m.block_bytes > 0 || left < 0;
    if (i == 0 || (constrains && (room < least_room || fullest.block_bytes <= 0))) {
      fullest = m;
      least_room = room;
    }
  }
  // Stages differ in their layers, so the one with the most blocks may still be too small for the longest
  // sequence.
  if (fullest.fits && !refusal.empty()) {
    fullest.fits = false;
    fullest.reason = refusal;
  }
  return fullest;
}

}  // namespace foretoken
