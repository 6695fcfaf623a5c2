// Gives the durations of a recorded timeline back, and holds the steps to it.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "serving/timeline.h"

namespace foretoken {

ReplayBackend::ReplayBackend(const Recording& recording, std::vector<std::int64_t> windows)
    : recording_(recording), windows_(std::move(windows)) {
  for (std::size_t i = 0; i < recording.steps.size(); ++i) {
    const auto engine = static_cast<std::size_t>(recording.steps[i].engine);
    if (events_.size() <= engine) events_.resize(engine + 1);
    events_[engine].push_back(i);
  }
  next_.resize(events_.size());
  step_in_span_.resize(events_.size());
}

const TimelineWriter::StepEvent& ReplayBackend::match(const Step& step) const {
  const auto fail = [&](const std::string& what) {
    throw Error("timeline",
                fmt::format("the run leaves the recording at engine {}, {} ps: {}; replay it with the "
                            "scenario that it was recorded with",
                            step.engine, step.start, what));
  };
  const auto engine = static_cast<std::size_t>(step.engine);
  if (engine >= events_.size() || next_[engine] >= events_[engine].size()) fail("no more steps are recorded");
  const TimelineWriter::StepEvent& event = recording_.steps[events_[engine][next_[engine]]];
  const std::int64_t i = step_in_span_[engine];
  const Picoseconds start = event.start + event.first * i + event.increment * (i * (i - 1) / 2);
  if (start != step.start) fail(fmt::format("the recorded step starts at {} ps", start));
  std::int64_t prefill = 0, decode = 0;
  for (const Batch& batch : step.ranks) {
    decode += batch.decode_sequences + batch.drafted;
    prefill += batch.tokens() - batch.decode_sequences - batch.drafted;
  }
  if (prefill != event.prefill_tokens || decode != event.decode_tokens) {
    fail(fmt::format("{} prefill and {} decode tokens, recorded are {} and {}", prefill, decode,
                     event.prefill_tokens, event.decode_tokens));
  }
  return event;
}

void ReplayBackend::consume(std::size_t engine, const TimelineWriter::StepEvent& event, std::int64_t steps) {
  step_in_span_[engine] += steps;
  if (step_in_span_[engine] == event.steps) {
    step_in_span_[engine] = 0;
    ++next_[engine];
  }
}

StepTime ReplayBackend::run(const Step& step) {
  const TimelineWriter::StepEvent& event = match(step);
  const auto engine = static_cast<std::size_t>(step.engine);
  const Picoseconds duration = event.first + event.increment * step_in_span_[engine];
  const std::size_t index = events_[engine][next_[engine]];
  answers_ = index < recording_.verified.size() ? std::span<const Verification>(recording_.verified[index])
                                                : std::span<const Verification>();
  StepTime time = event.steps == 1 ? event.time : StepTime{duration, duration};
  time.next_start -= event.stall;  // the loop adds it again
  time.tokens_out -= event.stall;
  consume(engine, event, 1);
  return time;
}

Picoseconds ReplayBackend::transfer(const KvTransfer& t) {
  const bool more = next_transfer_ < recording_.transfers.size();
  const TimelineWriter::TransferEvent recorded =
      more ? recording_.transfers[next_transfer_] : TimelineWriter::TransferEvent{};
  if (!more || recorded.request != t.request || recorded.from != t.from || recorded.to != t.to ||
      recorded.tokens != t.tokens || recorded.done != t.done)
    throw Error("timeline",
                fmt::format("the run leaves the recording: the cache of request {} moves from engine {} "
                            "to {}, recorded is {}; replay it with the scenario that it was recorded with",
                            t.request, t.from, t.to,
                            more ? fmt::format("that of request {} from {} to {}", recorded.request,
                                               recorded.from, recorded.to)
                                 : std::string("no more")));
  ++next_transfer_;
  return recorded.duration;
}

Picoseconds ReplayBackend::move_blocks(const TierMove& m) {
  const bool more = next_tier_ < recording_.tiers.size();
  const TimelineWriter::TierEvent recorded =
      more ? recording_.tiers[next_tier_] : TimelineWriter::TierEvent{};
  const auto blocks = static_cast<std::int64_t>(m.blocks.size());
  if (!more || recorded.declined || recorded.engine != m.engine || recorded.rank != m.rank ||
      recorded.request != m.request || recorded.from != m.from || recorded.to != m.to ||
      recorded.blocks != blocks)
    throw Error(
        "timeline",
        fmt::format(
            "the run leaves the recording: {} KV blocks of engine {} move from tier {} to {}, "
            "recorded is {}; replay it with the scenario that it was recorded with",
            blocks, m.engine, m.from, m.to,
            more ? fmt::format("a move of {} from {} to {}", recorded.blocks, recorded.from, recorded.to)
                 : std::string("no more")));
  ++next_tier_;
  return recorded.duration;
}

// Only what was declined is recorded. What was thought worth it, and then had to wait for something else, may
// be asked for again and declined: then more of it lies in the tier, or the link is busier.
bool ReplayBackend::worth_loading(const TierLoad& load) {
  if (next_tier_ >= recording_.tiers.size()) return true;
  const TimelineWriter::TierEvent& recorded = recording_.tiers[next_tier_];
  if (!recorded.declined || recorded.engine != load.engine || recorded.rank != load.rank ||
      recorded.request != load.request || recorded.from != load.tier || recorded.blocks != load.blocks ||
      recorded.cached != load.cached || recorded.duration != load.wait)
    return true;
  ++next_tier_;
  return false;
}

// The next steps of all engines wait for it.
Picoseconds ReplayBackend::rearrange(std::span<const CachedPart>, Picoseconds now, Picoseconds predicted) {
  Picoseconds next = -1;
  for (std::size_t e = 0; e < events_.size(); ++e) {
    if (next_[e] >= events_[e].size()) continue;
    const Picoseconds start = recording_.steps[events_[e][next_[e]]].start;
    if (next < 0 || start < next) next = start;
  }
  return next < 0 ? predicted : std::max<Picoseconds>(0, next - now);
}

void ReplayBackend::verify(const Step& step, std::size_t, std::span<Verification> sequences) {
  const auto same = [](const Verification& a, const Verification& b) {
    return a.request == b.request && a.tokens == b.tokens && a.drafted == b.drafted;
  };
  if (answers_.size() < sequences.size() ||
      !std::equal(sequences.begin(), sequences.end(), answers_.begin(), same))
    throw Error("timeline", fmt::format("the run leaves the recording at engine {}, {} ps: other sequences "
                                        "get tokens; replay it with the scenario that it was recorded with",
                                        step.engine, step.start));
  std::copy_n(answers_.begin(), sequences.size(), sequences.begin());
  answers_ = answers_.subspan(sequences.size());
}

SpanTime ReplayBackend::run_span(const Step& step, std::int64_t max_steps) {
  const TimelineWriter::StepEvent& event = match(step);
  if (event.steps == 1 && (event.stall > 0 || event.time.next_start != event.time.tokens_out)) return {};
  const auto engine = static_cast<std::size_t>(step.engine);
  const std::int64_t i = step_in_span_[engine];
  const SpanTime span{std::min(max_steps, event.steps - i), event.first + event.increment * i,
                      event.increment};
  consume(engine, event, span.steps);
  return span;
}

}  // namespace foretoken
