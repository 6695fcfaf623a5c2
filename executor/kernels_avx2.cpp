// The hot loops for AVX2 and FMA; CMakeLists.txt gives the flags.
#define FORETOKEN_LANES 8
#define FORETOKEN_OPS kAvx2Ops
#define FORETOKEN_NAME "avx2"
#include "executor/kernels_simd_loops.h"
