#include "serving/block_hashes.h"

#include <algorithm>

#include "base/random.h"
#include "serving/content.h"

namespace foretoken {

void BlockHashes::clear() {
  hashes_.clear();
  piece_ = 0;
  offset_ = 0;
}

// h_i = H(h_{i-1}, pieces of block i), a piece being (content, offset, length): equal exactly where the
// tokens are, because every run starts at its content's first token.
void BlockHashes::extend(std::int64_t blocks, int block_size, const Request& request,
                         std::span<const ContentRun> runs) {
  while (size() < blocks) {
    std::uint64_t hash = hashes_.empty() ? 0x9e3779b97f4a7c15ULL : hashes_.back();
    // Another adapter computes other keys and values of the same tokens.
    if (hashes_.empty() && request.adapter >= 0)
      hash = mix64(hash ^ static_cast<std::uint64_t>(request.adapter));
    std::int64_t position = size() * block_size;
    std::int64_t left = block_size;
    while (left > 0) {
      const std::int64_t prompt_left = request.input_len - position;
      ContentRun piece;
      if (prompt_left <= 0) {
        if (piece_ != runs.size() + 1) {
          piece_ = runs.size() + 1;
          offset_ = 0;
        }
        piece = {generated_content(request.id), offset_ + left};
      } else if (piece_ < runs.size()) {
        piece = {runs[piece_].content, std::min(runs[piece_].tokens, offset_ + prompt_left)};
      } else {
        piece = {private_prompt_content(request.id), offset_ + prompt_left};
      }
      const std::int64_t length = std::min(left, piece.tokens - offset_);
      if (length > 0) {
        hash = mix64(hash ^ piece.content);
        hash = mix64(hash + static_cast<std::uint64_t>(offset_) * 0xd6e8feb86659fd93ULL +
                     static_cast<std::uint64_t>(length));
        left -= length;
        position += length;
        offset_ += length;
      }
      if (offset_ >= piece.tokens && position < request.input_len) {
        ++piece_;
        offset_ = 0;
      }
    }
    hashes_.push_back(hash == 0 ? 1 : hash);  // 0 means "not cached" in the pool
  }
}

}  // namespace foretoken
