// Instances that lend KV memory to each other: who holds which blocks, who computes what in the next step,
// and what the gManager has moved. Infinite-LLM (Lin et al. 2024, arXiv 2401.02669v2); docs/policies.md
// states the rules, and which of them were chosen here.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "serving/serve.h"

namespace foretoken::lending {

// A request at its instance, kept in recycled slots. Its oldest blocks are the ones that lie elsewhere.
struct Item {
  Request request;
  std::int32_t output = 0, most_output = 0;  // tokens that are out, and that it gets
  bool decoding = false;                     // everything but its newest token is cached
  bool has_borrowed = false;
  std::int32_t preemptions = 0;
  std::vector<std::int64_t> blocks;  // by instance
  Picoseconds queued = 0, scheduled = -1, prefill_start = 0, first_token = -1, last_token = 0;
  std::int64_t tokens() const { return std::int64_t{request.input_len} + output; }
};

// Blocks of a request that are to go to a creditor.
struct Order {
  std::int32_t slot = 0, creditor = 0;
  std::int64_t blocks = 0;
  bool operator==(const Order&) const = default;
};

// The step that an instance computes next.
struct Decision {
  std::vector<std::int32_t> slots;  // prompts, or else sequences that decode
  bool prefills = false;
  std::int64_t context = 0;                  // decoding: tokens attended here
  std::vector<LentContext> borrowed, moved;  // by creditor
  std::int64_t discarded = 0;                // tokens of preempted sequences
  std::vector<RequestId> preempted;
  std::vector<Order> leaving;  // of `moved`, what is still here while the step computes
};

class Instances {
 public:
  Instances(const SchedulerConfig& config, std::int32_t count);

  std::int32_t count() const { return static_cast<std::int32_t>(instances_.size()); }
  Item& operator[](std::int32_t slot) { return items_[static_cast<std::size_t>(slot)]; }
  // Why the request can never be served; nullopt: it can.
  std::optional<std::string> refuses(const Request& request) const;
  std::int32_t enqueue(std::int32_t instance, const Request& request, Picoseconds now);  // its slot

  // Vllm V0's rule: prompts first and whole, else everybody who runs decodes. False: there is nothing to do.
  bool decide(std::int32_t instance, Decision& decision);
  // What was moved beside the step is there: its blocks here are free.
  void end_moves(std::int32_t instance);
  void finish(std::int32_t instance, std::int32_t slot);  // leaves, with all its blocks

  // The gManager: orders for all instances, from what their rManagers report now.
  void plan();
  const std::vector<Order>& orders(std::int32_t instance) const { return at(instance).orders; }

  std::int64_t waiting(std::int32_t i) const { return std::ssize(at(i).waiting); }
  std::int64_t running(std::int32_t i) const { return std::ssize(at(i).running); }
  std::int64_t used(std::int32_t i) const { return usable_ - at(i).free; }  // blocks, what it lends included
  std::int64_t lent(std::int32_t i) const { return at(i).lent; }
  std::int64_t borrowed(std::int32_t i) const { return at(i).borrowed; }
  std::int64_t usable() const { return usable_; }
  const LendingCounts& counts() const { return counts_; }

 private:
  struct Instance {
    std::deque<std::int32_t> waiting;
    std::vector<std::int32_t> running;  // in order of admission
    std::int64_t free = 0, lent = 0, borrowed = 0;
    std::vector<Order> orders, moving;  // moving: beside the step under way
  };
  Instance& at(std::int32_t i) { return instances_[static_cast<std::size_t>(i)]; }
  const Instance& at(std::int32_t i) const { return instances_[static_cast<std::size_t>(i)]; }
  const Item& item(std::int32_t slot) const { return items_[static_cast<std::size_t>(slot)]; }
  static std::int64_t& held(Item& item, std::int32_t i) { return item.blocks[static_cast<std::size_t>(i)]; }
  std::int64_t held(std::int32_t slot, std::int32_t i) const {
    return item(slot).blocks[static_cast<std::size_t>(i)];
  }
  std::int64_t blocks_for(std::int64_t tokens) const {
    return (tokens + config_.block_size - 1) / config_.block_size;
  }
  // Blocks that it would lend now: none while it borrows itself.
  std::int64_t lendable(std::int32_t i) const;
  std::int32_t best_creditor(std::int32_t debtor) const;  // -1: nobody lends
  bool take_prompts(std::int32_t i, Decision& d);
  void take_decodes(std::int32_t i, Decision& d);
  bool admit(std::int32_t i, std::int32_t slot, Decision& d);
  bool grow(std::int32_t i, std::int32_t slot, Decision& d);
  bool make_room(std::int32_t i, std::int32_t growing, Decision& d);
  void lend(std::int32_t debtor, std::int32_t creditor, std::int32_t slot, std::int64_t blocks, Decision& d);
  void preempt_last(std::int32_t i, Decision& d);
  void release(std::int32_t i, Item& item);
  void carry_out(std::int32_t i, Decision& d);

  const SchedulerConfig config_;
  const LendingConfig& knobs_;
  const std::int64_t usable_, watermark_, most_lent_;
  std::vector<Instance> instances_;
  std::vector<Item> items_;
  std::vector<std::int32_t> free_slots_;
  std::int64_t lent_ = 0;  // of all
  LendingCounts counts_;
};

}  // namespace foretoken::lending
