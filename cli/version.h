// What this build is; filled by the build (cmake/version.cmake).
#pragma once

#include <string>

namespace foretoken {

std::string program_version();  // "0.1.0"
std::string git_commit();       // "1a2b3c4", with "+" when files differ from it; "" outside of a checkout

}  // namespace foretoken
