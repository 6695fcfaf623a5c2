// llama.cpp's server (update_slots; docs/policies.md): a slot for each request that runs, and batches that
// are filled with generating slots first, then prompts slot by slot. A batch of up to n_batch tokens is
// computed in pieces of n_ubatch, which are the steps here. A slot keeps its tokens when its request has
// ended, for the next one whose prompt begins with them. Slots have a context each, or share one cache. What
// a slot is about to lose may be kept in host memory (server-task.cpp, server_prompt_cache).
#include <algorithm>
#include <iterator>
#include <numeric>

#include "serving/scheduler/policies.h"
#include "serving/scheduler/radix_cache.h"

namespace foretoken {
namespace {

std::int64_t common_prefix(std::span<const TokenRun> a, std::span<const TokenRun> b) {
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()) && a[i].content == b[i].content; ++i) {
    tokens += std::min(a[i].tokens, b[i].tokens);
    if (a[i].tokens != b[i].tokens) break;
  }
  return tokens;
}

// Tokens in which two keys agree, each from a token of its own on.
std::int64_t common_from(std::span<const TokenRun> a, std::int64_t at_a, std::span<const TokenRun> b,
                         std::int64_t at_b) {
  const auto skip = [](std::span<const TokenRun>& key, std::int64_t& at) {
    for (; !key.empty() && at >= key.front().tokens; key = key.subspan(1)) at -= key.front().tokens;
  };
  std::int64_t same = 0;
  for (skip(a, at_a), skip(b, at_b); !a.empty() && !b.empty(); skip(a, at_a), skip(b, at_b)) {
    const TokenRun &x = a.front(), &y = b.front();
    if (x.content != y.content || x.offset + at_a != y.offset + at_b) break;
    const std::int64_t n = std::min(x.tokens - at_a, y.tokens - at_b);
    same += n, at_a += n, at_b += n;
  }
  return same;
}

// Where in the key the first token of these comes, from `at` on; the key's length if nowhere.
std::int64_t next_place(std::span<const TokenRun> key, std::int64_t at, std::span<const TokenRun> of,
                        std::int64_t token) {
  while (token >= of.front().tokens) token -= of.front().tokens, of = of.subspan(1);
  token += of.front().offset;
  std::int64_t begin = 0;
  for (const TokenRun& run : key) {
    const std::int64_t place = begin + token - run.offset;
    if (run.content == of.front().content && token >= run.offset && token < run.offset + run.tokens &&
        place >= at)
      return place;
    begin += run.tokens;
  }
  return begin;
}

class LlamaCppScheduler final : public BlockScheduler {
 public:
  // caches: cache_prompt. The scheduler below has no part in it.
  LlamaCppScheduler(const SchedulerParts& parts, const Workload& workload, bool caches)
      : BlockScheduler(parts),
        own_(config_.llama_cpp),
        workload_(workload),
        caches_(caches && config_.caches_tokens),
        slots_(static_cast<std::size_t>(config_.max_num_seqs)) {}

  std::span<const std::int32_t> failed() const override { return failed_; }
  // In the slot that the request would get now, or in any while all are taken.
  std::int64_t cached_tokens(const Request& request, BlockHashes&) const override {
    if (!caches_) return 0;
    token_key(request, workload_.content(request), request.input_len, key_);
    std::int64_t most = 0;
    if (const auto choice = choose(request.input_len)) {
      const Slot& slot = slots_[choice->slot];
      const auto better =
          is_lost(*choice, request.input_len) ? find_saved(slot, request.input_len) : saved_.end();
      most = reusable(better != saved_.end() ? better->tokens : slot.tokens);
    } else {
      for (const Slot& s : slots_) most = std::max(most, reusable(s.tokens));
    }
    return std::min<std::int64_t>(most, request.input_len - 1);
  }
  std::int64_t kv_used() const override {
    if (!config_.caches_tokens) return 0;
    return own_.kv_unified ? pool_.used() - idle_cells_ : running() * blocks_for(config_.max_model_len);
  }

