// LoongServe's iterations. All groups decode together, step by step, until somebody is dispatched. Then a
// macro iteration begins: each prefill and the decodes that go on run on their own (a lane each) until the
// last prefill ends, prefills that are done decoding meanwhile; then all are together again. At one time
// prefills end first, then decode steps, then requests arrive, then it is decided.
#include "serving/elastic/serve.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "serving/elastic/lane.h"
#include "serving/elastic/pool.h"
#include "serving/elastic/step_lists.h"
#include "serving/intake.h"
#include "serving/run_totals.h"
#include "serving/serve_checks.h"

namespace foretoken {
namespace {

using elastic::Allocation;
using elastic::Group;
using elastic::Item;
using elastic::Lane;
using elastic::Pool;

class Loop {
 public:
  Loop(Workload& workload, Backend& backend, const ServeOptions& options)
      : backend_(backend),
        options_(options),
        config_(options.engines.front().scheduler),
        metrics_(options.slo, options.keep_records),
        pool_(config_, static_cast<std::int32_t>(options.replicas)),
        lanes_(1),
        intake_(workload, options, metrics_, result_) {
    result_.over_time.period = options.sample_period;
    result_.engines.resize(static_cast<std::size_t>(options.replicas));
  }

  ServeResult run() {
    while (!result_.aborted) {
      Picoseconds next = intake_.next();
      for (const Lane& lane : lanes_) next = std::min(next, lane.end);
      if (next == kNever) break;
      if (options_.sample_over_time) sample(next);
      advance(std::max(next, now_));
      commit_ended();
      if (admit_arrived() && !macro_ && lanes_[0].end != kNever) {
        cut(lanes_[0]);
        commit_ended();
      }
      decide();
      intake_.check_in();
    }
    return summarize();
  }

 private:
  std::int64_t running() const { return live_ - pool_.waiting(); }

  void advance(Picoseconds to) {
    running_time_ += static_cast<Integer128>(running()) * (to - now_);
    waiting_time_ += static_cast<Integer128>(pool_.waiting()) * (to - now_);
    now_ = to;
  }

  bool admit_arrived() {
    bool any = false;
    while (const auto arrived = intake_.take(now_)) {
      const Request& request = *arrived;
      if (auto reason = refuses(request)) {
        intake_.refuse(request, *reason, now_);
        continue;
      }
      lists_.added(pool_.add(request, now_), request, now_);
      ++live_;
      any = queue_grew_ = true;
      if (options_.abort_backlog > 0 && pool_.waiting() > options_.abort_backlog * pool_.instances()) {
        result_.aborted = true;
        result_.abort_reason =
            fmt::format("overloaded: {} requests waiting at {} elastic instances after {} requests served",
                        pool_.waiting(), pool_.instances(), intake_.completed());
      }
    }
    return any;
  }

  std::optional<std::string> refuses(const Request& request) const {
    if (request.input_len >= config_.max_model_len)
      return fmt::format("prompt of {} tokens leaves no room for output: max_model_len is {}",
                         request.input_len, config_.max_model_len);
    const std::int64_t most =
        std::min<std::int64_t>(std::int64_t{request.input_len} + request.output_len, config_.max_model_len);
    if (most > pool_.capacity() * pool_.instances())
      return fmt::format("request of {} tokens is longer than what {} instances of {} tokens hold", most,
                         pool_.instances(), pool_.capacity());
    // A paused request is computed again with its output.
    if (most > config_.max_num_batched_tokens)
      return fmt::format("request of {} tokens is longer than batch_max_tokens {}; raise it", most,
                         config_.max_num_batched_tokens);
    return std::nullopt;
  }

  // The span ends with the step that is under way now.
  void cut(Lane& lane) {
    if (lane.event.steps <= 1) return;
    const std::int64_t steps = lane.steps_until(now_);
    if (steps == lane.event.steps) return;
    lane.event.steps = steps;
    lane.end = lane.event.start + lane.length(steps);
    backend_.cut(lane.event.engine, steps);
  }

  void commit_ended() {
    for (bool again = true; again;) {
      again = false;
      for (const bool prefills : {true, false})
        for (Lane& lane : lanes_) {
          if (lane.end > now_ || lane.prefills != prefills) continue;
          commit(lane);
          again = true;
        }
    }
  }

