// LMDeploy's PyTorch engine (lmdeploy/pytorch: paging/scheduler.py, engine/engine.py of 0.9): prompts in
// steps of their own, decodes in loops of prefill_interval steps that take their blocks beforehand. The next
// step is decided while one is under way, with those in it out of reach.
#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "serving/scheduler/policies.h"

namespace foretoken {
namespace {

// Waiting requests from which on prompts go first; a share of max_batch_size below which they do too; the
// share that must be within reach for a loop of decodes to follow another without those in it.
constexpr std::size_t kPermittedWaiting = 4;
constexpr std::int64_t kEnoughRunning = 2, kEnoughToFollow = 4;

class LmdeployPytorchScheduler final : public BlockScheduler {
 public:
  explicit LmdeployPytorchScheduler(const SchedulerParts& parts) : BlockScheduler(parts) { grows_ = false; }

  void enqueue(std::int32_t slot) override {
    const auto place = static_cast<std::size_t>(slot);
    if (place >= number_.size()) {
      number_.resize(place + 1);
      locked_.resize(place + 1);
    }
    number_[place] = next_number_++;
    locked_[place] = false;
    BlockScheduler::enqueue(slot);
  }

  std::optional<std::string> refuses(const Request& request) const override {
    const std::int64_t most = end_tokens(request) - 1 + config_.lmdeploy.prefill_interval;
    if (blocks_for(most) <= pool_.usable()) return std::nullopt;
    return fmt::format("request of {} tokens needs {} KV blocks with those of a loop, the engine has {}",
                       end_tokens(request), blocks_for(most), pool_.usable());
  }

 private:
  struct Ended {
    RequestId request;
    std::vector<KvBlockPool::Block> blocks;
    std::int32_t capacity, computed, entered;
    std::int32_t kept;  // tokens that are its own, not of rows in vain
  };

  void decide(Picoseconds now) override {
    if (long_prompt_ >= 0) return go_on_with_prompt();
    if (steps_left_ == 0) begin(now);
    if (steps_left_ == 0) return;
    --steps_left_;
    for (const std::int32_t slot : loop_) take_decode(slot);
    for (Ended& e : ended_) {
      batch_.add_wasted(e.request, ++e.computed);
      ++counts_.scheduled;
      ++counts_.discarded;
    }
  }

  // What follows the step, or loop, that has ended: first as it was seen from within.
  void begin(Picoseconds now) {
    for (Ended& e : ended_) {
      if (caching())
        release_filled(e.blocks, e.kept, e.entered);
      else
        release(e.blocks, e.capacity, e.computed);
    }
    ended_.clear();
    const std::int64_t within_reach =
        std::count_if(running_.begin(), running_.end(), [&](std::int32_t slot) { return !is_locked(slot); });
    const bool decoded = !loop_.empty() || looped_;
    loop_.clear();
    looped_ = false;
    if (within_reach < running()) {
      const bool prompts_first = prompts_go_first(within_reach);
      if (prompts_first && start_prompts(now)) return;
      if (!prompts_first && within_reach > (decoded ? config_.max_num_seqs / kEnoughToFollow : 0) &&
          start_loop())
        return;
    }
    unlock();
    if (prompts_go_first(running()) && start_prompts(now)) return;
    start_loop();
  }

  bool prompts_go_first(std::int64_t running) const {
    if (waiting_.empty()) return false;
    return waiting_.size() >= kPermittedWaiting || running * kEnoughRunning < config_.max_num_seqs;
  }

  // In order of arrival, up to max_prefill_token_num tokens; the first may be longer and then runs alone.
  bool start_prompts(Picoseconds now) {
    std::int64_t tokens = 0;
    const std::size_t before = running_.size();
    while (!waiting_.empty() && has_place()) {
      const std::int32_t slot = waiting_.front();
      Sequence& s = sequences_[slot];
      const std::int64_t n = left(s);
      if (tokens > 0 && tokens + n > config_.max_num_batched_tokens) break;
      waiting_.pop_front();
      holders_ -= s.blocks.empty() ? 0 : 1;
      if (caching()) match(s);
      if (!take_blocks(s, s.num_tokens)) {
        holders_ += s.blocks.empty() ? 0 : 1;
        waiting_.push_front(slot);
        break;
      }
      start(s, now);
      running_.push_back(slot);
      tokens += left(s);
      // Others of the same step find what it will compute.
      if (caching())
        enter_until(s, std::min<std::int64_t>(s.num_tokens / config_.block_size, s.shared_blocks));
    }
    if (running_.size() == before) return false;
    unlock();
    for (std::size_t i = before; i < running_.size(); ++i)
      locked_[static_cast<std::size_t>(running_[i])] = true;
    if (tokens > config_.max_num_batched_tokens) {
      long_prompt_ = running_.back();
      go_on_with_prompt();
    } else {
      for (std::size_t i = before; i < running_.size(); ++i)
        take_prompt(running_[i], left(sequences_[running_[i]]));
    }
    return true;
  }

  void go_on_with_prompt() {
    const std::int32_t slot = long_prompt_;
    const std::int64_t n = std::min(left(sequences_[slot]), config_.max_num_batched_tokens);
    if (n == left(sequences_[slot])) long_prompt_ = -1;
    take_prompt(slot, n);
  }

