#include "serving/scheduler/trtllm.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "serving/scheduler/decode_span.h"

namespace foretoken {

TrtllmScheduler::TrtllmScheduler(const SchedulerConfig& config, SequenceTable& sequences, KvBlockPool& pool,
                                 const Workload& workload, std::span<const std::int64_t> windows,
                                 bool list_decodes)
    : config_(config),
      sequences_(sequences),
      pool_(pool),
      workload_(workload),
      chunk_unit_(config.trtllm.chunk_unit_size > 0 ? config.trtllm.chunk_unit_size : config.block_size),
      batch_(windows, list_decodes),
      rooms_(static_cast<std::size_t>(config.block_size)) {}

void TrtllmScheduler::enqueue(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  s.end_tokens = static_cast<std::int32_t>(std::min<std::int64_t>(
      std::int64_t{s.request.input_len} + s.request.output_len, config_.max_model_len));
  s.shared_blocks = 0;
  if (caching()) {
    // As for vLLM: content that nobody else can name is entered only when its own request may look for it
    // again.
    if (s.request.session >= 0) {
      s.shared_blocks = std::numeric_limits<std::int32_t>::max();
    } else if (s.request.num_runs > 0) {
      s.shared_blocks = static_cast<std::int32_t>(shared_tokens(s.request, workload_.content(s.request)) /
                                                  config_.block_size);
    }
  }
  queue_.push_back(slot);
}

const Batch& TrtllmScheduler::schedule(Picoseconds now) {
  batch_.clear();
  fitting_.clear();
  generations_.clear();
  contexts_.clear();
  contributed_.clear();
  paused_ = skipped_ = blocked_ = delayed_ = false;
  candidates_ = 0;
  for (const std::int32_t slot : computed_prompts_) {
    Sequence& s = sequences_[slot];
    enter_blocks(s, std::min<std::int64_t>(s.shared_blocks, (s.num_tokens - 1) / config_.block_size));
  }
  computed_prompts_.clear();
  for (const std::int32_t slot : std::exchange(to_pause_, {})) {
    if (sequences_[slot].token_in_flight)
      to_pause_.push_back(slot);
    else
      pause(slot);
  }
  while (!queue_.empty() &&
         static_cast<std::int64_t>(active_.size()) < config_.max_num_seqs * config_.pipeline_depth) {
    active_.push_back(queue_.front());
    queue_.pop_front();
  }

  if (config_.trtllm.capacity_scheduler_policy == TrtllmConfig::Capacity::kMaxUtilization) {
    fit_next_step();
  } else {
    fit_without_eviction();
  }
  pick_micro_batch();
  delayed_ = wait_for_company();
  if (delayed_) contexts_.clear();
  for (const std::int32_t slot : generations_) run_generation(slot);
  for (const Context& context : contexts_) run_context(context, now);
  return batch_.build();
}

// microBatchScheduler.cpp. A prompt counts in full even where a part of it will be found in the cache.
void TrtllmScheduler::pick_micro_batch() {
  const std::int64_t most = config_.max_num_batched_tokens;
  std::int64_t tokens = 0, context_tokens = 0, requests = 0;
  for (const std::int32_t slot : fitting_) {
    const Sequence& s = sequences_[slot];
    if (s.token_in_flight && pipelined()) continue;
    if (s.decoding) {
      if (tokens + generated(s) > most) break;
      generations_.push_back(slot);
      tokens += generated(s);
    } else {
      const std::int64_t left = s.num_tokens - s.computed;
      if (config_.enable_chunked_prefill) {
        context_tokens += left;
      } else {
        if (tokens + left > most) break;
        tokens += left;
      }
      contexts_.push_back({slot, left});
    }
    if (++requests >= config_.max_num_seqs) break;
  }
  if (context_tokens > most - tokens) cut_contexts(most - tokens);
}

// PyExecutor's batch waiting: only while others generate, and never without end.
bool TrtllmScheduler::wait_for_company() {
  const TrtllmConfig& c = config_.trtllm;
  if (c.batch_wait_timeout_iters <= 0 && c.batch_wait_max_tokens_ratio <= 0) return false;
  if (contexts_.empty() || generations_.empty()) return false;
  std::int64_t tokens = 0;
  for (const std::int32_t slot : generations_) tokens += generated(sequences_[slot]);
  for (const Context& context : contexts_) tokens += sequences_[context.slot].num_tokens;
  const bool waits = delay_ < c.batch_wait_timeout_iters &&
                     static_cast<double>(tokens) <
                         c.batch_wait_max_tokens_ratio * static_cast<double>(config_.max_num_batched_tokens);
  delay_ = waits ? delay_ + 1 : 0;
  return waits;
}

// Chunks when not all contexts fit. Only a last chunk may be no multiple of the unit.
void TrtllmScheduler::cut_contexts(std::int64_t capacity) {
  if (config_.trtllm.context_chunking_policy == TrtllmConfig::Chunking::kFirstComeFirstServed) {
    for (Context& c : contexts_) {
      if (c.chunk > capacity) c.chunk = capacity / chunk_unit_ * chunk_unit_;
      capacity -= c.chunk;
    }
  } else {
    std::vector<std::int64_t> left;
    for (Context& c : contexts_) {
      left.push_back(c.chunk);
      c.chunk = 0;
    }
    for (bool any = true; any && capacity > 0;) {
      any = false;
      for (std::size_t i = 0; i < contexts_.size(); ++i) {
        const std::int64_t more = std::min(chunk_unit_, left[i] - contexts_[i].chunk);
        if (more <= 0 || more > capacity) continue;
        contexts_[i].chunk += more;
        capacity -= more;
        any = true;
      }
    }
  }
  std::erase_if(contexts_, [](const Context& c) { return c.chunk == 0; });
}

void TrtllmScheduler::run_generation(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  const std::int32_t n = generated(s);
  const std::int64_t slots = config_.with_lookahead(s.computed + n);
  if (config_.caches_tokens && slots > s.capacity) append_blocks(s, blocks_for(slots) - held(s));
  s.computed += n;
  s.token_in_flight = true;
  counts_.scheduled += n;
  batch_.add_decode(slot, s.request.id, s.computed, n - 1);
}

void TrtllmScheduler::run_context(const Context& context, Picoseconds now) {
  const std::int32_t slot = context.slot;
  Sequence& s = sequences_[slot];
  std::int64_t n = context.chunk;
  if (!started(s)) {
    const bool whole = n == s.num_tokens;
    start(slot, now);
    // The chunk moves on behind what was found, to the end of a block.
    const std::int64_t end = (s.computed + n) / config_.block_size * config_.block_size;
    n = std::min<std::int64_t>(whole ? s.num_tokens : end, s.num_tokens) - s.computed;
  }
  const std::int32_t before = s.computed;
  s.computed += static_cast<std::int32_t>(n);
  counts_.scheduled += n;
  const bool last = s.computed == s.num_tokens;
  batch_.add_prefill(slot, s.request.id, n, before, last);
  if (!last) return;
  s.decoding = s.token_in_flight = true;
  if (s.shared_blocks > 0) computed_prompts_.push_back(slot);
}

void TrtllmScheduler::start(std::int32_t slot, Picoseconds now) {
  Sequence& s = sequences_[slot];
  const std::int64_t hits = find_hits(s);
  if (config_.caches_tokens) {
    s.blocks.clear();
    pool_.take(s.hashes.first(hits), s.blocks);
    s.capacity = static_cast<std::int32_t>(hits * config_.block_size);
    append_blocks(s, blocks_for(config_.with_lookahead(s.num_tokens)) - hits);
  }
  s.computed = static_cast<std::int32_t>(hits * config_.block_size);
  s.entered_blocks = static_cast<std::int32_t>(hits);
  s.state = Sequence::State::kRunning;
  ++started_;
  counts_.reused += s.computed;
  if (s.cached_tokens >= 0) return;
  s.cached_tokens = s.computed;
  s.scheduled = now;
  if (caching()) {
    counts_.queried += s.num_tokens;
    counts_.hit += s.computed;
  }
}

// The longest run of reusable full blocks; the last token is always computed.
std::int64_t TrtllmScheduler::find_hits(Sequence& s) {
  if (!caching()) return 0;
  std::int64_t most = (s.num_tokens - 1) / config_.block_size;
  if (s.preemptions == 0) most = std::min<std::int64_t>(most, s.shared_blocks);
  return find_prefix(pool_, config_.block_size, s.request, workload_.content(s.request), most, s.hashes)
      .blocks;
}

void TrtllmScheduler::enter_blocks(Sequence& s, std::int64_t limit) {
  if (s.entered_blocks >= limit) return;
  s.hashes.extend(limit, config_.block_size, s.request, workload_.content(s.request));
  pool_.enter(std::span(s.blocks).first(static_cast<std::size_t>(limit)), s.entered_blocks,
              s.hashes.first(limit));
  s.entered_blocks = static_cast<std::int32_t>(limit);
}

void TrtllmScheduler::append_blocks(Sequence& s, std::int64_t count) {
  pool_.allocate(count, s.blocks);
  s.capacity += static_cast<std::int32_t>(count * config_.block_size);
}

void TrtllmScheduler::release_blocks(Sequence& s) {
  pool_.release(s.blocks, s.entered_blocks);
  s.blocks.clear();
  s.capacity = 0;
  s.entered_blocks = 0;
}

// Why a decision of nothing but generation repeats itself until the bounds below: under no-evict and static
// batches what is free falls by just what the reservations fall, so who did not fit does not fit; under
// maximal utilization what is free only falls, and what a waiting request needs stays. Which blocks are
// cached decides only whether a candidate is skipped for one before it, so it takes two of them to matter.
std::int64_t TrtllmScheduler::hold() const {
  if (paused_ || skipped_ || delayed_ || batch_.has_prefill()) return 1;
  const auto running = static_cast<std::int64_t>(generations_.size());
  if (running == 0) return active_.empty() ? std::numeric_limits<std::int64_t>::max() : 1;
  if (running < started_ || (caching() && candidates_ > 1)) return 1;
  if (config_.draft_tokens > 0) return 1;  // how many tokens a step yields is known only afterwards
  const bool for_next_step =
      config_.trtllm.capacity_scheduler_policy == TrtllmConfig::Capacity::kMaxUtilization;
  if (for_next_step && fitting_.size() > generations_.size()) return 1;  // blocks promised, not taken
  const std::int64_t steps = steps_to_first_change(sequences_, generations_, batch_.windows());
  if (!config_.caches_tokens || !for_next_step) return steps;
  std::fill(rooms_.begin(), rooms_.end(), 0);
  for (const std::int32_t slot : generations_) {
    const Sequence& s = sequences_[slot];
    ++rooms_[static_cast<std::size_t>(s.capacity - s.computed)];
  }
  return std::min(steps, 1 + steps_with_blocks(rooms_, running, pool_.free()));
}

bool TrtllmScheduler::arrival_matters() const {
  return !blocked_ &&
         static_cast<std::int64_t>(active_.size()) < config_.max_num_seqs * config_.pipeline_depth;
}

void TrtllmScheduler::advance(std::int64_t steps) {
  if (steps <= 0 || generations_.empty()) return;
  counts_.scheduled += static_cast<std::int64_t>(generations_.size()) * steps;
  if (config_.caches_tokens) append_span_blocks(sequences_, generations_, steps, config_.block_size, pool_);
  for (const std::int32_t slot : generations_) {
    Sequence& s = sequences_[slot];
    s.computed += static_cast<std::int32_t>(steps);
    s.num_tokens += static_cast<std::int32_t>(steps);
  }
}

void TrtllmScheduler::finish(std::span<const std::int32_t> slots) {
  if (slots.empty()) return;
  for (const std::int32_t slot : slots) {
    Sequence& s = sequences_[slot];
    if (caching()) enter_blocks(s, std::min<std::int64_t>(s.shared_blocks, s.computed / config_.block_size));
    release_blocks(s);
    std::erase(computed_prompts_, slot);
    std::erase(to_pause_, slot);
    --started_;
  }
  std::erase_if(active_, [this](std::int32_t slot) {
    return sequences_[slot].num_tokens >= sequences_[slot].end_tokens;
  });
}

}  // namespace foretoken
