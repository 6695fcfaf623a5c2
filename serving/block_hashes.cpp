#include "serving/block_hashes.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/random.h"
#include "serving/content.h"

namespace foretoken {

void BlockHashes::clear() {
  hashes_.clear();
  piece_ = 0;
  offset_ = 0;
}

ContentRun BlockHashes::piece(std::int64_t position, const Request& request,
                              std::span<const ContentRun> runs) {
  const std::int64_t prompt_left = request.input_len - position;
  if (prompt_left <= 0) {
    if (piece_ != runs.size() + 1) {
      piece_ = runs.size() + 1;
      offset_ = 0;
    }
    return {generated_content(request.id), std::numeric_limits<std::int64_t>::max()};
  }
  if (piece_ < runs.size())
    return {runs[piece_].content, std::min(runs[piece_].tokens, offset_ + prompt_left)};
  return {private_prompt_content(request.id), offset_ + prompt_left};
}

// position: behind the tokens that are taken.
void BlockHashes::take(std::int64_t tokens, std::int64_t position, const ContentRun& piece,
                       const Request& request) {
  offset_ += tokens;
  if (offset_ >= piece.tokens && position < request.input_len) {
    ++piece_;
    offset_ = 0;
  }
}

// h_i = H(h_{i-1}, pieces of block i), a piece being (content, offset, length): equal exactly where the
// tokens are, because every run starts at its content's first token. Of a block inside of a piece that the
// block before it has begun, that is known from h_{i-1}, so h_i may be h_{i-1} + 1.
void BlockHashes::extend(std::int64_t blocks, int block_size, const Request& request,
                         std::span<const ContentRun> runs) {
  while (size() < blocks) {
    std::int64_t position = size() * block_size;
    ContentRun from = piece(position, request, runs);
    if (offset_ > 0) {
      const auto numbers = static_cast<std::int64_t>(kNumbered - 1 - hashes_.back() % kNumbered);
      const std::int64_t whole = (from.tokens - offset_) / block_size;
      if (const std::int64_t more = std::min({numbers, whole, blocks - size()}); more > 0) {
        const auto known = std::ssize(hashes_);
        const std::uint64_t next = hashes_.back() + 1;
        hashes_.resize(static_cast<std::size_t>(known + more));
        std::iota(hashes_.begin() + known, hashes_.end(), next);
        take(more * block_size, position + more * block_size, from, request);
        continue;
      }
    }
    // Mixed, or neighbouring contents after neighbouring hashes would cancel out.
    std::uint64_t hash = hashes_.empty() ? 0x9e3779b97f4a7c15ULL : mix64(hashes_.back());
    // Another adapter computes other keys and values of the same tokens.
    if (hashes_.empty() && request.adapter >= 0)
      hash = mix64(hash ^ static_cast<std::uint64_t>(request.adapter));
    for (std::int64_t left = block_size; left > 0; from = piece(position, request, runs)) {
      const std::int64_t length = std::min(left, from.tokens - offset_);
      if (length > 0) {
        hash = mix64(hash ^ from.content);
        hash = mix64(hash + static_cast<std::uint64_t>(offset_) * 0xd6e8feb86659fd93ULL +
                     static_cast<std::uint64_t>(length));
        left -= length;
        position += length;
      }
      take(length, position, from, request);
    }
    hash -= hash % kNumbered;
    hashes_.push_back(hash == 0 ? kNumbered : hash);  // 0 means "not cached" in the pool
  }
}

}  // namespace foretoken
