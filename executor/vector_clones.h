// Before a function of plain loops: it is compiled for wider vectors too, and the processor's widest runs.
// Its bits are the same with all of them, as nothing here contracts products and sums (-ffp-contract=off).
#pragma once

// Sanitizers aren't ready when the choice is made.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define FORETOKEN_VECTOR_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define FORETOKEN_VECTOR_CLONES
#endif
