// The seam between the serving loop and whatever takes the time: a cost model that predicts, an executor that
// runs, a recording that replays.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <stdexcept>

#include "base/units.h"
#include "serving/lora.h"
#include "serving/request.h"

namespace foretoken {

inline constexpr int kMaxAttentionGroups = 4;

// A prompt part computed in this step.
struct PrefillPart {
  // Sequence slot of the rank's scheduler (stable while the sequence lives); -1: rows that a prompt is padded
  // with, which an executor need not compute.
  std::int32_t slot = 0;
  RequestId request = 0;
  std::int32_t new_tokens = 0;
  std::int32_t cached = 0;  // tokens already in the KV cache
  bool last = false;        // a token is sampled at its end
  std::int32_t beam = 0;    // whose generated tokens are computed again; of a prompt 0
};

// A sequence that produces tokens in this step.
struct DecodePart {
  // -1: the request has ended; an overlapped scheduler learns of it a step late, a static batch keeps its
  // row.
  std::int32_t slot = 0;
  RequestId request = 0;
  std::int32_t context = 0;  // tokens attended, the new ones included
  std::int32_t drafted = 0;  // drafted tokens that it verifies beside its newest one
  std::int32_t beam = 0;     // beam search: a part for each of the request's beams
};

// A sequence that gets tokens in a step of speculative decoding (Leviathan et al. 2023). The last two members
// are the backend's answer, the others what it is asked about.
struct Verification {
  std::int32_t slot = 0;
  RequestId request = 0;
  std::int32_t tokens = 0;    // prompt and output before the step
  std::int32_t drafted = 0;   // verified in the step
  std::int32_t accepted = 0;  // the sequence gets 1 + accepted tokens
  std::int32_t drafts = 0;    // drafted for its next step
};

// One KV block copied to another, or between the device and host memory. Blocks of the host are numbered on
// their own.
struct BlockCopy {
  std::int32_t from = 0, to = 0;
};

// Cached tokens of a sequence that go to an earlier position of it: they lie in the places [from, from +
// tokens) of its blocks, are to lie in [to, to + tokens), which are their positions then, and their keys are
// turned back by `distance` positions. from == to: their blocks went along, so nothing moves.
struct KvShift {
  std::int32_t slot = 0;
  std::int32_t from = 0, to = 0, tokens = 0, distance = 0;
};

// Cached tokens of some sequences that lie on an instance and belong to another one (serving/lending).
struct LentContext {
  std::int32_t instance = 0;   // the other one
  std::int32_t sequences = 0;  // that they are of
  std::int64_t tokens = 0;
};

// Cached tokens of a sequence that lie on an instance, of those whose attention reaches over several caches
// (serving/elastic, serving/lending).
struct CachedPart {
  std::int32_t slot = 0;
  RequestId request = 0;
  std::int32_t instance = 0;
  std::int64_t tokens = 0;
};

class SequenceTable;

// What one rank computes in one step. The sums are kept by the scheduler, so that a cost model need not walk
// the lists.
struct Batch {
  std::span<const PrefillPart> prefill;
  std::span<const DecodePart> decode;  // filled only if the backend asks for it (Backend::wants_sequences)
  std::int32_t decode_sequences = 0;   // every beam is one
  std::int32_t drafted = 0;  // rows of drafted tokens that decoding sequences verify beside their newest one
  // Sum over decoding sequences of min(context, window) for each of the backend's windows (0: no window).
  std::array<std::int64_t, kMaxAttentionGroups> contexts{};
  // How many decoding sequences still grow in that group: the context sums rise by this much a step.
  std::array<std::int32_t, kMaxAttentionGroups> growing{};
  std::int32_t longest_context = 0;  // of a decoding sequence
  // Preemption by swapping: blocks that go to host memory and come back before anything is computed, in this
  // order. A step may consist of copies alone.
  std::span<const BlockCopy> swap_out, swap_in;
  // After these, one after the other: places that one reads may be those that one before it has written.
  std::span<const KvShift> shifts;
  std::int32_t adapters = 0;                   // distinct low-rank adapters
  std::span<const AdapterLoad> adapter_loads;  // into slots, before the step
  std::int32_t sampled_rows = 0;               // decoding sequences + drafted rows + finishing prompts
  bool skips_draft_model = false;              // it computes nothing beside this step (vLLM V0)
  // Of an elastic instance: those of one group compute their batch together. `prefill` is then its share
  // of the prompts, `decode_sequences` are those whose master it is, `contexts` the tokens that lie here, of
  // `attended` sequences.
  std::int32_t group = 0, instance = 0, attended = 0;
  // Of an instance that borrows or lends KV memory (`contexts` are then the tokens that lie here): what
  // others attend to for it in this step; what it has attended to for others since its last step began; what
  // goes to others while the step computes.
  std::span<const LentContext> borrowed, served, moved;
  // Of such instances, and only where the backend asks (Backend::wants_sequences): where the cached tokens of
  // the group's sequences lie once the step has written its own, but for what goes to others (`leaving`, by
  // the instance that gets it) beside it. `prefill` and `decode` are then filled too.
  std::span<const CachedPart> held, leaving;
  // Requests and KV blocks of the parts' slots, as they are when the step starts; null outside the serving
  // loop.
  const SequenceTable* sequences = nullptr;
  // Tokens that a decoding sequence attends for: of the mean, rounded up, where their number differs.
  std::int64_t decode_queries() const {
    return drafted > 0 ? 1 + (drafted + decode_sequences - 1) / decode_sequences : 1;
  }
  std::int64_t tokens() const {
    std::int64_t n = std::int64_t{decode_sequences} + drafted;
    for (const auto& p : prefill) n += p.new_tokens;
    return n;
  }
  bool copies() const { return !swap_out.empty() || !swap_in.empty() || !shifts.empty(); }
  std::int64_t shifted_tokens() const {
    std::int64_t n = 0;
    for (const KvShift& s : shifts) n += s.tokens;
    return n;
  }
  bool empty() const { return decode_sequences == 0 && prefill.empty() && !copies(); }
};

// One step of one engine: a batch for each rank that steps together (attention data-parallel ranks; the
// elastic instances of some groups; else one).
struct Step {
  std::int32_t engine = 0;
  Picoseconds start = 0;
  std::span<const Batch> ranks;
};

// Relative to the step's start. next_start < tokens_out in a pipeline or under an asynchronous scheduler.
struct StepTime {
  Picoseconds next_start = 0;  // when the engine may start its next step
  Picoseconds tokens_out = 0;  // when the sampled tokens are known
};

// `steps` decode-only steps of an unchanged set of sequences. Step i takes first + i * increment.
struct SpanTime {
  std::int64_t steps = 0;  // at least 1, at most what was asked: the price is affine over these
  Picoseconds first = 0, increment = 0;
};

// The KV cache of a prompt on its way from the engine that computed it to the one that goes on with it.
struct KvTransfer {
  RequestId request = 0;
  std::int32_t tokens = 0;                       // leading ones of the prompt; all of them unless in pieces
  std::int32_t done = 0;                         // of these, moved before
  std::int32_t from = 0, to = 0;                 // engines
  std::int32_t from_rank = 0, to_rank = 0;       // of these
  std::span<const std::int32_t> source, target;  // blocks on either side, in the order of the tokens
};

// KV blocks copied between memories of one rank: -1 is device memory, others are its tiers (kv_tiers.h), the
// nearest 0. A block of a tier goes to device memory or to the tier below, one of HiCache's storage to the
// tier above.
struct TierMove {
  std::int32_t engine = 0, rank = 0;
  RequestId request = 0;  // that the blocks are loaded for; -1: they are written
  std::int32_t from = -1, to = -1;
  std::span<const BlockCopy> blocks;  // numbered within either memory
};

// Shall the blocks be loaded, or their tokens computed again?
struct TierLoad {
  std::int32_t engine = 0, rank = 0;
  RequestId request = 0;
  std::int32_t tier = 0;
  std::int64_t blocks = 0;
  std::int64_t cached = 0, tokens = 0;  // before them in the cache, and in them
  std::int64_t rest = 0;                // tokens that come after them and are computed in any case
  Picoseconds wait = 0;                 // until the link is free
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Context sums that the backend needs: windows[0] is 0 (full attention).
  virtual std::span<const std::int64_t> windows() const = 0;
  virtual bool wants_sequences() const { return false; }

