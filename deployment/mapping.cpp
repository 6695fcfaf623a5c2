// Who computes what: devices to replicas, ranks and pipeline stages.
#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "deployment/deployment.h"
#include "deployment/parts.h"

namespace foretoken {
namespace {

constexpr std::int64_t kMostDevices = 1'000'000;  // keeps every product of sizes inside an int

std::int64_t devices_of(const EngineSection& e, const std::string& where) {
  std::int64_t devices = 1;
  for (const auto& [size, key] : {std::pair{e.tensor_parallel_size, "tensor_parallel_size"},
                                  std::pair{e.pipeline_parallel_size, "pipeline_parallel_size"},
                                  std::pair{e.data_parallel_size, "data_parallel_size"}}) {
    if (size < 1)
      throw Error(where + "/engine/" + key, fmt::format("{} is too small; at least 1 is accepted", size));
    if (size > kMostDevices || devices * size > kMostDevices)
      throw Error(where + "/engine/" + key, fmt::format("a replica of more than {} devices is not accepted",
                                                        with_commas(kMostDevices)));
    devices *= size;
  }
  return devices;
}

int expert_parallel_of(const EngineSection& e, const ModelConfig& model, const std::string& where) {
  const std::int64_t group = e.tensor_parallel_size * e.data_parallel_size;
  const std::int64_t size =
      e.enable_expert_parallel && e.expert_parallel_size == 1 ? group : e.expert_parallel_size;
  const std::string at = where + "/engine/expert_parallel_size";
  if (size < 1) throw Error(at, fmt::format("{} is too small; at least 1 is accepted", size));
  if (e.enable_expert_parallel && size != group)
    throw Error(at,
                fmt::format("{} contradicts enable_expert_parallel, which means tensor x data parallel = {}; "
                            "leave one of them out",
                            size, group));
  if (group % size != 0)
    throw Error(at, fmt::format("{} does not divide tensor x data parallel = {} x {} = {}", size,
                                e.tensor_parallel_size, e.data_parallel_size, group));
  if ((size > 1 || e.enable_expert_parallel) && !has_experts(model))
    throw Error(e.enable_expert_parallel ? where + "/engine/enable_expert_parallel" : at,
                fmt::format("{} has no experts; leave expert parallelism out", model.name));
  return static_cast<int>(size);
}

// How tokens fall on the experts of expert-parallel ranks, and the copies of experts that even it out.
void place_experts(Shard& shard, const Scenario& scenario, const ModelConfig& model,
                   const std::string& where) {
  const EngineSection& e = scenario.engine;
  const auto& skew = scenario.workload.expert_skew;
  const std::string engine = where + "/engine/";
  if (e.num_redundant_experts > 0 && !e.enable_eplb)
    throw Error(engine + "num_redundant_experts", "belongs to enable_eplb; turn that on or leave this out");
  if (e.enable_eplb && shard.expert_parallel == 1)
    throw Error(
        engine + "enable_eplb",
        "evens out expert-parallel ranks, and there is one; raise expert_parallel_size or leave it out");
  if (!skew && !e.enable_eplb) return;
  const MoeMlp* experts = nullptr;
  for (const std::uint8_t kind : model.layers) {
    const auto* m = std::get_if<MoeMlp>(&model.kinds[kind].mlp);
    if (!m) continue;
    if (experts && (m->experts != experts->experts || m->top_k != experts->top_k))
      throw Error(
          where + "/workload/expert_skew",
          fmt::format("{} has layers with {} and with {} experts; a skew is modelled for one kind alone",
                      model.name, experts->experts, m->experts));
    experts = m;
  }
  if (!experts)
    throw Error(where + "/workload/expert_skew", fmt::format("{} has no experts; leave it out", model.name));
  const std::int64_t slots = experts->experts + e.num_redundant_experts;
  if (slots % shard.expert_parallel != 0)
    throw Error(engine + "num_redundant_experts",
                fmt::format("{} experts and {} copies don't divide by {} expert-parallel ranks; {} copies do",
                            experts->experts, e.num_redundant_experts, shard.expert_parallel,
                            (slots / shard.expert_parallel + 1) * shard.expert_parallel - experts->experts));
  shard.redundant_experts = e.num_redundant_experts;
  shard.expert_load = std::make_shared<const ExpertLoad>(
      experts->experts, experts->top_k, shard.expert_parallel,
      ExpertSkew{skew.value_or(0), e.enable_eplb, e.num_redundant_experts});
}

std::optional<Infeasible> count_replicas(const Scenario& scenario, Mapping& mapping,
                                         const std::string& where) {
  const std::int64_t each = mapping.devices_per_replica();
  const auto count = scenario.hardware.count;
  const auto replicas = scenario.cluster.replicas;
  if (count && (*count < 1 || *count > kMostDevices))
    throw Error(where + "/hardware/count",
                fmt::format("{} is outside [1, {}]", with_commas(*count), with_commas(kMostDevices)));
  if (replicas && (*replicas < 1 || *replicas > kMostDevices || *replicas * each > kMostDevices))
    throw Error(where + "/cluster/replicas",
                fmt::format("{} replicas of {} devices are outside [1, {}] devices", with_commas(*replicas),
                            each, with_commas(kMostDevices)));
  const std::int64_t wanted = replicas ? *replicas : count ? *count / each : 1;
  if (count && (wanted < 1 || wanted * each > *count))
    return Infeasible{"too few devices",
                      replicas && *replicas > 1
                          ? fmt::format("{} replicas of {} devices need {}, hardware.count is {}", *replicas,
                                        each, *replicas * each, *count)
                          : fmt::format("a replica takes {} devices, hardware.count is {}", each, *count),
                      {}};
  if (const auto& scaled = scenario.cluster.autoscale; scaled && scaled->min_replicas > wanted)
    return Infeasible{
        "too few replicas",
        fmt::format("autoscale.min_replicas is {}, of at most {}", scaled->min_replicas, wanted),
        {}};
  mapping.replicas = static_cast<int>(wanted);
  return std::nullopt;
}

}  // namespace

bool has_experts(const ModelConfig& model) {
  for (const std::uint8_t kind : model.layers)
    if (std::holds_alternative<MoeMlp>(model.kinds[kind].mlp)) return true;
  return false;
}

std::vector<int> split_layers(int layers, int stages) {
  std::vector<int> parts(static_cast<std::size_t>(stages), layers / stages);
  const int remainder = layers % stages;
  for (int i = 2; i < remainder + 2; ++i) ++parts[static_cast<std::size_t>(stages - i)];
  return parts;
}

std::variant<Mapping, Infeasible> make_mapping(const Scenario& scenario, const ModelConfig& model,
                                               WeightFormat format, const std::string& where) {
  const EngineSection& e = scenario.engine;
  devices_of(e, where);
  Mapping m;
  m.tensor_parallel = static_cast<int>(e.tensor_parallel_size);
  m.pipeline_parallel = static_cast<int>(e.pipeline_parallel_size);
  m.data_parallel = static_cast<int>(e.data_parallel_size);
  m.expert_parallel = expert_parallel_of(e, model, where);
  if (auto verdict = count_replicas(scenario, m, where)) return *verdict;

  const int layers = static_cast<int>(model.num_layers);
  if (m.pipeline_parallel > layers)
    return Infeasible{
        "too few layers",
        fmt::format("{} pipeline stages, {} has {} layers", m.pipeline_parallel, model.name, layers),
        {}};
  Shard shard;
  shard.tensor_parallel = m.tensor_parallel;
  shard.expert_parallel = m.expert_parallel;
  // Ranks that hold a part of the experts: all of tensor x data if they are shared, else this engine's own.
  const bool shared = m.expert_parallel > 1;
  shard.moe_tensor_parallel = m.tensor_parallel * (shared ? m.data_parallel : 1) / m.expert_parallel;
  shard.data_parallel = shared ? m.data_parallel : 1;
  shard.devices_per_node =
      static_cast<int>(std::min<std::int64_t>(scenario.hardware.devices_per_node, kMostDevices));
  shard.pipeline_parallel = m.pipeline_parallel;
  shard.sequence_parallel = e.enable_sequence_parallelism.value_or(false);
  if (shard.sequence_parallel && m.tensor_parallel == 1)
    throw Error(where + "/engine/enable_sequence_parallelism",
                "splits tokens over tensor-parallel ranks, and tensor_parallel_size is 1; raise it or leave "
                "this out");
  place_experts(shard, scenario, model, where);
  const std::vector<int> parts = split_layers(layers, m.pipeline_parallel);
  int first = 0;
  for (int stage = 0; stage < m.pipeline_parallel; ++stage) {
    shard.stage = stage;
    shard.first_layer = first;
    shard.last_layer = first += parts[static_cast<std::size_t>(stage)];
    shard.has_embedding = stage == 0;
    shard.has_head = stage == m.pipeline_parallel - 1;
    if (const std::string problem = shard_problem(model, shard, format); !problem.empty())
      return Infeasible{"does not divide", problem, {}};
    m.stages.push_back(shard);
  }
  return m;
}

}  // namespace foretoken
