#include "cli/validation_sets.h"

#include "base/error.h"
#include "cli/scenario_input.h"

namespace foretoken {

std::vector<MeasuredSet> builtin_sets(const DataPaths& paths) {
  const std::filesystem::path& sets = paths.validation;
  std::error_code ignored;
  if (!std::filesystem::exists(sets, ignored))
    throw Error("validate", "no built-in sets in " + sets.string() +
                                "; build the whole project, or give --operators, --end-to-end or --runs");
  return {{"operators", Measured::kOperators, sets / "operators.csv", ""},
          {"end_to_end", Measured::kServers, sets / "servers.csv", ""},
          {"runs", Measured::kRuns, sets / "runs", ""},
          {"forward_passes", Measured::kServers, sets / "forward_passes.csv", ""}};
}

std::filesystem::path builtin_recipes(const DataPaths& paths) {
  std::error_code ignored;
  const std::filesystem::path file = paths.validation / "recipes.csv";
  return std::filesystem::exists(file, ignored) ? file : std::filesystem::path();
}

Validation validate(const MeasuredSet& set, const World& world, const ValidateOptions& options) {
  switch (set.what) {
    case Measured::kOperators:
      return validate_operators(set.path, set.kind, world.database, options);
    case Measured::kRuns: {
      // Rows of the device that the runs were measured on stand in for the user's.
      const std::filesystem::path rows = set.path / "rows.csv";
      std::error_code ignored;
      if (!set.own_rows || !std::filesystem::exists(rows, ignored))
        return validate_runs(set.path, world.resources, options);
      const Database database = Database::with_rows(world.paths.builtin, {&rows, 1});
      Resources resources = world.resources;
      resources.database = &database;
      return validate_runs(set.path, resources, options);
    }
    case Measured::kServers:
      break;
  }
  return validate_end_to_end(set.path, world.resources, options);
}

}  // namespace foretoken