  virtual StepTime run(const Step& step) = 0;
  // Decode-only step repeated with every context growing by one a step. A backend that can't answer for a
  // span returns steps == 0 and is called step by step. Must give exactly the durations that run() would
  // give.
  virtual SpanTime run_span(const Step& step, std::int64_t max_steps) {
    (void)step;
    (void)max_steps;
    return {};
  }
  // The span that this engine ran last has been cut to so many steps. Told of elastic instances alone.
  virtual void cut(std::int32_t engine, std::int64_t steps) { (void)engine, (void)steps; }
  // Moves (or prices) a prompt's cache: the time that it keeps the link for itself. Queueing is the loop's.
  // The times of its pieces add up to that of the whole.
  virtual Picoseconds transfer(const KvTransfer& transfer) {
    (void)transfer;
    throw std::logic_error("this backend moves no KV cache between engines");
  }
  // Copies (or prices) blocks at once; the time that the link is taken. Queueing is the loop's.
  virtual Picoseconds move_blocks(const TierMove& move) {
    (void)move;
    throw std::logic_error("this backend has no KV tiers");
  }
  virtual bool worth_loading(const TierLoad& load) { return (void)load, true; }
  // Of instances whose attention reaches over several caches: tokens of these sequences move between them,
  // and lie like this afterwards; nothing runs meanwhile. What that takes; `predicted`: by the links.
  virtual Picoseconds rearrange(std::span<const CachedPart> held, Picoseconds now, Picoseconds predicted) {
    return (void)held, (void)now, predicted;
  }
  // Their request's cache is given up.
  virtual void release(RequestId request) { (void)request; }
  // Asked after run() where the engine speculates: what each sequence of a rank that gets tokens in the step
  // gets. A backend that doesn't answer accepts nothing and drafts nothing.
  virtual void verify(const Step& step, std::size_t rank, std::span<Verification> sequences) {
    (void)step;
    (void)rank;
    (void)sequences;
  }
};

}  // namespace foretoken
