// How measured copies between device and host memory are stored: as rows of an elementwise kernel.
#pragma once

#include <string_view>

namespace foretoken {

inline constexpr std::string_view kCopyKernel = "host_copy";
inline constexpr double kCopyRowBytes = 4096;

}  // namespace foretoken
