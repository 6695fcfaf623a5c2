// What an ExecutedBackend holds: the model, tokens of every request, the step at hand. Shared by the files
// that implement it.
#pragma once

#include <sys/resource.h>

#include <chrono>
#include <optional>
#include <unordered_map>

#include "base/random.h"
#include "executor/beams.h"
#include "executor/drafter.h"
#include "executor/executed_backend.h"
#include "executor/executed_instances.h"
#include "executor/probe.h"
#include "serving/content.h"
#include "serving/sequence.h"

namespace foretoken {

// By which the system has interrupted this process so far.
inline long involuntary_switches() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

struct ExecutedBackend::State {
  const Deployment& deployment;
  const Workload& workload;
  ExecutorOptions options;
  Executable executable;
  std::optional<MachineProbe> probe;
  double usual_probe = 0;
  Backend* prices = nullptr;
  std::vector<std::int64_t> windows;
  std::vector<StepRun> steps;
  std::map<std::string, double> operator_seconds, predicted_copy_seconds;

  // Tokens of a request: its prompt and what it has produced.
  struct History {
    std::vector<std::int32_t> tokens;
    std::vector<std::int32_t> drafts;  // proposed for its next step
    std::int32_t accepted = 0;         // in its last step
    std::size_t prompt = 0;            // tokens of it
  };
  std::unordered_map<RequestId, History> histories;
  // Beam search (beam_width above 1); histories then hold prompts alone.
  std::unordered_map<RequestId, Beams> beams;
  std::vector<std::vector<BlockCopy>> copies;  // of the step at hand, by data-parallel rank
  std::vector<Continuation> best;
  BeamSharing beam_sharing;
  // Whose each recurrent state is, by engine and data-parallel rank; `states_each` of them, 0 where the model
  // has none.
  struct StateOwner {
    std::int32_t slot = -1;
    RequestId request = -1;
  };
  std::map<std::pair<std::int32_t, std::size_t>, std::vector<StateOwner>> states;
  std::size_t states_each = 0;
  std::unordered_map<RequestId, std::vector<std::int32_t>> outputs;
  // Of the step at hand, by data-parallel rank; and whose they are.
  std::vector<std::vector<StepSequence>> sequences;
  std::vector<std::vector<std::int32_t>> slots;
  std::vector<Transformer::Swaps> swaps;
  std::vector<std::vector<Transformer::Shift>> shifts;
  Arena scratch;  // of sampling
  std::vector<double> uniforms;
  std::vector<std::int32_t> sampled;  // one of each row that has logits
  // Of each of these rows the token that the sequence has there, and which drafts were accepted
  // (DraftedRows).
  std::vector<std::int32_t> row_tokens, row_starts, accepted, path;
  std::vector<std::vector<Picoseconds>>
      stage_free;  // by engine: when each stage of its pipeline is free again
  Moved moved;
  // Speculative decoding; null without.
  std::optional<DraftTree> tree;
  std::unique_ptr<Drafter> drafter;
  std::vector<DraftedSequence> drafted;
  // Of behaviours whose attention reaches over several instances' caches.
  std::unique_ptr<ExecutedInstances> instances;
  std::span<const Batch> batches;  // of their step
  struct Served {
    std::size_t instance = 0;
    double seconds = 0;
  };

  State(const Deployment& d, const Workload& w, const ModelText& model, const ExecutorOptions& o)
      : deployment(d),
        workload(w),
        options(o),
        executable(d, model, o),
        windows(d.model.attention_windows()) {
    if (windows.empty()) windows.push_back(0);
    if (d.model.is_recurrent())
      states_each = static_cast<std::size_t>(executable.transformer().layout().max_sequences);
    const WorkloadConfig& asked = d.scenario.workload;
    options.sampling.temperature = static_cast<float>(asked.temperature.value_or(0));
    options.sampling.top_k = asked.top_k.value_or(0);
    options.sampling.top_p = static_cast<float>(asked.top_p.value_or(1));
    best.resize(static_cast<std::size_t>(d.scheduler.beam_width));
    const Kernels& kernels = executable.kernels();
    scratch = Arena(kernels.sampling_scratch(executable.sampled_rows(), d.model.vocab), kernels.memory());
    if (executable.transformer().layout().reaches)
      instances = std::make_unique<ExecutedInstances>(d, kernels);
    if (!d.speculation) return;
    tree.emplace(d.speculation->widths);
    drafter = make_drafter(*d.speculation, *tree, o, executable.bytes());
  }

