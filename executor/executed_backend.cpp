#include "executor/executed_backend.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <unordered_map>

#include "base/error.h"
#include "base/json_full.h"
#include "base/random.h"
#include "executor/probe.h"
#include "serving/content.h"
#include "serving/sequence.h"

namespace foretoken {
namespace {

long involuntary_switches() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

}  // namespace

struct ExecutedBackend::State {
  const Deployment& deployment;
  const Workload& workload;
  const ExecutorOptions options;
  Executable executable;
  std::optional<MachineProbe> probe;
  double usual_probe = 0;
  std::vector<std::int64_t> windows;
  std::vector<StepRun> steps;
  std::map<std::string, double> operator_seconds;

  // Tokens of the request in a slot: its prompt and what it has produced.
  struct History {
    RequestId request = -1;
    std::vector<std::int32_t> tokens;
  };
  std::vector<History> histories;
  struct Owner {
    std::int32_t slot = -1;
    RequestId request = -1;
  };
  std::vector<Owner> owners;  // of recurrent states; empty where the model has none
  std::unordered_map<RequestId, std::vector<std::int32_t>> outputs;
  std::vector<StepSequence> sequences;
  std::vector<std::int32_t> slots;  // of sequences
  std::vector<float> scratch;

  State(const Deployment& d, const Workload& w, const ModelText& model, const ExecutorOptions& o)
      : deployment(d),
        workload(w),
        options(o),
        executable(d, model, o),
        windows(d.model.attention_windows()) {
    if (windows.empty()) windows.push_back(0);
    for (const LayerKind& kind : d.model.kinds)
      if (std::holds_alternative<RecurrentMixer>(kind.mixer))
        owners.resize(static_cast<std::size_t>(executable.transformer().layout().max_sequences));
  }

  std::int32_t token_of(std::uint64_t content, std::int64_t offset) const {
    const std::uint64_t h =
        mix64(options.seed ^ mix64(content + static_cast<std::uint64_t>(offset) * 0x9e3779b97f4a7c15ULL));
    return static_cast<std::int32_t>(h % static_cast<std::uint64_t>(deployment.model.vocab));
  }

  // Runs of shared content, then what is the request's own: as the prefix cache's hashes have it. An earlier
  // answer that the prompt repeats is what was produced then.
  void begin(History& h, const Request& request) {
    h.request = request.id;
    h.tokens.clear();
    outputs[request.id].clear();
    const auto take = [&](std::uint64_t content, std::int64_t count) {
      const std::vector<std::int32_t>* answer = nullptr;
      for (const auto& [id, tokens] : outputs)
        if (content == generated_content(id)) answer = &tokens;
      for (std::int64_t i = 0; i < count && static_cast<std::int32_t>(h.tokens.size()) < request.input_len;
           ++i)
        h.tokens.push_back(answer && i < static_cast<std::int64_t>(answer->size())
                               ? (*answer)[static_cast<std::size_t>(i)]
                               : token_of(content, i));
    };
    for (const ContentRun& run : workload.content(request)) take(run.content, run.tokens);
    take(private_prompt_content(request.id), request.input_len);
  }

  History& history(std::int32_t slot, const Sequence& s) {
    if (static_cast<std::size_t>(slot) >= histories.size())
      histories.resize(static_cast<std::size_t>(slot) + 1);
    History& h = histories[static_cast<std::size_t>(slot)];
    if (h.request != s.request.id) begin(h, s.request);
    return h;
  }

  // The recurrent state of a running sequence: its own, or one whose owner has ended or waits again. There
  // are as many as sequences may run.
  std::int32_t state_of(const SequenceTable& table, std::int32_t slot) {
    const RequestId request = table[slot].request.id;
    std::int32_t free = -1;
    for (std::size_t i = 0; i < owners.size(); ++i) {
      const Owner& o = owners[i];
      if (o.slot == slot && o.request == request) return static_cast<std::int32_t>(i);
      if (free >= 0) continue;
      const bool lives = o.slot >= 0 && table[o.slot].request.id == o.request &&
                         table[o.slot].state == Sequence::State::kRunning &&
                         table[o.slot].num_tokens < table[o.slot].end_tokens;
      if (!lives) free = static_cast<std::int32_t>(i);
    }
    if (free >= 0) owners[static_cast<std::size_t>(free)] = {slot, request};
    return free;
  }

