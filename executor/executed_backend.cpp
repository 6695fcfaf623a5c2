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
#include "executor/drafter.h"
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
  ExecutorOptions options;
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
    std::vector<std::int32_t> drafts;  // proposed for its next step
    std::int32_t accepted = 0;         // in its last step
  };
  std::vector<History> histories;
  std::unordered_map<RequestId, std::vector<std::int32_t>> outputs;
  std::vector<StepSequence> sequences;
  std::vector<std::int32_t> slots;  // of sequences
  std::vector<float> scratch;
  // Speculative decoding; null without.
  std::optional<DraftTree> tree;
  std::unique_ptr<Drafter> drafter;
  std::vector<DraftedSequence> drafted;
  std::vector<int> path;

  State(const Deployment& d, const Workload& w, const ModelText& model, const ExecutorOptions& o)
      : deployment(d),
        workload(w),
        options(o),
        executable(d, model, o),
        windows(d.model.attention_windows()) {
    if (windows.empty()) windows.push_back(0);
    const WorkloadConfig& asked = d.scenario.workload;
    options.sampling.temperature = static_cast<float>(asked.temperature.value_or(0));
    options.sampling.top_k = asked.top_k.value_or(0);
    options.sampling.top_p = static_cast<float>(asked.top_p.value_or(1));
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

  // verified: of its drafts, that follow the newest token in this step.
  void add(const SequenceTable& table, std::int32_t slot, std::int64_t cached, std::int64_t count,
           bool decode, bool sample, std::int32_t verified = 0) {
    const Sequence& s = table[slot];
    History& h = history(slot, s);
    h.accepted = 0;
    if (verified > 0) {
      h.tokens.insert(h.tokens.end(), h.drafts.begin(), h.drafts.begin() + verified);
      count += verified;
    }
    if (cached + count > static_cast<std::int64_t>(h.tokens.size()))
      throw std::logic_error("a step asks for a token that was not produced yet");
    sequences.push_back({{h.tokens.data() + cached, static_cast<std::size_t>(count)},
                         cached,
                         s.blocks.data(),
                         decode,
                         sample});
    slots.push_back(slot);
    if (verified == 0) return;
    sequences.back().every_row = true;
    sequences.back().parents = tree->parents();
  }

  // The token that follows: a draw of its request and place, the same whatever runs beside it and whether it
  // was drafted.
  std::int32_t sample(const History& h, const float* logits) {
    const double uniform =
        (static_cast<double>(
             mix64(options.seed ^ mix64(static_cast<std::uint64_t>(h.request)) ^ h.tokens.size()) >> 11) +
         0.5) *
        0x1p-53;
    return executable.kernels().sample(options.sampling, logits, deployment.model.vocab, uniform,
                                       scratch.data());
  }

  // Takes the tokens that the step yields for a sequence: the target's own choice after its newest token, and
  // after each drafted one that was that choice. Drafts are proposed without chance, so this is rejection
  // sampling (Leviathan et al. 2023, A.1): a token with probability p is accepted with p.
  void take_tokens(const Sequence& s, const StepSequence& step, History& h, const float* logits) {
    const std::int64_t vocab = deployment.model.vocab;
    const std::size_t rows = step.every_row ? step.tokens.size() : 1;
    const std::size_t known = h.tokens.size() - (rows - 1);
    const auto drafts = std::span(h.drafts).first(rows - 1);
    h.tokens.resize(known);
    std::vector<std::int32_t>& output = outputs[h.request];
    path.clear();
    for (int node = 0; node >= 0;) {
      const std::int32_t token = sample(h, logits + node * vocab);
      h.tokens.push_back(token);
      if (static_cast<std::int64_t>(output.size()) < s.end_tokens - s.request.input_len)
        output.push_back(token);
      node = rows > 1 ? tree->follow(node, token, drafts) : -1;
      if (node > 0) path.push_back(node);
    }
    h.accepted = static_cast<std::int32_t>(path.size());
    if (path.empty()) return;
    // Accepted tokens of a tree move behind one another.
    const auto root = static_cast<std::int64_t>(known) - 1;
    for (std::size_t i = 0; i < path.size(); ++i)
      if (path[i] != static_cast<int>(i) + 1)
        executable.transformer().move_cached(s.blocks.data(), root + path[i],
                                             root + static_cast<std::int64_t>(i) + 1);
    drafter->accepted(s.blocks.data(), root, path);
  }

  void propose(const SequenceTable& table) {
    drafted.clear();
    std::size_t prompts = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      History& h = histories[static_cast<std::size_t>(slots[i])];
      StepSequence& s = sequences[i];
      if (!s.decode) {  // what was sampled may have moved the tokens
        s.tokens = {h.tokens.data() + s.cached, s.tokens.size()};
        ++prompts;
      }
      if (!s.sample) continue;
      const Sequence& own = table[slots[i]];
      drafted.push_back({&h.tokens, own.blocks.data(), own.capacity,
                         std::max<std::int64_t>(0, deployment.scheduler.max_model_len - 1 -
                                                       static_cast<std::int64_t>(h.tokens.size())),
                         !s.decode, &h.drafts});
    }
    drafter->propose(std::span(sequences).first(prompts), drafted);
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
    if (p.slot >= 0) s.add(table, p.slot, p.context - 1 - p.drafted, 1, true, true, p.drafted);
  StepRun run;
  double saved = 0;
  const long before = involuntary_switches();
  const auto start = std::chrono::steady_clock::now();
  if (!s.sequences.empty()) {
    const auto logits = s.executable.transformer().step(s.sequences);
    const std::int64_t vocab = s.deployment.model.vocab;
    std::int64_t row = 0;
    for (std::size_t i = 0; i < s.sequences.size(); ++i) {
      if (!s.sequences[i].sample) continue;
      s.take_tokens(table[s.slots[i]], s.sequences[i], s.histories[static_cast<std::size_t>(s.slots[i])],
                    logits.data() + row * vocab);
      row += s.sequences[i].every_row ? static_cast<std::int64_t>(s.sequences[i].tokens.size()) : 1;
    }
    if (s.drafter) s.propose(table);
    for (const OperatorRun& o : s.executable.transformer().operators_run())
      saved += o.all_seconds - o.seconds;
    if (s.drafter) saved += s.drafter->saved;
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
  if (s.drafter && !s.sequences.empty()) {
    for (const auto& [name, seconds] : s.drafter->operator_seconds)
      s.operator_seconds["draft " + name] += seconds * run.speed;
    run.drafting = s.drafter->work;
  }
  run.polluted = involuntary_switches() != before;
  for (const PrefillPart& p : batch.prefill) run.work.prefill.push_back({p.new_tokens, p.cached, 1});
  run.work.decode_sequences = batch.decode_sequences;
  if (batch.drafted > 0)
    run.work.decode_queries = 1 + (batch.drafted + batch.decode_sequences - 1) / batch.decode_sequences;
  run.work.sampled_rows = batch.sampled_rows;
  for (std::size_t g = 0; g < s.windows.size(); ++g)
    run.work.contexts.push_back(static_cast<double>(batch.contexts[g]));
  s.steps.push_back(std::move(run));
  const Picoseconds t = to_picoseconds(Seconds(s.steps.back().seconds));
  return {t, t};
}

void ExecutedBackend::verify(const Step&, std::size_t, std::span<Verification> sequences) {
  for (Verification& v : sequences) {
    const State::History& h = state_->histories[static_cast<std::size_t>(v.slot)];
    v.accepted = h.accepted;
    v.drafts = static_cast<std::int32_t>(h.drafts.size());
  }
}

std::span<const StepRun> ExecutedBackend::steps() const { return state_->steps; }
std::map<std::string, double> ExecutedBackend::operator_seconds() const { return state_->operator_seconds; }
std::vector<std::int32_t> ExecutedBackend::output(RequestId request) const {
  const auto at = state_->outputs.find(request);
  return at == state_->outputs.end() ? std::vector<std::int32_t>{} : at->second;
}

std::string ExecutedBackend::description() const { return state_->executable.description(); }

}  // namespace foretoken
