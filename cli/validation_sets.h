// Sets of measurements that predictions are held against: the built-in ones, and files of the user's own.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cli/data_paths.h"
#include "simulator/validation.h"

namespace foretoken {

class World;

enum class Measured { kOperators, kServers, kRuns };

struct MeasuredSet {
  std::string key;  // in the JSON result of the built-in sets
  Measured what = Measured::kServers;
  std::filesystem::path path;  // a file; of runs: a folder
  std::string kind;            // of operators, where the columns don't tell
  bool own_rows = true;        // of runs: rows.csv of the folder, over the built-in database
};

// Throws Error where there are none.
std::vector<MeasuredSet> builtin_sets(const DataPaths& paths);
// Server flags of published benchmarks; empty: there are none.
std::filesystem::path builtin_recipes(const DataPaths& paths);
Validation validate(const MeasuredSet& set, const World& world, const ValidateOptions& options);

}  // namespace foretoken
