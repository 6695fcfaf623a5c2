// Splitwise's mixed pools: where requests go, when machines change pools, and that nobody waits for ever.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "toy.h"

namespace foretoken {
namespace {}  // namespace
}  // namespace foretoken
