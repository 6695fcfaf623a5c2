// From an invocation to a scenario, and from a scenario to a deployment that can be priced.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "cli/command.h"
#include "cli/data_paths.h"
#include "deployment/deployment.h"
#include "simulator/cost_model.h"
#include "simulator/report.h"

namespace foretoken {

struct ScenarioInput {
  Scenario scenario;
  std::filesystem::path folder;  // of its relative paths
  std::string file;              // for messages
};

// file: empty when the flags are the whole scenario. lists: flags may hold lists, which go to plan.search.
ScenarioInput read_scenario_input(const Invocation& invocation, const std::string& file, bool lists);
// From the scenario's JSON; file: for messages, and the name that it has where it gives none.
ScenarioInput scenario_input(const Json& scenario, const std::filesystem::path& folder,
                             const std::string& file, bool lists);

// What a workload is on the whole, whichever of its requests come first.
struct WorkloadSummary {
  Workload::Means means;
  std::string description;
  std::int64_t longest = 0;
};

// What pricing needs, loaded once, and by any number of threads. Not movable: resources points into it.
class World {
 public:
  World(const Invocation& invocation, const ScenarioInput& input);
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  // Rows of a device as that engine ran its kernels; read when they are first asked for.
  std::shared_ptr<const KernelTable> kernels(const Device& device, const std::string& engine) const;
  // The last workload's is remembered: a trace is read once, whatever else of the scenario changes.
  WorkloadSummary workload(const ScenarioInput& input) const;
  DataPaths paths;
  Database database;
  Resources resources;

 private:
  mutable std::mutex mutex_;
  mutable std::map<std::pair<std::string, std::string>, std::shared_ptr<const KernelTable>> kernels_;
  mutable std::string last_workload_;
  mutable WorkloadSummary summary_;
};

// A scenario's deployment with the means of its workload.
struct Prepared {
  std::variant<Deployment, Infeasible> verdict;
  Workload::Means load;
  std::string workload;
  // Of each of the deployment's kinds of engines; empty when infeasible.
  std::vector<std::shared_ptr<const KernelTable>> kernels;
};
Prepared prepare(const ScenarioInput& input, const World& world);
// Prices of each kind's engines; d: of p, and as long-lived as it.
std::vector<CostModel> make_cost_models(const Deployment& d, const Prepared& p);

ReportContext report_context(const Scenario& scenario, const World& world,
                             std::vector<std::string> warnings = {});
// "foretoken 0.1.0 (1a2b3c4), database 5d6e7f, seed 0".
std::string context_line(const ReportContext& context);
void print_warnings(const std::vector<std::string>& warnings);
void mute_warnings(bool mute);  // print_warnings() prints none: results hold them, too
// "error: ..." and the like on stderr, coloured on a terminal.
void print_message(const std::string& kind, const std::string& text);

}  // namespace foretoken
