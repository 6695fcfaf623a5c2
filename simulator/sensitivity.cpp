#include "simulator/sensitivity.h"

#include "simulator/step_pricer.h"

namespace foretoken {
namespace {

// The batch that an estimated step stands for.
Probe probe_of(const StepEstimate& s, const Deployment& d) {
  Probe p;
  p.context = s.context;
  if (s.name == "prefill") {
    PrefillPart part;
    part.new_tokens = static_cast<std::int32_t>(s.tokens);
    part.cached = static_cast<std::int32_t>(s.cached);
    part.last = true;
    p.prefill.push_back(part);
  } else {
    p.sequences = s.sequences;
    p.drafted = d.speculation ? d.speculation->tokens() : 0;
  }
  return p;
}

void speed_up_arithmetic(Device& d, double factor) {
  for (FlopsPerSecond* peak :
       {&d.fp32_peak, &d.tf32_peak, &d.fp16_peak, &d.fp8_peak, &d.int8_peak, &d.int4_peak, &d.fp4_peak})
    *peak *= factor;
}

}  // namespace

std::vector<Sensitivity> sensitivities(const Deployment& d, const CostModel& cost, const Estimate& e,
                                       double factor) {
  std::vector<Sensitivity> all;
  for (const char* part : {"memory bandwidth", "arithmetic", "links", "host"}) {
    Deployment changed = d;
    WhatIf what_if{d.device, d.topology};
    const std::string name = part;
    if (name == "memory bandwidth") what_if.device.memory_bandwidth *= factor;
    if (name == "arithmetic") speed_up_arithmetic(what_if.device, factor);
    if (name == "links") {
      what_if.topology.intra_node.bandwidth *= factor;
      what_if.topology.inter_node.bandwidth *= factor;
    }
    if (name == "host")
      for (Seconds* t : {&changed.behavior.host_step, &changed.behavior.host_per_sequence,
                         &changed.behavior.launch_eager, &changed.behavior.launch_graph})
        *t *= 1 / factor;
    StepPricer pricer(changed, cost, &what_if);
    Sensitivity s{name, factor, {}};
    for (const StepEstimate& step : e.steps)
      s.change.push_back(pricer.seconds(probe_of(step, d)) / step.seconds - 1);
    all.push_back(std::move(s));
  }
  return all;
}

}  // namespace foretoken