  std::int32_t token_of(std::uint64_t content, std::int64_t offset) const {
    const std::uint64_t h =
        mix64(options.seed ^ mix64(content + static_cast<std::uint64_t>(offset) * 0x9e3779b97f4a7c15ULL));
    return static_cast<std::int32_t>(h % static_cast<std::uint64_t>(deployment.model.vocab));
  }

  // Runs of shared content, then what is the request's own: as the prefix cache's hashes have it. An earlier
  // answer that the prompt repeats is what was produced then.
  void begin(std::vector<std::int32_t>& h, const Request& request) {
    outputs[request.id].clear();
    const auto take = [&](std::uint64_t content, std::int64_t count) {
      const std::vector<std::int32_t>* answer = nullptr;
      for (const auto& [id, tokens] : outputs)
        if (content == generated_content(id)) answer = &tokens;
      for (std::int64_t i = 0; i < count && static_cast<std::int32_t>(h.size()) < request.input_len; ++i)
        h.push_back(answer && i < static_cast<std::int64_t>(answer->size())
                        ? (*answer)[static_cast<std::size_t>(i)]
                        : token_of(content, i));
    };
    for (const ContentRun& run : workload.content(request)) take(run.content, run.tokens);
    take(private_prompt_content(request.id), request.input_len);
  }

  // The recurrent state of a running sequence: its own, or one whose owner has ended or waits again. There
  // are as many as sequences may run.
  std::int32_t state_of(std::int32_t engine, std::size_t rank, const SequenceTable& table,
                        std::int32_t slot) {
    if (states_each == 0) return -1;
    std::vector<StateOwner>& of = states[{engine, rank}];
    of.resize(states_each);
    const RequestId request = table[slot].request.id;
    std::int32_t free = -1;
    for (std::size_t i = 0; i < of.size(); ++i) {
      const StateOwner& o = of[i];
      if (o.slot == slot && o.request == request) return static_cast<std::int32_t>(i);
      if (free >= 0) continue;
      const bool lives = o.slot >= 0 && table[o.slot].request.id == o.request &&
                         table[o.slot].state == Sequence::State::kRunning &&
                         table[o.slot].num_tokens < table[o.slot].end_tokens;
      if (!lives) free = static_cast<std::int32_t>(i);
    }
    if (free >= 0) of[static_cast<std::size_t>(free)] = {slot, request};
    return free;
  }

  History& history_of(const Request& request) {
    History& h = histories[request.id];
    if (!h.tokens.empty()) return h;
    begin(h.tokens, request);
    h.prompt = h.tokens.size();
    if (searches())
      beams.try_emplace(request.id, deployment.scheduler.beam_width, deployment.scheduler.block_size,
                        request.input_len);
    return h;
  }

  // verified: of its drafts, that follow the newest token in this step.
  void add(std::int32_t engine, std::size_t rank, const SequenceTable& table, std::int32_t slot,
           std::int64_t cached, std::int64_t count, bool decode, bool sample, std::int32_t verified = 0) {
    const Sequence& s = table[slot];
    History& h = history_of(s.request);
    h.accepted = 0;
    if (verified > 0) {
      h.tokens.insert(h.tokens.end(), h.drafts.begin(), h.drafts.begin() + verified);
      count += verified;
    }
    if (cached + count > static_cast<std::int64_t>(h.tokens.size()))
      throw std::logic_error("a step asks for a token that was not produced yet");
    sequences[rank].push_back({{h.tokens.data() + cached, static_cast<std::size_t>(count)},
                               cached,
                               s.blocks.data(),
                               decode,
                               sample,
                               s.request.adapter,
                               state_of(engine, rank, table, slot)});
    slots[rank].push_back(slot);
    if (verified == 0) return;
    sequences[rank].back().every_row = true;
    sequences[rank].back().parents = tree->parents().data();
  }

  bool searches() const { return deployment.scheduler.beam_width > 1; }

