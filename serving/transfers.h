// Prefill and decode on engines of their own: who goes on where, and how caches get there.
#pragma once

#include <optional>
#include <queue>
#include <vector>

#include "serving/kv_moves.h"
#include "serving/mixed_pools.h"
#include "serving/router.h"
#include "serving/serve.h"
#include "serving/tetri_infer.h"

namespace foretoken {

// The rule for decode engines under a router that chooses prefill engines: its own if it looks at loads
// alone; there is nothing to find in a decode engine's cache, which gets every prompt's whole.
RouterKind decode_router(RouterKind router);

class Transfers {
 public:
  // What it needs of the serving loop.
  class Host : public ReplicaView {
   public:
    virtual Engine& engine(std::int32_t e) = 0;
    virtual void settle(std::int32_t e) = 0;                            // its next event may be another one
    virtual void update_load(std::int32_t e) = 0;                       // so may its load
    virtual void count(std::int64_t waiting, std::int64_t moving) = 0;  // requests more between engines
    virtual void send(const Request& request, std::int32_t e) = 0;      // to a prefill engine
    virtual void stays(std::int32_t e) = 0;  // a computed prompt that was taken for one that goes elsewhere
  };

  // prefill: engines that only prefill, the first ones; 0: all serve whole requests, and nothing moves.
  Transfers(Host& host, Backend& backend, const ServeOptions& options, std::size_t prefill);

  // Every engine computes prompts and makes tokens, as requests are given to it; not so: each is of one side.
  bool is_flexible() const { return pools_ || tetri_; }
  bool decodes(std::int32_t e) const { return prefill_ > 0 && !is_flexible() && e >= prefill_; }
  // Whether caches come to the engine.
  bool receives(std::int32_t e) const { return prefill_ > 0 && (is_flexible() || e >= prefill_); }
  // Whether an engine's own steps may make room for a cache that waits for it; else only requests that end
  // do.
  bool pulls_between_steps() const {
    return !tetri_ || options_.tetri_infer.decode_policy == DecodePolicy::kGreedy;
  }
  bool by_layers() const { return prefill_ > 0 && options_.kv_link.layers > 0; }
  Picoseconds first_end() const {
    return fetches_.empty() ? moves_.first_end() : std::min(moves_.first_end(), fetches_.top().end);
  }

  // A prompt is computed at a prefill engine; a decode engine has more room. Then, once all steps that end
  // now have: who goes on elsewhere waits for room, and decode engines take in what they have room for.
  // False: the conductor refuses the request now, and it goes nowhere.
  bool computed(std::int32_t e, Engine::Place place, ServeResult& result, Picoseconds now);
  void has_room(std::int32_t e) { roomier_.push_back(e); }
  bool hand_over(Picoseconds now);  // whether there was anything
  // The decode engine takes in what it has room for, in order; whether there was anything.
  bool pull(std::int32_t e, Picoseconds now);
  // The prefill engine has just decided, and started a step or not: layers go out while they are computed.
  void stream(std::int32_t e, bool started, Picoseconds now);
  // Caches and prefixes that are there by now.
  void finish(Picoseconds now);
  // The request has ended at that engine; first tokens of requests are out.
  void ended(std::int32_t e, const Request& request, Picoseconds now);
  void first_tokens(std::span<const RequestId> requests, Picoseconds now);
  // An engine that can start nothing, though requests or caches wait for room there, goes on itself with a
  // prompt that it has computed for another one without room: otherwise two could wait for each other for
  // ever. Mixed pools alone; whether it does.
  bool unblock(std::int32_t e, Picoseconds now);

  // Where the request's prompt is computed, and whether it goes elsewhere then; flexible engines.
  struct Start {
    std::int32_t engine = 0;
    bool moves_on = false;
  };
  Start start(const Request& request, Picoseconds now);

  // The conductor's: where the request goes; nullopt and the result's count where it is refused.
  bool conducts() const { return conductor_.has_value(); }
  std::optional<Conductor::Decision> conduct(const Request& request, ServeResult& result, Picoseconds now);
  // Sends it there, behind the prefix that it fetches. hashes: of the request, as far as the engines' states
  // asked for them.
  void carry_out(const Conductor::Decision& decision, const Request& request, const BlockHashes& hashes,
                 ServeResult& result, Picoseconds now);

  void summarize(ServeResult& result, ServingMetrics& metrics, Picoseconds now) const;

 private:
  struct Fetch {
    Request request;
    std::int32_t from = 0, to = 0;
    std::vector<KvBlockPool::Block> source, target;
    std::vector<std::uint64_t> hashes;
    std::int64_t cached = 0;  // blocks of target that were there
  };
  struct FetchEnd {
    Picoseconds end = 0;
    std::int64_t order = 0;
    std::shared_ptr<const Fetch> fetch;
    bool operator<(const FetchEnd& o) const { return end != o.end ? end > o.end : order > o.order; }
  };

  std::int32_t choose_decode(const Request& request, Picoseconds now);
  void note_refusal(bool ttft, Picoseconds predicted, ServeResult& result) const;
  bool admits(std::int32_t e, const Sequence& source, Picoseconds now);
  void give_back_preempted(std::int32_t e, Picoseconds now);
  void send_computed(KvMoves::Stream& stream, Picoseconds now);
  Picoseconds price(const KvTransfer& transfer);
  void write(const KvTransfer& t, Picoseconds now, const KvMoves::Sent& sent, Picoseconds duration);

  Host& host_;
  Backend& backend_;
  const ServeOptions& options_;
  const std::int32_t prefill_;
  Router decode_router_;
  KvMoves moves_;
  std::optional<Conductor> conductor_;
  std::optional<MixedPools> pools_;
  std::optional<TetriInfer> tetri_;
  std::priority_queue<FetchEnd> fetches_;
  bool launched_ = false;  // all engines that start a step now have, in stream()
  std::int64_t num_fetches_ = 0, arrived_ = 0;
  Picoseconds fetching_ = 0;  // of the links
  std::vector<KvMoves::Computed> handed_;
  std::vector<std::int32_t> roomier_;  // decode engines to which a cache may move now
  std::vector<Engine::Chunk> chunks_;  // scratch
  std::vector<std::int64_t> cached_tokens_;
};

}  // namespace foretoken
