// The event loop. At one time: steps that end, in order of engines; then caches that have moved; then
// arrivals; then every engine that may start a step decides. An arrival at the very end of a step is seen by
// the step that starts there.
#include "serving/serve.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <optional>
#include <stdexcept>

#include "base/error.h"
#include "serving/elastic/serve.h"
#include "serving/engine.h"
#include "serving/engine_heap.h"
#include "serving/intake.h"
#include "serving/lending/serve.h"
#include "serving/replicas.h"
#include "serving/run_totals.h"
#include "serving/serve_checks.h"
#include "serving/transfers.h"

namespace foretoken {
namespace {

// Exact integrals of the numbers running, waiting and on links over time.
struct Averages {
  Picoseconds now = 0;
  std::int64_t running = 0, waiting = 0, moving = 0;
  Integer128 running_time = 0, waiting_time = 0, moving_time = 0;
  void advance(Picoseconds to) {
    moving_time += static_cast<Integer128>(moving) * (to - now);
    running_time += static_cast<Integer128>(running) * (to - now);
    waiting_time += static_cast<Integer128>(waiting) * (to - now);
    now = to;
  }
};

std::size_t replicas_of(const ServeOptions& options) {
  return options.engines.size() == 1 ? static_cast<std::size_t>(std::max(options.replicas, 1))
                                     : options.engines.size();
}

class Loop : private Transfers::Host {
 public:
  Loop(Workload& workload, Backend& backend, const ServeOptions& options)
      : workload_(workload),
        backend_(backend),
        options_(options),
        metrics_(options.slo, options.keep_records),
        prefill_(prefill_engines(options.engines)),
        router_(options.router, prefill_ > 0 ? prefill_ : replicas_of(options)),
        replicas_(options.autoscale, replicas_of(options)),
        autoscaler_(options.autoscale),
        heap_(static_cast<std::size_t>(std::max(options.replicas, 1))) {
    check_transfers(options, prefill_);
    transfers_.emplace(static_cast<Transfers::Host&>(*this), backend, options, prefill_);
    if (options.engines.empty()) throw Error("engine", "no engine is configured");
    const bool same = options.engines.size() == 1;
    const std::size_t replicas = replicas_of(options);
    if (options.replicas < 1) throw Error("replicas", "must be at least 1");
    if (!same && static_cast<std::size_t>(options.replicas) != replicas) {
      throw Error("replicas",
                  fmt::format("{} replicas, but {} engines are configured; give one engine for all or "
                              "one for each",
                              options.replicas, options.engines.size()));
    }
    if (options.ingress < 0 || options.egress < 0) throw Error("ingress", "delays must be at least 0");
    check_autoscale(options, replicas);
    for (const KvTierConfig& tier : options.engines.front().scheduler.kv_tiers.tiers)
      shared_tiers_.push_back(tier.shared ? std::make_shared<KvTier>(tier) : nullptr);
    for (std::size_t i = 0; i < replicas; ++i) {
      check(options.engines[same ? 0 : i], backend);
      engines_.push_back(make_engine(static_cast<std::int32_t>(i)));
      if (replicas_.state(static_cast<std::int32_t>(i)) != Replicas::State::kServing)
        router_.set_available(static_cast<std::int32_t>(i), false);
    }
    result_.over_time.period = options.sample_period;
    if (options.autoscale.on) next_decision_ = options.autoscale.interval;
    result_.engines.resize(replicas);
    // Engines of one block size share the hashes of a prompt's blocks.
    std::vector<int> sizes;
    for (const EngineConfig& engine : options.engines) {
      const auto at = std::find(sizes.begin(), sizes.end(), engine.scheduler.block_size);
      hashes_of_.push_back(static_cast<std::size_t>(at - sizes.begin()));
      if (at == sizes.end()) sizes.push_back(engine.scheduler.block_size);
    }
    hashes_.resize(sizes.size());
    loads_.resize(replicas);
    is_ready_.resize(replicas);
  }

  ServeResult run() {
    while (!result_.aborted) {
      Picoseconds next = std::min({heap_.first_time(), transfers_->first_end(), intake_.next()});
      if (next != kNever || !unrouted_.empty())
        next = std::min({next, replicas_.next_start(), next_decision_});
      if (next == kNever) break;
      if (options_.sample_over_time) sample(next);
      averages_.advance(std::max(next, now_));
      now_ = averages_.now;
      commit_ended();
      transfers_->finish(now_);
      scale();
      admit_arrived();
      commit_ended();  // spans that an arrival cut at this very time: nobody finishes in these
      launch_ready();
      intake_.check_in();
    }
    return summarize();
  }

