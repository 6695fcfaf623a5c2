// A run kept for `validate --runs`: its scenario and what was measured, run by run.
#pragma once

#include <filesystem>
#include <string>

#include "base/json.h"
#include "deployment/deployment.h"

namespace foretoken {

// What a run leaves behind.
struct RunRecord {
  const Deployment* deployment = nullptr;  // as it was executed; acceptance as measured
  ModelText model;
  std::filesystem::path scenario_folder;  // of the scenario's relative paths
  std::string command;
  const Json* result = nullptr;  // of `run`
};

// Into folder/scenario.json and folder/measured.json: medians over all runs that were recorded there, their
// spread (half of lowest to highest, relative) and each of them. Errors: the folder holds a run of another
// scenario.
void record_run(const std::filesystem::path& folder, const RunRecord& record);

}  // namespace foretoken
