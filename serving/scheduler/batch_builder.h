// Collects the batch of one decision: its parts, the context sums that cost models read, who gets a token.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "serving/backend.h"

namespace foretoken {

class BatchBuilder {
 public:
  BatchBuilder(std::span<const std::int64_t> windows, bool list_decodes)
      : windows_(windows.begin(), windows.end()),
        unbounded_(std::all_of(windows.begin(), windows.end(), [](std::int64_t w) { return w == 0; })),
        list_decodes_(list_decodes) {}

  void clear() {
    batch_ = Batch();
    prefill_.clear();
    decode_.clear();
    sampled_.clear();
    swap_out_.clear();
    swap_in_.clear();
    shifts_.clear();
    rows_ = 0;
    width_ = 0;
    contexts_ = 0;
    growing_ = 0;
  }
  // last: the prompt is complete, so a token is sampled.
  void add_prefill(std::int32_t slot, RequestId request, std::int64_t tokens, std::int64_t cached,
                   bool last) {
    prefill_.push_back(
        {slot, request, static_cast<std::int32_t>(tokens), static_cast<std::int32_t>(cached), last});
    if (last) sampled_.push_back(slot);
  }
  // context: tokens attended, the new one and those drafted included.
  void add_decode(std::int32_t slot, RequestId request, std::int32_t context, std::int32_t drafted = 0) {
    add_row(slot, request, context, drafted);
    sampled_.push_back(slot);
  }
  // The same for many at once, of whom the sums are known: where nothing bounds their contexts and nobody
  // lists them.
  bool takes_sums() const { return unbounded_ && !list_decodes_; }
  void add_decodes(std::span<const std::int32_t> slots, std::int64_t contexts, std::int32_t longest) {
    batch_.decode_sequences += static_cast<std::int32_t>(slots.size());
    batch_.longest_context = std::max(batch_.longest_context, longest);
    contexts_ += contexts;
    growing_ += static_cast<std::int32_t>(slots.size());
    sampled_.insert(sampled_.end(), slots.begin(), slots.end());
  }
  // Rows that a prompt is padded with, behind its `cached` tokens.
  void add_padding(RequestId request, std::int64_t rows, std::int64_t cached) {
    prefill_.push_back(
        {-1, request, static_cast<std::int32_t>(rows), static_cast<std::int32_t>(cached), false});
  }
  // A row that attends to nothing and whose token nobody gets: what is left of an ended request in a static
  // batch.
  void add_hole(RequestId request) {
    ++batch_.decode_sequences;
    ++rows_;
    if (list_decodes_) decode_.push_back({-1, request, 0, 0});
  }
  void skip_draft_model() { batch_.skips_draft_model = true; }
  // Every decoding row attends to so many tokens, padding among them, its own fewer ones included.
  void make_rectangle(std::int32_t width) { width_ = width; }
  // A row whose token nobody gets.
  void add_wasted(RequestId request, std::int32_t context) {
    add_row(-1, request, context);
    ++rows_;
  }
  // Copies between device and host memory before the step.
  std::vector<BlockCopy>& swap_out() { return swap_out_; }
  std::vector<BlockCopy>& swap_in() { return swap_in_; }
  std::vector<KvShift>& shifts() { return shifts_; }
  bool copies() const { return !swap_out_.empty() || !swap_in_.empty() || !shifts_.empty(); }
  const Batch& build() {
    batch_.swap_out = swap_out_;
    batch_.swap_in = swap_in_;
    batch_.shifts = shifts_;
    for (std::size_t g = 0; unbounded_ && g < windows_.size(); ++g) {
      batch_.contexts[g] = contexts_;
      batch_.growing[g] = growing_;
    }
    for (std::size_t g = 0; width_ > 0 && g < windows_.size(); ++g) {
      const bool grows = windows_[g] == 0 || width_ < windows_[g];
      batch_.contexts[g] = std::int64_t{batch_.decode_sequences} * (grows ? width_ : windows_[g]);
      batch_.growing[g] = grows ? batch_.decode_sequences : 0;
    }
    if (width_ > 0) batch_.longest_context = width_;
    batch_.prefill = prefill_;
    batch_.decode = decode_;
    batch_.sampled_rows = static_cast<std::int32_t>(sampled_.size()) + rows_ + batch_.drafted;
    return batch_;
  }

  std::span<const std::int32_t> sampled() const { return sampled_; }
  std::span<const std::int64_t> windows() const { return windows_; }
  bool has_prefill() const { return !prefill_.empty(); }
  bool has_wasted() const { return rows_ > 0; }
  std::int64_t decodes() const { return batch_.decode_sequences; }
  std::int64_t sequences() const {
    return batch_.decode_sequences + static_cast<std::int64_t>(prefill_.size());
  }
  bool empty() const { return prefill_.empty() && batch_.decode_sequences == 0; }

 private:
  void add_row(std::int32_t slot, RequestId request, std::int32_t context, std::int32_t drafted = 0) {
    ++batch_.decode_sequences;
    batch_.drafted += drafted;
    batch_.longest_context = std::max(batch_.longest_context, context);
    contexts_ += context;
    ++growing_;
    for (std::size_t g = 0; !unbounded_ && g < windows_.size(); ++g) {
      const bool grows = windows_[g] == 0 || context < windows_[g];
      batch_.contexts[g] += grows ? context : windows_[g];
      batch_.growing[g] += grows;
    }
    if (list_decodes_) decode_.push_back({slot, request, context, drafted});
  }

  std::vector<std::int64_t> windows_;
  bool unbounded_;  // no window is one
  bool list_decodes_;
  Batch batch_;
  std::vector<PrefillPart> prefill_;
  std::vector<DecodePart> decode_;
  std::vector<std::int32_t> sampled_;
  std::vector<BlockCopy> swap_out_, swap_in_;
  std::vector<KvShift> shifts_;
  std::int32_t rows_ = 0, width_ = 0;
  std::int64_t contexts_ = 0;  // sum over the rows, and how many, where nothing bounds them
  std::int32_t growing_ = 0;
};

}  // namespace foretoken