 private:
  struct Slot {
    std::int32_t sequence = -1;    // that runs in it; -1: it is idle
    std::vector<TokenRun> tokens;  // that it holds, while it is idle
    std::int64_t num_tokens = 0;
    std::vector<KvBlockPool::Block> cells;  // of the common cache, likewise
    std::int64_t last_used = -1;
  };
  struct Choice {
    std::size_t slot = 0;
    bool is_similar = false;  // else it was the oldest
    std::int64_t common = 0;
  };
  struct Saved {  // in host memory
    std::vector<TokenRun> tokens;
    std::int64_t num_tokens = 0;
    std::vector<HostBlockPool::Block> blocks;
  };
  struct Part {
    std::int32_t sequence;
    std::int64_t tokens;
  };

  void decide(Picoseconds now) override {
    failed_.clear();
    host_.release(given_up_);
    given_up_.clear();
    is_whole_ = false;
    if (next_ == view_.size()) {
      // Devices go on with the next batch before this one is out, unless it samples.
      if (any_in_flight() && view_samples_) return;
      view_.clear();
      next_ = 0;
      note_released();
      is_whole_ = rest_.empty();
      if (rest_.empty()) fill_batch(now);
      form_view(now);
      is_whole_ = is_whole_ && rest_.empty();
    }
    std::int64_t room = own_.n_ubatch;
    while (room > 0 && next_ < view_.size()) {
      Part& part = view_[next_];
      const std::int64_t n = std::min(part.tokens, room);
      if (sequences_[part.sequence].decoding)
        take_decode(part.sequence);
      else
        take_prompt(part.sequence, n);
      part.tokens -= n;
      room -= n;
      if (part.tokens == 0) ++next_;
    }
  }

  // Slots of what the last step ended are free in the order in which the server looks at them.
  void note_released() {
    std::sort(released_.begin(), released_.end());
    for (const std::size_t slot : released_) slots_[slot].last_used = clock_++;
    released_.clear();
  }

  void fill_batch(Picoseconds now) {
    while (!waiting_.empty()) {
      const Sequence& s = sequences_[waiting_.front()];
      token_key(s.request, workload_.content(s.request), s.num_tokens, key_);
      const auto choice = choose(s.num_tokens);
      if (!choice) break;
      Slot& slot = slots_[choice->slot];
      if (is_lost(*choice, s.num_tokens)) {
        save(slot);
        load(slot, s.num_tokens);
        drop_oldest();
      }
      start(slot, now);
    }
    std::int64_t room = config_.max_num_batched_tokens;
    for (const Slot& slot : slots_) {
      if (slot.sequence < 0 || !sequences_[slot.sequence].decoding) continue;
      rest_.push_back({slot.sequence, 1});
      --room;
    }
    for (const Slot& slot : slots_) {
      if (slot.sequence < 0 || sequences_[slot.sequence].decoding) continue;
      if (room <= 0) break;
      Sequence& s = sequences_[slot.sequence];
      if (own_.kv_unified) keep_first(s);
      rest_.push_back({slot.sequence, std::min(left(s), room)});
      room -= rest_.back().tokens;
    }
  }

  // What is computed by one llama_decode(): all of the rest, or, where the common cache has no room for it,
  // what half of the limit takes, when no idle slot is left to be cleared. What is sampled is out when all of
  // it is computed, so it comes last.
  void form_view(Picoseconds now) {
    std::int64_t limit = config_.max_num_batched_tokens;
    while (own_.kv_unified && config_.caches_tokens && !rest_.empty()) {
      std::int64_t tokens = 0;
      for (const Part& p : rest_) tokens += p.tokens;
      if (std::min(tokens, limit) <= free_blocks()) break;
      if (limit > 1) {
        if (!clear_idle_slot()) limit /= 2;
        continue;
      }
      if (any_in_flight()) return;
      fail_all();
      fill_batch(now);
      limit = config_.max_num_batched_tokens;
    }
    view_samples_ = false;
    std::size_t taken = 0;
    for (; taken < rest_.size() && limit > 0; ++taken) {
      Part& part = rest_[taken];
      const std::int64_t n = std::min(part.tokens, limit);
      if (!grow(sequences_[part.sequence], n)) throw std::logic_error("llama.cpp's cache has no room");
      view_.push_back({part.sequence, n});
      limit -= n;
      part.tokens -= n;
      if (part.tokens > 0) break;
    }
    rest_.erase(rest_.begin(), rest_.begin() + static_cast<std::ptrdiff_t>(taken));
    const auto decodes = std::stable_partition(
        view_.begin(), view_.end(), [&](const Part& p) { return !sequences_[p.sequence].decoding; });
    const auto ends = std::stable_partition(
        view_.begin(), decodes, [&](const Part& p) { return p.tokens < left(sequences_[p.sequence]); });
    view_samples_ = ends != view_.end();
  }

