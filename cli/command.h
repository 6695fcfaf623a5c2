// What the program can be asked, as data: the parser, the help, the manual page, the completions and the
// reference are all made from these tables.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace foretoken {

struct OptionSpec {
  std::string name;   // without dashes
  std::string value;  // what it takes, "FILE"; empty: a switch
  std::string help;
  std::vector<std::string> choices;  // empty: free
  std::string section;               // scenario section, empty: an option of the program
  char letter = 0;                   // short form
  bool negatable = false;            // a switch that has a --no- form
  bool completes_files = false;
};

struct VerbSpec {
  std::string name;       // "simulate", "model show"
  std::string arguments;  // "SCENARIO", "MODEL", "A B ..."; empty: none
  int least_arguments = 0, most_arguments = 0;
  std::string help;  // one line
  std::vector<std::string> examples;
  std::vector<OptionSpec> options;
  bool takes_scenario = false;  // accepts the scenario flags
  bool hidden = false;
};

std::vector<VerbSpec> verb_specs();
const VerbSpec& find_verb(const std::vector<VerbSpec>& verbs, std::string_view name);

// What the user asked.
struct Invocation {
  std::string verb;
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> values;  // option, value, in order; "true" for a switch
  std::string patch{};  // JSON to merge into the scenario's file, before the flags; empty: none

  bool has(std::string_view option) const { return value(option).has_value(); }
  // The last one given.
  std::optional<std::string> value(std::string_view option) const;
};

// Reads a command line. Throws Error{"--flag", ...}. Help and version requests come back as the verbs "help"
// (its arguments are the verb asked about) and "version".
Invocation parse_command_line(int argc, const char* const* argv, const std::vector<VerbSpec>& verbs);

}  // namespace foretoken
