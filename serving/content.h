// Content ids: which tokens a run of a prompt holds. Workloads name the prompts' runs, the serving core the
// generated tokens; both must agree, so that a conversation's next turn finds its last answer in the prefix
// cache.
#pragma once

#include <cstdint>

#include "serving/request.h"

namespace foretoken {

// The kind sits in the top byte, so that ids of different kinds never meet.
namespace content_detail {
inline constexpr int kKindShift = 56;
inline constexpr std::uint64_t kValueMask = (std::uint64_t{1} << kKindShift) - 1;
enum Kind : std::uint64_t {
  kPrivate = 1,
  kGenerated = 2,
  kSharedPrefix = 3,
  kHashedBlock = 4,
  kLongHash = 5
};
constexpr std::uint64_t id(Kind kind, std::uint64_t value) {
  return (static_cast<std::uint64_t>(kind) << kKindShift) | (value & kValueMask);
}
}  // namespace content_detail

// Prompt tokens that only this request has.
constexpr std::uint64_t private_prompt_content(RequestId request) {
  return content_detail::id(content_detail::kPrivate, static_cast<std::uint64_t>(request));
}
// The request's answer.
constexpr std::uint64_t generated_content(RequestId request) {
  return content_detail::id(content_detail::kGenerated, static_cast<std::uint64_t>(request));
}
// The prefix (system prompt) of a group of users.
constexpr std::uint64_t shared_prefix_content(std::int64_t group) {
  return content_detail::id(content_detail::kSharedPrefix, static_cast<std::uint64_t>(group));
}
// A block of a prompt that a trace knows by a hash (of the block and everything before it). Hashes beyond 56
// bits are folded: among 10^7 of them two meet with probability below 0.1 %.
constexpr std::uint64_t hashed_block_content(std::uint64_t hash) {
  if (hash <= content_detail::kValueMask) return content_detail::id(content_detail::kHashedBlock, hash);
  std::uint64_t x = hash;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return content_detail::id(content_detail::kLongHash, x ^ (x >> 31));
}

}  // namespace foretoken
