// Memory and steps of instances that lend: what rManagers do (Infinite-LLM).
#include "serving/lending/instances.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace foretoken::lending {
namespace {

void add(std::vector<LentContext>& to, std::int32_t instance, std::int32_t sequences, std::int64_t tokens) {
  const auto same =
      std::find_if(to.begin(), to.end(), [&](const LentContext& c) { return c.instance == instance; });
  LentContext& c = same == to.end() ? to.emplace_back(LentContext{instance, 0, 0}) : *same;
  c.sequences += sequences;
  c.tokens += tokens;
}

}  // namespace

Instances::Instances(const SchedulerConfig& config, std::int32_t count)
    : config_(config),
      knobs_(config_.lending),
      usable_(config.num_blocks - 1),
      watermark_(static_cast<std::int64_t>(config.watermark * static_cast<double>(config.num_blocks))),
      most_lent_(std::min(static_cast<std::int64_t>(knobs_.lend_limit * static_cast<double>(usable_)),
                          usable_ - watermark_)),
      instances_(static_cast<std::size_t>(count)) {
  for (Instance& i : instances_) i.free = usable_;
}

std::optional<std::string> Instances::refuses(const Request& request) const {
  if (request.input_len >= config_.max_model_len)
    return fmt::format("prompt of {} tokens leaves no room for output: max_model_len is {}",
                       request.input_len, config_.max_model_len);
  const std::int64_t most =
      std::min<std::int64_t>(std::int64_t{request.input_len} + request.output_len, config_.max_model_len);
  const std::int64_t need = blocks_for(most - 1) + watermark_, all = usable_ + (count() - 1) * most_lent_;
  if (need > all)
    return fmt::format(
        "request of {} tokens needs {} KV blocks with those of the watermark; an instance has {} and is lent "
        "{} at the most",
        most - 1, need, usable_, all - usable_);
  return std::nullopt;
}

std::int32_t Instances::enqueue(std::int32_t instance, const Request& request, Picoseconds now) {
  auto slot = static_cast<std::int32_t>(items_.size());
  if (free_slots_.empty()) {
    items_.emplace_back();
  } else {
    slot = free_slots_.back();
    free_slots_.pop_back();
  }
  Item& item = (*this)[slot] = {};
  item.request = request;
  item.queued = now;
  item.most_output = static_cast<std::int32_t>(
      std::min<std::int64_t>(request.output_len, config_.max_model_len - request.input_len));
  item.blocks.resize(instances_.size());
  at(instance).waiting.push_back(slot);
  return slot;
}

std::int64_t Instances::lendable(std::int32_t i) const {
  const Instance& c = at(i);
  if (c.borrowed > 0) return 0;
  return std::max<std::int64_t>(0, std::min(c.free - watermark_, most_lent_ - c.lent));
}

std::int32_t Instances::best_creditor(std::int32_t debtor) const {
  std::int32_t best = -1;
  for (std::int32_t c = 0; c < count(); ++c)
    if (c != debtor && lendable(c) > (best < 0 ? 0 : lendable(best))) best = c;
  return best;
}

// The blocks of the creditor are taken; those of the debtor are freed by whoever moves them.
void Instances::lend(std::int32_t debtor, std::int32_t creditor, std::int32_t slot, std::int64_t blocks,
                     Decision& d) {
  Instance& c = at(creditor);
  Item& item = (*this)[slot];
  c.free -= blocks;
  c.lent += blocks;
  at(debtor).borrowed += blocks;
  held(item, creditor) += blocks;
  lent_ += blocks;
  counts_.peak_lent = std::max(counts_.peak_lent, lent_);
  counts_.moved_blocks += blocks;
  if (!item.has_borrowed) ++counts_.borrowers;
  item.has_borrowed = true;
  add(d.moved, creditor, 0, blocks * config_.block_size);
}

// A prompt that its instance doesn't hold beside what it lends keeps its newest blocks here; the others go to
// creditors layer by layer while it is computed.
bool Instances::admit(std::int32_t i, std::int32_t slot, Decision& d) {
  Instance& me = at(i);
  Item& item = (*this)[slot];
  const std::int64_t need = blocks_for(item.tokens());
  if (need + watermark_ <= me.free) {
    me.free -= need;
    held(item, i) = need;
    return true;
  }
  const std::int64_t here = me.free - watermark_;
  if (need + watermark_ <= usable_ - me.lent || here < 1) return false;
  std::int64_t missing = need - here, lendable_to_me = 0;
  for (std::int32_t c = 0; c < count(); ++c) lendable_to_me += c == i ? 0 : lendable(c);
  if (lendable_to_me < missing) return false;
  me.free -= here;
  held(item, i) = here;
  while (missing > 0) {
    const std::int32_t creditor = best_creditor(i);
    const std::int64_t part = std::min(missing, lendable(creditor));
    lend(i, creditor, slot, part, d);
    missing -= part;
  }
  return true;
}

