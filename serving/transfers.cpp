#include "serving/transfers.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace foretoken {
namespace {

// The rule for decode engines, to which no prompt goes; weights are of replicas that serve whole requests.
RouterConfig by_load(RouterConfig config) {
  config.weights.clear();
  config.kind = decode_router(config.kind);
  return config;
}

// Neighbours on one side share ports, never engines of both sides.
std::vector<std::int32_t> ports(const ServeOptions& options, std::size_t prefill) {
  std::vector<std::int32_t> port_of;
  if (prefill == 0) return port_of;
  const std::size_t each = static_cast<std::size_t>(options.kv_link.engines_per_port);
  for (std::size_t e = 0; e < options.engines.size(); ++e)
    port_of.push_back(static_cast<std::int32_t>(
        e < prefill ? e / each : (prefill + each - 1) / each + (e - prefill) / each));
  return port_of;
}

}  // namespace

RouterKind decode_router(RouterKind router) {
  return router >= RouterKind::kSessionSticky ? RouterKind::kLeastOutstanding : router;
}

Transfers::Transfers(Host& host, Backend& backend, const ServeOptions& options, std::size_t prefill)
    : host_(host),
      backend_(backend),
      options_(options),
      prefill_(static_cast<std::int32_t>(prefill)),
      decode_router_(by_load(options.router), prefill > 0 ? options.engines.size() - prefill : 1),
      moves_(ports(options, prefill)) {
  if (options.router.kind == RouterKind::kMooncake)
    conductor_.emplace(options.conductor, *options.estimates, prefill, options.engines.size() - prefill);
  std::vector<std::int64_t> capacity;
  for (const EngineConfig& e : options.engines)
    capacity.push_back(e.scheduler.caches_tokens ? (e.scheduler.num_blocks - 1) * e.scheduler.block_size
                                                 : std::numeric_limits<std::int64_t>::max());
  const std::int64_t longest = options.engines.front().scheduler.max_model_len;
  if (options.router.kind == RouterKind::kSplitwise)
    pools_.emplace(options.splitwise, prefill, std::move(capacity), longest);
  else if (options.router.kind == RouterKind::kTetriInfer)
    tetri_.emplace(options.tetri_infer, options.router.seed, prefill, std::move(capacity), longest);
}

std::int32_t Transfers::choose_decode(const Request& request, Picoseconds now) {
  if (pools_) return pools_->token_of(request.id);
  if (tetri_) return tetri_->dispatch(request, now);
  const std::int32_t picked =
      conductor_ ? conductor_->decode_of(request.id) - prefill_ : decode_router_.pick(request, {}, host_);
  decode_router_.sent(picked, request);
  return prefill_ + picked;
}

bool Transfers::computed(std::int32_t e, Engine::Place place, ServeResult& result, Picoseconds now) {
  if (conductor_) {
    const Request& request = host_.engine(e).sequence(place).request;
    const auto step = conductor_->too_late(request);
    conductor_->computed(request.id, now);
    if (step) {
      note_refusal(false, *step, result);
      ++result.rejected_computed;
      result.discarded_tokens += request.input_len;
      conductor_->ended(request.id);
      return false;
    }
  }
  handed_.push_back({e, place});
  return true;
}

void Transfers::note_refusal(bool ttft, Picoseconds predicted, ServeResult& result) const {
  ++(ttft ? result.rejected_ttft : result.rejected_tbt);
  if (result.rejected++ == 0)
    result.rejected_reason =
        fmt::format("its {} is predicted to be {:.4g} ms, the limit is {:.4g} ms",
                    ttft ? "time to first token" : "time between tokens", to_ms(predicted),
                    to_ms(ttft ? *options_.conductor.ttft_slo : *options_.conductor.tbt_slo));
}

void Transfers::first_tokens(std::span<const RequestId> requests, Picoseconds now) {
  for (const RequestId request : requests) {
    if (pools_) pools_->computed(request, now);
    if (tetri_) tetri_->computed(request, now);
  }
}

