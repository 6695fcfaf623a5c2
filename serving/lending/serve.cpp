// Instances that lend: at one time steps end, in order of instances; then requests arrive; then the gManager
// plans; then every idle instance decides. What an instance attends to for others while it computes is paid
// by its next step; while it is idle it costs nobody anything.
#include "serving/lending/serve.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "base/error.h"
#include "serving/engine.h"
#include "serving/intake.h"
#include "serving/lending/instances.h"
#include "serving/run_totals.h"
#include "serving/sequence.h"
#include "serving/serve_checks.h"

namespace foretoken {
namespace {

using lending::Decision;
using lending::Instances;
using lending::Item;

class Loop : private ReplicaView {
 public:
  Loop(Workload& workload, Backend& backend, const ServeOptions& options)
      : workload_(workload),
        backend_(backend),
        options_(options),
        config_(options.engines.front().scheduler),
        metrics_(options.slo, options.keep_records),
        instances_(config_, options.replicas),
        router_(options.router, static_cast<std::size_t>(options.replicas)),
        under_way_(static_cast<std::size_t>(options.replicas)) {
    result_.over_time.period = options.sample_period;
    result_.engines.resize(under_way_.size());
  }

  ServeResult run() {
    Picoseconds heartbeat = config_.lending.heartbeat;
    while (!result_.aborted) {
      Picoseconds next = intake_.next();
      for (const UnderWay& u : under_way_) next = std::min(next, u.end);
      if (next == kNever) break;
      if (live_ > 0) next = std::min(next, heartbeat);
      if (options_.sample_over_time) sample(next);
      advance(std::max(next, now_));
      for (std::int32_t i = 0; i < instances_.count(); ++i)
        if (at(i).end <= now_) commit(i);
      admit_arrived();
      if (now_ >= heartbeat) {
        if (config_.lending.lend_limit > 0 && live_ > 0) instances_.plan();
        heartbeat = (now_ / config_.lending.heartbeat + 1) * config_.lending.heartbeat;
      }
      launch_idle();
      intake_.check_in();
    }
    return summarize();
  }

 private:
  struct UnderWay {
    Picoseconds end = kNever;
    Decision decision;
    TimelineWriter::StepEvent event;
    std::vector<LentContext> served;  // for others, since its last step began
  };
  UnderWay& at(std::int32_t i) { return under_way_[static_cast<std::size_t>(i)]; }

  ReplicaState state(std::int32_t i, const Request&) override {
    return {instances_.waiting(i), usage(i), 0, 0, 0};
  }
  double usage(std::int32_t i) const {
    return static_cast<double>(instances_.used(i)) / static_cast<double>(instances_.usable());
  }
  std::int64_t waiting() const {
    std::int64_t n = 0;
    for (std::int32_t i = 0; i < instances_.count(); ++i) n += instances_.waiting(i);
    return n;
  }

  void advance(Picoseconds to) {
    const std::int64_t waits = waiting();
    running_time_ += static_cast<Integer128>(live_ - waits) * (to - now_);
    waiting_time_ += static_cast<Integer128>(waits) * (to - now_);
    now_ = to;
  }

  void admit_arrived() {
    while (const auto arrived = intake_.take(now_)) {
      const Request& request = *arrived;
      if (auto reason = instances_.refuses(request)) {
        intake_.refuse(request, *reason, now_);
        continue;
      }
      const std::int32_t i = router_.pick(request, workload_.content(request), *this);
      router_.sent(i, request);
      note_added(instances_.enqueue(i, request, now_), request);
      ++live_;
      if (options_.abort_backlog > 0 && waiting() > options_.abort_backlog * instances_.count()) {
        result_.aborted = true;
        result_.abort_reason =
            fmt::format("overloaded: {} requests waiting at {} instances after {} requests served", waiting(),
                        instances_.count(), intake_.completed());
      }
    }
  }

  // The same slots for a backend that looks at sequences.
  void note_added(std::int32_t slot, const Request& request) {
    if (!lists_) return;
    if (table_.add(request, now_) != slot)
      throw std::logic_error("slots of instances that lend are not their table's");
    table_[slot].end_tokens = request.input_len + instances_[slot].most_output;
  }