 private:
  void commit_ended() {
    while (heap_.first_time() <= now_) {
      const std::int32_t e = heap_.first();
      Engine& engine = *engines_[static_cast<std::size_t>(e)];
      finished_.clear();
      computed_.clear();
      engine.commit(now_, finished_, computed_);
      if (transfers_->is_flexible()) transfers_->first_tokens(engine.first_tokens(), now_);
      dropped_.clear();
      for (const Engine::Place place : computed_)
        if (!transfers_->computed(e, place, result_, now_)) dropped_.push_back(place);
      for (const Request& request : finished_) intake_.finished(request, now_);
      result_.engines[static_cast<std::size_t>(e)].requests += std::ssize(finished_) + std::ssize(computed_);
      for (const Request& request : finished_) {
        transfers_->ended(e, request, now_);
        left(e, request);
      }
      for (const Engine::Place place : computed_) left(e, engine.sequence(place).request);
      for (const Engine::Place place : dropped_) drop(engine, place);
      if (!finished_.empty() || !computed_.empty()) update_load(e);
      settle(e);
      if ((!finished_.empty() || !computed_.empty()) && transfers_->receives(e)) transfers_->has_room(e);
    }
    if (transfers_->hand_over(now_)) check_backlog();
  }

  // A computed prompt that goes nowhere.
  void drop(Engine& engine, Engine::Place place) {
    const Request request = engine.sequence(place).request;
    engine.release(place, now_);
    intake_.drop(request, now_);
  }

  void admit_arrived() {
    while (const auto arrived = intake_.take(now_)) {
      const Request& request = *arrived;
      forget_hashes();
      const bool conducts = transfers_->conducts();
      const bool chosen = conducts || transfers_->is_flexible();
      const std::int32_t e = chosen ? 0 : router_.pick(request, workload_.content(request), *this);
      auto reason = engines_[static_cast<std::size_t>(std::max(e, 0))]->refuses(request);
      if (!reason && prefill_ > 0) reason = engines_[prefill_]->refuses(request);
      if (reason) {
        intake_.refuse(request, *reason, now_);
        continue;
      }
      if (conducts) {
        const auto decision = transfers_->conduct(request, result_, now_);
        if (decision) {
          transfers_->carry_out(*decision, request, hashes(0), result_, now_);
        } else {
          intake_.drop(request, now_);
        }
      } else if (transfers_->is_flexible()) {
        const Transfers::Start start = transfers_->start(request, now_);
        engine(start.engine).enqueue(request, now_, 0, start.moves_on);
        update_load(start.engine);
        settle(start.engine);
      } else if (e < 0) {
        unrouted_.push_back(request);
        ++averages_.waiting;
        if (replicas_.coming() == 0) replicas_.start(now_);
      } else {
        send(request, e);
      }
      check_backlog();
    }
  }

  void send(const Request& request, std::int32_t e) override {
    Engine& engine = *engines_[static_cast<std::size_t>(e)];
    router_.sent(e, request);
    // Only a router that counts what isn't cached needs to know.
    const bool counts = options_.router.kind == RouterKind::kKvCost;
    engine.enqueue(request, now_, counts ? engine.state(request, hashes(e)).cached_tokens : 0);
    update_load(e);
    settle(e);
  }

  std::unique_ptr<Engine> make_engine(std::int32_t e) {
    const bool same = options_.engines.size() == 1;
    EngineConfig config = options_.engines[same ? 0 : static_cast<std::size_t>(e)];
    config.scheduler.tells_lengths = options_.router.kind == RouterKind::kTetriInfer &&
                                     options_.tetri_infer.decode_policy == DecodePolicy::kReserveDynamic;
    return std::make_unique<Engine>(e, config,
                                    EngineContext{workload_, backend_, options_, metrics_, shared_tiers_});
  }

