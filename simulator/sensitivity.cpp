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
    p.drafted = d.speculation ? d.speculation->mean_drafted() : 0;
  }
  return p;
}

void speed_up_arithmetic(Device& d, double factor) {
  for (FlopsPerSecond* peak :
       {&d.fp32_peak, &d.tf32_peak, &d.fp16_peak, &d.fp8_peak, &d.int8_peak, &d.int4_peak, &d.fp4_peak})
    *peak *= factor;
}

void speed_up_host(Behavior& b, double factor) {
  for (Seconds* t : {&b.host_step, &b.host_per_sequence, &b.launch_eager, &b.launch_graph}) *t *= 1 / factor;
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
    if (name == "host") {
      speed_up_host(changed.behavior, factor);
      if (changed.speculation && changed.speculation->draft) {
        auto draft = std::make_shared<Deployment>(*changed.speculation->draft);
        speed_up_host(draft->behavior, factor);
        changed.speculation->draft = std::move(draft);
      }
    }
    StepPricer pricer(changed, cost, &what_if);
    Sensitivity s{name, factor, {}};
    for (const StepEstimate& step : e.steps)
      s.change.push_back(pricer.seconds(probe_of(step, d)) / step.seconds - 1);
    all.push_back(std::move(s));
  }
  return all;
}

}  // namespace foretoken