  void add(const SequenceTable& table, std::int32_t slot, std::int64_t cached, std::int64_t count,
           bool decode, bool sample) {
    const Sequence& s = table[slot];
    History& h = history(slot, s);
    if (cached + count > static_cast<std::int64_t>(h.tokens.size()))
      throw std::logic_error("a step asks for a token that was not produced yet");
    sequences.push_back({{h.tokens.data() + cached, static_cast<std::size_t>(count)},
                         cached,
                         s.blocks.data(),
                         decode,
                         sample,
                         s.request.adapter,
                         state_of(table, slot)});
    slots.push_back(slot);
  }
};

ExecutedBackend::ExecutedBackend(const Deployment& deployment, const Workload& workload,
                                 const ModelText& model, const ExecutorOptions& options)
    : state_(std::make_unique<State>(deployment, workload, model, options)) {
  state_->scratch.resize(2 * static_cast<std::size_t>(deployment.model.vocab));
}

ExecutedBackend::~ExecutedBackend() = default;

void ExecutedBackend::set_usual_probe(double seconds) {
  state_->usual_probe = seconds;
  state_->probe.emplace(state_->executable.kernels());
}

std::span<const std::int64_t> ExecutedBackend::windows() const { return state_->windows; }

StepTime ExecutedBackend::run(const Step& step) {
  State& s = *state_;
  const Batch& batch = step.ranks.front();
  const SequenceTable& table = *batch.sequences;
  s.sequences.clear(), s.slots.clear();
  for (const PrefillPart& p : batch.prefill) s.add(table, p.slot, p.cached, p.new_tokens, false, p.last);
  for (const DecodePart& p : batch.decode)
    if (p.slot >= 0) s.add(table, p.slot, p.context - 1, 1, true, true);
  StepRun run;
  double saved = 0;
  const long before = involuntary_switches();
  const auto start = std::chrono::steady_clock::now();
  if (!s.sequences.empty()) {
    const auto logits = s.executable.transformer().step(s.sequences, batch.adapter_loads);
    const std::int64_t vocab = s.deployment.model.vocab;
    std::int64_t row = 0;
    for (std::size_t i = 0; i < s.sequences.size(); ++i) {
      if (!s.sequences[i].sample) continue;
      State::History& h = s.histories[static_cast<std::size_t>(s.slots[i])];
      const double uniform =
          (static_cast<double>(
               mix64(s.options.seed ^ mix64(static_cast<std::uint64_t>(h.request)) ^ h.tokens.size()) >> 11) +
           0.5) *
          0x1p-53;
      const std::int32_t token = s.executable.kernels().sample(
          s.options.sampling, logits.data() + row * vocab, vocab, uniform, s.scratch.data());
      ++row;
      h.tokens.push_back(token);
      s.outputs[h.request].push_back(token);
    }
    for (const OperatorRun& o : s.executable.transformer().operators_run())
      saved += o.all_seconds - o.seconds;
  }
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  run.seconds = std::max(1e-9, wall - saved);
  if (s.probe) {
    run.speed = s.usual_probe / s.probe->run();
    run.seconds *= run.speed;
  }
  if (!s.sequences.empty())
    for (const OperatorRun& o : s.executable.transformer().operators_run())
      s.operator_seconds[std::string(o.op.name)] += o.seconds * run.speed;
  run.polluted = involuntary_switches() != before;
  for (const PrefillPart& p : batch.prefill) run.work.prefill.push_back({p.new_tokens, p.cached, 1});
  run.work.decode_sequences = batch.decode_sequences;
  run.work.sampled_rows = batch.sampled_rows;
  run.work.adapters = batch.adapters;
  run.work.adapter_loads = static_cast<std::int64_t>(batch.adapter_loads.size());
  for (std::size_t g = 0; g < s.windows.size(); ++g)
    run.work.contexts.push_back(static_cast<double>(batch.contexts[g]));
  s.steps.push_back(std::move(run));
  const Picoseconds t = to_picoseconds(Seconds(s.steps.back().seconds));
  return {t, t};
}

std::span<const StepRun> ExecutedBackend::steps() const { return state_->steps; }
std::map<std::string, double> ExecutedBackend::operator_seconds() const { return state_->operator_seconds; }
std::vector<std::int32_t> ExecutedBackend::output(RequestId request) const {
  const auto at = state_->outputs.find(request);
  return at == state_->outputs.end() ? std::vector<std::int32_t>{} : at->second;
}

std::string ExecutedBackend::description() const { return state_->executable.description(); }

}  // namespace foretoken