Transfers::Start Transfers::start(const Request& request, Picoseconds now) {
  if (tetri_) return {tetri_->assign(request, now), true};
  const MixedPools::Assignment a = pools_->assign(
      request, [&](std::int32_t e) { return host_.engine(e).waiting() > 0; }, now);
  return {a.prompt, a.prompt != a.token};
}

bool Transfers::unblock(std::int32_t e, Picoseconds now) {
  if (!pools_) return false;
  Engine& engine = host_.engine(e);
  if (!engine.is_idle() || engine.running() > 0 || (engine.waiting() == 0 && !moves_.any_pending(e)))
    return false;
  const auto first = moves_.first_of(e);
  if (!first) return false;
  const RequestId request = engine.sequence(first->computed.place).request.id;
  if (const KvMoves::Stream* stream = moves_.find(first->computed)) {
    if (!stream->parked) return false;
    moves_.erase(first->computed);
  }
  moves_.forget(first->engine, first->computed);
  engine.go_on(first->computed.place, now);
  pools_->goes_on(request, now);
  host_.count(-1, 0);
  host_.stays(e);
  host_.update_load(e);
  host_.settle(e);
  return true;
}

void Transfers::ended(std::int32_t e, const Request& request, Picoseconds now) {
  if (pools_) pools_->ended(request.id, now);
  if (tetri_) tetri_->ended(request.id, now);
  if (conductor_) conductor_->ended(request.id);
  if (decodes(e)) decode_router_.left(e - prefill_, request);
}

bool Transfers::hand_over(Picoseconds now) {
  if (handed_.empty() && roomier_.empty()) return false;
  for (const KvMoves::Computed& c : handed_) {
    if (KvMoves::Stream* stream = moves_.find(c)) {
      stream->parked = true;
      host_.count(stream->target ? 0 : 1, stream->target ? 1 : 0);
      continue;
    }
    const std::int32_t e = choose_decode(host_.engine(c.engine).sequence(c.place).request, now);
    host_.count(1, 0);
    moves_.wait_for(e, c);
    roomier_.push_back(e);
  }
  handed_.clear();
  for (const std::int32_t e : roomier_)
    if (pull(e, now)) host_.settle(e);
  roomier_.clear();
  return true;
}

bool Transfers::pull(std::int32_t e, Picoseconds now) {
  if (!moves_.any_pending(e)) return false;
  Engine& engine = host_.engine(e);
  while (moves_.any_pending(e)) {
    const KvMoves::Computed from = moves_.next(e);
    const Sequence& source = host_.engine(from.engine).sequence(from.place);
    const auto place = admits(e, source, now) ? engine.reserve(source, now, launched_) : std::nullopt;
    if (!place) break;
    if (tetri_) tetri_->placed(source.request.id, *place);
    moves_.take_next(e);
    if (KvMoves::Stream* stream = moves_.find(from)) {
      stream->target = place;
      if (stream->parked) host_.count(-1, 1);
      send_computed(*stream, now);
      continue;
    }
    const KvTransfer transfer{
        source.request.id, source.request.input_len,      0, from.engine, e, from.place.rank, place->rank,
        source.blocks,     engine.sequence(*place).blocks};
    const Picoseconds duration = price(transfer);
    const KvMoves::Sent sent = moves_.send(from.engine, e, now, duration);
    write(transfer, now, sent, duration);
    moves_.deliver(from, {e, *place}, sent.end);
    host_.count(-1, 1);
  }
  if (moves_.any_pending(e)) unblock(e, now);
  return true;
}

bool Transfers::admits(std::int32_t e, const Sequence& source, Picoseconds now) {
  if (!tetri_) return true;
  Engine& engine = host_.engine(e);
  engine.catch_up(now + launched_);
  return tetri_->admits(source.request, e, engine.free_kv_tokens(), [&](const Engine::Place& place) {
    return std::int64_t{engine.sequence(place).computed} + 1;
  });
}

Picoseconds Transfers::price(const KvTransfer& transfer) {
  const Picoseconds duration = backend_.transfer(transfer);
  if (duration < 0) throw std::logic_error("a transfer of negative duration");
  return duration;
}

