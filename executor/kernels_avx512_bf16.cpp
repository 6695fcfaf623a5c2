// The hot loops for AVX-512 with products of bf16 pairs; CMakeLists.txt gives the flags.
#define FORETOKEN_BF16_PAIRS
#define FORETOKEN_LANES 16
#define FORETOKEN_OPS kAvx512Bf16Ops
#define FORETOKEN_NAME "avx512-bf16"
#include "executor/kernels_simd_loops.h"
