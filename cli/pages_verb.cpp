// schema, completion and reference: texts made from the tables.
#include "base/error.h"
#include "base/json_full.h"
#include "cli/help.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "cli/version.h"
#include "deployment/scenario.h"

namespace foretoken {

int run_schema(const Invocation& invocation) {
  Output(invocation).write_text(dump_json(scenario_schema()));
  return kDone;
}

int run_completion(const Invocation& invocation) {
  const std::string script = completion_script(verb_specs(), invocation.arguments[0]);
  Output(invocation).write_text(script);
  return kDone;
}

int run_reference(const Invocation& invocation) {
  const std::string& what = invocation.arguments[0];
  std::string page;
  if (what == "man")
    page = manual_page(verb_specs(), program_version());
  else if (what == "cli")
    page = cli_reference(verb_specs());
  else if (what == "scenario")
    page = scenario_reference();
  else
    throw Error("reference", "\"" + what + "\" is not one of man, cli, scenario");
  Output(invocation).write_text(page);
  return kDone;
}

}  // namespace foretoken
