// What a scheduling policy decides for one rank: which sequences get how many tokens in the step that starts
// now, and for how many steps that decision holds.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "serving/backend.h"
#include "serving/kv_block_pool.h"
#include "serving/sequence.h"
#include "serving/serve.h"
#include "serving/workload.h"

namespace foretoken {

class KvTiers;

// Tokens of one rank so far: scheduled + reused = needed + discarded + unaccepted, over requests that have
// left.
struct TokenCounts {
  std::int64_t scheduled = 0;                    // prefill and decode tokens computed
  std::int64_t reused = 0;                       // found in the prefix cache instead
  std::int64_t discarded = 0;                    // in the cache when their sequence was preempted
  std::int64_t unaccepted = 0;                   // drafted tokens scheduled and not used (the engine counts)
  std::int64_t queried = 0, hit = 0;             // prompt tokens looked up and found, at first admission only
  std::int64_t reserved = 0, filled = 0;         // tokens of contiguous regions, of sequences that have left
  std::int64_t swapped_out = 0, swapped_in = 0;  // blocks copied to host memory and back
  // Of beams that have left: blocks held at their end, and those of as many sequences that share nothing.
  std::int64_t beam_blocks = 0, unshared_beam_blocks = 0;

  TokenCounts& operator+=(const TokenCounts& c) {
    scheduled += c.scheduled;
    reused += c.reused;
    discarded += c.discarded;
    unaccepted += c.unaccepted;
    queried += c.queried;
    hit += c.hit;
    reserved += c.reserved;
    filled += c.filled;
    swapped_out += c.swapped_out;
    swapped_in += c.swapped_in;
    beam_blocks += c.beam_blocks;
    unshared_beam_blocks += c.unshared_beam_blocks;
    return *this;
  }
};

class DecodeGroup;

class Scheduler {
 public:
  virtual ~Scheduler() = default;

  // Why the policy can never serve the request, beyond what its length and the memory say; nullopt: it can.
  virtual std::optional<std::string> refuses(const Request& request) const {
    return (void)request, std::nullopt;
  }
  virtual void enqueue(std::int32_t slot) = 0;
  // Decides the step that starts now; the batch is valid until the next call.
  virtual const Batch& schedule(Picoseconds now) = 0;
  // When to ask again if nothing was scheduled and nothing happens before: a batch waits for company.
  static constexpr Picoseconds kNoWake = std::numeric_limits<Picoseconds>::max();
  virtual Picoseconds wake() const { return kNoWake; }
  // Sequences that get a token in the step just decided, in the policy's order, behind those of its group if
  // it keeps one (else null): the caller tells the group when tokens are out, and lets its members alone.
  virtual std::span<const std::int32_t> sampled() const = 0;
  virtual DecodeGroup* group() { return nullptr; }
  virtual bool preempted() const = 0;  // in the step just decided
  // Running sequences that the system has answered with an error, while the step was decided: they hold
  // nothing any more (llama.cpp, whose common cache was full).
  virtual std::span<const std::int32_t> failed() const { return {}; }
  // For how many steps, this one included, single decisions would repeat the one just made, if nothing
  // arrives. Tokens of the step are not out yet when this is asked.
  virtual std::int64_t hold() const = 0;
  // Would a request that is enqueued now make the next decision another one than hold() promised?
  virtual bool arrival_matters() const = 0;
  // The decision just made was repeated `steps` more times; tokens of all but the last step are out.
  virtual void advance(std::int64_t steps) = 0;
  // The oldest step in flight has ended; told before what its tokens bring about. Only where pipeline_depth
  // is above 1 does anything follow from it.
  virtual void completed() {}
  // These sequences have produced their last token, in this order: frees what they hold. Slots stay the
  // caller's.
  virtual void finish(std::span<const std::int32_t> slots) = 0;

  // Disaggregated serving, vLLM's and Splitwise's schedulers alone. At the prefill engine: sequences that are
  // computed leave but keep their blocks, until these were moved, or until they go on here after all.
  virtual void park(std::span<const std::int32_t> slots) { (void)slots, fail(); }
  virtual void release(std::int32_t slot) { (void)slot, fail(); }
  virtual void go_on(std::int32_t slot) { (void)slot, fail(); }
  // At the decode engine: blocks for a cache that will come, false if there is no room for it now; and the
  // cache is there, or won't come.
  virtual bool reserve(std::int32_t slot) { return (void)slot, fail(), false; }
  virtual void arrive(std::int32_t slot) { (void)slot, fail(); }
  virtual void cancel(std::int32_t slot) { (void)slot, fail(); }

  // KV tiers, vLLM's and SGLang's schedulers alone; they must outlive it. When the blocks that come next for
  // a waiting sequence are there, Scheduler::kNoWake: none come; those that are there by now join the next
  // step; and the tokens of the step that was decided last are out.
  virtual void use(KvTiers& tiers) { (void)tiers, fail(); }
  virtual Picoseconds loaded_at() const { return kNoWake; }
  virtual std::int32_t take_loaded() { return fail(), -1; }
  virtual void join(std::int32_t slot) { (void)slot, fail(); }
  virtual void tokens_out(Picoseconds at) { (void)at; }

  // Leading tokens of the prompt that its prefix cache would give now; changes nothing. hashes: as far as
  // they are needed, of this request's blocks.
  virtual std::int64_t cached_tokens(const Request& request, BlockHashes& hashes) const {
    return (void)request, (void)hashes, 0;
  }

  virtual std::int64_t running() const = 0;
  virtual std::int64_t waiting() const = 0;
  virtual const TokenCounts& counts() const = 0;
  // KV memory that requests hold, and all of it, in one unit; what is only cached counts as free.
  virtual std::int64_t kv_used() const = 0;
  virtual std::int64_t kv_usable() const = 0;
  // Blocks of host memory that swapped sequences hold, now and at the most.
  virtual std::int64_t host_blocks() const { return 0; }
  virtual std::int64_t peak_host_blocks() const { return 0; }

 private:
  static void fail() { throw std::logic_error("this scheduler serves whole requests alone"); }
};

}  // namespace foretoken
