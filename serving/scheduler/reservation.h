// Tokens that a request gets KV memory for when all of it is taken at its admission.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "serving/serve.h"

namespace foretoken {

// Of a reservation other than kPaged: the longest sequence's, the prompt's and the output's rounded up to a
// power of two, or both as they will be. Never more than max_model_len.
inline std::int64_t reserved_tokens(const SchedulerConfig& c, const Request& request) {
  const std::int64_t whole = std::int64_t{request.input_len} + request.output_len;
  if (c.reservation == KvReservation::kMaxModelLen) return c.max_model_len;
  if (c.reservation == KvReservation::kExact) return std::min(whole, c.max_model_len);
  const auto output = static_cast<std::uint64_t>(request.output_len);
  return std::min(request.input_len + static_cast<std::int64_t>(std::bit_ceil(output)), c.max_model_len);
}

}  // namespace foretoken
