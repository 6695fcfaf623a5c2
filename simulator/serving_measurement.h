// Measurements of whole servers: one row is a deployment, its load and what was measured.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "deployment/scenario.h"

namespace foretoken {

inline constexpr std::string_view kServingMetrics[] = {"ttft_ms", "tpot_ms", "e2el_ms", "output_throughput"};

struct ServingMeasurement {
  std::int64_t row = 0;  // data lines from 1
  std::string where;     // "file:line"
  std::string model, device, dtype, quantization, kv_cache_dtype, behavior;
  std::optional<std::int64_t> num_devices, tensor_parallel, pipeline_parallel, data_parallel, expert_parallel;
  double input_len = 0, output_len = 0;
  std::optional<double> length_ratio;  // 1; lengths are uniform in [ratio x len, len]
  std::optional<std::int64_t> max_concurrency, batch_size, num_prompts, max_num_seqs, max_num_batched_tokens,
      num_speculative_tokens;
  std::optional<double> request_rate;
  std::optional<bool> enable_prefix_caching;
  // Columns "engine.KEY": other keys of a scenario's engine section, "engine.host_times.step_us" among them.
  std::map<std::string, std::string> engine;
  std::string source;
  bool median = false;                            // the measured latencies are medians, else means
  std::array<std::optional<double>, 4> measured;  // in the order of kServingMetrics
  struct Peer {
    std::string name;
    std::size_t metric = 0;  // of kServingMetrics
    double predicted = 0;
  };
  std::vector<Peer> peers;  // what other predictors say: columns "peer:NAME:METRIC"
};

struct ServingMeasurements {
  std::vector<ServingMeasurement> rows;
  std::vector<std::string> unknown_columns;
};
// Throws Error with file:line for missing columns, bad cells, and a column whose name is nearly a known one.
ServingMeasurements read_serving_measurements(const std::filesystem::path& file);

// The flags that published benchmarks started their servers with, for rows that don't state them. Columns:
// what a row must have (source and behavior: beginnings separated by |; the rest equal; empty is anything),
// min_concurrency and max_concurrency, then engine.KEY as above, and script, where it is written.
class ServerRecipes {
 public:
  ServerRecipes() = default;
  explicit ServerRecipes(const std::filesystem::path& file);
  // Fills what the row leaves open, from the first recipe of the file that says it. False: none fits.
  bool complete(ServingMeasurement& row) const;

 private:
  struct Recipe {
    std::string where;
    std::map<std::string, std::string> match, engine;
    std::int64_t least = 0, most = 0;  // requests in flight
    std::optional<double> length_ratio;
  };
  bool fits(const Recipe& recipe, const ServingMeasurement& row) const;
  bool from(std::string_view sources, const ServingMeasurement& row) const;
  std::vector<Recipe> recipes_;
  std::vector<std::string> sources_;  // beginnings of the sources that any recipe names
};

// "vllm" of "vllm-0.19.0", "trtllm" of "TensorRT-LLM 1.0".
std::string engine_family(const std::string& behavior);

// The scenario that stands for a row, or why there is none.
struct RowScenario {
  Scenario scenario;
  std::string refusal;  // "" when the scenario stands for the row
};
RowScenario scenario_of(const ServingMeasurement& row);

}  // namespace foretoken