  void commit(Lane& lane) {
    const TimelineWriter::StepEvent e = lane.event;
    lane.end = kNever;
    if (options_.timeline != nullptr) options_.timeline->step(e);
    steps_ += e.steps;
    result_.scheduled_tokens += e.prefill_tokens + e.decode_tokens * e.steps;
    const Picoseconds length = lane.length(e.steps);
    busy_ += static_cast<Integer128>(length) * static_cast<std::int64_t>(lane.instances.size());
    for (const std::int32_t i : lane.instances) {
      EngineTotals& totals = result_.engines[static_cast<std::size_t>(i)];
      totals.steps += e.steps;
      totals.busy_seconds += to_seconds(length).value;
    }
    for (Group& group : lane.groups) {
      if (!lane.prefills) pool_.decoded(group, e.steps);
      give_tokens(lane, group);
    }
    note_usage();
    for (Group& group : lane.groups) {
      const bool ended = finish(group);
      if (!ended && !lane.prefills) continue;
      for (const std::int32_t i : pool_.scale_down(group)) lane.idle.push_back(i);
    }
    std::erase_if(lane.groups, [](const Group& g) { return g.slots.empty(); });
    if (!lane.prefills && !macro_) waited_ += e.steps;
    lane.prefills = false;
    if (!lane.awaited) return;
    lane.awaited = false;
    if (--awaited_ > 0) return;
    for (Lane& other : lanes_)
      if (other.end != kNever && !other.prefills) cut(other);
  }

  void give_tokens(const Lane& lane, const Group& group) {
    const TimelineWriter::StepEvent& e = lane.event;
    const Picoseconds end = e.start + lane.length(e.steps), first_out = e.start + e.first;
    std::int64_t together = 0, apart = 0;
    for (const std::int32_t slot : group.slots) {
      Item& item = pool_[slot];
      item.output += static_cast<std::int32_t>(e.steps);
      if (item.first_token < 0) {
        item.prefill_start = e.start;
        item.first_token = end;
        metrics_.note_first_token(end + options_.egress - item.request.arrival);
      } else if (item.last_token == e.start) {
        ++together;
      } else {
        metrics_.add_gaps(first_out - item.last_token, 0, 1, 1);
        ++apart;
      }
      item.last_token = end;
    }
    if (together > 0) metrics_.add_gaps(e.first, e.increment, e.steps, together);
    if (apart > 0 && e.steps > 1) metrics_.add_gaps(e.first + e.increment, e.increment, e.steps - 1, apart);
  }

  // Those that have their last token leave; whether anybody has.
  bool finish(Group& group) {
    ending_.clear();
    for (const std::int32_t slot : group.slots)
      if (pool_[slot].output >= pool_[slot].most_output) ending_.push_back(slot);
    const std::int32_t engine = group.instances.front();
    for (const std::int32_t slot : ending_) {
      intake_.record(pool_[slot], engine, pool_[slot].pauses);
      const Request request = pool_[slot].request;
      pool_.finish(group, slot);
      pool_.remove(slot);
      lists_.removed(slot);
      backend_.release(request.id);
      --live_;
      ++result_.engines[static_cast<std::size_t>(engine)].requests;
      intake_.finished(request, now_);
    }
    return !ending_.empty();
  }

  void decide() {
    if (macro_) {
      for (bool again = true; again;) {
        again = false;
        for (Lane& lane : lanes_)
          if (lane.end == kNever) again = go_on(lane) || again;
      }
      queue_grew_ = false;
      if (!std::all_of(lanes_.begin(), lanes_.end(), [](const Lane& l) { return l.rests; })) return;
      end_macro();
    }
    Lane& lane = lanes_.front();
    while (lane.end == kNever && !result_.aborted) {
      const bool empty = lane.groups.empty();
      if (empty || waited_ >= config_.loongserve.max_wait_tokens) {
        const std::vector<std::int32_t> started = pool_.dispatch(lane.groups);
        if (!started.empty()) {
          begin_macro(started);
          return;
        }
      }
      if (empty) {
        if (pool_.waiting() == 0) return;
        result_.aborted = true;
        result_.abort_reason =
            fmt::format("idle instances can take none of {} waiting requests", pool_.waiting());
        return;
      }
      const bool planned = pool_.plan_decode(lane.groups, true);
      result_.discarded_tokens += pool_.take_lost();
      if (planned && lane.groups.empty()) continue;
      if (planned) {
        decode(lane, now_);
        return;
      }
      result_.discarded_tokens += pool_.pause(lane.groups);
      waited_ = 0;
    }
  }