  // Replicas that are ready now begin, with an empty cache; then it is decided how many there should be.
  void scale() {
    for (std::int32_t r; (r = replicas_.finish_start(now_)) >= 0;) {
      std::unique_ptr<Engine>& engine = engines_[static_cast<std::size_t>(r)];
      // One that still computes a row of a request that has ended (SGLang's overlap) is warm.
      if (engine->num_steps() > 0 && engine->is_idle()) {
        add_up(static_cast<std::size_t>(r));
        engine = make_engine(r);
      }
      router_.set_available(r, true);
      for (; !unrouted_.empty(); unrouted_.pop_front()) {
        const Request& request = unrouted_.front();
        forget_hashes();
        --averages_.waiting;
        send(request, router_.pick(request, workload_.content(request), *this));
      }
    }
    if (now_ < next_decision_) return;
    const AutoscaleConfig& a = options_.autoscale;
    next_decision_ = (now_ / a.interval + 1) * a.interval;
    std::int64_t current = replicas_.coming();
    const auto recent = metrics_.take_recent_ttft();
    if (current == 0) return;
    double ratio = 1;
    if (a.metric == ScaleMetric::kOutstanding)
      ratio = static_cast<double>(router_.outstanding() + std::ssize(unrouted_)) /
              (static_cast<double>(current) * a.target);
    else if (recent)
      ratio = to_ms(*recent) / a.target;
    else if (router_.outstanding() == 0 && unrouted_.empty())
      ratio = 0;
    const std::int64_t wanted = autoscaler_.desired(now_, current, ratio);
    for (; current < wanted && replicas_.start(now_) >= 0; ++current) continue;
    for (; current > wanted; --current) {
      const std::int32_t r = replicas_.end_one(now_);
      if (r < 0) continue;
      router_.set_available(r, false);
      if (router_.outstanding(r) == 0) replicas_.stop(r, now_);
    }
  }

  ReplicaState state(std::int32_t replica, const Request& request) override {
    Engine& engine = *engines_[static_cast<std::size_t>(replica)];
    engine.catch_up(now_);
    return engine.state(request, hashes(replica));
  }

  BlockHashes& hashes(std::int32_t e) {
    return hashes_[hashes_of_.size() == 1 ? 0 : hashes_of_[static_cast<std::size_t>(e)]];
  }
  void forget_hashes() {
    for (BlockHashes& hashes : hashes_) hashes.clear();
  }

  void left(std::int32_t e, const Request& request) {
    if (transfers_->is_flexible()) return;
    if (!transfers_->decodes(e)) router_.left(e, request);
    if (replicas_.state(e) == Replicas::State::kDraining && router_.outstanding(e) == 0)
      replicas_.stop(e, now_);
  }

  void launch_ready() {
    std::sort(ready_.begin(), ready_.end());
    if (transfers_->by_layers() && transfers_->is_flexible())
      launch_and_stream();
    else if (transfers_->by_layers())
      launch_prefill();
    for (std::size_t i = 0; i < ready_.size(); ++i) {
      const std::int32_t e = ready_[i];
      launch(e);
      // A preempted request that runs again no longer keeps others out.
      pull_after_launch(e);
    }
    ready_.clear();
  }

  void pull_after_launch(std::int32_t e) {
    if (transfers_->receives(e) && transfers_->pulls_between_steps() && transfers_->pull(e, now_))
      heap_.set(e, engine(e).event_time());
  }

  bool launch(std::int32_t e) {
    Engine& engine = *engines_[static_cast<std::size_t>(e)];
    is_ready_[static_cast<std::size_t>(e)] = 0;
    const bool started = engine.launch(now_);
    for (const Request& request : engine.failed()) {
      intake_.refuse(request,
                     "the KV cache that all slots share was full (\"Context size has been exceeded\")", now_);
      left(e, request);
    }
    update_load(e);
    heap_.set(e, engine.event_time());
    if (engine.stuck()) {
      abort(fmt::format("engine {} can schedule none of its {} waiting and {} running requests", e,
                        engine.waiting(), engine.running()));
    }
    if (!started) transfers_->unblock(e, now_);  // then it is ready once more
    return started;
  }

  // Prefill engines come first where their steps send layers: decode engines make room for these in front of
  // their own steps, as for all that happens now.
  void launch_prefill() {
    while (!ready_.empty() && !transfers_->decodes(ready_.front())) {
      const std::int32_t e = ready_.front();
      ready_.erase(ready_.begin());
      transfers_->stream(e, launch(e), now_);
      commit_ended();  // spans that this cut at this very time
      std::sort(ready_.begin(), ready_.end());
    }
  }

