// The loops for avx512-bf16.
#define FORETOKEN_ISA_NAME "avx512-bf16"
#define FORETOKEN_ISA_TABLE avx512_bf16_table
#include "executor/kernels_isa.inc"
