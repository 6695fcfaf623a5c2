// The gManager's plan: which blocks go from which debtor to which creditor, by what both would then produce
// (Infinite-LLM's greedy algorithm over its performance model).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "serving/lending/instances.h"

namespace foretoken::lending {
namespace {

constexpr std::int64_t kTried = 64;      // numbers of blocks between one and all of a request
constexpr double kLeastGain = 1e-9;      // of the throughput before: more than rounding
constexpr std::size_t kMostOrders = 64;  // of a debtor in a plan

// An instance as the plan has it so far.
struct Status {
  std::int64_t batch = 0, local = 0, served = 0, free = 0, lendable = 0;
  std::vector<std::int64_t> remote;  // its tokens elsewhere, by instance
  // Of the first k that wait: blocks and tokens of their prompts.
  std::vector<std::int64_t> blocks{0}, tokens{0};
  bool borrows = false, lends = false;  // in this plan
};

// A decode step of so many sequences without attention, in ms, between powers of two.
double step_ms(const LendingConfig& c, std::int64_t batch) {
  const double at = std::log2(static_cast<double>(std::max<std::int64_t>(batch, 1)));
  const auto i = std::min(static_cast<std::size_t>(at), c.step_ms.size() - 1);
  if (i + 1 == c.step_ms.size()) return c.step_ms[i] * std::exp2(std::max(0.0, at - static_cast<double>(i)));
  const double low = std::exp2(static_cast<double>(i));
  return c.step_ms[i] + (c.step_ms[i + 1] - c.step_ms[i]) * (static_cast<double>(batch) - low) / low;
}

class Model {
 public:
  Model(const SchedulerConfig& config, std::int64_t watermark) : config_(config), watermark_(watermark) {}

  // Tokens in a ms once `tokens` of its cache lie at `creditor`, their blocks are free and who waits has come
  // in.
  double throughput(const Status& s, std::int32_t creditor, std::int64_t blocks) const {
    const LendingConfig& c = config_.lending;
    const std::int64_t moved = blocks * config_.block_size;
    std::size_t in = 0;
    while (in + 1 < s.blocks.size() && s.blocks[in + 1] + watermark_ <= s.free + blocks &&
           s.batch + static_cast<std::int64_t>(in) < config_.max_num_seqs)
      ++in;
    const std::int64_t batch = s.batch + static_cast<std::int64_t>(in);
    if (batch == 0) return 0;
    std::int64_t remote = 0;
    for (std::size_t i = 0; i < s.remote.size(); ++i)
      remote = std::max(remote, s.remote[i] + (static_cast<std::int32_t>(i) == creditor ? moved : 0));
    const double here = c.attention_ms * static_cast<double>(s.local - moved + s.tokens[in]);
    const double there = remote > 0 ? c.attention_ms * static_cast<double>(remote) + c.exchange_ms : 0;
    const double others = s.served > 0 ? c.attention_ms * static_cast<double>(s.served) + c.exchange_ms : 0;
    return static_cast<double>(batch) / (step_ms(c, batch) + std::max(here, there) + others);
  }
  double creditor_throughput(Status s, std::int64_t blocks) const {
    s.served += blocks * config_.block_size;
    s.free -= blocks;
    return throughput(s, -1, 0);
  }

 private:
  const SchedulerConfig& config_;
  const std::int64_t watermark_;
};

}  // namespace

void Instances::plan() {
  std::vector<Status> all(instances_.size());
  for (std::int32_t i = 0; i < count(); ++i) {
    Status& s = all[static_cast<std::size_t>(i)];
    Instance& instance = at(i);
    instance.orders.clear();
    s.free = instance.free;
    s.lendable = lendable(i);
    s.remote.resize(instances_.size());
    for (const std::int32_t slot : instance.running) {
      ++s.batch;
      s.local += item(slot).tokens();
      for (std::int32_t c = 0; c < count(); ++c) {
        if (c == i) continue;
        const std::int64_t tokens = held(slot, c) * config_.block_size;
        s.remote[static_cast<std::size_t>(c)] += tokens;
        s.local -= tokens;
        all[static_cast<std::size_t>(c)].served += tokens;
      }
    }
    for (const std::int32_t slot : instance.waiting) {
      if (s.blocks.back() > usable_) break;
      s.blocks.push_back(s.blocks.back() + blocks_for(item(slot).tokens()));
      s.tokens.push_back(s.tokens.back() + item(slot).tokens());
    }
  }
  const Model model(config_, watermark_);
  std::vector<std::int32_t> debtors, creditors;
  for (std::int32_t i = 0; i < count(); ++i) {
    const Status& s = all[static_cast<std::size_t>(i)];
    // Where nobody waits, free memory gains nothing: the sum of throughputs would only pile attention up.
    if (s.batch > 0 && s.batch < knobs_.debtor_batch && s.blocks.size() > 1) debtors.push_back(i);
    if (static_cast<double>(used(i)) < knobs_.creditor_usage * static_cast<double>(usable_) && s.lendable > 0)
      creditors.push_back(i);
  }
  std::stable_sort(debtors.begin(), debtors.end(), [&](std::int32_t a, std::int32_t b) {
    return all[static_cast<std::size_t>(a)].batch < all[static_cast<std::size_t>(b)].batch;
  });
  const auto emptiest_first = [&] {
    std::stable_sort(creditors.begin(), creditors.end(), [&](std::int32_t a, std::int32_t b) {
      return all[static_cast<std::size_t>(a)].free > all[static_cast<std::size_t>(b)].free;
    });
  };
  for (const std::int32_t debtor : debtors) {
    Status& d = all[static_cast<std::size_t>(debtor)];
    if (d.lends) continue;
    Instance& instance = at(debtor);
    std::vector<std::int64_t> here;  // blocks that the plan leaves, of those that run
    for (const std::int32_t slot : instance.running) here.push_back(held(slot, debtor));
    for (const Order& moving : instance.moving)
      for (std::size_t r = 0; r < here.size(); ++r)
        if (instance.running[r] == moving.slot) here[r] -= moving.blocks;
    for (bool gains = true; gains && instance.orders.size() < kMostOrders;) {
      gains = false;
      const auto longest =
          static_cast<std::size_t>(std::max_element(here.begin(), here.end()) - here.begin());
      emptiest_first();
      for (const std::int32_t creditor : creditors) {
        Status& c = all[static_cast<std::size_t>(creditor)];
        if (creditor == debtor || c.borrows) continue;
        const std::int64_t most = std::min(here[longest] - 1, c.lendable);
        const double before = model.throughput(d, -1, 0) + model.throughput(c, -1, 0);
        double best = before * (1 + kLeastGain);
        std::int64_t blocks = 0;
        const std::int64_t tried = std::min(most, kTried);
        for (std::int64_t t = 1; t <= tried; ++t) {
          const std::int64_t n = most * t / tried;
          const double after = model.throughput(d, creditor, n) + model.creditor_throughput(c, n);
          if (after > best) best = after, blocks = n;
        }
        if (blocks == 0) continue;
        const std::int64_t tokens = blocks * config_.block_size;
        instance.orders.push_back({instance.running[longest], creditor, blocks});
        here[longest] -= blocks;
        d.borrows = c.lends = gains = true;
        d.free += blocks;
        d.local -= tokens;
        d.remote[static_cast<std::size_t>(creditor)] += tokens;
        c.free -= blocks;
        c.lendable -= blocks;
        c.served += tokens;
        break;
      }
    }
  }
}

}  // namespace foretoken::lending