  void begin_macro(const std::vector<std::int32_t>& started) {
    note_start(started);
    waited_ = 0;
    macro_ = true;
    Allocation a = pool_.allocate(started, std::move(lanes_.front().groups));
    result_.discarded_tokens += pool_.take_lost();
    preempted_ = std::move(a.preempted);
    macro_start_ = now_ + move(a);
    macro_ms_ = a.prefill_ms;
    awaited_ = static_cast<std::int64_t>(a.prefills.size());
    note_usage();
    lanes_.clear();
    if (!a.decodes.empty()) lanes_.emplace_back().groups = std::move(a.decodes);
    const std::size_t decodes = lanes_.size();
    for (Group& group : a.prefills) {
      lanes_.emplace_back().groups.push_back(std::move(group));
      lanes_.back().awaited = true;
    }
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      if (i < decodes)
        decode(lanes_[i], macro_start_);
      else
        prefill(lanes_[i], macro_start_);
    }
  }

  // Of the caches that make room for the prompts.
  Picoseconds move(const Allocation& a) {
    if (a.moved == 0) return 0;
    tell_paused();
    return backend_.rearrange(lists_.held(a.decodes, preempted_), now_,
                              a.moved * config_.loongserve.move_per_token);
  }

  void tell_paused() {
    for (const RequestId request : pool_.take_paused()) backend_.release(request);
  }

  // In a macro iteration, a lane whose step has ended. True: it took requests from the queue.
  bool go_on(Lane& lane) {
    const bool ended = !lane.rests;
    lane.rests = true;
    if (awaited_ == 0) return false;
    if (!lane.groups.empty()) {
      if (!ended || !pool_.plan_decode(lane.groups, false)) return false;
      result_.discarded_tokens += pool_.take_lost();
      if (lane.groups.empty()) return false;
      decode(lane, now_);
      lane.rests = false;
      return false;
    }
    // Its instances take requests that are done before the iteration is predicted to end.
    if (!ended && !queue_grew_) return false;
    const double left = macro_ms_ - to_ms(now_ - macro_start_);
    std::vector<std::int32_t> idle;
    for (const std::int32_t i : lane.idle)
      if (pool_.used(i) == 0) idle.push_back(i);
    if (left <= 0 || idle.empty() || pool_.waiting() == 0) return false;
    const std::vector<std::int32_t> started = pool_.dispatch_idle(idle.size(), running(), left);
    if (started.empty()) return false;
    note_start(started);
    double unused = 0;
    lane.groups = pool_.batch(started, std::move(idle), unused);
    lane.idle.clear();
    lane.rests = false;
    note_usage();
    prefill(lane, now_);
    return true;
  }

  void note_start(const std::vector<std::int32_t>& started) {
    for (const std::int32_t slot : started)
      if (pool_[slot].scheduled < 0) pool_[slot].scheduled = now_;
  }

  // Preempted decodes go on together with the groups that took their instances.
  void end_macro() {
    macro_ = false;
    std::vector<Group> groups = std::move(preempted_);
    preempted_.clear();
    const bool alone = groups.empty();
    for (Lane& lane : lanes_)
      for (Group& fresh : lane.groups) {
        if (alone) {
          groups.push_back(std::move(fresh));
          continue;
        }
        std::vector<Group> next;
        const std::vector<std::int32_t> own = fresh.instances;
        next.push_back(std::move(fresh));
        for (Group& old : groups) {
          const bool meet = config_.loongserve.use_fixed_sp ||
                            std::any_of(old.instances.begin(), old.instances.end(), [&](std::int32_t i) {
                              return std::find(own.begin(), own.end(), i) != own.end();
                            });
          if (!meet)
            next.push_back(std::move(old));
          else if (config_.loongserve.use_fixed_sp)
            pool_.merge(old, next.front()), next.front() = std::move(old);
          else
            pool_.merge(next.front(), old);
        }
        groups = std::move(next);
      }
    lanes_.resize(1);
    lanes_.front() = {};
    lanes_.front().groups = std::move(groups);
  }

