// The event loop of a pool of elastic instances (LoongServe), in place of serve()'s engines.
#pragma once

#include "serving/serve.h"

namespace foretoken {

// serve() of options whose policy is kLoongserve: `replicas` are the instances. Groups that run beside each
// other in one iteration are one step, with a batch for each instance (Batch::group); the engine of a step is
// its first instance. Throws Error for what does not combine with a pool.
ServeResult serve_elastic(Workload& workload, Backend& backend, const ServeOptions& options);

}  // namespace foretoken
