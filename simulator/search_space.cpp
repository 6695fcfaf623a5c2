#include "simulator/search_space.h"

#include <algorithm>

#include "base/fields_json.h"
#include "deployment/behavior.h"

namespace foretoken {
namespace {

constexpr std::int64_t kDefaultBudget = 64;
constexpr std::size_t kMostPoints = 200'000;

struct Axis {
  std::string section, key;
  std::vector<Json> values;
};

template <class T>
void scalar_keys(const std::string& section, std::vector<std::pair<std::string, std::string>>& out) {
  for_each_field<T>([&](const auto& f) {
    using M = std::remove_cvref_t<decltype(std::declval<T>().*(f.member))>;
    if constexpr (!std::is_same_v<M, RawJson>) out.emplace_back(section, std::string(f.name));
  });
}

// Lists of the search object, checked by reading each value into a scenario of its own.
std::vector<Axis> axes_of(const Scenario& scenario, const std::string& where) {
  std::vector<std::pair<std::string, std::string>> keys;
  scalar_keys<HardwareConfig>("hardware", keys);
  scalar_keys<EngineSection>("engine", keys);
  scalar_keys<ClusterSection>("cluster", keys);
  std::vector<std::string> names;
  for (const auto& [section, key] : keys) names.push_back(key);

  std::vector<Axis> axes;
  const Json search = parse_json(scenario.plan.search.text, where);
  if (!search.is_object()) fail_type(search, where, "an object of lists");
  for (const auto& [key, value] : search.items()) {
    const auto found = std::find(names.begin(), names.end(), key);
    if (found == names.end()) fail_unknown_key(key, where + "/" + key, names);
    Axis axis{keys[static_cast<std::size_t>(found - names.begin())].first, key, {}};
    const bool is_list = key == "cuda_graph_sizes" || key == "preferred_batch_size";
    const Json list = value.is_array() && !is_list ? value : Json::array({value});
    if (list.empty()) throw Error(where + "/" + key, "the list is empty; give at least one value");
    for (std::size_t i = 0; i < list.size(); ++i) {
      scenario_from_json(Json{{axis.section, Json{{key, list[i]}}}},
                         where + "/" + key + "/" + std::to_string(i) + ":");
      axis.values.push_back(list[i]);
    }
    axes.push_back(std::move(axis));
  }
  return axes;
}

std::vector<Axis> default_axes(const EngineSection& engine, const std::string& where) {
  std::vector<Axis> axes{{"engine", "tensor_parallel_size", {1, 2, 4, 8}},
                         {"engine", "kv_cache_dtype", {"auto", "fp8"}}};
  // Under another system's name it is given already, or means something else there.
  if (!engine.chunked_prefill_size && !engine.max_num_tokens &&
      !is_block_policy(find_behavior(engine.behavior, where).policy))
    axes.push_back({"engine", "max_num_batched_tokens", {2048, 8192}});
  return axes;
}

}  // namespace

SearchSpace search_space(const Scenario& scenario, const std::string& where) {
  std::vector<Axis> axes =
      scenario.plan.search.text.empty()
          ? default_axes(scenario.engine, where.substr(0, where.find("/plan/search")) + "/engine/behavior")
          : axes_of(scenario, where);
  SearchSpace space;
  space.device_budget = scenario.hardware.count.value_or(kDefaultBudget);
  std::vector<std::int64_t> replicas;
  for (auto axis = axes.begin(); axis != axes.end();) {
    if (axis->key == "replicas") {
      for (const Json& v : axis->values) replicas.push_back(v.get<std::int64_t>());
      axis = axes.erase(axis);
      continue;
    }
    if (axis->key == "device")
      for (const Json& v : axis->values) space.devices.push_back(v.get<std::string>());
    if (axis->key == "count") {
      space.device_budget = 0;
      for (const Json& v : axis->values)
        space.device_budget = std::max(space.device_budget, v.get<std::int64_t>());
    }
    ++axis;
  }
  std::sort(replicas.begin(), replicas.end());
  replicas.erase(std::unique(replicas.begin(), replicas.end()), replicas.end());
  if (space.devices.empty()) space.devices.push_back(scenario.hardware.device);

  std::size_t total = 1;
  for (const Axis& a : axes) {
    total *= a.values.size();
    if (total > kMostPoints)
      throw Error(where, "more than " + std::to_string(kMostPoints) + " combinations; list fewer values");
  }
  for (std::size_t index = 0; index < total; ++index) {
    Json patch = Json::object();
    std::size_t rest = index;
    // The last axis varies fastest.
    for (auto a = axes.rbegin(); a != axes.rend(); ++a) {
      patch[a->section][a->key] = a->values[rest % a->values.size()];
      rest /= a->values.size();
    }
    space.points.push_back({patch.dump(), replicas});
  }
  return space;
}

}  // namespace foretoken
