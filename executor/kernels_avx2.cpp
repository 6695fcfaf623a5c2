// The loops for avx2.
#define FORETOKEN_ISA_NAME "avx2"
#define FORETOKEN_ISA_TABLE avx2_table
#include "executor/kernels_isa.inc"
