#include "cli/timing.h"

#include <fmt/format.h>

#include <cstdio>
#include <ctime>

#include "base/error.h"
#include "base/json_full.h"
#include "base/text.h"
#include "cli/progress.h"

namespace foretoken {

void Stopwatch::report(const Invocation& invocation, Json& json) const {
  const bool asked = invocation.has("timing");
  if (asked) json["wall_seconds"] = seconds();
  if (asked || stderr_is_terminal()) fmt::print(stderr, "done in {:.2f} s\n", seconds());
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  return fmt::format("{:04}-{:02}-{:02}", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday);
}

int threads_of(const Invocation& invocation) {
  const auto text = invocation.value("threads");
  if (!text) return 0;
  const auto n = parse_int(*text);
  if (!n || *n < 1 || *n > 4096)
    throw Error("--threads", "\"" + *text + "\" is not a number of cores from 1 to 4096");
  return static_cast<int>(*n);
}

}  // namespace foretoken
