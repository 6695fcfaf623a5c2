// What a step of this program's own executor takes beside its operators, as calibration measured it.
#include "deployment/deployment.h"
#include "hwdb/kernel_table.h"

namespace foretoken {
namespace {

void set_step_overhead(Deployment& d, Seconds time) {
  d.behavior.host_step = time;
  if (d.pools) d.pools->prefill.behavior.host_step = d.pools->decode.behavior.host_step = time;
  for (Deployment& pool : d.replica_pools) set_step_overhead(pool, time);
  if (!d.speculation || !d.speculation->draft) return;
  auto draft = std::make_shared<Deployment>(*d.speculation->draft);
  draft->behavior.host_step = time;
  d.speculation->draft = std::move(draft);
}

}  // namespace

Op step_overhead() {
  Op op;
  op.name = "step";
  op.shape = ElementwiseShape{.rows = 1, .bytes_per_row = 1, .flops_per_row = 0};
  return op;
}

void take_step_overhead(Deployment& d, const KernelTable& kernels) {
  if (!d.behavior.own_executor) return;
  if (const auto t = kernels.find(step_overhead()); t && t->basis == Basis::kMeasured)
    set_step_overhead(d, t->time);
}

}  // namespace foretoken
