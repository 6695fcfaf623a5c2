// Flags for every key of a scenario, derived from the field tables, and the JSON merge patch that they make.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "cli/command.h"

namespace foretoken {

// One key of the scenario file.
struct ScenarioKey {
  std::string pointer;  // "/workload/input_len/mean"
  std::string flag;     // "input-len-mean": the last name, with its parent's where two share it
  std::string section;  // "workload"; "scenario" for the keys outside of sections
  std::string type;     // integer, number, boolean, text, length, json, object
  bool list = false;    // the key itself takes a list
  std::string help;
  std::string limits;  // "at least 1"
  std::vector<std::string> choices;
  std::string preset;  // default as JSON, "null" where it is derived
};
std::vector<ScenarioKey> scenario_keys();
std::vector<OptionSpec> scenario_option_specs();

// The values of one flag: "1,2,4", "1-64*2", "1-9+2" (both ends included), or one value.
std::vector<Json> flag_values(const ScenarioKey& key, const std::string& text);

// Applies the flags to a scenario's JSON. lists: values of several go to plan.search (verb `plan`), otherwise
// they are errors. file_given: paths in flags are relative to the current folder, not to that of the file.
void apply_flags(Json& scenario, const Invocation& invocation, bool lists, bool file_given);
// "--flag" for a pointer that a flag of this invocation set ("--flag/rest" for one inside its value), else
// "".
std::string flag_of_pointer(const Invocation& invocation, const std::string& pointer);
// "file:/engine/dtype: ..." as an error of "--dtype" where that flag set the key; else as it is.
Error error_of_flag(const Error& error, const Invocation& invocation);

}  // namespace foretoken
