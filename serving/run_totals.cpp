#include "serving/run_totals.h"

#include <algorithm>

namespace foretoken {

void conclude_run(ServeResult& result, MetricsCollector& metrics, const ServeOptions& options,
                  const RunTotals& totals) {
  ServingMetrics m = metrics.summarize();
  m.num_steps = totals.steps;
  for (const EngineTotals& e : result.engines) m.peak_kv_usage = std::max(m.peak_kv_usage, e.peak_kv_usage);
  const double time = result.aborted
                          ? static_cast<double>(totals.now - std::max(totals.first_arrival, Picoseconds{0}))
                          : m.duration * kPicosPerSecond;
  if (time > 0) {
    m.mean_running = static_cast<double>(totals.running_time) / time;
    m.mean_waiting = static_cast<double>(totals.waiting_time) / time;
    m.busy_share =
        std::min(1.0, static_cast<double>(totals.busy) / (time * static_cast<double>(options.replicas)));
  }
  result.metrics = m;
  result.records = metrics.records();
  if (options.timeline != nullptr) options.timeline->finish();
  if (options.progress) options.progress(1.0);
}

}  // namespace foretoken
