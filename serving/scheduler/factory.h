// The scheduler that a configuration names.
#pragma once

#include <memory>
#include <span>

#include "serving/scheduler/scheduler.h"

namespace foretoken {

// All references must outlive the scheduler. windows: Backend::windows(); list_decodes:
// Backend::wants_sequences(). SGLang's scheduler keeps its own token memory and leaves the pool alone.
std::unique_ptr<Scheduler> make_scheduler(const SchedulerConfig& config, SequenceTable& sequences,
                                          KvBlockPool& pool, const Workload& workload,
                                          std::span<const std::int64_t> windows, bool list_decodes);

}  // namespace foretoken
