#include "serving/scheduler/sglang.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "serving/scheduler/decode_span.h"

namespace foretoken {
namespace {

// SGLANG_INIT_NEW_TOKEN_RATIO, SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR, SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS,
// SGLANG_RETRACT_DECODE_STEPS
constexpr double kInitialRatio = 0.7, kMinimumRatioFactor = 0.14, kDecaySteps = 600;
constexpr std::int64_t kRetractSteps = 20;

}  // namespace

SglangScheduler::SglangScheduler(const SchedulerConfig& config, SequenceTable& sequences,
                                 const Workload& workload, std::span<const std::int64_t> windows,
                                 bool list_decodes)
    : config_(config),
      sequences_(sequences),
      workload_(workload),
      page_(config.block_size),
      names_pages_(list_decodes && config.caches_tokens),
      tree_(config.block_size),
      waiting_tree_(1),
      most_running_(config.sglang.pp_max_micro_batch_size > 0
                        ? config.sglang.pp_max_micro_batch_size
                        : std::max<std::int64_t>(1, config.max_num_seqs / config.pipeline_depth)),
      micro_batches_(static_cast<std::size_t>(config.pipeline_depth)),
      batch_(windows, list_decodes),
      rooms_(static_cast<std::size_t>(config.block_size)) {
  total_ = config.caches_tokens ? (config.num_blocks - 1) * page_
                                : std::numeric_limits<std::int64_t>::max() / 4 / page_ * page_;
  free_ = total_;
  if (names_pages_)  // page 0 is the null page
    for (std::int64_t p = config.num_blocks - 1; p > 0; --p)
      free_pages_.push_back(static_cast<RadixCache::Page>(p));
  initial_ratio_ = std::min(kInitialRatio * config.sglang.schedule_conservativeness, 1.0);
  minimum_ratio_ = initial_ratio_ * kMinimumRatioFactor;
  ratio_decay_ = (initial_ratio_ - minimum_ratio_) / kDecaySteps;
  ratio_base_ = initial_ratio_;
}

void SglangScheduler::take_pages(std::vector<RadixCache::Page>& blocks, std::int64_t computed,
                                 std::int64_t tokens) {
  const std::int64_t more = pages(computed + tokens) - pages(computed);
  free_ -= more;
  if (!names_pages_) return;
  for (std::int64_t i = 0; i < more / page_; ++i) {
    if (free_pages_.empty()) throw std::logic_error("a page is taken and none is free");
    blocks.push_back(free_pages_.back());
    free_pages_.pop_back();
  }
}

void SglangScheduler::give_pages(std::vector<RadixCache::Page>& blocks, std::int64_t from, std::int64_t to) {
  free_ += to - from;
  if (!names_pages_ || to <= from) return;
  const auto first = blocks.begin() + static_cast<std::ptrdiff_t>(from / page_);
  free_pages_.insert(free_pages_.end(), first, first + static_cast<std::ptrdiff_t>((to - from) / page_));
}

// What is named is what is counted.
void SglangScheduler::check_pages() const {
  if (names_pages_ && static_cast<std::int64_t>(free_pages_.size()) * page_ != free_)
    throw std::logic_error("free pages and free tokens differ");
}

double SglangScheduler::new_token_ratio() const {
  // Retraction may leave a ratio below the minimum; it stays until the next decode step lifts it.
  if (decays_ == 0) return ratio_base_;
  return std::max(ratio_base_ - static_cast<double>(decays_) * ratio_decay_, minimum_ratio_);
}

void SglangScheduler::enqueue(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  // A request ends at the model's length, and before its tokens alone would fill the memory (SGLang lowers
  // its max_new_tokens).
  s.end_tokens = static_cast<std::int32_t>(
      std::min<std::int64_t>({std::int64_t{s.request.input_len} + s.request.output_len, config_.max_model_len,
                              total_ - 1 - config_.draft_tokens - config_.lookahead}));
  if (held_.size() <= static_cast<std::size_t>(slot)) held_.resize(static_cast<std::size_t>(slot) + 1);
  held(slot) = Held();
  if (receives())
    arrived_.push_back(slot);
  else
    join_queue(slot);
}

void SglangScheduler::join_queue(std::int32_t slot) {
  held(slot).entry = entries_++;
  held(slot).prefilled_at_entry = prefilled_;
  waiting_.push_back(slot);
  if (stores()) prefetch(slot);
}

// SchedulerRecvSkipper: a decode step weighs 1, a prefill step more than any interval; with nothing to run
// the loop spins, which weighs 1 a turn but takes no time.
void SglangScheduler::receive() {
  const std::int64_t interval = config_.sglang.scheduler_recv_interval;
  if (!receives()) return;
  const bool idle = running_.empty() && waiting_.empty() && ended_.empty() && chunked_ < 0;
  since_received_ = last_was_prefill_ || idle ? interval : since_received_ + 1;
  if (since_received_ < interval) return;
  since_received_ = 0;
  for (const std::int32_t slot : arrived_) join_queue(slot);
  arrived_.clear();
}

// Overlapped, a step is decided before the tokens of the one before are known.
std::int64_t SglangScheduler::known_output(std::int32_t slot) const {
  const Sequence& s = sequences_[slot];
  const bool late =
      config_.sglang.overlap && held_[static_cast<std::size_t>(slot)].sampled_at == decision_ - 1;
  return s.num_tokens - s.request.input_len - (late ? 1 : 0);
}

// In a pipeline micro-batches take turns; one that has a step in flight ends its turn there, one that has
// nothing to compute passes.
const Batch& SglangScheduler::schedule(Picoseconds now) {
  bool retracted = false;
  batch_.clear();
  for (std::size_t tried = 0; tried < micro_batches_.size(); ++tried) {
    if (micro_batches_[next_].busy) break;
    look_at(next_);
    decide(now);
    retracted = retracted || retracted_;
    next_ = (next_ + 1) % micro_batches_.size();
    if (batch_.empty()) continue;
    if (micro_batches_.size() > 1) {
      micro_batches_[current_].busy = true;
      flights_.push_back(current_);
    }
    break;
  }
  retracted_ = retracted;
  return batch_.build();
}

void SglangScheduler::look_at(std::size_t micro_batch) {
  if (micro_batch == current_) return;
  const auto exchange = [this](MicroBatch& m) {
    std::swap(m.running, running_);
    std::swap(m.computed_prompts, computed_prompts_);
    std::swap(m.unfiltered, unfiltered_);
    std::swap(m.full, full_);
    std::swap(m.last_was_prefill, last_was_prefill_);
    std::swap(m.last_shrank, last_shrank_);
  };
  elsewhere_ += static_cast<std::int64_t>(running_.size());
  exchange(micro_batches_[current_]);
  exchange(micro_batches_[micro_batch]);
  elsewhere_ -= static_cast<std::int64_t>(running_.size());
  current_ = micro_batch;
}

void SglangScheduler::completed() {
  if (flights_.empty()) return;
  micro_batches_[flights_.front()].busy = false;
  look_at(flights_.front());
  flights_.pop_front();
}

void SglangScheduler::decide(Picoseconds now) {
  now_ = now;
  batch_.clear();
  retracted_ = outranks_nobody_ = false;
  ++decision_;
  receive();
  settle_last_batch();
  // Dropping the last ended requests from the list of running ones, or the last running request itself, may
  // leave nothing to run but something to admit.
  for (int attempt = 0; attempt < 3; ++attempt) {
    if (form_prefill(now) || form_decode()) break;
    if (elsewhere_ == 0) {
      ratio_base_ = initial_ratio_;
      decays_ = 0;
    }
    if (waiting_.empty() && chunked_ < 0) {
      if (arrived_.empty()) break;
      receive();
    }
  }
  release_ended();
  if (config_.sglang.overlap) {  // the results of the step before are processed while this one runs
    for (const ComputedPrompt& p : computed_prompts_) {
      if (p.decision < decision_) cache_unfinished(p.slot, p.tokens);
    }
    std::erase_if(computed_prompts_, [this](const ComputedPrompt& p) { return p.decision < decision_; });
  }
  check_pages();
  count_left();
}

void SglangScheduler::settle_last_batch() {
  if (!config_.sglang.overlap) {
    for (const ComputedPrompt& p : computed_prompts_) cache_unfinished(p.slot, p.tokens);
    computed_prompts_.clear();
  }
  if (chunked_ >= 0) cache_unfinished(chunked_, sequences_[chunked_].computed, true);
  if (last_was_prefill_ && last_shrank_) full_ = false;
  last_was_prefill_ = last_shrank_ = false;
}

// Tokens that the next token of every running request takes, in whole pages.
std::int64_t SglangScheduler::next_tokens_need() const {
  std::int64_t need = 0;
  if (config_.draft_tokens > 0) {
    for (const std::int32_t slot : running_) {
      const Sequence& s = sequences_[slot];
      need += std::max<std::int64_t>(0, pages(config_.with_lookahead(s.computed + generated(s))) - taken(s));
    }
    return need;
  }
  if (page_ == 1) return static_cast<std::int64_t>(running_.size() + ended_.size());
  for (const std::int32_t slot : running_) need += sequences_[slot].computed % page_ == 0 ? page_ : 0;
  for (const Ended& e : ended_) need += e.computed % page_ == 0 ? page_ : 0;
  return need;
}

bool SglangScheduler::form_decode() {
  bool shrank = unfiltered_ > 0;
  unfiltered_ = 0;
  if (running_.empty() && ended_.empty()) {
    full_ = false;
    return false;
  }
  make_room(next_tokens_need());
  if (next_tokens_need() > free_) {
    retract();
    shrank = true;
  } else {
    ++decays_;
  }
  if (shrank) full_ = false;
  if (running_.empty() && ended_.empty()) return false;
  add_decode_rows();
  return true;
}

void SglangScheduler::add_decode_rows() {
  for (const std::int32_t slot : running_) {
    Sequence& s = sequences_[slot];
    const std::int32_t n = generated(s);
    take(s, s.computed + n);
    s.computed += n;
    s.token_in_flight = true;
    held(slot).sampled_at = decision_;
    batch_.add_decode(slot, s.request.id, s.computed, n - 1);
    counts_.scheduled += n;
  }
  for (Ended& e : ended_) {
    take_pages(e.blocks, e.computed, 1);
    e.row = true;
    batch_.add_wasted(e.request, e.computed + 1);
    ++counts_.discarded;
    ++counts_.scheduled;
  }
}

void SglangScheduler::take(Sequence& s, std::int64_t tokens) {
  if (config_.draft_tokens == 0) return take_pages(s.blocks, s.computed, tokens - s.computed);
  const std::int64_t before = std::max(taken(s), pages(s.computed)), after = config_.with_lookahead(tokens);
  if (after > before) take_pages(s.blocks, before, after - before);
  s.capacity = static_cast<std::int32_t>(std::max(before, pages(after)));
}

// Least output first, among equals longest input first, until twenty more tokens fit for each that stays.
void SglangScheduler::retract() {
  retracted_ = true;
  std::stable_sort(running_.begin(), running_.end(), [&](std::int32_t a, std::int32_t b) {
    const std::int64_t x = known_output(a), y = known_output(b);
    return x != y ? x > y : sequences_[a].request.input_len < sequences_[b].request.input_len;
  });
  const auto left = [&] { return static_cast<std::int64_t>(running_.size() + ended_.size()); };
  bool first = true;
  while (!running_.empty() && left() > 1 && (first || free_ < left() * kRetractSteps)) {
    first = false;
    const std::int32_t slot = running_.back();
    running_.pop_back();
    put_back(slot);
    make_room(left() * kRetractSteps);
  }
  // Rows in vain give way before anybody who still needs a token; a prompt in chunks beside the last running
  // request makes even that wait (SGLang stops with an error in both cases).
  make_room(next_tokens_need());
  if (next_tokens_need() > free_) release_ended();
  unfiltered_ = 0;
  make_room(next_tokens_need());
  while (next_tokens_need() > free_) {
    put_back(running_.back());
    running_.pop_back();
    make_room(next_tokens_need());
  }
  std::int64_t decoded = 0, most = 0;
  for (const std::int32_t slot : running_) {
    decoded += known_output(slot);
    most += sequences_[slot].end_tokens - sequences_[slot].request.input_len;
  }
  for (const Ended& e : ended_) {
    decoded += e.max_new_tokens - 1;
    most += e.max_new_tokens;
  }
  ratio_base_ =
      most == 0
          ? initial_ratio_
          : std::min(1.0, static_cast<double>(decoded + kRetractSteps * left()) / static_cast<double>(most));
  decays_ = 0;
}

// What is in the tree stays there until it is evicted; the rest is lost.
void SglangScheduler::give_up_memory(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  Held& h = held(slot);
  give_pages(s.blocks, h.prefix, std::max(taken(s), pages(s.computed)));
  s.blocks.clear();
  s.capacity = 0;
  s.drafts = 0;
  tree_.unlock(h.node);
  h = Held();
  forget_prompt(slot);
  counts_.discarded += s.computed;
  s.computed = 0;
  s.decoding = false;
  s.state = Sequence::State::kWaiting;
  ++s.preemptions;
}

// Enters the whole pages computed so far; copies of what others have entered meanwhile are given back.
void SglangScheduler::cache_unfinished(std::int32_t slot, std::int64_t tokens, bool goes_on) {
  if (!caching()) return;
  Sequence& s = sequences_[slot];
  Held& h = held(slot);
  token_key(s.request, workload_.content(s.request), tokens, key_);
  const RadixCache::Inserted in = tree_.insert(key_, tokens, s.blocks, goes_on);
  if (in.tokens < h.prefix) return;
  give_pages(s.blocks, h.prefix, in.existing);
  if (names_pages_ && in.existing > h.prefix) {
    tree_.pages_to(in.node, path_);
    std::copy_n(path_.begin(), in.existing / page_, s.blocks.begin());
  }
  tree_.lock(in.node);
  tree_.unlock(h.node);
  h.node = in.node;
  h.prefix = in.tokens;
}

void SglangScheduler::release(Ended& e) {
  const std::int64_t taken = e.row ? pages(e.computed + 1) : e.taken;
  if (caching()) {
    const RadixCache::Inserted in = tree_.insert(e.key, e.computed, e.blocks);
    give_pages(e.blocks, e.held.prefix, in.existing);
    give_pages(e.blocks, in.tokens, taken);
    tree_.unlock(e.held.node);
  } else {
    give_pages(e.blocks, 0, taken);
  }
  e.blocks.clear();
}

void SglangScheduler::release_ended() {
  for (Ended& e : ended_) {
    release(e);
    ++unfiltered_;
    spare_.push_back(std::move(e));
  }
  ended_.clear();
}

void SglangScheduler::finish(std::span<const std::int32_t> slots) {
  if (slots.empty()) return;
  for (const std::int32_t slot : slots) {
    Sequence& s = sequences_[slot];
    Ended e;
    if (!spare_.empty()) {  // for its key's memory
      e = std::move(spare_.back());
      spare_.pop_back();
    }
    e.held = held(slot);
    std::swap(e.blocks, s.blocks);
    e.request = s.request.id;
    e.computed = s.computed;
    e.taken = taken(s);
    s.capacity = 0;
    e.max_new_tokens = s.end_tokens - s.request.input_len;
    e.row = false;
    if (caching()) token_key(s.request, workload_.content(s.request), s.computed, e.key);
    forget_prompt(slot);
    if (config_.sglang.overlap) {
      ended_.push_back(std::move(e));
      continue;
    }
    release(e);
    spare_.push_back(std::move(e));
    // After a prefill step the batch drops its ended requests before it joins the running ones.
    if (last_was_prefill_) {
      last_shrank_ = true;
    } else {
      ++unfiltered_;
    }
  }
  std::erase_if(running_, [this](std::int32_t slot) {
    return sequences_[slot].num_tokens >= sequences_[slot].end_tokens;
  });
  count_left();
}

// Why a decode-only decision repeats itself until the bounds below: no prefill is tried while nothing waits
// or the batch is known to be full, and it ceases to be full only when a request ends or is retracted. Nobody
// ends before the nearest end, and nobody is retracted while free and evictable tokens suffice.
std::int64_t SglangScheduler::hold() const {
  if (retracted_ || batch_.has_prefill() || batch_.has_wasted() || unfiltered_ > 0 || chunked_ >= 0) return 1;
  if (running_.empty()) return waiting_.empty() ? std::numeric_limits<std::int64_t>::max() : 1;
  if (tiers_ != nullptr && tiers_->stalls()) return 1;
  // By priority who waits tries at every step, in vain while all running ones are as good; but then what has
  // come to host memory goes on to storage.
  if (!waiting_.empty() && (!full_ || (preempts_by_priority() && (stores() || !outranks_nobody_)))) return 1;
  if (config_.draft_tokens > 0) return 1;  // how many tokens a step yields is known only afterwards
  std::int64_t steps = steps_to_first_change(sequences_, running_, batch_.windows());
  if (!arrived_.empty()) steps = std::min(steps, config_.sglang.scheduler_recv_interval - since_received_);
  if (!config_.caches_tokens) return steps;
  std::fill(rooms_.begin(), rooms_.end(), 0);
  for (const std::int32_t slot : running_) {
    const std::int64_t computed = sequences_[slot].computed;
    ++rooms_[static_cast<std::size_t>((page_ - computed % page_) % page_)];
  }
  // Who leaves device memory may have to be written first.
  const std::int64_t room = config_.kv_tiers.writes_back() ? free_ : available();
  return std::min(steps,
                  1 + steps_with_blocks(rooms_, static_cast<std::int64_t>(running_.size()), room / page_));
}

void SglangScheduler::advance(std::int64_t steps) {
  if (steps <= 0 || running_.empty()) return;
  const auto scheduled = static_cast<std::int64_t>(running_.size());
  counts_.scheduled += scheduled * steps;
  decays_ += steps;
  since_received_ =
      (since_received_ + steps) % std::max<std::int64_t>(1, config_.sglang.scheduler_recv_interval);
  if (config_.caches_tokens) {
    std::fill(rooms_.begin(), rooms_.end(), 0);
    for (const std::int32_t slot : running_) {
      const std::int64_t computed = sequences_[slot].computed;
      ++rooms_[static_cast<std::size_t>((page_ - computed % page_) % page_)];
    }
    for (std::int64_t j = 0; j < steps; ++j) {
      const std::int64_t need = rooms_[static_cast<std::size_t>(j % page_)] * page_;
      make_room(need);
      if (!names_pages_) {
        free_ -= need;
        continue;
      }
      for (const std::int32_t slot : running_)
        take_pages(sequences_[slot].blocks, sequences_[slot].computed + j, 1);
    }
  }
  for (const std::int32_t slot : running_) {
    Sequence& s = sequences_[slot];
    s.computed += static_cast<std::int32_t>(steps);
    s.num_tokens += static_cast<std::int32_t>(steps);
  }
}

std::int64_t SglangScheduler::cached_tokens(const Request& request, BlockHashes&) const {
  if (!caching()) return 0;
  std::vector<TokenRun> key;
  token_key(request, workload_.content(request), request.input_len - 1, key);
  return tree_.matching(key, request.input_len - 1);
}

}  // namespace foretoken
