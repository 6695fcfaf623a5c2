#include "serving/scheduler/vllm_v1.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "serving/scheduler/reservation.h"

namespace foretoken {

std::int64_t blocks_of_beams(const SchedulerConfig& c, std::int64_t input_len, std::int64_t tokens) {
  const std::int64_t blocks = (tokens + c.block_size - 1) / c.block_size;
  if (tokens <= input_len) return blocks;
  const std::int64_t shared = input_len / c.block_size;
  return shared + c.beam_width * (blocks - shared);
}

VllmV1Scheduler::VllmV1Scheduler(const SchedulerConfig& config, SequenceTable& sequences, KvBlockPool& pool,
                                 const Workload& workload, std::span<const std::int64_t> windows,
                                 bool list_decodes)
    : config_(config),
      sequences_(sequences),
      pool_(pool),
      host_(config.caches_tokens ? config.num_host_blocks : 0),
      regions_(contiguous() ? config.num_blocks : 0),
      workload_(workload),
      windows_(windows.begin(), windows.end()),
      list_decodes_(list_decodes),
      before_(sequences),
      adapter_slots_(config.lora.max_loras),
      needs_(static_cast<std::size_t>(config.block_size) + 1) {
  const bool plain = config.pipeline_depth == 1 && config.draft_tokens == 0 && beams() == 1 &&
                     config.lora.max_loras == 0 && !list_decodes && !config.by_priority &&
                     !config.tells_lengths &&
                     std::all_of(windows.begin(), windows.end(), [](std::int64_t w) { return w == 0; });
  if (plain) group_.emplace(sequences, grows() ? config.block_size : 0);
}

// vLLM's check_stop: a request also ends when prompt and output reach max_model_len.
std::int32_t VllmV1Scheduler::end_of(const Request& request) const {
  return static_cast<std::int32_t>(
      std::min<std::int64_t>(std::int64_t{request.input_len} + request.output_len, config_.max_model_len));
}

void VllmV1Scheduler::enqueue(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  s.end_tokens = config_.prefill_only || s.moves_on ? s.request.input_len + 1 : end_of(s.request);
  s.shared_blocks = 0;
  if (tiers_ != nullptr) {
    s.shared_blocks = std::numeric_limits<std::int32_t>::max();  // who is written takes room there, too
  } else if (caching()) {
    // Content that nobody else can name is not entered into the table unless its own request may look for it
    // again (see preempt): the outcome is the same, for no other lookup can hit it.
    s.shared_blocks = nameable_blocks(s.request, workload_.content(s.request), config_.block_size);
  }
  if (config_.by_priority)
    before_.insert(waiting_, slot);
  else
    waiting_.push_back(slot);
}

const Batch& VllmV1Scheduler::schedule(Picoseconds now) {
  batch_ = Batch();
  prefill_.clear();
  decode_.clear();
  sampled_.clear();
  swap_out_.clear();
  swap_in_.clear();
  budget_ = config_.max_num_batched_tokens;
  now_ = now;
  preempted_ = skipped_ = fragile_ = false;
  batch_adapters_.clear();
  adapter_loads_.clear();

  planned_.clear();
  schedule_running();
  for (const Planned& p : planned_) take(p.slot, p.tokens);
  if (!preempted_) {
    schedule_arrived(now);
    schedule_waiting(now);
  }

  batch_.prefill = prefill_;
  batch_.decode = decode_;
  batch_.swap_out = swap_out_;
  batch_.swap_in = swap_in_;
  batch_.sampled_rows += batch_.drafted;
  if (config_.lora.max_loras > 0) adapter_slots_.use(batch_adapters_, adapter_loads_);
  batch_.adapters = static_cast<std::int32_t>(batch_adapters_.size());
  batch_.adapter_loads = adapter_loads_;
  return batch_;
}

std::int32_t VllmV1Scheduler::capacity_of_beams(const Sequence& s) const {
  const auto size = static_cast<std::int64_t>(s.blocks.size());
  const std::int64_t shared = prompt_blocks(s), block = config_.block_size;
  return static_cast<std::int32_t>(size < shared + beams()
                                       ? std::min<std::int64_t>(size * block, s.request.input_len)
                                       : (shared + (size - shared) / beams()) * block);
}

// Of n tokens after `computed` ones. No step takes the end of a prompt together with what its beams have
// generated (they are computed again): each beam goes on from a copy of the prompt's last block.
std::int64_t VllmV1Scheduler::within_budget(const Sequence& s, std::int64_t computed, std::int64_t n) const {
  if (beams() == 1) return std::min(n, budget_);
  const std::int64_t prompt = s.request.input_len - computed;
  return prompt > 0 ? std::min({n, prompt, budget_}) : std::min(n, budget_ / beams());
}

// Takes a token of each of the group's members, the first running sequences, as the loop below would; it is
// left to that loop where some of them would get none. Returns how many were dealt with.
std::size_t VllmV1Scheduler::schedule_group() {
  if (!group_) return 0;
  DecodeGroup& g = *group_;
  while (g.size() < running()) {
    const std::int32_t next = running_[static_cast<std::size_t>(g.size())];
    if (!g.may_join(sequences_[next])) break;
    g.join(next);
  }
  if (g.size() == 0) return 0;
  if (g.size() > budget_ || (grows() && std::ssize(g.without_room(1)) > pool_.free())) {
    g.dissolve();
    return 0;
  }
  grow_group(1);
  g.decide(1);
  const auto size = static_cast<std::int32_t>(g.size());
  budget_ -= size;
  counts_.scheduled += size;
  batch_.decode_sequences = batch_.sampled_rows = size;
  batch_.longest_context = g.longest();
  for (std::size_t w = 0; w < windows_.size(); ++w) {
    batch_.contexts[w] = g.contexts();
    batch_.growing[w] = size;
  }
  return static_cast<std::size_t>(size);
}

// Blocks of the members' tokens of the step that is so many ahead, and into the prefix cache those that it
// fills.
void VllmV1Scheduler::grow_group(std::int64_t step) {
  if (!grows()) return;
  for (const std::int32_t slot : group_->without_room(step)) append_blocks(sequences_[slot], 1);
  if (!caching()) return;
  for (const std::int32_t slot : group_->without_room(step + 1)) {
    Sequence& s = sequences_[slot];
    enter_until(s, std::min<std::int64_t>(std::ssize(s.blocks), s.shared_blocks));
  }
}

void VllmV1Scheduler::schedule_running() {
  for (std::size_t i = schedule_group(); i < running_.size() && budget_ > 0; ++i) {
    const std::int32_t slot = running_[i];
    Sequence& s = sequences_[slot];
    std::int64_t n = s.num_tokens + s.drafts - s.computed;
    if (config_.long_prefill_token_threshold > 0) n = std::min(n, config_.long_prefill_token_threshold);
    n = within_budget(s, s.computed, std::min(n, config_.max_model_len - 1 - s.computed));
    if (n <= 0) {
      skipped_ = true;
      continue;
    }
    const std::int64_t slots = config_.with_lookahead(s.computed + n);
    if (config_.caches_tokens && slots > s.capacity) {
      const std::int64_t need = blocks_for(s, slots) - static_cast<std::int64_t>(s.blocks.size());
      while (need > pool_.free()) {
        const std::int32_t victim = take_victim(i);
        preempt(victim);
        if (victim == slot) return;
      }
      append_blocks(s, need);
    }
    budget_ -= rows(s, s.computed + n) - rows(s, s.computed);
    if (config_.by_priority)
      planned_.push_back({slot, static_cast<std::int32_t>(n)});
    else
      take(slot, static_cast<std::int32_t>(n));
  }
}

// The one admitted last; by priority the one that would be served last, even if its tokens are planned
// already. place: of the sequence that wants its blocks.
std::int32_t VllmV1Scheduler::take_victim(std::size_t& place) {
  const auto at = config_.by_priority ? std::max_element(running_.begin(), running_.end(), before_)
                                      : std::prev(running_.end());
  const std::int32_t victim = *at;
  if (static_cast<std::size_t>(at - running_.begin()) < place) --place;
  running_.erase(at);
  if (!config_.by_priority) return victim;
  const auto planned =
      std::find_if(planned_.begin(), planned_.end(), [victim](const Planned& p) { return p.slot == victim; });
  if (planned == planned_.end()) return victim;
  const Sequence& s = sequences_[victim];
  budget_ += rows(s, s.computed + planned->tokens) - rows(s, s.computed);
  planned_.erase(planned);
  return victim;
}

// They hold what they take, so they go before those that wait for blocks.
void VllmV1Scheduler::schedule_arrived(Picoseconds now) {
  while (!arrived_.empty() && budget_ > 0 && running() < most_running()) {
    const std::int32_t slot = arrived_.front();
    Sequence& s = sequences_[slot];
    std::int64_t n = s.num_tokens - s.computed;  // 1 where another engine computed the prompt
    if (config_.long_prefill_token_threshold > 0) n = std::min(n, config_.long_prefill_token_threshold);
    if (!config_.enable_chunked_prefill && n > budget_) break;
    arrived_.pop_front();
    running_.push_back(slot);
    if (tiers_ != nullptr) {
      if (s.preemptions == 0) s.scheduled = now;
      offer_blocks(s, true, false);
    }
    n = std::min(n, budget_);
    budget_ -= n;
    take(slot, static_cast<std::int32_t>(n));
  }
}

namespace {

void add_distinct(std::vector<std::int32_t>& to, std::int32_t adapter) {
  if (adapter >= 0 && std::find(to.begin(), to.end(), adapter) == to.end()) to.push_back(adapter);
}

}  // namespace

// A request whose adapter would be one too many is passed over, those behind it are not. vLLM counts the
// adapters of the sequences that the step has; counting all that run keeps the limit in every later step too.
bool VllmV1Scheduler::adapter_waits(std::int32_t adapter) {
  if (adapter < 0 || static_cast<std::int64_t>(running_adapters_.size()) < config_.lora.max_loras)
    return false;
  return std::find(running_adapters_.begin(), running_adapters_.end(), adapter) == running_adapters_.end();
}

void VllmV1Scheduler::schedule_waiting(Picoseconds now) {
  blocked_ = true;
  if (config_.lora.max_loras > 0) {
    running_adapters_.clear();
    for (const std::int32_t slot : running_)
      add_distinct(running_adapters_, sequences_[slot].request.adapter);
  }
  passed_over_.clear();
  if (!arrived_.empty()) return;  // who comes first did not fit
  admit(now);
  if (passed_over_.empty()) return;
  blocked_ = !waiting_.empty();
  waiting_.insert(waiting_.begin(), passed_over_.begin(), passed_over_.end());
}

void VllmV1Scheduler::admit(Picoseconds now) {
  while (!waiting_.empty() && budget_ > 0 && running() < most_running()) {
    order_window();
    const std::int32_t slot = waiting_.front();
    Sequence& s = sequences_[slot];
    if (s.token_in_flight)
      break;  // preempted in a pipeline: its next token isn't known before this one is out
    if (adapter_waits(s.request.adapter)) {
      waiting_.pop_front();
      passed_over_.push_back(slot);
      continue;
    }
    const bool swapped = !s.host_blocks.empty();
    find_hits(s);  // none where its tokens are in host memory
    const std::int64_t hit_blocks = hits_;
    std::int64_t loaded = 0;  // blocks that come from a tier in this step
    if (tiers_ != nullptr) {
      const Seek seeks = seek(slot, now, loaded);
      if (seeks == Seek::kComes) continue;
      if (seeks == Seek::kOthersLoad) {
        waiting_.pop_front();
        passed_over_.push_back(slot);
        continue;
      }
      if (seeks == Seek::kNoRoom) break;
    }
    const std::int64_t computed = swapped ? s.computed : (hit_blocks + loaded) * config_.block_size;
    std::int64_t n = s.num_tokens - computed;
    if (config_.long_prefill_token_threshold > 0) n = std::min(n, config_.long_prefill_token_threshold);
    if (beams() > 1 && computed < s.request.input_len) n = std::min(n, s.request.input_len - computed);
    // What beams have generated is cut all the same: all of it may be more than any step takes.
    if (!config_.enable_chunked_prefill && n > budget_ && (beams() == 1 || computed < s.request.input_len)) {
      fragile_ = tiers_ != nullptr;  // it is shorter once more of it lies in a tier
      break;
    }
    n = within_budget(s, computed, n);
    if (n == 0) {  // a row for each beam is more than what is left; its prompt, once evicted, might fit
      fragile_ = free_hits_ > 0;
      break;
    }

    std::int64_t need = 0;
    if (contiguous()) {
      if (!reserve_region(s)) break;
    } else if (config_.caches_tokens) {
      // Hits on free blocks leave the free queue, so they count against it.
      const std::int64_t available = pool_.free() - free_hits_ - watermark();
      // A prompt that ends in this step is drafted for at once. (vLLM takes those slots a step later.)
      const bool samples = computed + n == s.num_tokens;
      need = blocks_for(s, samples ? config_.with_lookahead(computed + n) : computed + n) - hit_blocks;
      const std::int64_t need_in_full = blocks_for(s, s.num_tokens) - hit_blocks;
      if (need > available || (config_.reserve_full_prompt && need_in_full > available)) {
        fragile_ = (free_hits_ > 0 || tiers_ != nullptr) && !config_.reserve_full_prompt;
        break;  // admission never preempts
      }
      take_hits(s);
      if (loaded > 0) tiers_->pin(loaded);
      append_blocks(s, need);
      if (swapped) swap_in(s);
      if (loaded > 0) {
        const auto to = std::span(s.blocks).subspan(static_cast<std::size_t>(hit_blocks));
        tiers_->load(s.request.id, to.first(static_cast<std::size_t>(loaded)), now);
      }
    }
    waiting_.pop_front();
    if (s.preemptions == 0 && ordered_ > 0) --ordered_;
    running_.push_back(slot);
    add_distinct(running_adapters_, s.request.adapter);
    s.state = Sequence::State::kRunning;
    s.computed = static_cast<std::int32_t>(computed);
    s.entered_blocks = static_cast<std::int32_t>(hit_blocks);
    counts_.reused += (hit_blocks + loaded) * config_.block_size;
    if (s.cached_tokens < 0) {
      s.scheduled = now;
      count_first_admission(s, computed);
      if (loaded > 0) tiers_->count_hits(loaded);
    }
    if (tiers_ != nullptr) {
      enter_blocks(s, hit_blocks + loaded);
      offer_blocks(s, true, false);
    }
    budget_ -= rows(s, computed + n) - rows(s, computed);
    take(slot, static_cast<std::int32_t>(n));
  }
}

void VllmV1Scheduler::count_first_admission(Sequence& s, std::int64_t computed) {
  s.cached_tokens = static_cast<std::int32_t>(computed);
  if (!caching()) return;
  counts_.queried += s.num_tokens;
  counts_.hit += computed;
}

// Puts n tokens of a sequence into the batch. Counted as computed at once, as vLLM does.
void VllmV1Scheduler::take(std::int32_t slot, std::int32_t n) {
  Sequence& s = sequences_[slot];
  const std::int32_t before = s.computed;
  s.computed += n;
  counts_.scheduled += rows(s, s.computed) - rows(s, before);
  add_distinct(batch_adapters_, s.request.adapter);
  const bool samples = s.computed >= s.num_tokens, decodes = s.decoding;
  const auto sequences = static_cast<std::int32_t>(before < s.request.input_len ? 1 : beams());
  if (s.decoding) {
    const std::int32_t drafted = n - 1;
    batch_.decode_sequences += sequences;
    batch_.drafted += drafted;
    batch_.longest_context = std::max(batch_.longest_context, s.computed);
    for (std::size_t g = 0; g < windows_.size(); ++g) {
      const bool grows = windows_[g] == 0 || s.computed < windows_[g];
      batch_.contexts[g] += sequences * (grows ? s.computed : windows_[g]);
      batch_.growing[g] += grows ? sequences : 0;
    }
    for (std::int32_t beam = 0; list_decodes_ && beam < sequences; ++beam)
      decode_.push_back({slot, s.request.id, s.computed, drafted, beam});
  } else {
    for (std::int32_t beam = 0; beam < sequences; ++beam)
      prefill_.push_back({slot, s.request.id, n, before, samples, beam});
    s.decoding = samples;
  }
  if (samples) {
    batch_.sampled_rows += sequences;
    s.token_in_flight = true;
    sampled_.push_back(slot);
  }
  if (s.entered_blocks < s.shared_blocks) enter_blocks(s, s.shared_blocks);
  // What is generated is written at the request's end.
  if (tiers_ != nullptr && !decodes) offer_blocks(s, false, false);
}

// Enters the blocks that are full by now (vLLM: when the step that fills them is scheduled), but none that
// holds a drafted token, which may yet be rejected.
void VllmV1Scheduler::enter_blocks(Sequence& s, std::int64_t limit) {
  if (beams() > 1) limit = std::min(limit, prompt_blocks(s));
  enter_until(s, std::min<std::int64_t>(std::min(s.computed, s.num_tokens) / config_.block_size, limit));
}

void VllmV1Scheduler::enter_until(Sequence& s, std::int64_t full) {
  if (s.entered_blocks >= full) return;
  s.hashes.extend(full, config_.block_size, s.request, workload_.content(s.request));
  pool_.enter(std::span(s.blocks).first(static_cast<std::size_t>(full)), s.entered_blocks,
              s.hashes.first(full));
  s.entered_blocks = static_cast<std::int32_t>(full);
}

// Never the whole prompt, whose last token must be computed.
std::int64_t VllmV1Scheduler::most_hits(const Sequence& s) const {
  std::int64_t most = (s.num_tokens - 1) / config_.block_size;
  if (s.preemptions == 0) most = std::min<std::int64_t>(most, s.shared_blocks);
  return beams() > 1 ? std::min(most, prompt_blocks(s)) : most;
}

// The longest run of cached full blocks from the start.
void VllmV1Scheduler::find_hits(Sequence& s) {
  hits_ = free_hits_ = 0;
  if (!caching() || !s.host_blocks.empty()) return;
  const auto found =
      find_prefix(pool_, config_.block_size, s.request, workload_.content(s.request), most_hits(s), s.hashes);
  hits_ = found.blocks;
  free_hits_ = found.free;
}

// Those that were found become the sequence's first blocks.
void VllmV1Scheduler::take_hits(Sequence& s) {
  s.blocks.clear();
  pool_.take(s.hashes.first(hits_), s.blocks);
  s.capacity = static_cast<std::int32_t>(hits_ * config_.block_size);
}

// Tail first, so that the tail is evicted first.
void VllmV1Scheduler::release_blocks(Sequence& s) {
  if (contiguous()) {
    if (s.blocks.empty()) return;
    counts_.reserved += s.capacity;
    counts_.filled += s.computed;
    regions_.release(s.blocks.front(), static_cast<std::int64_t>(s.blocks.size()));
  } else {
    pool_.release(s.blocks, s.entered_blocks);
  }
  s.blocks.clear();
  s.capacity = 0;
}

void VllmV1Scheduler::preempt(std::int32_t slot) {
  Sequence& s = sequences_[slot];
  if (swap_out(s)) {
    release_blocks(s);
  } else {
    if (caching()) enter_blocks(s, std::numeric_limits<std::int32_t>::max());
    if (tiers_ != nullptr) {
      offer_blocks(s, false, true);
      tiers_->write_leaving(now_);
    }
    release_blocks(s);
    counts_.discarded += rows(s, s.computed);
    s.computed = 0;
    s.decoding = false;
  }
  s.entered_blocks = s.offered_blocks = 0;
  s.drafts = 0;
  s.state = Sequence::State::kWaiting;
  ++s.preemptions;
  if (config_.by_priority)
    before_.insert(waiting_, slot);
  else
    waiting_.push_front(slot);
  preempted_ = true;
}

bool VllmV1Scheduler::reserve_region(Sequence& s) {
  const std::int64_t count = blocks_for(reserved_tokens(config_, s.request));
  const RegionPool::Block first = regions_.allocate(count);
  if (first < 0) return false;
  s.blocks.resize(static_cast<std::size_t>(count));
  std::iota(s.blocks.begin(), s.blocks.end(), first);
  s.capacity = static_cast<std::int32_t>(count * config_.block_size);
  return true;
}

// All of its blocks, shared ones too, go to host memory; false where they don't fit there.
bool VllmV1Scheduler::swap_out(Sequence& s) {
  const std::int64_t count = blocks_for(s.computed);
  if (count == 0 || count > host_.free()) return false;
  host_.allocate(count, s.host_blocks);
  for (std::size_t b = 0; b < s.host_blocks.size(); ++b) swap_out_.push_back({s.blocks[b], s.host_blocks[b]});
  counts_.swapped_out += count;
  return true;
}

// The host's blocks may be taken again at once: what goes out in a later step is copied later.
void VllmV1Scheduler::swap_in(Sequence& s) {
  for (std::size_t b = 0; b < s.host_blocks.size(); ++b) swap_in_.push_back({s.host_blocks[b], s.blocks[b]});
  counts_.swapped_in += static_cast<std::int64_t>(s.host_blocks.size());
  host_.release(s.host_blocks);
  s.host_blocks.clear();
}

void VllmV1Scheduler::finish(std::span<const std::int32_t> slots) {
  if (slots.empty()) return;
  for (const std::int32_t slot : slots) {
    Sequence& s = sequences_[slot];
    if (beams() > 1) {
      counts_.beam_blocks += static_cast<std::int64_t>(s.blocks.size());
      counts_.unshared_beam_blocks += beams() * blocks_for(s.computed);
    }
    if (tiers_ != nullptr) {
      enter_blocks(s, std::numeric_limits<std::int32_t>::max());
      offer_blocks(s, false, true);
    }
    release_blocks(s);
    if (s.state == Sequence::State::kWaiting) {  // preempted while its last token was in flight
      waiting_.erase(std::find(waiting_.begin(), waiting_.end(), slot));
      if (s.host_blocks.empty())
        counts_.discarded -= s.num_tokens - 1;  // nothing is computed again after all
      host_.release(s.host_blocks);
      s.host_blocks.clear();
    }
  }
  auto at = running_.begin();
  for (const std::int32_t slot : slots) {  // mostly in running order
    if (sequences_[slot].state == Sequence::State::kWaiting) continue;
    at = std::find(at, running_.end(), slot);
    if (at == running_.end()) at = std::find(running_.begin(), running_.end(), slot);
    at = running_.erase(at);
  }
  if (tiers_ != nullptr) tiers_->write_leaving(now_);
}

}  // namespace foretoken
