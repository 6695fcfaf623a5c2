#include "cli/result_files.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "cli/scenario_flags.h"

namespace foretoken {
namespace {

std::vector<MeasuredRun> none_of_a_scenario(const Json& json, const std::filesystem::path& file) {
  const auto keys = scenario_keys();
  const bool scenario =
      json.is_object() && std::any_of(json.items().begin(), json.items().end(), [&](const auto& member) {
        return std::any_of(keys.begin(), keys.end(),
                           [&](const ScenarioKey& k) { return split(k.pointer, '/').at(1) == member.key(); });
      });
  if (!scenario)
    throw Error(
        file.string(),
        fmt::format("is neither a scenario nor a result of a known tool; those are: foretoken simulate, {}",
                    known_tools()));
  return {};
}

}  // namespace

std::vector<MeasuredRun> read_result_file(const std::string& path, const std::string& name) {
  return read_measured_runs(path, name, none_of_a_scenario);
}

}  // namespace foretoken