  // By what it holds, else the one that has been idle for longest; key_ are the prompt's tokens.
  std::optional<Choice> choose(std::int64_t prompt) const {
    std::optional<Choice> chosen;
    float best = 0;
    std::int64_t most = 0;
    for (std::size_t i = 0; i < slots_.size() && own_.slot_prompt_similarity > 0; ++i) {
      const Slot& slot = slots_[i];
      if (slot.sequence >= 0 || slot.num_tokens == 0) continue;
      const std::int64_t common = common_prefix(key_, slot.tokens);
      const float share =
          static_cast<float>(common) / static_cast<float>(own_.similarity_of_slot ? slot.num_tokens : prompt);
      if (share <= own_.slot_prompt_similarity || (own_.similarity_of_slot ? common <= most : share <= best))
        continue;
      best = share;
      most = common;
      chosen = {i, true, common};
    }
    for (std::size_t i = 0; i < slots_.size() && most == 0; ++i) {
      if (slots_[i].sequence >= 0) continue;
      const bool older = !chosen || slots_[i].last_used < slots_[chosen->slot].last_used;
      if (older || (own_.last_unused_first && slots_[i].last_used == slots_[chosen->slot].last_used))
        chosen = {i, false, 0};
    }
    return chosen;
  }

  // Of what a slot holds, that a prompt need not compute: its beginning, and chunks that come again behind
  // it, which are listed where somebody wants them.
  std::int64_t reusable(std::span<const TokenRun> tokens, std::vector<KvShift>* chunks = nullptr) const {
    std::int64_t reused = common_prefix(key_, tokens);
    if (own_.n_cache_reuse == 0) return reused;
    std::int64_t held = 0, prompt = 0;
    for (const TokenRun& run : tokens) held += run.tokens;
    for (const TokenRun& run : key_) prompt += run.tokens;
    for (std::int64_t at = reused; at < held && reused < prompt;) {
      const std::int64_t same = common_from(tokens, at, key_, reused);
      if (same >= own_.n_cache_reuse) {
        const auto place = [](std::int64_t n) { return static_cast<std::int32_t>(n); };
        if (chunks != nullptr)
          chunks->push_back({-1, place(at), place(reused), place(same), place(at - reused)});
        at += same;
        reused += same;
      } else {
        at = next_place(tokens, at + 1, key_, reused);
      }
    }
    return reused;
  }

  // The slot is about to lose most of what it holds.
  bool is_lost(const Choice& choice, std::int64_t prompt) const {
    const std::int64_t held = slots_[choice.slot].num_tokens;
    if (own_.prompt_cache_blocks == 0 || held == 0) return false;
    const float share = static_cast<float>(choice.common) / static_cast<float>(prompt);
    return !choice.is_similar || share * static_cast<float>(prompt) / static_cast<float>(held) < 0.5F;
  }

