// Serving systems whose scheduler is one of the small policies (serving/scheduler/policies.h): their names,
// versions and defaults.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "deployment/behavior.h"

namespace foretoken {

// By any of its names, with or without a version; nullopt: none of these.
std::optional<Behavior> find_block_system(std::string_view lower_case_name);
std::vector<std::string> block_system_names();
// As its users write it, of a family of block systems; empty: none.
std::string_view block_system_title(std::string_view family);

}  // namespace foretoken
