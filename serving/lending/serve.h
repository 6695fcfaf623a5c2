// The event loop of instances that lend KV memory to each other (Infinite-LLM), in place of serve()'s
// engines.
#pragma once

#include "serving/serve.h"

namespace foretoken {

// serve() of options whose policy is kInfiniteLlm: `replicas` are the instances. Every step is one event,
// since what an instance attends to for others lengthens its own next step. Throws Error for what does not
// combine with lending.
ServeResult serve_lending(Workload& workload, Backend& backend, const ServeOptions& options);

}  // namespace foretoken
