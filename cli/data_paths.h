// Where the built-in database, the presets and the user's database are.
#pragma once

#include <filesystem>

#include "cli/command.h"

namespace foretoken {

struct DataPaths {
  std::filesystem::path builtin, presets, user;
  std::filesystem::path validation;  // the built-in sets
};
// FORETOKEN_DATA, else beside the program (build tree), else its installed prefix. Throws Error naming what
// it tried.
DataPaths find_data_paths(const Invocation& invocation);

}  // namespace foretoken
