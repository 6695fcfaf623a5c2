// Help texts, the manual page, completions and reference pages, all from the command tables.
#pragma once

#include <string>

#include "cli/command.h"

namespace foretoken {

std::string overview(const std::vector<VerbSpec>& verbs);
// verb: "simulate", or the first word of several ("model").
std::string verb_help(const std::vector<VerbSpec>& verbs, const std::string& verb);
std::string manual_page(const std::vector<VerbSpec>& verbs, const std::string& version);
std::string cli_reference(const std::vector<VerbSpec>& verbs);
std::string scenario_reference();
std::string completion_script(const std::vector<VerbSpec>& verbs, const std::string& shell);

}  // namespace foretoken
