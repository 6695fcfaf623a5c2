// The prefill half of SGLang's scheduler: get_new_batch_prefill() and its PrefillAdder.
#include <algorithm>
#include <cmath>
#include <limits>

#include "serving/scheduler/sglang.h"

namespace foretoken {
namespace {

constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max() / 4;

}  // namespace

bool SglangScheduler::form_prefill(Picoseconds now) {
  if (preempts_by_priority()) full_ = false;
  if ((full_ || waiting_.empty()) && chunked_ < 0) return false;
  const std::int64_t running = batch_size();
  if (places() <= 0 && chunked_ < 0 && !preempts_by_priority()) {
    full_ = true;
    return false;
  }
  if (tiers_ != nullptr) check_copies(now);
  order_waiting();

  const SglangConfig& c = config_.sglang;
  const std::int64_t mixed = c.enable_mixed_chunk ? running : 0;
  rem_input_ = c.max_prefill_tokens - mixed;
  rem_chunk_ = c.chunked_prefill_size < 1 ? kUnlimited : c.chunked_prefill_size - mixed;
  std::int64_t to_come = 0;
  for (const std::int32_t slot : running_) to_come += output_left(slot);
  to_come += static_cast<std::int64_t>(ended_.size());  // their last token isn't known yet
  current_offset_ = static_cast<double>(mixed);
  total_offset_ = current_offset_ + static_cast<double>(to_come) * new_token_ratio();
  chosen_.clear();
  hits_.clear();
  from_waiting_ = 0;
  passed_over_ = false;
  preempted_.clear();

  if (chunked_ >= 0) add_chunked();
  for (const std::int32_t slot : waiting_) {
    if (static_cast<std::int64_t>(chosen_.size()) >= places()) full_ = true;
    if (full_ && !(preempts_by_priority() && preempt_for(slot))) break;
    if (!fetched(slot, now)) {
      passed_over_ = true;
      continue;
    }
    const Verdict verdict = add_waiting(slot);
    if (verdict == Verdict::kContinue) continue;
    if (verdict == Verdict::kNoToken) full_ = true;
    break;
  }
  const bool formed = !chosen_.empty();
  if (formed)
    run_prefill(now);
  else if (tiers_ != nullptr)
    start_loading(now);  // for who was turned away after all
  for (const std::int32_t slot : preempted_) join_queue(slot);
  return formed;
}

void SglangScheduler::charge(std::int64_t tokens, std::int64_t max_new_tokens, std::int64_t drafted) {
  tokens = pages(tokens);
  total_offset_ += static_cast<double>(tokens + max_new_tokens + page_ + drafted);
  current_offset_ += static_cast<double>(tokens + page_ + drafted);
  rem_input_ -= tokens;
  if (rem_chunk_ < kUnlimited) rem_chunk_ -= tokens;
}

// The prompt in chunks goes on whatever the estimate says; it has to, for it holds memory.
void SglangScheduler::add_chunked() {
  const Sequence& s = sequences_[chunked_];
  const std::int64_t extend = s.num_tokens - s.computed;
  std::int64_t most = std::min(rem_chunk_, static_cast<std::int64_t>(std::max(rem_total(), 0.0)));
  if (most < page_) most = rem_chunk_;
  if (rem_chunk_ < kUnlimited) most = std::min(most, chunk_beside_shorter(rem_chunk_));
  // Decodes of a mixed batch may have taken what was reserved; SGLang itself stops with an error there.
  most = std::min(most, (available() - ahead(s, extend)) / page_ * page_);
  std::int64_t n = extend;
  if (extend > most) n = most / page_ * page_;
  if (n <= 0) return;
  chosen_.push_back({chunked_, n});
  const bool whole = n == extend;
  charge(n, whole ? std::min<std::int64_t>(s.end_tokens - s.num_tokens, kClipMaxNewTokens) : 0, ahead(s, n));
}

SglangScheduler::Verdict SglangScheduler::add_waiting(std::int32_t slot) {
  if (chunked_ >= 0 && chosen_.empty()) return Verdict::kOther;
  const Sequence& s = sequences_[slot];
  RadixCache::Match hit;
  if (caching()) {
    token_key(s.request, workload_.content(s.request), s.num_tokens - 1, key_);
    hit = tree_.match(key_, s.num_tokens - 1);
  }
  const std::int64_t not_here = s.num_tokens - hit.tokens;
  const std::int64_t to_come = std::min<std::int64_t>(s.end_tokens - s.num_tokens, kClipMaxNewTokens);
  // The prefix isn't its own yet: a chunk that ends the prompt is as long as what is left.
  const std::int64_t drafted = pages(s.num_tokens + config_.lookahead) - pages(s.num_tokens);
  const auto needed = static_cast<double>(not_here + to_come + drafted);
  if (needed >= rem_total()) return Verdict::kNoToken;
  if (pages(not_here - hit.host_tokens) >= rem_input_ && !chosen_.empty()) return Verdict::kOther;
  const std::int64_t loads = hit.host_tokens = loadable(hit);
  const std::int64_t extend = not_here - loads, input = pages(extend);
  tree_.lock(hit.node);
  const auto give_up = [&](Verdict verdict) {
    tree_.unlock(hit.node);
    return verdict;
  };
  // The prefix can't be evicted any more. (The second test can fail only beside decodes of a mixed batch.)
  if (needed >= rem_total() ||
      static_cast<double>(loads + std::min(input, rem_chunk_) + drafted) + current_offset_ >
          static_cast<double>(available())) {
    return give_up(Verdict::kNoToken);
  }
  if (loads > 0) load_back(hit);
  if (input >= rem_input_ && !chosen_.empty()) return give_up(Verdict::kOther);
  if (input <= rem_chunk_) {
    chosen_.push_back({slot, extend});
    charge(extend, to_come, drafted);
  } else {
    const std::int64_t n = rem_chunk_ / page_ * page_;
    // Two prompts are never in chunks at once: the one before must end with this batch.
    // By shortest-prefill-first none begins beside one that is in chunks.
    if (n <= 0 ||
        (chunked_ >= 0 &&
         (config_.sglang.schedule_policy == SglangConfig::Order::kShortestPrefillFirst ||
          chosen_.front().tokens < sequences_[chunked_].num_tokens - sequences_[chunked_].computed))) {
      return give_up(Verdict::kOther);
    }
    chosen_.push_back({slot, std::min(n, extend)});
    charge(std::min(n, extend), 0, 0);
  }
  hits_.push_back(hit);
  ++from_waiting_;
  if (rem_total() <= 0 || static_cast<double>(available()) - current_offset_ <= 0) return Verdict::kNoToken;
  if (rem_input_ <= 0 || rem_chunk_ <= 0) return Verdict::kOther;
  return Verdict::kContinue;
}

void SglangScheduler::admit(std::int32_t slot, const RadixCache::Match& hit, Picoseconds now) {
  Sequence& s = sequences_[slot];
  s.state = Sequence::State::kRunning;
  s.computed = static_cast<std::int32_t>(hit.tokens);
  held(slot).node = hit.node;
  held(slot).prefix = hit.tokens;
  if (names_pages_) tree_.pages_to(hit.node, s.blocks);
  counts_.reused += hit.tokens;
  if (s.cached_tokens >= 0) return;
  s.cached_tokens = s.computed;
  s.scheduled = now;
  if (caching()) {
    counts_.queried += s.num_tokens;
    counts_.hit += hit.tokens;
  }
  if (tiers_ == nullptr || hit.host_tokens == 0) return;
  const std::int64_t stored = std::min(held(slot).fetched, hit.host_tokens) / page_;
  tiers_->count_hit_blocks(hit.host_tokens / page_ - stored, stored);
}

void SglangScheduler::run_prefill(Picoseconds now) {
  const bool mixes = config_.sglang.enable_mixed_chunk && batch_size() > unfiltered_;
  std::int64_t need = 0;
  for (std::size_t i = 0; i < chosen_.size(); ++i) {
    const auto& [slot, tokens] = chosen_[i];
    if (slot != chunked_) admit(slot, hits_[i - (chosen_.size() - hits_.size())], now);
    const Sequence& s = sequences_[slot];
    need += pages(s.computed + tokens) - pages(s.computed) + ahead(s, tokens);
  }
  if (passed_over_)
    std::erase_if(waiting_,
                  [this](std::int32_t slot) { return sequences_[slot].state == Sequence::State::kRunning; });
  else
    waiting_.erase(waiting_.begin(), waiting_.begin() + from_waiting_);
  if (tiers_ != nullptr) start_loading(now);
  // With larger pages SGLang makes room for a page more of each request.
  make_room(page_ == 1 ? need : need + static_cast<std::int64_t>(chosen_.size()) * page_);
  chunked_ = -1;
  const std::size_t running_before = running_.size();
  for (const auto& [slot, tokens] : chosen_) {
    Sequence& s = sequences_[slot];
    const std::int32_t before = s.computed;
    const bool last = before + tokens == s.num_tokens;
    if (last)
      take(s, before + tokens);
    else
      take_pages(s.blocks, before, tokens);
    s.computed += static_cast<std::int32_t>(tokens);
    counts_.scheduled += tokens;
    prefilled_ += tokens;
    batch_.add_prefill(slot, s.request.id, tokens, before, last);
    if (!last) {
      chunked_ = slot;
      continue;
    }
    s.decoding = s.token_in_flight = true;
    computed_prompts_.push_back({slot, s.computed, decision_});
    running_.push_back(slot);
    held(slot).sampled_at = decision_;
  }
  last_was_prefill_ = true;
  last_shrank_ = chunked_ >= 0;  // it is taken out of the batch before that joins the running ones
  if (!mixes) return;
  unfiltered_ = 0;
  std::vector<std::int32_t> added(running_.begin() + static_cast<std::ptrdiff_t>(running_before),
                                  running_.end());
  running_.resize(running_before);
  make_room(next_tokens_need());
  if (next_tokens_need() <= free_) {
    add_decode_rows();
    prefilled_ += batch_.decodes();  // SGLang's extend_num_tokens has them too
  }
  running_.insert(running_.end(), added.begin(), added.end());
}

}  // namespace foretoken
