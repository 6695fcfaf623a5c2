// The loops for avx512.
#define FORETOKEN_ISA_NAME "avx512"
#define FORETOKEN_ISA_TABLE avx512_table
#include "executor/kernels_isa.inc"
