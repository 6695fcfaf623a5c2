#include "serving/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "serving/scheduler/decode_group.h"
#include "serving/scheduler/factory.h"
#include "serving/scheduler/reservation.h"
#include "serving/scheduler/vllm_v1.h"

namespace foretoken {
namespace {

std::int64_t cdiv(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

Engine::Rank::Rank(const SchedulerConfig& config, const EngineContext& context, std::int32_t engine,
                   std::int32_t rank)
    : pool(config.caches_tokens ? config.num_blocks : 1),
      scheduler(make_scheduler(config, sequences, pool, context.workload, context.backend.windows(),
                               context.backend.wants_sequences())) {
  if (config.kv_tiers.tiers.empty()) return;
  std::vector<std::shared_ptr<KvTier>> own(context.shared_tiers.begin(), context.shared_tiers.end());
  for (std::size_t t = 0; t < own.size(); ++t)
    if (own[t] == nullptr) own[t] = std::make_shared<KvTier>(config.kv_tiers.tiers[t]);
  tiers = std::make_unique<KvTiers>(config.kv_tiers, config.block_size, std::move(own), context.backend,
                                    context.options.timeline, engine, rank);
  scheduler->use(*tiers);
}

Engine::Engine(std::int32_t index, const EngineConfig& config, const EngineContext& context)
    : index_(index), config_(config), context_(context), adapter_of_(config.scheduler.lora) {
  for (int r = 0; r < config.ranks; ++r)
    ranks_.push_back(std::make_unique<Rank>(config.scheduler, context, index, r));
  flights_.resize(static_cast<std::size_t>(config.scheduler.pipeline_depth));
  for (InFlight& flight : flights_) flight.sampled.resize(ranks_.size());
  batches_.resize(ranks_.size());
  loads_.resize(ranks_.size());
}

std::optional<std::string> Engine::refuses(const Request& request) const {
  const SchedulerConfig& c = config_.scheduler;
  if (request.input_len >= c.max_model_len) {
    return fmt::format("prompt of {} tokens leaves no room for output: max_model_len is {}",
                       request.input_len, c.max_model_len);
  }
  if (auto reason = ranks_.front()->scheduler->refuses(request)) return reason;
  if (c.policy == SchedulerPolicy::kTrtllm && !c.enable_chunked_prefill) {
    // A paused request comes back with what it has generated as part of its prompt.
    const bool pauses =
        c.trtllm.capacity_scheduler_policy == TrtllmConfig::Capacity::kMaxUtilization && c.caches_tokens;
    const std::int64_t longest = std::int64_t{request.input_len} + (pauses ? request.output_len - 1 : 0);
    if (longest > c.max_num_batched_tokens) {
      return fmt::format(
          "prompt of {} tokens{} is longer than max_num_tokens {}: turn "
          "enable_chunked_context on",
          request.input_len, pauses ? " (with its output, after a pause)" : "", c.max_num_batched_tokens);
    }
  }
  if (!c.caches_tokens) return std::nullopt;
  if (c.policy == SchedulerPolicy::kSglang) {  // cuts the output instead (see SglangScheduler::enqueue)
    const std::int64_t tokens = (c.num_blocks - 1) * c.block_size;
    if (request.input_len + 2 <= tokens) return std::nullopt;
    return fmt::format("prompt of {} tokens leaves no room for output in a KV cache of {} tokens",
                       request.input_len, tokens);
  }
  // The last token is never put into the cache.
  const std::int64_t output = c.prefill_only ? 1 : request.output_len;
  std::int64_t most = c.reservation == KvReservation::kPaged
                          ? std::min<std::int64_t>(request.input_len + output, c.max_model_len) - 1
                          : reserved_tokens(c, request);
  if (c.draft_tokens > 0) most = std::min(most + c.draft_tokens + c.lookahead, c.max_model_len);
  // TensorRT-LLM reserves a place for it all the same.
  const std::int64_t reserved =
      c.policy == SchedulerPolicy::kTrtllm ? std::min(most + 1, c.max_model_len) : most;
  const std::int64_t need =
      c.beam_width > 1 ? blocks_of_beams(c, request.input_len, most) : cdiv(reserved, c.block_size);
  if (need > c.num_blocks - 1) {
    return fmt::format("request of {} tokens{} needs {} KV blocks of {} tokens, the engine has {}", most,
                       c.beam_width > 1 ? fmt::format(" and {} beams", c.beam_width) : "", need, c.block_size,
                       c.num_blocks - 1);
  }
  return std::nullopt;
}

void Engine::enqueue(const Request& request, Picoseconds now, std::int64_t cached, bool moves_on) {
  std::int32_t chosen = 0;
  if (ranks_.size() > 1) {
    for (std::size_t r = 0; r < ranks_.size(); ++r) loads_[r] = load(*ranks_[r]);
    for (const Held& h : held_) ++loads_[static_cast<std::size_t>(h.rank)].waiting;
    chosen = pick_rank(loads_);
  }
  Rank& rank = *ranks_[static_cast<std::size_t>(chosen)];
  if (in_flight_ > 0 && front().event.steps > 1 && rank.scheduler->arrival_matters()) truncate(now);
  const std::int32_t slot = rank.sequences.add(request, now);
  rank.sequences[slot].request.adapter = adapter_of_(request);
  rank.sequences[slot].moves_on = (moves_on || config_.scheduler.prefill_only) && request.output_len > 1 &&
                                  request.input_len + 1 < config_.scheduler.max_model_len;
  rank.sequences[slot].uncached = static_cast<std::int32_t>(request.input_len - cached);
  prefill_tokens_ += request.input_len - cached;
  prompt_tokens_ += request.input_len - cached;
  if (decides_ahead() || !held_.empty())
    held_.push_back({now, chosen, slot, false});
  else
    rank.scheduler->enqueue(slot);
  retry(now);
}

void Engine::release(Place at, Picoseconds now) {
  cut(now);
  note_usage();
  Rank& rank = *ranks_[static_cast<std::size_t>(at.rank)];
  rank.scheduler->release(at.slot);
  prompt_tokens_ -= rank.sequences[at.slot].uncached;
  rank.sequences.remove(at.slot);
  --between_;
  retry(now);
}

std::optional<Engine::Place> Engine::reserve(const Sequence& source, Picoseconds now, bool launched) {
  cut(now + launched);
  for (std::size_t r = 0; r < ranks_.size(); ++r) loads_[r] = load(*ranks_[r]);
  const std::int32_t chosen = pick_rank(loads_);
  Rank& rank = *ranks_[static_cast<std::size_t>(chosen)];
  const std::int32_t slot = rank.sequences.add(source.request, source.queued);
  Sequence& s = rank.sequences[slot];
  s.decoding = true;
  if (context_.options.decode_makes_first_token) {
    s.computed = s.request.input_len - 1;
  } else {
    s.computed = s.request.input_len;
    s.num_tokens = s.request.input_len + 1;
    s.first_token_out = true;
  }
  if (!rank.scheduler->reserve(slot)) {
    rank.sequences.remove(slot);
    return std::nullopt;
  }
  ++rank.reserved;
  ++between_;
  note_usage();
  return Place{chosen, slot};
}

void Engine::arrive(Place at, const Sequence& source, Picoseconds now) {
  Rank& rank = *ranks_[static_cast<std::size_t>(at.rank)];
  cut(now);
  Sequence& s = rank.sequences[at.slot];
  s.scheduled = source.scheduled;
  s.handed_over = source.last_token;
  s.preemptions = source.preemptions;
  s.cached_tokens = source.cached_tokens;
  if (s.first_token_out) {
    s.prefill_start = source.prefill_start;
    s.first_token = s.last_token = source.first_token;
  }
  s.moved = now;
  if (decides_ahead() || !held_.empty()) {
    held_.push_back({now, at.rank, at.slot, true});
  } else {
    rank.scheduler->arrive(at.slot);
    --rank.reserved;
  }
  --between_;
  retry(now);
}

// So that the schedulers stand where single steps would have brought them.
void Engine::cut(Picoseconds now) {
  if (in_flight_ == 0 || front().event.steps <= 1) return;
  truncate(now);
  catch_up(now);
}

void Engine::catch_up(Picoseconds now) {
  if (in_flight_ == 0 || front().event.steps <= 1) return;
  InFlight& flight = front();
  const std::int64_t steps = steps_until(flight, now) - 1 - flight.advanced;
  if (steps <= 0) return;
  for (const auto& rank : ranks_) rank->scheduler->advance(steps);
  flight.advanced += steps;
}

bool Engine::decides_ahead() const {
  return config_.scheduler.schedules_ahead && flights_.size() == 1 && (in_flight_ > 0 || running() > 0);
}

void Engine::release_held(Picoseconds arrived_by) {
  std::size_t n = 0;
  for (; n < held_.size() && held_[n].at <= arrived_by; ++n) {
    Rank& rank = *ranks_[static_cast<std::size_t>(held_[n].rank)];
    if (held_[n].loaded) {
      rank.scheduler->join(held_[n].slot);
    } else if (held_[n].arrived) {
      rank.scheduler->arrive(held_[n].slot);
      --rank.reserved;
    } else {
      rank.scheduler->enqueue(held_[n].slot);
    }
  }
  held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(n));
}

// The span ends with the step that is under way at the arrival; a step that would start at that very time
// sees the new request, unless it has been launched for what else came then.
void Engine::truncate(Picoseconds arrival) {
  InFlight& flight = front();
  flight.event.steps = std::max(steps_until(flight, arrival), flight.advanced + 1);
  ready_at_ = flight.end = flight.event.start + length(flight.event, flight.event.steps);
}

// How many steps of the span have started before that time, the first one in any case.
std::int64_t Engine::steps_until(const InFlight& flight, Picoseconds arrival) {
  std::int64_t low = 1, high = flight.event.steps;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (flight.event.start + length(flight.event, middle) >= arrival) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

void Engine::commit(Picoseconds now, std::vector<Request>& finished, std::vector<Place>& computed) {
  first_tokens_.clear();
  while (in_flight_ > 0 && front().end <= now) {
    InFlight& flight = front();
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      ranks_[r]->scheduler->completed();
      if (flight.event.steps > 1) ranks_[r]->scheduler->advance(flight.event.steps - 1 - flight.advanced);
    }
    if (flight.event.steps > 1) note_usage();
    last_start_ = flight.event.start + length(flight.event, flight.event.steps - 1);
    if (context_.options.timeline != nullptr) {
      flight.event.verified = flight.verified;
      context_.options.timeline->step(flight.event);
    }
    std::size_t asked = 0;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      ranks_[r]->scheduler->tokens_out(flight.end);
      if (speculates()) {
        take_accepted(std::span(flight.verified).subspan(asked, flight.sampled[r].size()), *ranks_[r]);
        asked += flight.sampled[r].size();
      }
      give_tokens(flight, r, finished, computed);
    }
    num_steps_ += flight.event.steps;
    busy_ += std::max<Picoseconds>(0, flight.end - std::max(flight.event.start, busy_until_));
    busy_until_ = std::max(busy_until_, flight.end);
    head_ = head_ + 1 == flights_.size() ? 0 : head_ + 1;
    --in_flight_;
    next_try_ = std::max(now, ready_at_);
  }
  if (loaded_at_ <= now) finish_loads(now);
}

// Whose blocks are there by now join: the next step, or, where that is decided already, the one after it.
void Engine::finish_loads(Picoseconds now) {
  cut(now);
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    Scheduler& scheduler = *ranks_[r]->scheduler;
    while (scheduler.loaded_at() <= now) {
      const std::int32_t slot = scheduler.take_loaded();
      if (decides_ahead() || !held_.empty())
        held_.push_back({now, static_cast<std::int32_t>(r), slot, true, true});
      else
        scheduler.join(slot);
    }
  }
  note_loads();
  retry(now);
}