  // Unless that is kept already; what it begins with need not be kept any more.
  void save(const Slot& slot) {
    for (const Saved& s : saved_)
      if (common_prefix(s.tokens, slot.tokens) == slot.num_tokens) return;
    for (std::size_t i = 0; i < saved_.size();)
      if (common_prefix(saved_[i].tokens, slot.tokens) == saved_[i].num_tokens)
        forget(i);
      else
        ++i;
    Saved& saved = saved_.emplace_back(Saved{slot.tokens, slot.num_tokens, {}});
    host_.allocate(blocks_for(slot.num_tokens), saved.blocks);
    name_blocks(slot, saved.blocks.size());
    std::transform(device_.begin(), device_.end(), saved.blocks.begin(),
                   std::back_inserter(batch_.swap_out()), [](auto from, auto to) {
                     return BlockCopy{from, to};
                   });
    counts_.swapped_out += std::ssize(saved.blocks);
  }
  void give_up(const Saved& saved) {
    given_up_.insert(given_up_.end(), saved.blocks.begin(), saved.blocks.end());
  }
  void forget(std::size_t i) {
    give_up(saved_[i]);
    saved_.erase(saved_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  // The slot's first `count` blocks, to device_.
  void name_blocks(const Slot& slot, std::size_t count) {
    device_.resize(count);
    if (own_.kv_unified)
      std::copy_n(slot.cells.begin(), count, device_.begin());
    else
      std::iota(
          device_.begin(), device_.end(),
          static_cast<KvBlockPool::Block>(1 + (&slot - slots_.data()) * blocks_for(config_.max_model_len)));
  }

  // Prompts in host memory of which key_ has more, both of it and of them, than of what the slot holds.
  std::deque<Saved>::const_iterator find_saved(const Slot& slot, std::int64_t prompt) const {
    const auto base = static_cast<float>(common_prefix(key_, slot.tokens));
    float keep = base / static_cast<float>(slot.num_tokens), similar = base / static_cast<float>(prompt);
    auto best = saved_.end();
    for (auto s = saved_.begin(); s != saved_.end(); ++s) {
      const auto common = static_cast<float>(common_prefix(key_, s->tokens));
      const float keeps = common / static_cast<float>(s->num_tokens),
                  is = common / static_cast<float>(prompt);
      if (keeps < 0.25F || keeps <= keep || is <= similar) continue;
      keep = keeps;
      similar = is;
      best = s;
    }
    return best;
  }

  // The slot gets it, or nothing where the common cache has no room for it.
  void load(Slot& slot, std::int64_t prompt) {
    const auto found = find_saved(slot, prompt);
    if (found == saved_.end()) return;
    if (own_.kv_unified) {
      empty(slot);
      const std::int64_t cells = std::ssize(found->blocks);
      if (cells > free_blocks()) return;
      pool_.allocate(cells, slot.cells);
      idle_cells_ += cells;
    }
    slot.tokens = found->tokens;
    slot.num_tokens = found->num_tokens;
    name_blocks(slot, found->blocks.size());
    std::transform(found->blocks.begin(), found->blocks.end(), device_.begin(),
                   std::back_inserter(batch_.swap_in()), [](auto from, auto to) {
                     return BlockCopy{from, to};
                   });
    counts_.swapped_in += std::ssize(found->blocks);
    give_up(*found);
    saved_.erase(found);
  }

  void drop_oldest() {
    const auto kept = [this] { return host_.used() - std::ssize(given_up_); };
    while (saved_.size() > 1 && kept() > own_.prompt_cache_blocks) forget(0);
  }

  void empty(Slot& slot) {
    pool_.release(slot.cells, 0);
    idle_cells_ -= std::ssize(slot.cells);
    slot.cells.clear();
    slot.tokens.clear();
    slot.num_tokens = 0;
  }

  // The head of the queue, whose tokens key_ are.
  void start(Slot& slot, Picoseconds now) {
    slot.sequence = waiting_.front();
    Sequence& s = sequences_[slot.sequence];
    waiting_.pop_front();
    running_.push_back(slot.sequence);
    s.state = Sequence::State::kRunning;
    s.scheduled = now;
    // The last token of a prompt is computed in any case.
    chunks_.clear();
    const std::int64_t reused =
        caches_ ? std::min<std::int64_t>(reusable(slot.tokens, &chunks_), s.num_tokens - 1) : 0;
    s.cached_tokens = s.computed = static_cast<std::int32_t>(reused);
    counts_.reused += reused;
    if (caches_) {
      counts_.queried += s.num_tokens;
      counts_.hit += reused;
    }
    slot.tokens.clear();
    slot.num_tokens = 0;
    if (!config_.caches_tokens) return;
    if (own_.kv_unified) {
      idle_cells_ -= std::ssize(slot.cells);
      s.blocks.swap(slot.cells);
      slot.cells.clear();
    } else {
      name_blocks(slot, static_cast<std::size_t>(blocks_for(config_.max_model_len)));
      s.blocks.insert(s.blocks.end(), device_.begin(), device_.end());
    }
    s.capacity = static_cast<std::int32_t>(std::ssize(s.blocks) * config_.block_size);
    shift(s, slot.sequence);
  }

  // Chunks go to their place. The cells of a common cache go along, those of what lay before them come
  // behind.
  void shift(Sequence& s, std::int32_t sequence) {
    for (KvShift chunk : chunks_) {
      chunk.slot = sequence;
      chunk.tokens = std::min(chunk.tokens, s.computed - chunk.to);
      if (chunk.tokens <= 0) break;
      if (own_.kv_unified) {
        const auto cells = s.blocks.begin();
        std::rotate(cells + chunk.to, cells + chunk.from, cells + chunk.from + chunk.tokens);
        chunk.from = chunk.to;
      }
      batch_.shifts().push_back(chunk);
    }
  }

  // What else the slot held goes when its prompt is looked at for the first time.
  void keep_first(Sequence& s) {
    if (s.capacity <= s.computed || !config_.caches_tokens) return;
    const auto keep = static_cast<std::size_t>(s.computed);
    pool_.release(std::span<const KvBlockPool::Block>(s.blocks).subspan(keep), 0);
    s.blocks.resize(keep);
    s.capacity = s.computed;
  }

  bool clear_idle_slot() {
    for (Slot& slot : slots_) {
      if (slot.cells.empty()) continue;
      empty(slot);
      return true;
    }
    return false;
  }

  // "Context size has been exceeded": every request that runs gets an error, and every slot is empty.
  void fail_all() {
    for (Slot& slot : slots_) {
      if (slot.sequence < 0) continue;
      Sequence& s = sequences_[slot.sequence];
      failed_.push_back(slot.sequence);
      counts_.discarded += s.computed;
      pool_.release(s.blocks, 0);
      s.blocks.clear();
      s.capacity = 0;
      slot.sequence = -1;
      slot.last_used = clock_++;
    }
    running_.clear();
    rest_.clear();
    batch_.swap_in().clear();  // theirs, whose cells others may get
    batch_.shifts().clear();
  }

  void leave(Sequence& s) override {
    const auto of = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) {
      return slot.sequence >= 0 && &sequences_[slot.sequence] == &s;
    });
    Slot& slot = *of;
    slot.sequence = -1;
    released_.push_back(static_cast<std::size_t>(of - slots_.begin()));
    // Older servers kept the tokens in mind for cache_prompt alone.
    if (caches_ || (!own_.similarity_of_slot && config_.caches_tokens)) {
      token_key(s.request, workload_.content(s.request), s.computed, slot.tokens);
      slot.num_tokens = s.computed;
    }
    if (own_.kv_unified) {
      slot.cells.swap(s.blocks);
      idle_cells_ += std::ssize(slot.cells);
    } else if (config_.caches_tokens) {
      counts_.reserved += s.capacity;
      counts_.filled += s.computed;
    }
    s.blocks.clear();
    s.capacity = 0;
  }

