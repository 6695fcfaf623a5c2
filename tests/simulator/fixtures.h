// A database, presets and resolved deployments for tests of the simulator.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <variant>

#include "base/json_full.h"
#include "deployment/deployment.h"
#include "hwdb/database.h"
#include "simulator/step_model.h"

namespace foretoken {

inline const Database& test_database() {
  static const Database database =
      Database::open(std::filesystem::path(FORETOKEN_BINARY_DIR) / "share/foretoken/foretoken.sqlite");
  return database;
}

inline Resources test_resources() {
  Resources r;
  r.database = &test_database();
  r.preset_folder = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "model/presets";
  r.scenario_folder = std::filesystem::path(FORETOKEN_SOURCE_DIR) / "scenarios";
  r.scenario_file = "test.json";
  return r;
}

inline Scenario test_scenario(const std::string& json) {
  return scenario_from_json(Json::parse(json), "test.json");
}

inline Deployment resolve_or_fail(const Scenario& scenario, double mean_tokens = 1300,
                                  std::int64_t longest = 8192) {
  const Resources resources = test_resources();
  auto verdict = resolve(scenario, resources, load_scenario_model(scenario, resources), mean_tokens, longest);
  if (const auto* no = std::get_if<Infeasible>(&verdict))
    throw std::runtime_error(no->category + ": " + no->reason);
  return std::get<Deployment>(std::move(verdict));
}
inline Deployment resolve_or_fail(const std::string& json) { return resolve_or_fail(test_scenario(json)); }

// A deployment priced by the roofline alone, or by the database's rows.
struct Priced {
  explicit Priced(Deployment d, bool measured = false)
      : deployment(std::move(d)),
        kernels(measured ? test_database().kernels(deployment.device) : KernelTable()),
        cost(make_cost_model(deployment, kernels)) {}
  Deployment deployment;
  KernelTable kernels;
  CostModel cost;
};

}  // namespace foretoken
