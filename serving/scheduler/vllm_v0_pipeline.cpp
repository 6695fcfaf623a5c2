// vLLM V0 in a pipeline: a virtual engine for each stage, with a scheduler and an even share of the KV blocks
// of its own (Scheduler of core/scheduler.py, one for each of pipeline_parallel_size; LLMEngine's
// _add_processed_request). Each has one step in flight at a time.
#include <algorithm>
#include <stdexcept>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

class VirtualEngines final : public Scheduler {
 public:
  explicit VirtualEngines(const SchedulerParts& parts) {
    const int stages = parts.config.pipeline_depth;
    SchedulerConfig config = parts.config;
    const std::int64_t share = config.caches_tokens ? parts.pool.usable() / stages : 0;
    config.pipeline_depth = 1;
    config.num_blocks = share + 1;  // its watermark is a share of this
    for (int i = 0; i < stages; ++i)
      engines_.push_back(
          make_vllm_v0({config, parts.sequences, parts.pool, parts.windows, parts.list_decodes, share}));
    busy_.resize(engines_.size());
  }

  std::optional<std::string> refuses(const Request& request) const override {
    return engines_.front()->refuses(request);
  }
  // The virtual engine with the fewest unfinished requests takes it.
  void enqueue(std::int32_t slot) override {
    const auto unfinished = [](const auto& e) { return e->running() + e->waiting(); };
    const auto least = std::min_element(engines_.begin(), engines_.end(), [&](const auto& a, const auto& b) {
      return unfinished(a) < unfinished(b);
    });
    if (owner_.size() <= static_cast<std::size_t>(slot)) owner_.resize(static_cast<std::size_t>(slot) + 1);
    owner_[static_cast<std::size_t>(slot)] = static_cast<std::size_t>(least - engines_.begin());
    (*least)->enqueue(slot);
  }
  // In turns, whoever has no step in flight and something to compute.
  const Batch& schedule(Picoseconds now) override {
    current_ = nullptr;
    preempted_ = false;
    for (std::size_t tried = 0; tried < engines_.size(); ++tried) {
      const std::size_t i = next_;
      next_ = (next_ + 1) % engines_.size();
      if (busy_[i]) continue;
      const Batch& batch = engines_[i]->schedule(now);
      preempted_ = preempted_ || engines_[i]->preempted();
      if (batch.empty()) continue;
      busy_[i] = true;
      flights_.push_back(i);
      current_ = engines_[i].get();
      return batch;
    }
    return nothing_;
  }
  void completed() override {
    if (flights_.empty()) throw std::logic_error("a step ended that no virtual engine started");
    busy_[flights_.front()] = false;
    flights_.pop_front();
  }
  std::span<const std::int32_t> sampled() const override {
    return current_ == nullptr ? std::span<const std::int32_t>() : current_->sampled();
  }
  bool preempted() const override { return preempted_; }
  // Steps of a pipeline are decided one by one.
  std::int64_t hold() const override { return 1; }
  bool arrival_matters() const override { return true; }
  void advance(std::int64_t steps) override {
    if (steps > 0) throw std::logic_error("a span of steps in a pipeline");
  }
  void finish(std::span<const std::int32_t> slots) override {
    for (std::size_t i = 0; i < engines_.size(); ++i) {
      own_.clear();
      std::copy_if(slots.begin(), slots.end(), std::back_inserter(own_),
                   [&](std::int32_t slot) { return owner_[static_cast<std::size_t>(slot)] == i; });
      engines_[i]->finish(own_);
    }
  }

  std::int64_t running() const override {
    return sum([](const Scheduler& s) { return s.running(); });
  }
  std::int64_t waiting() const override {
    return sum([](const Scheduler& s) { return s.waiting(); });
  }
  std::int64_t kv_used() const override {
    return sum([](const Scheduler& s) { return s.kv_used(); });
  }
  std::int64_t kv_usable() const override {
    return sum([](const Scheduler& s) { return s.kv_usable(); });
  }
  const TokenCounts& counts() const override {
    counts_ = TokenCounts();
    for (const auto& e : engines_) counts_ += e->counts();
    return counts_;
  }

 private:
  template <class Value>
  std::int64_t sum(Value value) const {
    std::int64_t n = 0;
    for (const auto& e : engines_) n += value(*e);
    return n;
  }

  std::vector<std::unique_ptr<Scheduler>> engines_;
  std::vector<std::size_t> owner_;   // by slot
  std::vector<bool> busy_;           // has a step in flight
  std::deque<std::size_t> flights_;  // whose the steps in flight are
  std::size_t next_ = 0;
  const Scheduler* current_ = nullptr;  // whose the step just decided is
  bool preempted_ = false;
  const Batch nothing_;
  std::vector<std::int32_t> own_;  // scratch
  mutable TokenCounts counts_;
};

}  // namespace

std::unique_ptr<Scheduler> make_vllm_v0_pipeline(const SchedulerParts& parts) {
  return std::make_unique<VirtualEngines>(parts);
}

}  // namespace foretoken
