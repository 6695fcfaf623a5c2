// Schedulers on top of BlockScheduler, a file each (docs/policies.md).
#pragma once

#include <memory>

#include "serving/scheduler/block_scheduler.h"

namespace foretoken {

std::unique_ptr<Scheduler> make_vllm_v0(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_vllm_v0_pipeline(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_orca(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_sarathi(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_static_batch(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_lightllm(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_lightllm_chunked(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_fastgen(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_tgi(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_tgi3(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_llama_cpp(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_turbomind(const SchedulerParts& parts);
std::unique_ptr<Scheduler> make_lmdeploy_pytorch(const SchedulerParts& parts);
// means: of the workload, for averages that the configuration does not give.
std::unique_ptr<Scheduler> make_nanoflow(const SchedulerParts& parts, const Workload::Means& means);
std::unique_ptr<Scheduler> make_splitwise(const SchedulerParts& parts);

}  // namespace foretoken