void Engine::note_loads() {
  loaded_at_ = kNever;
  for (const auto& rank : ranks_) loaded_at_ = std::min(loaded_at_, rank->scheduler->loaded_at());
}

Picoseconds Engine::stall(Picoseconds now, Picoseconds computing) {
  Picoseconds most = 0;
  for (const auto& rank : ranks_)
    if (rank->tiers != nullptr) most = std::max(most, rank->tiers->stall(now, computing));
  stalls_ += most;
  return most;
}

// What the step that just ran gave to the sequences that it sampled for.
void Engine::ask_for_tokens(const Step& step, InFlight& flight) {
  flight.verified.clear();
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    const std::size_t first = flight.verified.size();
    for (const std::int32_t slot : flight.sampled[r]) {
      const Sequence& s = ranks_[r]->sequences[slot];
      flight.verified.push_back({slot, s.request.id, s.num_tokens, s.computed - s.num_tokens, 0, 0});
    }
    const auto sequences = std::span(flight.verified).subspan(first);
    if (!sequences.empty()) context_.backend.verify(step, r, sequences);
    for (const Verification& v : sequences) {
      if (v.accepted < 0 || v.accepted > v.drafted || v.drafts < 0 ||
          v.drafts > config_.scheduler.draft_tokens)
        throw std::logic_error("Backend::verify accepted or drafted more than it could");
    }
  }
}

