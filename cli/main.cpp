// The program: reads the command line, runs the verb, and turns what went wrong into a message and an exit
// code.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <map>
#include <new>

#include "base/error.h"
#include "cli/help.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/scenario_flags.h"
#include "cli/scenario_input.h"
#include "cli/verbs.h"
#include "cli/version.h"

namespace foretoken {
namespace {

int run(int argc, const char* const* argv) {
  const auto verbs = verb_specs();
  const Invocation invocation = parse_command_line(argc, argv, verbs);
  if (invocation.verb == "version") {
    const std::string commit = git_commit();
    Output(invocation)
        .write_text("foretoken " + program_version() + (commit.empty() ? "" : " (" + commit + ")") + "\n");
    return kDone;
  }
  if (invocation.verb == "help") {
    Output(invocation)
        .write_text(invocation.arguments.empty() ? overview(verbs)
                                                 : verb_help(verbs, invocation.arguments[0]));
    return kDone;
  }
  static const std::map<std::string, int (*)(const Invocation&)> kVerbs = {{"estimate", run_estimate},
                                                                           {"simulate", run_simulate},
                                                                           {"sweep", run_sweep},
                                                                           {"run", run_run},
                                                                           {"calibrate", run_calibrate},
                                                                           {"capacity", run_capacity},
                                                                           {"plan", run_plan},
                                                                           {"validate", run_validate},
                                                                           {"compare", run_compare},
                                                                           {"model list", run_model_list},
                                                                           {"model show", run_model_show},
                                                                           {"hw list", run_hw},
                                                                           {"hw show", run_hw},
                                                                           {"hw import", run_hw},
                                                                           {"hw export", run_hw},
                                                                           {"hw forget", run_hw},
                                                                           {"strategies", run_strategies},
                                                                           {"schema", run_schema},
                                                                           {"completion", run_completion},
                                                                           {"gui", run_gui},
                                                                           {"reference", run_reference}};
  try {
    return kVerbs.at(invocation.verb)(invocation);
  } catch (const Error& e) {
    throw error_of_flag(e, invocation);
  }
}

}  // namespace
}  // namespace foretoken

int main(int argc, char** argv) {
  using namespace foretoken;
  catch_interrupts();
  try {
    return run(argc, argv);
  } catch (const Interrupted&) {
    print_message("error", "interrupted; no result was written");
    return kInterrupted;
  } catch (const Error& e) {
    print_message("error", e.what());
    return kMendable;
  } catch (const std::bad_alloc&) {
    print_message("error", "out of memory; use fewer requests, or --threads 1");
    return kMendable;
  } catch (const std::exception& e) {
    print_message(
        "error",
        fmt::format("a fault in foretoken: {}; please report it with the command that you gave", e.what()));
    return kFault;
  }
}
