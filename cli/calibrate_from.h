// calibrate --from: fits terms of an engine's model to another tool's measurements of one's own server.
#pragma once

#include "cli/command.h"

namespace foretoken {

int run_calibrate_from(const Invocation& invocation);

}  // namespace foretoken
