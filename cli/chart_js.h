// Chart.js, as found by the build; empty where it was absent.
#pragma once

#include <string>

namespace foretoken {

std::string chart_js_source();

}  // namespace foretoken