void Transfers::write(const KvTransfer& t, Picoseconds now, const KvMoves::Sent& sent, Picoseconds duration) {
  if (options_.timeline != nullptr)
    options_.timeline->transfer(
        {t.request, t.from, t.to, t.tokens, t.done, now, sent.start, duration, sent.end});
}

void Transfers::stream(std::int32_t e, bool started, Picoseconds now) {
  launched_ = is_flexible();
  give_back_preempted(e, now);
  Engine& engine = host_.engine(e);
  chunks_.clear();
  if (started) engine.list_chunks(chunks_);
  for (const Engine::Chunk& chunk : chunks_) {
    const KvMoves::Computed from{e, chunk.place};
    KvMoves::Stream* stream = moves_.find(from);
    if (stream == nullptr) {
      const Sequence& sequence = engine.sequence(chunk.place);
      if (sequence.request.input_len < options_.kv_link.layerwise_min_tokens) continue;
      const std::int32_t to = choose_decode(sequence.request, now);
      stream = &moves_.streams(e).emplace_back();
      stream->from = from;
      stream->to = to;
      stream->preemptions = sequence.preemptions;
      moves_.wait_for(to, from);
      roomier_.push_back(to);
    }
    stream->computed.push_back(chunk);
    if (stream->target) send_computed(*stream, now);
  }
  hand_over(now);
  launched_ = false;
}