  std::int64_t repeats() const override { return is_whole_ && next_ == view_.size() ? kForever : 1; }

  const LlamaCppConfig own_;
  const Workload& workload_;
  const bool caches_;
  std::vector<Slot> slots_;
  std::vector<std::size_t> released_;  // since the last batch
  std::int64_t clock_ = 0, idle_cells_ = 0;
  std::deque<Saved> saved_;  // who was saved first first
  HostBlockPool host_{std::numeric_limits<std::int32_t>::max()};
  std::vector<HostBlockPool::Block> given_up_;  // this step still reads or writes them
  std::vector<KvBlockPool::Block> device_;      // scratch
  std::vector<KvShift> chunks_;                 // likewise
  std::vector<Part> rest_, view_;               // of the batch at hand: what is to come, what is computed now
  std::size_t next_ = 0;                        // of the view
  bool is_whole_ = false;                       // the step is a batch
  bool view_samples_ = false;
  std::vector<std::int32_t> failed_;
  mutable std::vector<TokenRun> key_;  // scratch
};

}  // namespace

std::unique_ptr<Scheduler> make_llama_cpp(const SchedulerParts& parts) {
  SchedulerConfig config = parts.config;
  config.enable_prefix_caching = false;
  return std::make_unique<LlamaCppScheduler>(
      SchedulerParts{config, parts.sequences, parts.pool, parts.windows, parts.list_decodes}, *parts.workload,
      parts.config.enable_prefix_caching);
}

}  // namespace foretoken