  void stays(std::int32_t e) override { --result_.engines[static_cast<std::size_t>(e)].requests; }
  // Where every engine may send to every other one: all start their steps, then room is made for the layers.
  void launch_and_stream() {
    while (!ready_.empty()) {
      std::sort(ready_.begin(), ready_.end());
      launching_.clear();
      launching_.swap(ready_);
      started_.clear();
      for (const std::int32_t e : launching_) started_.push_back(launch(e));
      for (std::size_t i = 0; i < launching_.size(); ++i) {
        transfers_->stream(launching_[i], started_[i] != 0, now_);
        pull_after_launch(launching_[i]);
      }
    }
  }

  Engine& engine(std::int32_t e) override { return *engines_[static_cast<std::size_t>(e)]; }
  void count(std::int64_t waiting, std::int64_t moving) override {
    averages_.waiting += waiting;
    averages_.moving += moving;
  }

  // After a change at an engine: an engine that may start a step now is remembered until all arrivals are in.
  void settle(std::int32_t e) override {
    Engine& engine = *engines_[static_cast<std::size_t>(e)];
    if (engine.next_try() <= now_) {
      if (!is_ready_[static_cast<std::size_t>(e)]) {
        is_ready_[static_cast<std::size_t>(e)] = 1;
        ready_.push_back(e);
      }
      heap_.set(e, engine.tokens_out());
    } else {
      heap_.set(e, engine.event_time());
    }
  }

  void update_load(std::int32_t e) override {
    RankLoad& load = loads_[static_cast<std::size_t>(e)];
    const RankLoad current{engines_[static_cast<std::size_t>(e)]->waiting(),
                           engines_[static_cast<std::size_t>(e)]->running()};
    averages_.waiting += current.waiting - load.waiting;
    averages_.running += current.running - load.running;
    load = current;
  }

  void check_backlog() {
    const auto engines = static_cast<std::int64_t>(engines_.size());
    if (options_.abort_backlog > 0 && averages_.waiting > options_.abort_backlog * engines) {
      abort(fmt::format("overloaded: {} requests waiting at {} engines after {} requests served",
                        averages_.waiting, engines, intake_.completed()));
    }
  }

  void abort(std::string reason) {
    if (result_.aborted) return;
    result_.aborted = true;
    result_.abort_reason = std::move(reason);
  }

  // At the times before the next event, when all of the last one is done: a step that starts at such a time
  // has.
  void sample(Picoseconds next) {
    for (; result_.over_time.next() < next;) {
      OverTime::Sample s{result_.over_time.next(), averages_.running, averages_.waiting};
      for (std::size_t e = 0; e < engines_.size(); ++e) {
        const Replicas::State state = replicas_.state(static_cast<std::int32_t>(e));
        if (state == Replicas::State::kOff || state == Replicas::State::kStarting) continue;
        engines_[e]->catch_up(s.time + 1);
        const double usage = engines_[e]->kv_usage();
        ++s.replicas;
        s.mean_kv_usage += usage;
        s.most_kv_usage = std::max(s.most_kv_usage, usage);
      }
      if (s.replicas > 0) s.mean_kv_usage /= static_cast<double>(s.replicas);
      result_.over_time.add(s);
    }
  }

  // What an engine has done, when it is about to go.
  void add_up(std::size_t e) {
    const Engine& engine = *engines_[e];
    const TokenCounts c = engine.counts();
    queried_ += c.queried;
    hit_ += c.hit;
    result_.scheduled_tokens += c.scheduled;
    result_.reused_tokens += c.reused;
    result_.discarded_tokens += c.discarded;
    result_.unaccepted_tokens += c.unaccepted;
    result_.reserved_tokens += c.reserved;
    result_.filled_tokens += c.filled;
    result_.beam_blocks += c.beam_blocks;
    result_.unshared_beam_blocks += c.unshared_beam_blocks;
    result_.swapped_out_blocks += c.swapped_out;
    result_.swapped_in_blocks += c.swapped_in;
    result_.peak_host_blocks = std::max(result_.peak_host_blocks, engine.peak_host_blocks());
    engine.add_tiers(result_);
    steps_ += engine.num_steps();
    peak_kv_usage_ = std::max(peak_kv_usage_, engine.peak_kv_usage());
    busy_ += engine.busy();
    EngineTotals& totals = result_.engines[e];
    totals.steps += engine.num_steps();
    totals.busy_seconds += to_seconds(engine.busy()).value;
    totals.peak_kv_usage = std::max(totals.peak_kv_usage, engine.peak_kv_usage());
    if (!result_.aborted && !engine.all_blocks_free())
      throw std::logic_error("KV blocks are still held after the last request");
  }