// Whose prompt must be computed again has no claim to room elsewhere meanwhile, or engines could wait for
// each other.
void Transfers::give_back_preempted(std::int32_t e, Picoseconds now) {
  Engine& engine = host_.engine(e);
  std::vector<KvMoves::Stream>& streams = moves_.streams(e);
  for (std::size_t i = 0; i < streams.size();) {
    const KvMoves::Stream& s = streams[i];
    const Sequence& sequence = engine.sequence(s.from.place);
    if (sequence.preemptions == s.preemptions) {
      ++i;
      continue;
    }
    if (tetri_)
      tetri_->withdrawn(sequence.request, now);
    else if (!pools_)
      decode_router_.left(s.to - prefill_, sequence.request);
    moves_.give_back(s, now);
    if (s.target) {
      host_.engine(s.to).cancel(*s.target, now, launched_);
      host_.update_load(s.to);
      host_.settle(s.to);
      roomier_.push_back(s.to);
    } else {
      moves_.forget(s.to, s.from);
    }
    streams.erase(streams.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void Transfers::send_computed(KvMoves::Stream& s, Picoseconds now) {
  const Sequence& source = host_.engine(s.from.engine).sequence(s.from.place);
  const Sequence& target = host_.engine(s.to).sequence(*s.target);
  const auto send = [&](std::int32_t tokens, Picoseconds begin, Picoseconds end) {
    if (tokens <= s.sent) return;
    const KvTransfer transfer{source.request.id, tokens,         s.sent,        s.from.engine, s.to,
                              s.from.place.rank, s.target->rank, source.blocks, target.blocks};
    const Picoseconds duration = price(transfer);
    // Its latency is part of the first piece, and keeps no port.
    const Picoseconds latency = std::min(options_.kv_link.latency, duration);
    KvMoves::Sent sent =
        moves_.send_layers(s.from.engine, s.to, now, begin, end, end > begin ? options_.kv_link.layers : 1,
                           s.sent == 0 ? duration - latency : duration, s.pieces);
    sent.end += latency;
    write(transfer, now, sent, duration);
    s.sent = tokens;
    s.end = std::max(s.end, sent.end);
  };
  for (const Engine::Chunk& c : s.computed) {
    send(c.begin, c.start, c.start);  // found in the prefix cache
    send(c.end, c.start, c.finish);
    s.end = std::max(s.end, c.finish);
  }
  s.computed.clear();
  if (s.sent == source.request.input_len) moves_.deliver(s.from, {s.to, *s.target}, s.end);
}

void Transfers::finish(Picoseconds now) {
  while (!fetches_.empty() && fetches_.top().end <= now) {
    const auto fetch = fetches_.top().fetch;
    fetches_.pop();
    const auto whole = static_cast<std::int64_t>(fetch->source.size());
    host_.engine(fetch->from).release_prefix(fetch->source, whole, fetch->hashes, now);
    host_.engine(fetch->to).release_prefix(fetch->target, fetch->cached, fetch->hashes, now);
    host_.settle(fetch->from);
    host_.count(-1, 0);
    host_.send(fetch->request, fetch->to);
  }
  while (moves_.first_end() <= now) {
    const KvMoves::Move move = moves_.pop();
    Engine &from = host_.engine(move.from.engine), &to = host_.engine(move.to.engine);
    const RequestId request = from.sequence(move.from.place).request.id;
    if (pools_) pools_->moved(request);
    if (is_flexible()) roomier_.push_back(move.from.engine);
    to.arrive(move.to.place, from.sequence(move.from.place), now);
    from.release(move.from.place, now);
    moves_.erase(move.from);
    host_.count(0, -1);
    ++arrived_;
    for (const std::int32_t e : {move.from.engine, move.to.engine}) {
      host_.update_load(e);
      host_.settle(e);
    }
  }
}

std::optional<Conductor::Decision> Transfers::conduct(const Request& request, ServeResult& result,
                                                      Picoseconds now) {
  cached_tokens_.clear();
  for (std::int32_t e = 0; e < prefill_; ++e) cached_tokens_.push_back(host_.state(e, request).cached_tokens);
  const Conductor::Decision d = conductor_->decide(
      request, cached_tokens_, [&](std::int32_t from, std::int32_t to) { return moves_.wait(from, to, now); },
      now);
  if (d.verdict == Conductor::Verdict::kAccepted) return d;
  const bool ttft = d.verdict == Conductor::Verdict::kMissesTtft;
  note_refusal(ttft, ttft ? d.ttft : d.tbt, result);
  return std::nullopt;
}

void Transfers::carry_out(const Conductor::Decision& d, const Request& request, const BlockHashes& hashes,
                          ServeResult& result, Picoseconds now) {
  conductor_->accept(request, d, now);
  const std::int64_t size = options_.engines.front().scheduler.block_size;
  if (d.fetched > 0) {
    auto fetch = std::make_shared<Fetch>(Fetch{request, d.holder, d.prefill, {}, {}, {}, d.cached / size});
    Engine &from = host_.engine(fetch->from), &to = host_.engine(fetch->to);
    to.hold_prefix(hashes, fetch->cached, fetch->target, now);
    const std::int64_t blocks = fetch->cached + to.take_prefix_blocks(d.fetched / size, fetch->target);
    from.hold_prefix(hashes, blocks, fetch->source, now);
    for (std::int64_t b = 0; b < blocks; ++b) fetch->hashes.push_back(hashes[b]);
    const auto tokens = static_cast<std::int32_t>(blocks * size), done = static_cast<std::int32_t>(d.cached);
    Picoseconds end = now;
    if (tokens > done) {
      const KvTransfer transfer{request.id, tokens, done,          fetch->from,  fetch->to,
                                0,          0,      fetch->source, fetch->target};
      const Picoseconds duration = price(transfer);
      const KvMoves::Sent sent = moves_.send(fetch->from, fetch->to, now, duration);
      write(transfer, now, sent, duration);
      end = sent.end;
      fetching_ += duration;
      ++result.prefix_fetches;
      result.fetched_tokens += tokens - done;
    }
    host_.settle(fetch->from);
    host_.settle(fetch->to);
    host_.count(1, 0);
    fetches_.push({end, num_fetches_++, std::move(fetch)});
    return;
  }
  host_.send(request, d.prefill);
}

void Transfers::summarize(ServeResult& result, ServingMetrics& m, Picoseconds now) const {
  if (pools_) result.mixed_pools = pools_->counts(now);
  if (tetri_) result.tetri_infer = tetri_->counts();
  // The prefill engine's own token is nobody's then.
  if (options_.decode_makes_first_token) result.discarded_tokens += arrived_;
  if (moves_.count() > 0)
    m.transfers.link_ms = to_ms(moves_.on_links() - fetching_) / static_cast<double>(moves_.count());
}

}  // namespace foretoken
