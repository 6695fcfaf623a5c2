#include "tests/executor/model_support.h"

namespace foretoken::test {

const Kernels& tested_kernels() { return *cpu_kernels(); }

}  // namespace foretoken::test