// Accepted tokens are out, slots of the others are free to be written again; the token that follows them is
// counted by give_tokens. What lies beyond a request's end is dropped, but counts as accepted, as in vLLM.
void Engine::take_accepted(std::span<const Verification> verified, Rank& rank) {
  for (const Verification& v : verified) {
    Sequence& s = rank.sequences[v.slot];
    context_.metrics.add_verification(v.drafted, v.accepted, v.drafts);
    const std::int32_t before = s.computed;
    s.num_tokens += std::min(v.accepted, s.end_tokens - s.num_tokens - 1);
    s.computed = s.num_tokens;
    unaccepted_ += before - s.computed;
    s.drafts = static_cast<std::int16_t>(v.drafts);
  }
}

void Engine::give_tokens(const InFlight& flight, std::size_t r, std::vector<Request>& finished,
                         std::vector<Place>& computed) {
  Rank& rank = *ranks_[r];
  const TimelineWriter::StepEvent& e = flight.event;
  const Picoseconds first_out = e.start + e.time.tokens_out;
  finishing_.clear();
  parking_.clear();
  Picoseconds common = -1;  // time of the previous token, mostly the same for all
  std::int64_t with_common = 0, others = 0;
  if (DecodeGroup* group = rank.scheduler->group()) {
    with_common = group->size();
    if (with_common > 0) common = group->last_token();
    group->come_out(flight.end, finishing_);
  }
  for (const std::int32_t slot : flight.sampled[r]) {
    Sequence& s = rank.sequences[slot];
    s.token_in_flight = false;
    const bool elsewhere = s.moves_on;
    // Preempted in a pipeline before its token came out: there is no cache to move, it is computed again.
    if (elsewhere && s.state == Sequence::State::kWaiting) continue;
    ++s.num_tokens;
    if (!s.first_token_out) {
      s.first_token_out = true;
      first_tokens_.push_back(s.request.id);
      prefill_tokens_ -= s.uncached;
      s.prefill_start = e.start;
      // A span gives first tokens only where the cache came from elsewhere.
      s.first_token = e.steps > 1 ? first_out : flight.end;
      others += e.steps > 1;
      context_.metrics.note_first_token(s.first_token + context_.options.egress - s.request.arrival);
    } else {
      if (common < 0) common = s.last_token;
      if (s.last_token == common) {
        ++with_common;
      } else {
        ++others;
        context_.metrics.add_gaps(first_out - s.last_token, 0, 1, 1);
      }
    }
    s.last_token = flight.end;
    if (elsewhere) {
      parking_.push_back(slot);
    } else if (s.num_tokens >= s.end_tokens) {
      finishing_.push_back(slot);
    }
  }
  if (!parking_.empty()) {
    rank.scheduler->park(parking_);
    between_ += static_cast<std::int64_t>(parking_.size());
    for (const std::int32_t slot : parking_) computed.push_back({static_cast<std::int32_t>(r), slot});
  }
  if (with_common > 0) {
    if (first_out - common == e.first) {
      context_.metrics.add_gaps(e.first, e.increment, e.steps, with_common);
    } else {
      context_.metrics.add_gaps(first_out - common, 0, 1, with_common);
      others += with_common;
    }
  }
  if (others > 0 && e.steps > 1) {
    context_.metrics.add_gaps(e.first + e.increment, e.increment, e.steps - 1, others);
  }
  if (finishing_.empty()) return;
  for (const std::int32_t slot : finishing_) {
    const Sequence& s = rank.sequences[slot];
    prompt_tokens_ -= s.uncached;
    record(s, flight.end);
    finished.push_back(s.request);
  }
  rank.scheduler->finish(finishing_);
  for (const std::int32_t slot : finishing_) rank.sequences.remove(slot);
}

