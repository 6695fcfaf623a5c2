// The hot loops for AVX-512; CMakeLists.txt gives the flags.
#define FORETOKEN_LANES 16
#define FORETOKEN_OPS kAvx512Ops
#define FORETOKEN_NAME "avx512"
#include "executor/kernels_simd_loops.h"
