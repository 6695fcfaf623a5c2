#include "serving/scheduler/factory.h"

#include <stdexcept>

#include "serving/scheduler/sglang.h"
#include "serving/scheduler/trtllm.h"
#include "serving/scheduler/vllm_v1.h"

namespace foretoken {

std::unique_ptr<Scheduler> make_scheduler(const SchedulerConfig& config, SequenceTable& sequences,
                                          KvBlockPool& pool, const Workload& workload,
                                          std::span<const std::int64_t> windows, bool list_decodes) {
  switch (config.policy) {
    case SchedulerPolicy::kVllmV1:
      return std::make_unique<VllmV1Scheduler>(config, sequences, pool, workload, windows, list_decodes);
    case SchedulerPolicy::kSglang:
      return std::make_unique<SglangScheduler>(config, sequences, workload, windows, list_decodes);
    case SchedulerPolicy::kTrtllm:
      return std::make_unique<TrtllmScheduler>(config, sequences, pool, workload, windows, list_decodes);
  }
  throw std::logic_error("unknown scheduler policy");
}

}  // namespace foretoken
