// Rows of a file of measured servers (serving_measurement.h) as runs.
#include <algorithm>
#include <cmath>

#include "simulator/results/part.h"
#include "simulator/serving_measurement.h"

namespace foretoken {

std::vector<MeasuredRun> read_servers_csv(const std::filesystem::path& file) {
  std::vector<MeasuredRun> runs;
  for (const ServingMeasurement& m : read_serving_measurements(file).rows) {
    MeasuredRun run{file.filename().string() + "#" + std::to_string(m.row),
                    "measured servers",
                    {},
                    {},
                    {},
                    m.where + ":",
                    0,
                    {}};
    const std::string statistic = m.median ? "median_" : "mean_";
    for (std::size_t i = 0; i < m.measured.size(); ++i)
      if (m.measured[i])
        run.metrics[(i < 3 ? statistic : "") + std::string(kServingMetrics[i])] = *m.measured[i];
    MeasuredLoad& load = run.load;
    load.model = m.model, load.device = m.device, load.behavior = m.behavior;
    load.tensor_parallel = m.tensor_parallel;
    load.request_rate = m.request_rate, load.max_concurrency = m.max_concurrency;
    if (m.request_rate) load.arrival = "poisson";
    load.num_prompts = m.num_prompts;
    if (m.batch_size) load.all_at_once = true, load.num_prompts = m.batch_size;
    const double ratio = m.length_ratio.value_or(1);
    const auto length = [&](double longest) {
      MeasuredLength l{longest, {}, {}, {}};
      if (ratio >= 1) return l;
      l.min = std::max(1.0, std::floor(longest * ratio)), l.max = longest;
      l.mean = (*l.min + *l.max) / 2;
      return l;
    };
    load.input_len = length(m.input_len), load.output_len = length(m.output_len);
    runs.push_back(std::move(run));
  }
  return runs;
}

}  // namespace foretoken