  // Tokens of one beam after its prompt; the first beam's part comes first.
  void add_beam(std::size_t rank, const SequenceTable& table, std::int32_t slot, std::int64_t cached,
                std::int64_t count, bool decode, bool sample, int beam) {
    const Sequence& s = table[slot];
    Beams& b = beams.at(s.request.id);
    if (beam == 0) {
      b.prepare(s.blocks, cached, count, copies[rank]);
      beam_sharing.blocks += b.distinct_blocks();
      beam_sharing.unshared += deployment.scheduler.beam_width * b.columns();
    }
    sequences[rank].push_back(
        {b.tokens(beam), cached, b.blocks(beam), decode, sample, s.request.adapter, -1});
    slots[rank].push_back(slot);
  }

  // Rows that were taken: one after the prompt, then one a beam.
  std::size_t take_beams(const Sequence& s, const float* logits) {
    Beams& b = beams.at(s.request.id);
    const std::size_t rows = b.log_probabilities().size();
    executable.kernels().select_beams(logits, deployment.model.vocab, b.log_probabilities(), best,
                                      scratch_bytes());
    b.take(best);
    b.best(outputs[s.request.id]);
    return rows;
  }

  // What decides about the token at a place of a request: the same whatever runs beside it and whether it was
  // drafted.
  double uniform(RequestId request, std::size_t place) const {
    return (static_cast<double>(mix64(options.seed ^ mix64(static_cast<std::uint64_t>(request)) ^ place) >>
                                11) +
            0.5) *
           0x1p-53;
  }

  static std::size_t rows_of(const StepSequence& s) { return s.every_row ? s.tokens.size() : 1; }
  // Tokens of a sequence that the step knew, without drafts.
  static std::size_t known_of(const StepSequence& s) {
    return static_cast<std::size_t>(s.cached) + s.tokens.size() - (rows_of(s) - 1);
  }

  // at: the engine. logits: of the rank's rows that are wanted.
  void sample(std::size_t at, std::size_t rank, const SequenceTable& table, const float* logits) {
    const std::int64_t vocab = deployment.model.vocab;
    if (searches()) {
      for (std::size_t i = 0; i < sequences[rank].size(); ++i) {
        if (!sequences[rank][i].sample) continue;
        const std::size_t rows = take_beams(table[slots[rank][i]], logits);
        logits += static_cast<std::int64_t>(rows) * vocab;
        i += rows - 1;
      }
      return;
    }
    uniforms.clear(), row_tokens.clear(), row_starts.assign(1, 0);
    for (std::size_t i = 0; i < sequences[rank].size(); ++i) {
      const StepSequence& asked = sequences[rank][i];
      if (!asked.sample) continue;
      const std::size_t rows = rows_of(asked);
      for (std::size_t row = 0; row < rows; ++row)
        uniforms.push_back(uniform(table[slots[rank][i]].request.id,
                                   known_of(asked) + (row == 0 ? 0 : tree->level(static_cast<int>(row)))));
      const auto of_rows = asked.tokens.last(rows);
      row_tokens.insert(row_tokens.end(), of_rows.begin(), of_rows.end());
      row_starts.push_back(static_cast<std::int32_t>(row_tokens.size()));
    }
    sampled.resize(uniforms.size()), path.resize(uniforms.size());
    accepted.assign(row_starts.size() - 1, 0);
    const Kernels& kernels = executable.kernels();
    if (sampled.size() > accepted.size())
      kernels.sample_and_verify(options.sampling, logits, vocab, uniforms,
                                {row_starts, row_tokens, tree->parents()}, sampled.data(), accepted.data(),
                                path.data(), scratch_bytes());
    else
      kernels.sample(options.sampling, logits, vocab, uniforms, sampled.data(), scratch_bytes());
    std::size_t taken = 0;
    for (std::size_t i = 0; i < sequences[rank].size(); ++i) {
      const StepSequence& asked = sequences[rank][i];
      if (!asked.sample) continue;
      const auto row = static_cast<std::size_t>(row_starts[taken]);
      take_tokens(at, rank, table[slots[rank][i]], asked, &sampled[row],
                  std::span(path).subspan(row, static_cast<std::size_t>(accepted[taken])));
      ++taken;
    }
  }

  std::byte* scratch_bytes() {
    scratch.reset();
    return scratch.bytes(scratch.size());
  }