// Where its instance is full, an old block goes to a creditor, of the sequence that has the most here.
bool Instances::make_room(std::int32_t i, std::int32_t growing, Decision& d) {
  const std::int32_t creditor = best_creditor(i);
  if (creditor < 0) return false;
  Instance& me = at(i);
  std::int32_t longest = -1;
  for (const std::int32_t slot : me.running) {
    const std::int64_t blocks = held(slot, i);
    if (blocks >= (slot == growing ? 1 : 2) && (longest < 0 || blocks > held(longest, i))) longest = slot;
  }
  if (longest < 0) return false;
  lend(i, creditor, longest, 1, d);
  --held((*this)[longest], i);
  ++me.free;
  return true;
}

bool Instances::grow(std::int32_t i, std::int32_t slot, Decision& d) {
  Instance& me = at(i);
  Item& item = (*this)[slot];
  const std::int64_t has = std::accumulate(item.blocks.begin(), item.blocks.end(), std::int64_t{0});
  if (blocks_for(item.tokens()) <= has) return true;
  if (me.free == 0 && !make_room(i, slot, d)) return false;
  --me.free;
  ++held(item, i);
  return true;
}

void Instances::release(std::int32_t i, Item& item) {
  for (std::int32_t c = 0; c < count(); ++c) {
    const std::int64_t blocks = std::exchange(held(item, c), 0);
    at(c).free += blocks;
    if (c == i) continue;
    at(c).lent -= blocks;
    at(i).borrowed -= blocks;
    lent_ -= blocks;
  }
}

void Instances::preempt_last(std::int32_t i, Decision& d) {
  Instance& me = at(i);
  const std::int32_t slot = me.running.back();
  Item& item = (*this)[slot];
  release(i, item);
  item.decoding = false;
  ++item.preemptions;
  me.running.pop_back();
  me.waiting.push_front(slot);
  d.discarded += item.tokens() - 1;
  d.preempted.push_back(item.request.id);
}

bool Instances::decide(std::int32_t i, Decision& d) {
  d = {};
  if (take_prompts(i, d)) return true;
  take_decodes(i, d);
  // Whoever was preempted for want of blocks may find those that it gave up.
  return !d.slots.empty() || (d.discarded > 0 && take_prompts(i, d));
}

bool Instances::take_prompts(std::int32_t i, Decision& d) {
  Instance& me = at(i);
  std::int64_t budget = config_.max_num_batched_tokens;
  while (!me.waiting.empty() && std::ssize(me.running) < config_.max_num_seqs) {
    const std::int32_t slot = me.waiting.front();
    const std::int64_t n = (*this)[slot].tokens();
    if (n > budget || !admit(i, slot, d)) break;
    budget -= n;
    me.waiting.pop_front();
    me.running.push_back(slot);
    (*this)[slot].decoding = true;
    d.slots.push_back(slot);
  }
  d.prefills = !d.slots.empty();
  return d.prefills;
}

void Instances::take_decodes(std::int32_t i, Decision& d) {
  Instance& me = at(i);
  for (std::size_t r = 0; r < me.running.size(); ++r) {
    bool grown = false;
    while (!(grown = grow(i, me.running[r], d))) {
      const bool itself = r + 1 == me.running.size();
      preempt_last(i, d);
      if (itself) break;
    }
    if (!grown) break;
  }
  d.slots = me.running;
  for (const std::int32_t slot : d.slots) {
    d.context += (*this)[slot].tokens();
    for (std::int32_t c = 0; c < count(); ++c) {
      if (c == i || held(slot, c) == 0) continue;
      const std::int64_t tokens = held(slot, c) * config_.block_size;
      d.context -= tokens;
      add(d.borrowed, c, 1, tokens);
    }
  }
  carry_out(i, d);
}

// try_move_kvcache: the creditor takes what it has room for now; what it hasn't waits for the next plan.
void Instances::carry_out(std::int32_t i, Decision& d) {
  Instance& me = at(i);
  std::int64_t quota = std::max<std::int64_t>(1, knobs_.move_tokens / config_.block_size);
  for (Order& order : me.orders) {
    if (quota == 0) break;
    const bool runs = std::find(me.running.begin(), me.running.end(), order.slot) != me.running.end();
    const std::int64_t wanted = runs ? std::min({order.blocks, quota, held(order.slot, i) - 1}) : 0;
    const std::int64_t n = std::min(wanted, lendable(order.creditor));
    if (n <= 0) {
      if (wanted > 0) ++counts_.refused_moves;
      order.blocks = 0;
      continue;
    }
    lend(i, order.creditor, order.slot, n, d);
    me.moving.push_back({order.slot, order.creditor, n});
    d.leaving.push_back(me.moving.back());
    order.blocks -= n;
    quota -= n;
  }
  std::erase_if(me.orders, [](const Order& o) { return o.blocks == 0; });
}

void Instances::end_moves(std::int32_t i) {
  Instance& me = at(i);
  for (const Order& moved : me.moving) {
    held((*this)[moved.slot], i) -= moved.blocks;
    me.free += moved.blocks;
  }
  me.moving.clear();
}

void Instances::finish(std::int32_t i, std::int32_t slot) {
  Instance& me = at(i);
  release(i, (*this)[slot]);
  me.running.erase(std::find(me.running.begin(), me.running.end(), slot));
  std::erase_if(me.orders, [&](const Order& o) { return o.slot == slot; });
  free_slots_.push_back(slot);
}

}  // namespace foretoken::lending
