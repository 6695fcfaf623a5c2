// What LoongServe decides: which requests start, on which elastic instances, and who computes the decode
// steps of those that run. Wu et al. 2024 (SOSP '24, arXiv 2404.09526) as LoongServe's own router
// does it (longserve_server/router: req_queue.py, manager.py; commit 74a9d4b). docs/policies.md states the
// rules.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "serving/serve.h"

namespace foretoken::elastic {

// A request in the pool, kept in recycled slots.
struct Item {
  Request request;
  std::int32_t output = 0, most_output = 0;  // tokens that are out, and that it gets
  bool paused = false;                       // gave its cache up; waits to be computed again
  std::vector<std::int32_t> kv;              // its cached tokens, by instance
  std::int32_t pauses = 0;
  Picoseconds queued = 0, scheduled = -1, prefill_start = 0, first_token = -1, last_token = 0;
  std::int32_t prompt() const { return request.input_len + output; }  // tokens of its prefill
};

// Requests that compute together, and the instances that do it: no other group's, but for one that was
// preempted.
struct Group {
  struct Master {
    std::int32_t instance = 0, rows = 0;
    bool operator==(const Master&) const = default;
  };
  std::vector<std::int32_t> slots;
  std::vector<std::int32_t> instances;
  std::vector<std::int64_t> used;  // its cached tokens, by instance of the pool
  // Of the next decode step: each takes so many of the slots, in order, and stores their new tokens.
  std::vector<Master> masters;
};

// What a look at the queue brings about.
struct Allocation {
  std::vector<Group> prefills;   // with memory for their prompts
  std::vector<Group> decodes;    // go on meanwhile, with their masters
  std::vector<Group> preempted;  // rest until all prefills are done
  std::int64_t moved = 0;        // tokens whose cache was moved to make room
  double prefill_ms = 0;         // predicted, of the longest
};

class Pool {
 public:
  Pool(const SchedulerConfig& config, std::int32_t instances);

  std::int32_t add(const Request& request, Picoseconds now);  // to the queue's end; its slot
  void remove(std::int32_t slot) { free_.push_back(slot); }
  Item& operator[](std::int32_t slot) { return items_[static_cast<std::size_t>(slot)]; }
  std::int64_t waiting() const { return static_cast<std::int64_t>(queue_.size()); }
  std::int64_t capacity() const { return capacity_; }  // of an instance, in tokens
  std::int32_t instances() const { return static_cast<std::int32_t>(used_.size()); }
  std::int64_t used(std::int32_t instance) const { return used_[static_cast<std::size_t>(instance)]; }

  // Who starts beside these groups, taken from the queue; may be none.
  std::vector<std::int32_t> dispatch(const std::vector<Group>& running);
  // Who starts on so many instances that have nothing to do for so long, while `running` requests run on
  // others; taken from the queue.
  std::vector<std::int32_t> dispatch_idle(std::size_t instances, std::int64_t running, double left_ms);
  Allocation allocate(std::vector<std::int32_t> started, std::vector<Group> running);
  // Prompts in groups over these instances by dynamic programming, with memory where they will decode.
  std::vector<Group> batch(std::vector<std::int32_t> started, std::vector<std::int32_t> instances,
                           double& longest_ms);
  // Groups merge, take idle instances and choose masters, so that each has room for a token of everybody.
  // False, and nothing has changed: there is none.
  // disable_scale_up: a group whose first instance lacks room gives up requests instead, and may be gone.
  bool plan_decode(std::vector<Group>& groups, bool with_idle);
  std::int64_t take_lost() { return std::exchange(lost_, 0); }  // tokens that were given up in planning
  // For how many steps, this one included, plan_decode() would say the same while nobody ends.
  std::int64_t repeats(const Group& group) const;
  void decoded(Group& group, std::int64_t steps);
  // The request that came last gives its cache up and waits at the queue's head.
  std::int64_t pause(std::vector<Group>& groups);                                // tokens that are lost
  std::vector<RequestId> take_paused() { return std::exchange(given_up_, {}); }  // since it was last called
  void finish(Group& group, std::int32_t slot);  // leaves the group and its memory
  // Instances that hold nothing of the group leave it; returned.
  std::vector<std::int32_t> scale_down(Group& group) const;
  void merge(Group& into, const Group& from) const;

 private:
  double predict(std::int64_t instances, double tokens, double squares) const;
  void start(const std::vector<std::int32_t>& slots);
  bool plan_fixed(std::vector<Group>& groups);
  bool plan_alone(std::vector<Group>& groups);
  void choose_masters(Group& group, std::vector<std::int32_t>& idle);
  bool plan_decode(std::vector<Group>& groups, std::vector<std::int32_t> idle);
  void place(Group& group);
  void stripe(Group& group);
  std::int64_t compact(std::vector<Group>& groups, double tokens, double squares);
  std::vector<std::int32_t> idle_instances() const;
  std::vector<std::int32_t> dispatch_fixed(const std::vector<Group>& running);
  std::int64_t held() const;  // by all instances
  std::int64_t room(const Group& group) const;
  void by_use(std::vector<std::int32_t>& instances) const;  // the fullest first
  Group make_group(std::vector<std::int32_t> slots, std::vector<std::int32_t> instances) const;

  const SchedulerConfig config_;
  const LoongserveConfig& knobs_;
  const std::int64_t capacity_;
  std::vector<std::int64_t> used_;
  std::vector<Item> items_;
  std::vector<std::int32_t> free_;
  std::deque<std::int32_t> queue_;
  std::int64_t paused_ = 0;  // in the queue
  std::int64_t lost_ = 0;
  std::vector<RequestId> given_up_;
  std::int64_t ended_ = 1, ended_output_ = 512;  // LoongServe begins with a guess
  std::int64_t out_of_order_ = 0;                // dispatches in a row
};

}  // namespace foretoken::elastic
