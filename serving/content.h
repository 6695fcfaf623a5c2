// Which tokens are the same tokens: content ids of what a request brings and produces, and the chained block hashes
// that the prefix cache is looked up by.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "serving/request.h"

namespace foretoken {

// Ids that workloads choose for shared content stay below this.
inline constexpr std::uint64_t kPrivateContent = std::uint64_t{1} << 63;

// The part of a prompt that no ContentRun covers, and the tokens that the request produces. The next turn of a
// conversation names them to say that its prompt repeats them. That is allowed only for requests with session >= 0,
// and for generated_content only once the request has finished.
constexpr std::uint64_t private_prompt_content(RequestId id) {
  return kPrivateContent | static_cast<std::uint64_t>(id) << 1;
}
constexpr std::uint64_t generated_content(RequestId id) {
  return kPrivateContent | static_cast<std::uint64_t>(id) << 1 | 1;
}

// Hashes of the full blocks of one sequence, computed front to back as far as they are asked for.
class BlockHashes {
 public:
  void clear();
  // Extends to `blocks` full blocks. runs: the prompt's shared content (cut at input_len).
  void extend(std::int64_t blocks, int block_size, const Request& request, std::span<const ContentRun> runs);
  std::int64_t size() const { return static_cast<std::int64_t>(hashes_.size()); }
  std::uint64_t operator[](std::int64_t block) const { return hashes_[static_cast<std::size_t>(block)]; }

 private:
  std::vector<std::uint64_t> hashes_;
  std::size_t piece_ = 0;     // runs, then the private rest of the prompt, then the generated tokens
  std::int64_t offset_ = 0;   // tokens of that piece already hashed
};

}  // namespace foretoken
