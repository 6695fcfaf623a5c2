// Which blocks hold the cached tokens of requests on instances whose attention reaches over several caches:
// a serving loop says how many tokens lie where (CachedPart), here they get their blocks.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "serving/backend.h"

namespace foretoken {

class KvParts {
 public:
  // Of each instance.
  KvParts(std::size_t instances, std::int64_t blocks, int block_size);

  struct Part {
    std::vector<std::int32_t> blocks;
    std::int64_t tokens = 0;  // in the first of these blocks
  };
  // Null where nothing of the request lies there.
  const Part* find(RequestId request, std::int32_t instance) const;
  // Blocks for so many tokens. Throws std::logic_error where the loop has promised more than there are.
  const Part& grow(RequestId request, std::int32_t instance, std::int64_t tokens);
  void release(RequestId request);

  // Full blocks that go from an instance to another one. They hold the part's first tokens; which tokens of
  // the sequence these are doesn't matter to attention.
  struct Move {
    std::int32_t from = 0, to = 0;
    std::vector<std::int32_t> source, target;
  };
  Move move(RequestId request, std::int32_t from, std::int32_t to, std::int64_t tokens);
  // Moves after which a request's tokens lie like this, with `fresh` more at the instance `at`, which aren't
  // moved.
  std::vector<Move> arrange(RequestId request, std::span<const CachedPart> held, std::int32_t at,
                            std::int64_t fresh);

 private:
  std::int32_t take(std::int32_t instance);
  const std::int64_t block_size_;
  std::vector<std::vector<std::int32_t>> free_;  // by instance
  std::map<std::pair<RequestId, std::int32_t>, Part> parts_;
};

}  // namespace foretoken