  // Takes the tokens that the step yields for a sequence: the target's own choice after its newest token, and
  // after each drafted one that was that choice. nodes: the accepted ones.
  void take_tokens(std::size_t at, std::size_t rank, const Sequence& s, const StepSequence& step,
                   const std::int32_t* tokens, std::span<const std::int32_t> nodes) {
    History& h = histories[s.request.id];
    // A prompt that is computed again makes its token again.
    const std::size_t known = known_of(step);
    h.tokens.resize(known);
    std::vector<std::int32_t>& output = outputs[s.request.id];
    output.resize(known - static_cast<std::size_t>(s.request.input_len));
    const auto take = [&](std::int32_t token) {
      h.tokens.push_back(token);
      if (static_cast<std::int64_t>(output.size()) < s.end_tokens - s.request.input_len)
        output.push_back(token);
    };
    take(tokens[0]);
    for (const std::int32_t node : nodes) take(tokens[node]);
    h.accepted = static_cast<std::int32_t>(nodes.size());
    if (nodes.empty()) return;
    // Accepted tokens of a tree move behind one another.
    const auto root = static_cast<std::int64_t>(known) - 1;
    executable.engine(at).rank(rank).move_path(s.blocks.data(), root, nodes);
    drafter->accepted(at, s.blocks.data(), root, nodes);
  }

  // Of the one data-parallel rank that there is.
  void propose(std::size_t at, const SequenceTable& table) {
    drafted.clear();
    std::size_t prompts = 0;
    for (std::size_t i = 0; i < sequences.front().size(); ++i) {
      const Sequence& own = table[slots.front()[i]];
      History& h = histories[own.request.id];
      StepSequence& s = sequences.front()[i];
      if (!s.decode) {  // what was sampled may have moved the tokens
        s.tokens = {h.tokens.data() + s.cached, s.tokens.size()};
        ++prompts;
      }
      if (!s.sample) continue;
      drafted.push_back({&h.tokens, own.blocks.data(), own.capacity,
                         std::max<std::int64_t>(0, deployment.scheduler.max_model_len - 1 -
                                                       static_cast<std::int64_t>(h.tokens.size())),
                         !s.decode, &h.drafts});
    }
    drafter->propose(at, std::span(sequences.front()).first(prompts), drafted);
  }

  // vLLM V0's draft model guesses in the step that verifies, whose sequences have slots for what it guesses
  // only then; a lookup is the same behind the step before.
  bool drafts_in_step() const {
    return drafter && deployment.speculation->draft &&
           deployment.scheduler.policy == SchedulerPolicy::kVllmV0;
  }
  // Once the step's prompts are listed and before those that decode are.
  void propose_first(std::size_t at, const Batch& batch) {
    drafted.clear();
    for (const DecodePart& p : batch.decode) {
      const Sequence& own = (*batch.sequences)[p.slot];
      History& h = histories.at(own.request.id);
      drafted.push_back({&h.tokens, own.blocks.data(), own.capacity, p.drafted, false, &h.drafts});
    }
    drafter->propose(at, sequences.front(), drafted);
  }

  // executed_instances.cpp
  StepTime run_instances(const Step& step);
  double run_prompts(std::span<const Batch> group);
  double run_decodes(std::span<const Batch> group);
  double sample_instances(std::span<const Batch> group, std::size_t first);
  double copy(std::span<const KvParts::Move> moves);

  // A step of so many seconds, as on a machine of usual speed, that all processes agree on.
  void settle(StepRun& run, std::vector<double>& stages) {
    if (probe) {
      run.speed = usual_probe / probe->run();
      run.seconds *= run.speed;
      for (double& stage : stages) stage *= run.speed;
    }
    // The slowest process sets the pace of all, so that they decide alike.
    if (Processes* p = options.processes) {
      stages.push_back(run.seconds);
      p->maximum(stages);
      run.seconds = stages.back();
      stages.pop_back();
    }
  }

  // Each stage takes the step when the one before has sent it and it is done with the step before.
  StepTime through_stages(const Step& step, std::span<const double> seconds) {
    const auto e = static_cast<std::size_t>(step.engine);
    if (stage_free.size() <= e) stage_free.resize(e + 1);
    std::vector<Picoseconds>& free = stage_free[e];
    free.resize(seconds.size());
    Picoseconds at = step.start;
    for (std::size_t i = 0; i < seconds.size(); ++i)
      free[i] = at = std::max(at, free[i]) + to_picoseconds(Seconds(seconds[i]));
    return {free.front() - step.start, at - step.start};
  }
};

}  // namespace foretoken
