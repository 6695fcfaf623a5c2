#include "serving/scheduler/factory.h"

#include <stdexcept>

#include "serving/scheduler/policies.h"
#include "serving/scheduler/sglang.h"
#include "serving/scheduler/trtllm.h"
#include "serving/scheduler/vllm_v1.h"

namespace foretoken {

std::unique_ptr<Scheduler> make_scheduler(const SchedulerConfig& config, SequenceTable& sequences,
                                          KvBlockPool& pool, const Workload& workload,
                                          std::span<const std::int64_t> windows, bool list_decodes) {
  const SchedulerParts parts{config, sequences, pool, windows, list_decodes, 0, &workload};
  switch (config.policy) {
    case SchedulerPolicy::kVllmV1:
      return std::make_unique<VllmV1Scheduler>(config, sequences, pool, workload, windows, list_decodes);
    case SchedulerPolicy::kSglang:
      return std::make_unique<SglangScheduler>(config, sequences, workload, windows, list_decodes);
    case SchedulerPolicy::kTrtllm:
      return std::make_unique<TrtllmScheduler>(config, sequences, pool, workload, windows, list_decodes);
    case SchedulerPolicy::kVllmV0:
      return config.pipeline_depth > 1 ? make_vllm_v0_pipeline(parts) : make_vllm_v0(parts);
    case SchedulerPolicy::kOrca:
      return make_orca(parts);
    case SchedulerPolicy::kSarathi:
      return make_sarathi(parts);
    case SchedulerPolicy::kStaticBatch:
    case SchedulerPolicy::kTransformers:
      return make_static_batch(parts);
    case SchedulerPolicy::kLightllm:
      return config.lightllm.chunked_prefill_size > 0 ? make_lightllm_chunked(parts) : make_lightllm(parts);
    case SchedulerPolicy::kFastgen:
      return make_fastgen(parts);
    case SchedulerPolicy::kTgi:
      return config.tgi.support_chunking ? make_tgi3(parts) : make_tgi(parts);
    case SchedulerPolicy::kLlamaCpp:
      return make_llama_cpp(parts);
    case SchedulerPolicy::kTurbomind:
      return make_turbomind(parts);
    case SchedulerPolicy::kLmdeployPytorch:
      return make_lmdeploy_pytorch(parts);
    case SchedulerPolicy::kSplitwise:
      return make_splitwise(parts);
    case SchedulerPolicy::kNanoflow:
      return make_nanoflow(parts, workload.means());
    case SchedulerPolicy::kLoongserve:
    case SchedulerPolicy::kInfiniteLlm:
      break;  // a pool of its own
  }
  throw std::logic_error("unknown scheduler policy");
}

}  // namespace foretoken