  // Whose tokens the step computes, and where their caches lie meanwhile: what others hold is the oldest.
  void list_sequences(std::int32_t i, const Decision& d, Batch& batch) {
    decodes_.clear(), held_.clear(), leaving_.clear();
    const std::int64_t block = config_.block_size;
    for (const std::int32_t slot : d.slots) {
      const Item& item = instances_[slot];
      const RequestId id = item.request.id;
      std::int64_t here = item.tokens();
      if (!d.prefills) decodes_.push_back({slot, id, static_cast<std::int32_t>(here)});
      for (std::int32_t c = 0; c < instances_.count(); ++c) {
        if (c == i) continue;
        std::int64_t blocks = item.blocks[static_cast<std::size_t>(c)];
        for (const lending::Order& o : d.leaving)
          if (o.slot == slot && o.creditor == c) {
            blocks -= o.blocks;
            leaving_.push_back({slot, id, c, o.blocks * block});
          }
        if (blocks > 0) held_.push_back({slot, id, c, blocks * block});
        here -= blocks * block;
      }
      held_.push_back({slot, id, i, here});
    }
    batch.decode = decodes_, batch.held = held_, batch.leaving = leaving_;
    batch.sequences = &table_;
  }

  void launch_idle() {
    std::vector<std::pair<std::int32_t, LentContext>> attended;
    for (std::int32_t i = 0; i < instances_.count(); ++i) {
      if (at(i).end != kNever) continue;
      if (launch(i))
        for (const LentContext& c : at(i).decision.borrowed) attended.push_back({i, c});
      at(i).served.clear();
    }
    for (const auto& [debtor, c] : attended)
      if (at(c.instance).end != kNever) at(c.instance).served.push_back({debtor, c.sequences, c.tokens});
    if (std::any_of(under_way_.begin(), under_way_.end(), [](const auto& u) { return u.end != kNever; }))
      return;
    if (live_ == 0 || intake_.next() != kNever) return;
    result_.aborted = true;
    result_.abort_reason = fmt::format("idle instances can take none of {} waiting requests", waiting());
  }

  bool launch(std::int32_t i) {
    UnderWay& u = at(i);
    const bool decided = instances_.decide(i, u.decision);
    const Decision& d = u.decision;
    result_.discarded_tokens += d.discarded;
    for (const RequestId request : d.preempted) backend_.release(request);
    note_usage();
    if (!decided) return false;
    Batch batch;
    parts_.clear();
    batch.instance = i;
    batch.borrowed = d.borrowed;
    batch.served = u.served;
    batch.moved = d.moved;
    batch.sampled_rows = static_cast<std::int32_t>(d.slots.size());
    TimelineWriter::StepEvent& e = u.event = {};
    e.engine = i;
    e.start = now_;
    if (d.prefills) {
      for (const std::int32_t slot : d.slots) {
        Item& item = instances_[slot];
        if (item.scheduled < 0) item.scheduled = now_;
        const auto tokens = static_cast<std::int32_t>(item.tokens());
        parts_.push_back({slot, item.request.id, tokens, 0, true, 0});
        e.prefill_tokens += tokens;
      }
      batch.prefill = parts_;
    } else {
      batch.decode_sequences = batch.growing[0] = batch.attended = batch.sampled_rows;
      batch.contexts[0] = d.context;
      e.decode_tokens = batch.decode_sequences;
    }
    e.running = static_cast<std::int32_t>(instances_.running(i));
    e.waiting = static_cast<std::int32_t>(instances_.waiting(i));
    e.kv_usage = usage(i);
    if (lists_) list_sequences(i, d, batch);
    e.first = backend_.run({i, now_, {&batch, 1}}).tokens_out;
    if (e.first < 0) throw std::logic_error("a step of negative duration");
    e.time = {e.first, e.first};
    u.end = now_ + e.first;
    return true;
  }

  void commit(std::int32_t i) {
    UnderWay& u = at(i);
    const TimelineWriter::StepEvent& e = u.event;
    const Picoseconds end = std::exchange(u.end, kNever);
    if (options_.timeline != nullptr) options_.timeline->step(e);
    ++steps_;
    result_.scheduled_tokens += e.prefill_tokens + e.decode_tokens;
    EngineTotals& totals = result_.engines[static_cast<std::size_t>(i)];
    ++totals.steps;
    totals.busy_seconds += to_seconds(e.first).value;
    busy_ += e.first;
    instances_.end_moves(i);
    std::int64_t together = 0;
    for (const std::int32_t slot : u.decision.slots) {
      Item& item = instances_[slot];
      ++item.output;
      if (item.first_token < 0) {
        item.prefill_start = e.start;
        item.first_token = end;
        metrics_.note_first_token(end + options_.egress - item.request.arrival);
      } else if (item.last_token == e.start) {
        ++together;
      } else {
        metrics_.add_gaps(end - item.last_token, 0, 1, 1);
      }
      item.last_token = end;
    }
    if (together > 0) metrics_.add_gaps(e.first, 0, 1, together);
    for (const std::int32_t slot : u.decision.slots) {
      const Item& item = instances_[slot];
      if (item.output < item.most_output) continue;
      intake_.record(item, i, item.preemptions);
      const Request request = item.request;
      instances_.finish(i, slot);
      if (lists_) table_.remove(slot);
      backend_.release(request.id);
      router_.left(i, request);
      --live_;
      ++totals.requests;
      intake_.finished(request, now_);
    }
  }