  void prefill(Lane& lane, Picoseconds start) {
    lane.prefills = true;
    batches_.clear();
    lane.instances.clear();
    parts_.clear();
    std::vector<std::size_t> first_part;
    lists_.begin();
    for (std::size_t g = 0; g < lane.groups.size(); ++g) {
      const Group& group = lane.groups[g];
      lists_.add_prompts(group);
      const auto k = static_cast<std::int32_t>(group.instances.size());
      for (std::int32_t r = 0; r < k; ++r) {
        Batch batch;
        batch.group = static_cast<std::int32_t>(g);
        batch.instance = group.instances[static_cast<std::size_t>(r)];
        first_part.push_back(parts_.size());
        for (const std::int32_t slot : group.slots) {
          const std::int32_t prompt = pool_[slot].prompt();
          const std::int32_t tokens = (prompt - r + k - 1) / k;  // each k-th one
          const bool last = (prompt - 1) % k == r;
          if (tokens > 0) parts_.push_back({slot, pool_[slot].request.id, tokens, 0, last, 0});
          batch.sampled_rows += last;
        }
        batches_.push_back(batch);
        lane.instances.push_back(batch.instance);
      }
    }
    first_part.push_back(parts_.size());
    for (std::size_t b = 0; b < batches_.size(); ++b)
      batches_[b].prefill = std::span(parts_).subspan(first_part[b], first_part[b + 1] - first_part[b]);
    lists_.attach(lane.groups, batches_);
    launch(lane, start, 1);
  }

  void decode(Lane& lane, Picoseconds start) {
    batches_.clear();
    lists_.begin();
    lane.instances.clear();
    std::int64_t hold = options_.use_spans ? std::numeric_limits<std::int64_t>::max() : 1;
    if (!macro_ && pool_.waiting() > 0)
      hold = std::min(hold, std::max<std::int64_t>(1, config_.loongserve.max_wait_tokens - waited_));
    for (std::size_t g = 0; g < lane.groups.size(); ++g) {
      const Group& group = lane.groups[g];
      if (hold > 1) hold = std::min(hold, pool_.repeats(group));
      for (const std::int32_t slot : group.slots)
        hold = std::min<std::int64_t>(hold, pool_[slot].most_output - pool_[slot].output);
      lists_.add_decodes(group);
      for (const std::int32_t instance : group.instances) {
        Batch batch;
        batch.group = static_cast<std::int32_t>(g);
        batch.instance = instance;
        std::size_t first = 0;
        for (const Group::Master& m : group.masters) {
          if (m.instance == instance) {
            batch.decode_sequences = m.rows;
            break;
          }
          first += static_cast<std::size_t>(m.rows);
        }
        const auto i = static_cast<std::size_t>(instance);
        const auto rows = static_cast<std::size_t>(batch.decode_sequences);
        for (std::size_t s = 0; s < group.slots.size(); ++s)
          batch.attended += pool_[group.slots[s]].kv[i] > 0 || (rows > 0 && s >= first && s < first + rows);
        batch.contexts[0] = group.used[i] + batch.decode_sequences;
        batch.growing[0] = batch.sampled_rows = batch.decode_sequences;
        batches_.push_back(batch);
        lane.instances.push_back(instance);
      }
    }
    lists_.attach(lane.groups, batches_);
    launch(lane, start, hold);
  }

  void launch(Lane& lane, Picoseconds start, std::int64_t hold) {
    tell_paused();
    TimelineWriter::StepEvent& e = lane.event = {};
    e.engine = *std::min_element(lane.instances.begin(), lane.instances.end());
    e.start = start;
    for (const Batch& batch : batches_) {
      e.decode_tokens += batch.decode_sequences;
      for (const PrefillPart& part : batch.prefill) e.prefill_tokens += part.new_tokens;
    }
    e.running = static_cast<std::int32_t>(running());
    e.waiting = static_cast<std::int32_t>(pool_.waiting());
    e.kv_usage = usage();
    const Step step{e.engine, start, batches_};
    SpanTime span;
    if (hold > 1) span = backend_.run_span(step, hold);
    if (span.steps > hold)
      throw std::logic_error("Backend::run_span answered for more steps than it was asked for");
    if (span.steps > 0) {
      e.steps = span.steps;
      e.first = span.first;
      e.increment = span.increment;
    } else {
      e.first = backend_.run(step).tokens_out;
    }
    e.time = {e.first, e.first};
    if (e.first < 0 || lane.length(e.steps) < 0) throw std::logic_error("a step of negative duration");
    lane.end = start + lane.length(e.steps);
  }

  double usage() const {
    std::int64_t most = 0;
    for (std::int32_t i = 0; i < pool_.instances(); ++i) most = std::max(most, pool_.used(i));
    return static_cast<double>(most) / static_cast<double>(pool_.capacity());
  }

  void note_usage() {
    for (std::int32_t i = 0; i < pool_.instances(); ++i) {
      double& peak = result_.engines[static_cast<std::size_t>(i)].peak_kv_usage;
      peak = std::max(peak, static_cast<double>(pool_.used(i)) / static_cast<double>(pool_.capacity()));
    }
  }

