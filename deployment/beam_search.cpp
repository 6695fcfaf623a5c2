// What beam search is not modelled with, by name.
#include <fmt/format.h>

#include "base/error.h"
#include "deployment/parts.h"

namespace foretoken {

void refuse_with_beams(const Deployment& d, const std::string& where) {
  const std::int64_t width = d.scenario.workload.beam_width.value_or(1);
  if (width == 1) return;
  const EngineSection& e = d.scenario.engine;
  const std::string at = where + "/workload/beam_width";
  if (d.behavior.policy != SchedulerPolicy::kVllmV1)
    throw Error(at,
                fmt::format("beam search is modelled for vLLM V1's scheduler, not for {}; use behavior vllm "
                            "or leave it out",
                            d.behavior.name));
  if (d.scenario.workload.temperature.value_or(0) > 0)
    throw Error(where + "/workload/temperature",
                "beam search keeps the likeliest tokens and draws none; leave one of the two out");
  if (d.mapping.pipeline_parallel > 1)
    throw Error(at, "beam search is not modelled with pipeline_parallel_size above 1; use 1");
  if (e.speculative_config)
    throw Error(where + "/engine/speculative_config",
                "drafted tokens are not verified for several beams; leave one of the two out");
  if (e.kv_layout.value_or("") == "contiguous")
    throw Error(where + "/engine/kv_layout",
                "beams share no contiguous regions; use paged beside beam search");
  if (e.preemption_mode.value_or("") == "swap")
    throw Error(where + "/engine/preemption_mode",
                "swap is not modelled for the blocks of several beams; use recompute beside beam search");
  if (d.model.is_recurrent())
    throw Error(
        at, fmt::format("{} keeps recurrent states, which beams would have to copy; use 1", d.model.name));
  if (width > d.model.vocab)
    throw Error(at, fmt::format("{} beams don't begin with different ones of {} tokens; lower it", width,
                                d.model.vocab));
  if (width > *e.max_num_seqs)
    throw Error(at,
                fmt::format("{} is above max_num_seqs {}, of which each beam takes one; lower it or raise "
                            "max_num_seqs",
                            width, *e.max_num_seqs));
}

}  // namespace foretoken