  // All within reach, each with room for the whole loop. Who finds none waits, with what it has.
  bool start_loop() {
    std::vector<std::int32_t> paused;
    for (const std::int32_t slot : running_) {
      if (is_locked(slot)) continue;
      Sequence& s = sequences_[slot];
      if (take_blocks(s, s.num_tokens + config_.lmdeploy.prefill_interval)) {
        loop_.push_back(slot);
        continue;
      }
      paused.push_back(slot);
      pause(slot);
    }
    std::erase_if(running_, [&](std::int32_t slot) {
      return std::find(paused.begin(), paused.end(), slot) != paused.end();
    });
    if (loop_.empty()) return false;
    unlock();
    for (const std::int32_t slot : loop_) locked_[static_cast<std::size_t>(slot)] = true;
    steps_left_ = config_.lmdeploy.prefill_interval;
    looped_ = true;
    return true;
  }

  // What the prefix cache has of a sequence without blocks, all but its last token.
  void match(Sequence& s) {
    if (!s.blocks.empty()) return;
    const std::int64_t most = (s.num_tokens - 1) / config_.block_size;
    const std::int64_t known = s.preemptions > 0 ? most : std::min<std::int64_t>(most, s.shared_blocks);
    reuse(s, take_cached(s, known) * config_.block_size);
  }

  // Room for so many tokens in all. What is missing comes from those who wait, the last to arrive first.
  bool take_blocks(Sequence& s, std::int64_t tokens) {
    const std::int64_t need = blocks_for(tokens) - static_cast<std::int64_t>(s.blocks.size());
    // Of the prefix cache nothing goes before the first of these has given way.
    bool missing = need > (caching() ? pool_.blank() : free_blocks());
    for (auto w = waiting_.rbegin(); missing && w != waiting_.rend() && (!caching() || holders_ > 0); ++w) {
      if (caching() && sequences_[*w].blocks.empty()) continue;
      drop(sequences_[*w]);
      missing = need > free_blocks();
    }
    if (need > free_blocks()) return false;
    if (need > 0) {
      pool_.allocate(need, s.blocks);
      s.capacity += static_cast<std::int32_t>(need * config_.block_size);
    }
    return true;
  }

  void drop(Sequence& s) {
    holders_ -= s.blocks.empty() ? 0 : 1;
    if (caching()) enter_blocks(s, std::numeric_limits<std::int32_t>::max());
    release(s);
    counts_.discarded += s.computed;
    s.computed = 0;
  }

  void pause(std::int32_t slot) {
    Sequence& s = sequences_[slot];
    s.decoding = false;
    s.state = Sequence::State::kWaiting;
    ++s.preemptions;
    preempted_ = true;
    holders_ += s.blocks.empty() ? 0 : 1;
    const auto later = [&](std::int32_t other) { return number(other) > number(slot); };
    waiting_.insert(std::find_if(waiting_.begin(), waiting_.end(), later), slot);
  }

  void unlock() { std::fill(locked_.begin(), locked_.end(), false); }
  bool is_locked(std::int32_t slot) const { return locked_[static_cast<std::size_t>(slot)]; }
  std::int64_t number(std::int32_t slot) const { return number_[static_cast<std::size_t>(slot)]; }

  // Whose last token is out before its loop has ended stays in it.
  void leave(Sequence& s) override {
    if (steps_left_ == 0) return release(s);
    std::erase_if(loop_, [&](std::int32_t slot) { return &sequences_[slot] == &s; });
    ended_.push_back(
        {s.request.id, std::move(s.blocks), s.capacity, s.computed, s.entered_blocks, s.computed});
    s.entered_blocks = 0;
    s.blocks.clear();
    s.capacity = 0;
  }

  std::int64_t repeats() const override {
    std::int64_t steps = 1 + steps_left_;
    for (const std::int64_t window : batch_.windows())
      for (const Ended& e : ended_)
        if (window > e.computed) steps = std::min(steps, window - e.computed + 1);
    return steps;
  }
  void repeated(std::int64_t steps) override {
    steps_left_ -= steps;
    for (Ended& e : ended_) e.computed += static_cast<std::int32_t>(steps);
    counts_.discarded += steps * static_cast<std::int64_t>(ended_.size());
  }
  bool open() const override { return steps_left_ == 0; }

  std::vector<std::int64_t> number_;  // by slot, in order of arrival
  std::vector<bool> locked_;          // by slot: in the step or loop that runs
  std::int64_t next_number_ = 0;
  std::vector<std::int32_t> loop_;  // who decodes in the loop
  std::vector<Ended> ended_;        // and who has done so
  std::int64_t steps_left_ = 0;     // of the loop, after this one
  std::int64_t holders_ = 0;        // who waits with blocks
  bool looped_ = false;             // the last thing that ran was one
  std::int32_t long_prompt_ = -1;   // computed in parts, one after the other
};

}  // namespace

std::unique_ptr<Scheduler> make_lmdeploy_pytorch(const SchedulerParts& parts) {
  return std::make_unique<LmdeployPytorchScheduler>(parts);
}

}  // namespace foretoken
