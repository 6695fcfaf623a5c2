// What the tests of attention have in common.
#pragma once

#include <cmath>

#include "executor/kernels.h"

namespace foretoken {

inline constexpr Storage kStorages[] = {Storage::kF32, Storage::kBf16, Storage::kF16, Storage::kInt8,
                                        Storage::kFp8};

inline AttentionArgs args_of(std::int64_t heads, std::int64_t qk, std::int64_t v) {
  return {heads, qk, v, 1.3f / std::sqrt(static_cast<float>(qk))};
}

}  // namespace foretoken
