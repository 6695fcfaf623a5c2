// What a user should know of what the device's kernels do in another way than was asked for, each said once.
#pragma once

#include <string>
#include <vector>

namespace foretoken::cuda {

void remark(const std::string& what, const std::string& why);  // kept with the first `why` of each `what`
std::vector<std::string> remarks();                            // "what: why", sorted

}  // namespace foretoken::cuda
