// From an invocation to a scenario, and from a scenario to a deployment that can be priced.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "cli/command.h"
#include "cli/data_paths.h"
#include "deployment/deployment.h"
#include "simulator/report.h"

namespace foretoken {

struct ScenarioInput {
  Scenario scenario;
  std::filesystem::path folder;  // of its relative paths
  std::string file;              // for messages
};

// file: empty when the flags are the whole scenario. lists: flags may hold lists, which go to plan.search.
ScenarioInput read_scenario_input(const Invocation& invocation, const std::string& file, bool lists);

// What pricing needs, loaded once. Not movable: resources points into it.
struct World {
  World(const Invocation& invocation, const ScenarioInput& input);
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  DataPaths paths;
  Database database;
  Resources resources;
};

// A scenario's deployment with the means of its workload.
struct Prepared {
  std::variant<Deployment, Infeasible> verdict;
  Workload::Means load;
  std::string workload;
  std::vector<KernelTable> kernels;  // of each of the deployment's kinds of engines; empty when infeasible
};
Prepared prepare(const ScenarioInput& input, const World& world);

ReportContext report_context(const Scenario& scenario, const World& world,
                             std::vector<std::string> warnings = {});
// "foretoken 0.1.0 (1a2b3c4), database 5d6e7f, seed 0".
std::string context_line(const ReportContext& context);
void print_warnings(const std::vector<std::string>& warnings);
// "error: ..." and the like on stderr, coloured on a terminal.
void print_message(const std::string& kind, const std::string& text);

}  // namespace foretoken
