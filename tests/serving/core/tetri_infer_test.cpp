// TetriInfer: where requests go by predicted lengths, and who is taken in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "toy.h"

namespace foretoken {
namespace {}  // namespace
}  // namespace foretoken
