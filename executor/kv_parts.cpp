#include "executor/kv_parts.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace foretoken {

KvParts::KvParts(std::size_t instances, std::int64_t blocks, int block_size)
    : block_size_(block_size), free_(instances) {
  for (auto& free : free_) {
    free.resize(static_cast<std::size_t>(blocks));
    std::iota(free.rbegin(), free.rend(), 0);
  }
}

std::int32_t KvParts::take(std::int32_t instance) {
  auto& free = free_[static_cast<std::size_t>(instance)];
  if (free.empty())
    throw std::logic_error("an instance is to hold more cached tokens than it has memory for");
  const std::int32_t block = free.back();
  free.pop_back();
  return block;
}

const KvParts::Part* KvParts::find(RequestId request, std::int32_t instance) const {
  const auto at = parts_.find({request, instance});
  return at == parts_.end() || at->second.tokens == 0 ? nullptr : &at->second;
}

const KvParts::Part& KvParts::grow(RequestId request, std::int32_t instance, std::int64_t tokens) {
  Part& part = parts_[{request, instance}];
  while (std::ssize(part.blocks) * block_size_ < tokens) part.blocks.push_back(take(instance));
  part.tokens = tokens;
  return part;
}

void KvParts::release(RequestId request) {
  const auto first = parts_.lower_bound({request, std::numeric_limits<std::int32_t>::min()});
  auto at = first;
  for (; at != parts_.end() && at->first.first == request; ++at) {
    auto& free = free_[static_cast<std::size_t>(at->first.second)];
    free.insert(free.end(), at->second.blocks.begin(), at->second.blocks.end());
  }
  parts_.erase(first, at);
}

KvParts::Move KvParts::move(RequestId request, std::int32_t from, std::int32_t to, std::int64_t tokens) {
  Part &source = parts_[{request, from}], &target = parts_[{request, to}];
  const std::int64_t count = tokens / block_size_;
  if (tokens % block_size_ != 0 || tokens > source.tokens || target.tokens % block_size_ != 0)
    throw std::logic_error("whole blocks move between instances");
  Move m{from, to, {source.blocks.begin(), source.blocks.begin() + count}, {}};
  source.blocks.erase(source.blocks.begin(), source.blocks.begin() + count);
  source.tokens -= tokens, target.tokens += tokens;
  auto& free = free_[static_cast<std::size_t>(from)];
  free.insert(free.end(), m.source.begin(), m.source.end());
  for (std::int64_t i = 0; i < count; ++i) m.target.push_back(take(to));
  target.blocks.insert(target.blocks.end(), m.target.begin(), m.target.end());
  return m;
}

std::vector<KvParts::Move> KvParts::arrange(RequestId request, std::span<const CachedPart> held,
                                            std::int32_t at, std::int64_t fresh) {
  std::vector<std::int64_t> more(free_.size());  // than there are, by instance
  for (const CachedPart& part : held)
    if (part.request == request) more[static_cast<std::size_t>(part.instance)] += part.tokens;
  if (at >= 0) more[static_cast<std::size_t>(at)] -= fresh;
  for (std::size_t i = 0; i < more.size(); ++i)
    if (const Part* has = find(request, static_cast<std::int32_t>(i))) more[i] -= has->tokens;
  std::vector<Move> moves;
  for (std::size_t to = 0, from = 0; to < more.size(); ++to)
    while (more[to] > 0) {
      while (from < more.size() && more[from] >= 0) ++from;
      if (from == more.size()) throw std::logic_error("cached tokens are promised that nobody has");
      const std::int64_t tokens = std::min(more[to], -more[from]);
      moves.push_back(move(request, static_cast<std::int32_t>(from), static_cast<std::int32_t>(to), tokens));
      more[to] -= tokens, more[from] += tokens;
    }
  return moves;
}

}  // namespace foretoken