  ServeResult summarize() {
    for (std::size_t e = 0; e < engines_.size(); ++e) add_up(e);
    result_.queried_tokens = queried_;
    result_.device_hit_tokens = hit_;
    for (const KvTierCounts& tier : result_.kv_tiers) result_.device_hit_tokens -= tier.hit_tokens;
    result_.replica_seconds = replicas_.paid_seconds(now_);
    result_.most_replicas = replicas_.most();
    result_.replica_starts = replicas_.started();
    result_.replica_ends = replicas_.ended();
    ServingMetrics m = metrics_.summarize();
    m.num_steps = steps_;
    m.peak_kv_usage = peak_kv_usage_;
    if (queried_ > 0) m.prefix_cache_hit_rate = static_cast<double>(hit_) / static_cast<double>(queried_);
    const double time = result_.aborted
                            ? static_cast<double>(now_ - std::max(intake_.first_arrival(), Picoseconds{0}))
                            : m.duration * kPicosPerSecond;
    const double engine_time = options_.autoscale.on ? result_.replica_seconds * kPicosPerSecond
                                                     : time * static_cast<double>(engines_.size());
    if (time > 0 && engine_time > 0) {
      m.mean_running = static_cast<double>(averages_.running_time) / time;
      m.mean_waiting = static_cast<double>(averages_.waiting_time) / time;
      m.transfers.mean_moving = static_cast<double>(averages_.moving_time) / time;
      // A step that computes nothing but rows of ended requests may outlast the last one (overlap scheduler).
      m.busy_share = std::min(1.0, static_cast<double>(busy_) / engine_time);
    }
    transfers_->summarize(result_, m, now_);
    result_.metrics = m;
    result_.records = metrics_.records();
    if (options_.timeline != nullptr) options_.timeline->finish();
    if (options_.progress) options_.progress(1.0);
    return std::move(result_);
  }

  Workload& workload_;
  Backend& backend_;
  const ServeOptions& options_;
  MetricsCollector metrics_;
  const std::size_t prefill_;  // engines that only prefill, the first ones; 0: all serve whole requests
  Router router_;
  std::vector<BlockHashes> hashes_;     // of the request that is being routed, by block size
  std::vector<std::size_t> hashes_of_;  // by engine, or of all
  std::optional<Transfers> transfers_;
  Replicas replicas_;
  Autoscaler autoscaler_;
  Picoseconds next_decision_ = kNever;
  std::deque<Request> unrouted_;                       // came while no replica served
  std::vector<std::shared_ptr<KvTier>> shared_tiers_;  // null where each rank has its own
  std::vector<std::unique_ptr<Engine>> engines_;
  EngineHeap heap_;
  std::vector<RankLoad> loads_;  // as counted in averages_
  std::vector<std::int32_t> ready_;
  std::vector<char> is_ready_;
  std::vector<std::int32_t> launching_;  // scratch
  std::vector<char> started_;
  std::vector<Request> finished_;
  std::vector<Engine::Place> computed_, dropped_;
  Averages averages_;
  Picoseconds now_ = 0;
  std::int64_t queried_ = 0, hit_ = 0, steps_ = 0;
  double peak_kv_usage_ = 0;
  Integer128 busy_ = 0;  // of all engines: a day of 100 of them is more than 64 bits hold
  ServeResult result_;
  Intake intake_{workload_, options_, metrics_, result_};
};

}  // namespace

ServeResult serve(Workload& workload, Backend& backend, const ServeOptions& options) {
  const auto any_is = [&](SchedulerPolicy policy) {
    return std::any_of(options.engines.begin(), options.engines.end(),
                       [&](const EngineConfig& engine) { return engine.scheduler.policy == policy; });
  };
  if (any_is(SchedulerPolicy::kLoongserve)) return serve_elastic(workload, backend, options);
  if (any_is(SchedulerPolicy::kInfiniteLlm)) return serve_lending(workload, backend, options);
  return Loop(workload, backend, options).run();
}

}  // namespace foretoken
