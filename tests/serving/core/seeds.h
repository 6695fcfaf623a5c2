// How many random loads a test tries: as many as it says, which ctest has time for, or what the environment's
// FORETOKEN_SEEDS asks for.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace foretoken::toy {

inline std::uint64_t seeds(std::uint64_t usual) {
  const char* asked = std::getenv("FORETOKEN_SEEDS");
  const std::uint64_t given = asked == nullptr ? 0 : std::strtoull(asked, nullptr, 10);
  return given == 0 ? usual : given;
}

}  // namespace foretoken::toy
