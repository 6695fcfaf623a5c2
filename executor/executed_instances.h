// What an ExecutedBackend keeps of instances whose attention reaches over several caches (LoongServe's
// elastic ones, Infinite-LLM's that lend): where tokens lie, and what attending for others costs whom.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/units.h"
#include "deployment/deployment.h"
#include "executor/instance_group.h"
#include "executor/kv_parts.h"

namespace foretoken {

struct ExecutedInstances {
  ExecutedInstances(const Deployment& d, const Kernels& kernels)
      : parts(static_cast<std::size_t>(d.mapping.engines()), d.scheduler.num_blocks, d.scheduler.block_size),
        group(kernels),
        of(static_cast<std::size_t>(d.mapping.engines())) {}

  KvParts parts;
  InstanceGroup group;
  // An instance's last step, and what it has attended for others since that began: while it ran, its next
  // step pays; while it was idle, nobody.
  struct Instance {
    Picoseconds start = -1, end = -1;
    struct Served {
      Picoseconds at = 0;
      double seconds = 0;
    };
    std::vector<Served> served;
    double owed() const {
      double seconds = 0;
      for (const Served& s : served)
        if (s.at >= start && s.at < end) seconds += s.seconds;
      return seconds;
    }
  };
  std::vector<Instance> of;
  std::map<std::string, double> seconds;  // of the step at hand, by operator
  double sending = 0;  // of the group at hand: seconds of copies that go on beside its step
};

}  // namespace foretoken
