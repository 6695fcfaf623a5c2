// Splitwise's cluster-level scheduler (Patel et al., ISCA 2024, section 4.1; splitwise-sim's
// MixedPoolScheduler): for each request a machine for its prompt and one for its tokens, those with the least
// in front of them. Machines whose own kind of work leaves room help the other kind out: they are in the
// mixed pool while they do.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "serving/request.h"

namespace foretoken {

struct MixedPoolsConfig {
  // prompt_max_pending_batch_tokens: a machine whose requests wait takes no prompt that would bring its
  // pending tokens above this, unless every other one is as full. splitwise-sim's value.
  std::int64_t prompt_max_pending_tokens = 8192;
};

struct MixedPoolCounts {
  std::int64_t joined = 0;          // machines that moved into the mixed pool
  std::int64_t whole_requests = 0;  // whose prompt and tokens were given to one machine
  std::int64_t went_on = 0;    // whose tokens the prompt's machine made after all, see Transfers::unblock
  Picoseconds mixed_time = 0;  // of all machines in that pool
};

class MixedPools {
 public:
  // The first `prompts` machines are prompt machines, the others token machines. capacity: of each, KV
  // tokens. max_model_len: at which a request ends.
  MixedPools(const MixedPoolsConfig& config, std::size_t prompts, std::vector<std::int64_t> capacity,
             std::int64_t max_model_len);

  struct Assignment {
    std::int32_t prompt = 0, token = 0;  // machines; the same where it goes nowhere else
  };
  // queues(m): whether requests wait at machine m now. Lowest index on ties.
  Assignment assign(const Request& request, const std::function<bool(std::int32_t)>& queues, Picoseconds now);
  std::int32_t token_of(RequestId request) const { return jobs_.at(request).token; }
  // Its prompt is computed; its cache has left the prompt's machine, or stays there after all; its last token
  // is out. Each at most once, in this order.
  void computed(RequestId request, Picoseconds now);
  void moved(RequestId request);
  void goes_on(RequestId request, Picoseconds now);
  void ended(RequestId request, Picoseconds now);

  bool is_mixed(std::int32_t machine) const { return machines_[static_cast<std::size_t>(machine)].mixed; }
  MixedPoolCounts counts(Picoseconds now) const;

 private:
  enum class Pool { kPrompt, kToken, kMixed, kAll };
  struct Machine {
    bool prompts = false, mixed = false;
    std::int64_t capacity = 0;
    std::int64_t pending = 0;  // tokens of prompts to compute, and one for each request that decodes there
    std::int64_t memory = 0;   // tokens that the requests given to it will hold
    std::int64_t num_prompts = 0, num_decodes = 0;  // requests given to it for either, and not done
    Picoseconds mixed_since = 0;
  };
  struct Job {
    std::int32_t prompt = 0, token = 0;
    std::int32_t input_len = 0;
    std::int64_t whole = 0;  // tokens when it ends
    bool is_computed = false, has_moved = false;
  };
  Machine& at(std::int32_t m) { return machines_[static_cast<std::size_t>(m)]; }
  bool is_in(const Machine& m, Pool pool) const {
    return pool == Pool::kAll ||
           (pool == Pool::kMixed ? m.mixed : !m.mixed && m.prompts == (pool == Pool::kPrompt));
  }
  std::int32_t least(Pool pool, std::int64_t Machine::*load) const;  // -1: nobody is in it
  void join(std::int32_t m, Picoseconds now);
  // Back to its own pool once nothing of the other kind is left.
  void leave_if_done(std::int32_t m, Picoseconds now);

  const MixedPoolsConfig config_;
  const std::int64_t max_model_len_;
  std::vector<Machine> machines_;
  std::unordered_map<RequestId, Job> jobs_;
  MixedPoolCounts counts_;
};

}  // namespace foretoken
