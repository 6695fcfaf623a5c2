// The hot loops for any processor; CMakeLists.txt gives the flags.
#define FORETOKEN_LANES 4
#define FORETOKEN_OPS kScalarOps
#define FORETOKEN_NAME "scalar"
#include "executor/kernels_simd_loops.h"