  void sample(Picoseconds next) {
    for (; result_.over_time.next() < next;) {
      OverTime::Sample s{result_.over_time.next(), running(), pool_.waiting()};
      std::vector<std::int64_t> used;
      for (std::int32_t i = 0; i < pool_.instances(); ++i) used.push_back(pool_.used(i));
      // Spans are added up when they end; here the steps of them that are done.
      for (const Lane& lane : lanes_) {
        if (lane.end == kNever || lane.prefills || lane.event.steps <= 1) continue;
        const std::int64_t done = s.time < lane.event.start ? 0 : lane.steps_until(s.time + 1) - 1;
        for (const Group& group : lane.groups)
          for (const Group::Master& m : group.masters)
            used[static_cast<std::size_t>(m.instance)] += done * m.rows;
      }
      for (const std::int64_t tokens : used) {
        const double share = static_cast<double>(tokens) / static_cast<double>(pool_.capacity());
        ++s.replicas;
        s.mean_kv_usage += share / static_cast<double>(used.size());
        s.most_kv_usage = std::max(s.most_kv_usage, share);
      }
      result_.over_time.add(s);
    }
  }

  ServeResult summarize() {
    for (std::int32_t i = 0; i < pool_.instances() && !result_.aborted; ++i)
      if (pool_.used(i) != 0) throw std::logic_error("KV memory is still held after the last request");
    conclude_run(result_, metrics_, options_,
                 {now_, intake_.first_arrival(), steps_, running_time_, waiting_time_, busy_});
    return std::move(result_);
  }

  Backend& backend_;
  const ServeOptions& options_;
  const SchedulerConfig& config_;
  MetricsCollector metrics_;
  Pool pool_;
  elastic::StepLists lists_{pool_, backend_.wants_sequences()};
  std::vector<Lane> lanes_;       // outside a macro iteration the first alone
  std::vector<Group> preempted_;  // in a macro iteration
  bool macro_ = false, queue_grew_ = false;
  Picoseconds macro_start_ = 0;
  double macro_ms_ = 0;       // predicted length of the macro iteration
  std::int64_t awaited_ = 0;  // prefills that it still waits for
  std::int64_t waited_ = 0;   // decode steps since somebody was dispatched
  std::vector<Batch> batches_;
  std::vector<PrefillPart> parts_;
  std::vector<std::int32_t> ending_;
  Picoseconds now_ = 0;
  std::int64_t live_ = 0, steps_ = 0;
  Integer128 running_time_ = 0, waiting_time_ = 0, busy_ = 0;
  ServeResult result_;
  Intake intake_;
};

void require(bool ok, const char* key, const std::string& message) {
  if (!ok) throw Error(key, message);
}

}  // namespace

ServeResult serve_elastic(Workload& workload, Backend& backend, const ServeOptions& options) {
  require(options.engines.size() == 1, "replicas", "LoongServe's elastic instances are all alike");
  const EngineConfig& engine = options.engines.front();
  check(engine, backend);
  require(options.replicas >= 1, "replicas", "must be at least 1");
  require(options.ingress >= 0 && options.egress >= 0, "ingress", "delays must be at least 0");
  require(engine.ranks == 1 && engine.role == EngineRole::kWhole, "behavior",
          "LoongServe's instances serve whole requests, on one rank each");
  require(!options.autoscale.on, "autoscale", "is not modelled for LoongServe's instances; leave it out");
  require(options.router.kind == RouterConfig().kind, "router",
          "LoongServe's instances are one pool with one queue; leave it out");
  require(engine.scheduler.caches_tokens && backend.windows().size() == 1, "model",
          "LoongServe is modelled for models whose layers all attend to everything");
  const LoongserveConfig& l = engine.scheduler.loongserve;
  require(l.prefill_model.size() >= static_cast<std::size_t>(options.replicas), "behavior",
          "loongserve decides by predicted prefill times, which are missing");
  require(l.max_wait_tokens >= 0, "max_wait_tokens", "must be at least 0");
  require(l.min_comp_bound_decoding_batch_size >= 1, "min_comp_bound_decoding_batch_size",
          "must be at least 1");
  require(l.max_num_ooe >= 0, "max_num_ooe", "must be at least 0");
  require(l.max_prefill_time > 0 && l.avg_decoding_time > 0, "max_prefill_time", "must be above 0");
  require(l.move_per_token >= 0, "move_per_token", "must be at least 0");
  return Loop(workload, backend, options).run();
}

}  // namespace foretoken