void Engine::record(const Sequence& s, Picoseconds at) {
  const Picoseconds egress = context_.options.egress;
  RequestRecord record;
  record.id = s.request.id;
  record.engine = index_;
  record.session = s.request.session;
  record.input_len = s.request.input_len;
  record.output_len = s.end_tokens - s.request.input_len;
  record.priority = s.request.priority;
  record.arrival = s.request.arrival;
  record.queued = s.queued;
  record.scheduled = s.scheduled;
  record.prefill_done = s.prefill_start;
  record.first_token = s.first_token + egress;
  record.finish = at + egress;
  record.handed_over = s.handed_over;
  record.moved = s.moved;
  record.loading = s.loading;
  record.preemptions = s.preemptions;
  record.cached_tokens = s.cached_tokens;
  context_.metrics.add(record);
  if (context_.options.timeline != nullptr) context_.options.timeline->request(record);
}

bool Engine::launch(Picoseconds now) {
  next_try_ = kNever;
  failed_.clear();
  if (in_flight_ == flights_.size()) return false;
  bool empty = true, preempted = false;
  release_held(running() == 0 ? now : last_start_);
  for (const auto& rank : ranks_)
    if (rank->tiers != nullptr) rank->tiers->begin_step();
  // A step in which a running request preempted itself and nobody else ran is empty; the next one may admit.
  // By priority this may happen as often as requests run.
  const std::int64_t attempts = config_.scheduler.by_priority ? 2 + running() : 2;
  for (std::int64_t attempt = 0; attempt < attempts && empty; ++attempt) {
    if (attempt > 0 && !preempted) break;
    preempted = false;
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      batches_[r] = ranks_[r]->scheduler->schedule(now);
      drop_failed(*ranks_[r]);
      batches_[r].sequences = &ranks_[r]->sequences;
      empty = empty && batches_[r].empty();
      preempted = preempted || ranks_[r]->scheduler->preempted();
    }
  }
  note_loads();
  if (empty) {
    for (const auto& rank : ranks_) next_try_ = std::min(next_try_, rank->scheduler->wake());
    if (!held_.empty()) next_try_ = now;
    release_held(now);
    return false;
  }
  const bool late = std::any_of(held_.begin(), held_.end(), [&](const Held& h) {
    return h.arrived || ranks_[static_cast<std::size_t>(h.rank)]->scheduler->arrival_matters();
  });
  note_usage();

  InFlight& flight = flights_[(head_ + in_flight_) % flights_.size()];
  flight.event = {};
  flight.advanced = 0;
  TimelineWriter::StepEvent& e = flight.event;
  e.engine = index_;
  e.start = now;
  std::int64_t hold = context_.options.use_spans && flights_.size() == 1 && !late ? kNever : 1;
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    const Scheduler& scheduler = *ranks_[r]->scheduler;
    const auto sampled = scheduler.sampled();
    flight.sampled[r].assign(sampled.begin(), sampled.end());
    e.decode_tokens += batches_[r].decode_sequences + batches_[r].drafted;
    for (const PrefillPart& part : batches_[r].prefill) e.prefill_tokens += part.new_tokens;
    if (hold > 1) hold = std::min(hold, scheduler.hold());
  }
  e.running = static_cast<std::int32_t>(running());
  e.waiting = static_cast<std::int32_t>(waiting());
  if (context_.options.timeline != nullptr) e.kv_usage = kv_usage();

  const Step step{index_, now, batches_};
  SpanTime span;
  if (hold > 1) span = context_.backend.run_span(step, hold);
  if (span.steps > 0) {
    if (span.steps > hold)
      throw std::logic_error("Backend::run_span answered for more steps than it was asked for");
    e.steps = span.steps;
    e.first = span.first;
    e.increment = span.increment;
    e.time = {span.first, span.first};
    flight.end = now + length(e, e.steps);
    ready_at_ = flight.end;
  } else {
    e.time = context_.backend.run(step);
    e.stall = stall(now, e.time.tokens_out);
    e.time.next_start += e.stall;
    e.time.tokens_out += e.stall;
    if (speculates()) ask_for_tokens(step, flight);
    e.first = e.time.tokens_out;
    flight.end = now + e.time.tokens_out;
    if (in_flight_ > 0) {  // tokens come out in the order of the steps
      const InFlight& before = flights_[(head_ + in_flight_ - 1) % flights_.size()];
      flight.end = std::max(flight.end, before.end);
    }
    ready_at_ = now + e.time.next_start;
  }
  if (flight.end < now || ready_at_ < now) throw std::logic_error("a step of negative duration");
  ++in_flight_;
  if (in_flight_ < flights_.size()) next_try_ = ready_at_;
  return true;
}

