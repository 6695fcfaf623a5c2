#include "toy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "base/error.h"
#include "serving/content.h"
#include "serving/scheduler/radix_cache.h"

namespace foretoken::toy {

void ListWorkload::add(Picoseconds arrival, std::int32_t input_len, std::int32_t output_len,
                       std::vector<ContentRun> runs, std::int32_t session) {
  Request r;
  r.input_len = input_len;
  r.output_len = output_len;
  r.session = session;
  list_.push_back({arrival, r, std::move(runs), 0});
}

std::optional<Picoseconds> ListWorkload::next_arrival() const {
  std::optional<Picoseconds> next;
  if (!later_.empty()) next = later_.top().arrival;
  if (next_ < list_.size() && (concurrency_ == 0 || in_flight_ < concurrency_)) {
    const Picoseconds listed = concurrency_ == 0 ? list_[next_].arrival : released_at_;
    next = next ? std::min(*next, listed) : listed;
  }
  return next;
}

Request ListWorkload::pop() {
  const Picoseconds at = *next_arrival();
  Later chosen;
  if (!later_.empty() && later_.top().arrival == at) {
    chosen = later_.top();
    later_.pop();
  } else {
    chosen = list_[next_++];
  }
  chosen.request.id = next_id_++;
  chosen.request.arrival = at;
  chosen.request.num_runs = static_cast<std::int32_t>(chosen.runs.size());
  runs_.push_back(std::move(chosen.runs));
  ++in_flight_;
  return chosen.request;
}

void ListWorkload::finished(const Request& request, Picoseconds at) {
  --in_flight_;
  released_at_ = at;
  if (request.session < 0 || request.turn + 1 >= turns_) return;
  Later next;
  next.arrival = at + think_;
  next.order = ++orders_;
  next.runs = runs_[static_cast<std::size_t>(request.id)];
  std::int64_t covered = 0;
  for (const ContentRun& run : next.runs) covered += run.tokens;
  if (covered < request.input_len) {
    next.runs.push_back({private_prompt_content(request.id), request.input_len - covered});
  }
  next.runs.push_back({generated_content(request.id), request.output_len});
  next.request = request;
  next.request.turn = request.turn + 1;
  next.request.input_len = request.input_len + request.output_len + new_tokens_;
  later_.push(std::move(next));
}

std::span<const ContentRun> ListWorkload::content(const Request& request) const {
  return runs_[static_cast<std::size_t>(request.id)];
}

PoissonWorkload::PoissonWorkload(std::int64_t requests, double per_second, std::int32_t input_len,
                                 std::int32_t output_len, std::uint64_t seed, bool vary)
    : requests_(requests),
      mean_gap_(1e12 / per_second),
      input_len_(input_len),
      output_len_(output_len),
      seed_(seed),
      vary_(vary) {
  draw();
}

void PoissonWorkload::draw() {
  clock_ += mean_gap_ * CounterRandom(seed_, 1, static_cast<std::uint64_t>(next_)).exponential();
}

std::optional<Picoseconds> PoissonWorkload::next_arrival() const {
  if (next_ == requests_) return std::nullopt;
  return static_cast<Picoseconds>(clock_);
}

Request PoissonWorkload::pop() {
  Request r;
  r.id = next_;
  r.arrival = static_cast<Picoseconds>(clock_);
  r.input_len = input_len_;
  r.output_len = output_len_;
  if (vary_) {  // uniform from 1 to twice the mean
    CounterRandom random(seed_, 2, static_cast<std::uint64_t>(next_));
    r.input_len = static_cast<std::int32_t>(random.uniform_int(1, 2 * input_len_ - 1));
    r.output_len = static_cast<std::int32_t>(random.uniform_int(1, 2 * output_len_ - 1));
  }
  ++next_;
  draw();
  return r;
}

Picoseconds ToyBackend::price(const Batch& batch) const {
  Picoseconds time = base_ + per_sequence_ * batch.decode_sequences;
  for (std::size_t g = 0; g < windows_.size(); ++g) time += per_context_[g] * batch.contexts[g];
  for (const PrefillPart& part : batch.prefill) time += per_prefill_ * part.new_tokens + part.cached;
  return time;
}

StepTime ToyBackend::run(const Step& step) {
  Picoseconds time = 0;
  for (const Batch& batch : step.ranks) time = std::max(time, price(batch));
  return {static_cast<Picoseconds>(std::llround(static_cast<double>(time) * pipeline_)), time};
}

// The slowest rank stays the slowest only up to where another one's line crosses it.
SpanTime ToyBackend::run_span(const Step& step, std::int64_t max_steps) {
  const auto slope = [&](const Batch& batch) {
    Picoseconds increment = 0;
    for (std::size_t g = 0; g < windows_.size(); ++g) increment += per_context_[g] * batch.growing[g];
    return increment;
  };
  const Batch* slowest = &step.ranks[0];
  for (const Batch& batch : step.ranks) {
    const Picoseconds a = price(batch), b = price(*slowest);
    if (a > b || (a == b && slope(batch) > slope(*slowest))) slowest = &batch;
  }
  SpanTime span{std::min(max_steps, span_limit_), price(*slowest), slope(*slowest)};
  for (const Batch& batch : step.ranks) {
    if (slope(batch) > span.increment) {
      span.steps = std::min(span.steps, 1 + (span.first - price(batch)) / (slope(batch) - span.increment));
    }
  }
  return span;
}

void SpeculatingBackend::verify(const Step&, std::size_t, std::span<Verification> sequences) {
  for (Verification& v : sequences) {
    v.drafts = drafts_;
    const auto accepts = [&](std::int32_t place) {
      return CounterRandom(seed_, static_cast<std::uint64_t>(v.request), static_cast<std::uint64_t>(place))
                 .uniform() < acceptance_;
    };
    while (v.accepted < v.drafted && accepts(v.tokens + v.accepted)) ++v.accepted;
  }
}

StepTime BatchLog::run(const Step& step) {
  std::string text;
  for (const Batch& batch : step.ranks) {
    if (&batch != &step.ranks[0]) text += "| ";
    for (const PrefillPart& p : batch.prefill) {
      if (p.slot < 0)
        text += fmt::format("pad{}:{} ", p.request, p.new_tokens);
      else
        text += fmt::format("p{}:{}/{}{} ", p.request, p.new_tokens, p.cached, p.last ? "!" : "");
    }
    for (const DecodePart& d : batch.decode) {
      if (d.context == 0) {
        text += fmt::format("hole{} ", d.request);
        continue;
      }
      text += fmt::format("d{}@{}", d.request, d.context);
      text += d.drafted > 0 ? fmt::format("+{} ", d.drafted) : " ";
    }
  }
  if (!text.empty()) text.pop_back();
  batches.push_back(text);
  starts.push_back(step.start);
  return {static_cast<Picoseconds>(static_cast<double>(step_) * share_), step_};
}

namespace {

// Copies of a step may be made side by side.
void expect_apart(std::span<const BlockCopy> copies) {
  std::vector<std::int32_t> targets;
  for (const BlockCopy& c : copies) targets.push_back(c.to);
  std::sort(targets.begin(), targets.end());
  if (std::adjacent_find(targets.begin(), targets.end()) != targets.end())
    throw std::logic_error("two blocks are copied to one");
}

}  // namespace

StepTime ShadowMemory::run(const Step& step) {
  std::string text;
  device_.resize(step.ranks.size());
  host_.resize(step.ranks.size());
  for (std::size_t r = 0; r < step.ranks.size(); ++r) {
    const Batch& batch = step.ranks[r];
    expect_apart(batch.swap_out), expect_apart(batch.swap_in);
    for (const BlockCopy& c : batch.swap_out) host_[r][c.to] = device_[r][c.from];
    for (const BlockCopy& c : batch.swap_in) device_[r][c.to] = host_[r][c.from];
    if (!batch.swap_out.empty()) text += fmt::format("out{} ", batch.swap_out.size());
    for (const KvShift& s : batch.shifts) shift(device_[r], *batch.sequences, s);
    if (!batch.swap_in.empty()) text += fmt::format("in{} ", batch.swap_in.size());
    if (!batch.shifts.empty()) text += fmt::format("shift{} ", batch.shifted_tokens());
    for (const PrefillPart& p : batch.prefill) {
      if (p.slot < 0) continue;  // padding
      compute(device_[r], *batch.sequences, p.slot, p.cached, p.new_tokens);
      text += fmt::format("p{}:{}/{} ", p.request, p.new_tokens, p.cached);
    }
    for (const DecodePart& d : batch.decode) {
      if (d.slot >= 0) compute(device_[r], *batch.sequences, d.slot, d.context - 1, 1);
      text += fmt::format("d{}@{} ", d.request, d.context);
    }
  }
  if (!text.empty()) text.pop_back();
  batches.push_back(text);
  return {step_, step_};
}

Picoseconds ShadowMemory::move_blocks(const TierMove& move) {
  device_.resize(std::max(device_.size(), static_cast<std::size_t>(move.rank) + 1));
  const auto memory = [&](std::int32_t tier) -> Memory& {
    return tier < 0 ? device_[static_cast<std::size_t>(move.rank)] : tiers_[{move.rank, tier}];
  };
  for (const BlockCopy& c : move.blocks) memory(move.to)[c.to] = memory(move.from).at(c.from);
  return (std::max(move.from, move.to) + 1) *
         (latency_ + per_block_ * static_cast<Picoseconds>(move.blocks.size()));
}

void ShadowMemory::shift(Memory& device, const SequenceTable& table, const KvShift& shift) {
  const auto place = [&](std::int64_t t) -> Token& {
    auto& block = device[table[shift.slot].blocks.at(static_cast<std::size_t>(t / block_size_))];
    block.resize(static_cast<std::size_t>(block_size_));
    return block[static_cast<std::size_t>(t % block_size_)];
  };
  for (std::int64_t t = 0; t < shift.tokens; ++t) {
    Token token = place(shift.from + t);
    token.position -= shift.distance;
    place(shift.to + t) = token;
  }
}

void ShadowMemory::compute(Memory& device, const SequenceTable& table, std::int32_t slot, std::int64_t cached,
                           std::int64_t count) {
  const Sequence& s = table[slot];
  std::vector<TokenRun> key;
  token_key(s.request, workload_.content(s.request), cached + count, key);
  std::int64_t t = 0;
  for (const TokenRun& run : key)
    for (std::int64_t i = 0; i < run.tokens; ++i, ++t) {
      auto& block = device[s.blocks.at(static_cast<std::size_t>(t / block_size_))];
      block.resize(static_cast<std::size_t>(block_size_));
      Token& place = block[static_cast<std::size_t>(t % block_size_)];
      const Token token{run.content, run.offset + i, t};
      if (t < cached && place != token)
        throw std::logic_error(fmt::format("token {} of request {} is not in its block", t, s.request.id));
      place = token;
    }
}

ServeOptions options(std::int64_t num_blocks, int block_size, std::int64_t budget,
                     std::int64_t max_num_seqs) {
  ServeOptions o;
  EngineConfig engine;
  engine.scheduler.num_blocks = num_blocks;
  engine.scheduler.block_size = block_size;
  engine.scheduler.max_num_batched_tokens = budget;
  engine.scheduler.max_num_seqs = max_num_seqs;
  o.engines = {engine};
  o.keep_records = true;
  return o;
}

void disaggregate(ServeOptions& options, int prefill, int decode) {
  EngineConfig engine = options.engines.at(0);
  engine.role = EngineRole::kPrefill;
  engine.scheduler.prefill_only = true;
  options.engines.assign(static_cast<std::size_t>(prefill), engine);
  engine.role = EngineRole::kDecode;
  engine.scheduler.prefill_only = false;
  options.engines.insert(options.engines.end(), static_cast<std::size_t>(decode), engine);
  options.replicas = prefill + decode;
}

void share(ServeOptions& options, int prefill, int decode, RouterKind router) {
  disaggregate(options, prefill, decode);
  for (EngineConfig& engine : options.engines) engine.scheduler.prefill_only = false;
  options.router.kind = router;
}

std::string refusal_of(const ServeOptions& options) {
  ListWorkload nothing;
  ToyBackend backend(1);
  try {
    serve(nothing, backend, options);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

Served run(ListWorkload workload, const ServeOptions& options) {
  BatchLog log;
  Served r;
  r.result = serve(workload, log, options);
  r.batches = log.batches;
  return r;
}

}  // namespace foretoken::toy