  void note_usage() {
    for (std::int32_t i = 0; i < instances_.count(); ++i) {
      double& peak = result_.engines[static_cast<std::size_t>(i)].peak_kv_usage;
      peak = std::max(peak, usage(i));
    }
  }

  void sample(Picoseconds next) {
    for (; result_.over_time.next() < next;) {
      const std::int64_t waits = waiting();
      OverTime::Sample s{result_.over_time.next(), live_ - waits, waits};
      s.replicas = instances_.count();
      for (std::int32_t i = 0; i < instances_.count(); ++i) {
        s.mean_kv_usage += usage(i) / static_cast<double>(s.replicas);
        s.most_kv_usage = std::max(s.most_kv_usage, usage(i));
      }
      result_.over_time.add(s);
    }
  }

  ServeResult summarize() {
    for (std::int32_t i = 0; i < instances_.count() && !result_.aborted; ++i)
      if (instances_.used(i) != 0 || instances_.lent(i) != 0 || instances_.borrowed(i) != 0)
        throw std::logic_error("KV memory is still held after the last request");
    result_.lending = instances_.counts();
    conclude_run(result_, metrics_, options_,
                 {now_, intake_.first_arrival(), steps_, running_time_, waiting_time_, busy_});
    return std::move(result_);
  }

  Workload& workload_;
  Backend& backend_;
  const ServeOptions& options_;
  const SchedulerConfig& config_;
  MetricsCollector metrics_;
  Instances instances_;
  Router router_;
  std::vector<UnderWay> under_way_;
  std::vector<PrefillPart> parts_;
  // Of the step at hand, for a backend that looks at sequences.
  const bool lists_ = backend_.wants_sequences();
  SequenceTable table_;
  std::vector<DecodePart> decodes_;
  std::vector<CachedPart> held_, leaving_;
  Picoseconds now_ = 0;
  std::int64_t live_ = 0, steps_ = 0;
  Integer128 running_time_ = 0, waiting_time_ = 0, busy_ = 0;
  ServeResult result_;
  Intake intake_{workload_, options_, metrics_, result_};
};

void require(bool ok, const char* key, const std::string& message) {
  if (!ok) throw Error(key, message);
}

}  // namespace

ServeResult serve_lending(Workload& workload, Backend& backend, const ServeOptions& options) {
  require(options.engines.size() == 1, "replicas", "Infinite-LLM's instances are all alike");
  const EngineConfig& engine = options.engines.front();
  check(engine, backend);
  require(options.replicas >= 1, "replicas", "must be at least 1");
  require(options.ingress >= 0 && options.egress >= 0, "ingress", "delays must be at least 0");
  require(engine.ranks == 1 && engine.role == EngineRole::kWhole, "behavior",
          "Infinite-LLM's instances serve whole requests, on one rank each");
  require(!options.autoscale.on, "autoscale", "is not modelled for instances that lend; leave it out");
  require(options.router.kind < RouterKind::kPrecisePrefix, "router",
          "instances that lend have no prefix cache; use a router that looks at loads, such as "
          "least_outstanding");
  require(engine.scheduler.caches_tokens && backend.windows().size() == 1, "model",
          "Infinite-LLM is modelled for models whose layers all attend to everything");
  require(engine.scheduler.max_num_batched_tokens >= engine.scheduler.max_model_len, "max_num_batched_tokens",
          "is below max_model_len, and prompts are not split; raise it");
  const LendingConfig& l = engine.scheduler.lending;
  require(l.lend_limit == 0 || !l.step_ms.empty(), "behavior",
          "infinite-llm decides by predicted steps, which are missing");
  require(l.heartbeat > 0, "heartbeat_ms", "must be above 0");
  require(l.debtor_batch >= 0, "debtor_batch_size", "must be at least 0");
  require(l.creditor_usage >= 0 && l.creditor_usage <= 1, "creditor_usage", "must be from 0 to 1");
  require(l.lend_limit >= 0 && l.lend_limit <= 1, "lend_limit", "must be from 0 to 1");
  require(l.move_tokens >= 1, "move_tokens", "must be at least 1");
  return Loop(workload, backend, options).run();
}

}  // namespace foretoken