void Engine::drop_failed(Rank& rank) {
  for (const std::int32_t slot : rank.scheduler->failed()) {
    const Sequence& s = rank.sequences[slot];
    prompt_tokens_ -= s.uncached;
    if (!s.first_token_out) prefill_tokens_ -= s.uncached;
    failed_.push_back(s.request);
    rank.sequences.remove(slot);
  }
}

bool Engine::stuck() const {
  return in_flight_ == 0 && next_try_ == kNever && loaded_at_ == kNever && between_ == 0 &&
         running() + waiting() > 0;
}

std::int64_t Engine::running() const {
  std::int64_t n = 0;
  for (const auto& rank : ranks_) n += rank->scheduler->running();
  return n;
}

std::int64_t Engine::waiting() const {
  std::int64_t n = 0;
  for (const auto& rank : ranks_) n += rank->scheduler->waiting();
  return n + static_cast<std::int64_t>(held_.size());
}

double Engine::kv_usage() const {
  double most = 0;
  for (const auto& rank : ranks_) {
    const Scheduler& s = *rank->scheduler;
    if (s.kv_usable() > 0) {
      most = std::max(most, static_cast<double>(s.kv_used()) / static_cast<double>(s.kv_usable()));
    }
  }
  return most;
}

ReplicaState Engine::state(const Request& request, BlockHashes& hashes) const {
  ReplicaState s{waiting(), kv_usage(), 0, prefill_tokens_, prompt_tokens_};
  for (const auto& rank : ranks_)
    s.cached_tokens = std::max(s.cached_tokens, rank->scheduler->cached_tokens(request, hashes));
  return s;
}

