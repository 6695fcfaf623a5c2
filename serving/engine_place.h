// Where a sequence is: rank and slot of an engine.
#pragma once

#include <cstdint>

namespace foretoken {

struct EnginePlace {
  std::int32_t rank = 0, slot = 0;
  bool operator==(const EnginePlace&) const = default;
};

}  // namespace foretoken
