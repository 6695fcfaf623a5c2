// The loops for scalar.
#define FORETOKEN_ISA_NAME "scalar"
#define FORETOKEN_ISA_TABLE scalar_table
#include "executor/kernels_isa.inc"