// Blocks are only taken while a step is decided or a span goes on, so the peak lies at the end of either.
void Engine::note_usage() { peak_kv_usage_ = std::max(peak_kv_usage_, kv_usage()); }

TokenCounts Engine::counts() const {
  TokenCounts sum;
  sum.unaccepted = unaccepted_;
  for (const auto& rank : ranks_) sum += rank->scheduler->counts();
  return sum;
}

bool Engine::all_blocks_free() const {
  return std::all_of(ranks_.begin(), ranks_.end(), [](const auto& rank) {
    return rank->scheduler->kv_used() == 0 && rank->scheduler->host_blocks() == 0;
  });
}

void Engine::add_tiers(ServeResult& result) const {
  for (const auto& rank : ranks_) {
    if (rank->tiers == nullptr) continue;
    const std::vector<KvTierCounts>& counts = rank->tiers->counts();
    result.kv_tiers.resize(std::max(result.kv_tiers.size(), counts.size()));
    for (std::size_t t = 0; t < counts.size(); ++t) result.kv_tiers[t] += counts[t];
    result.kv_loads += rank->tiers->loads();
    result.kv_load_wait += rank->tiers->load_wait();
  }
  result.kv_stall += stalls_;
}

std::int64_t Engine::peak_host_blocks() const {
  std::int64_t most = 0;
  for (const auto& rank : ranks_) most = std::max(most, rank->scheduler->peak_host_blocks());
  return most;
}

}  // namespace foretoken
