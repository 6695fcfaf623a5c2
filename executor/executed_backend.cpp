#include "executor/executed_backend.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <unordered_map>

#include "base/error.h"
#include "base/json_full.h"
#include "base/random.h"
#include "serving/content.h"
#include "serving/sequence.h"

namespace foretoken {
namespace {

Storage storage_of(DType type, const char* key) {
  switch (type) {
    case DType::kF32:
      return Storage::kF32;
    case DType::kBf16:
      return Storage::kBf16;
    case DType::kF16:
      return Storage::kF16;
    case DType::kInt8:
      return Storage::kInt8;
    case DType::kFp8:
      return Storage::kFp8;
    default:
      throw Error(
          key, fmt::format("{} is not executed; use float32, bfloat16, float16, int8 or fp8", name_of(type)));
  }
}

Storage storage_of(WeightFormat format, DType plain) {
  switch (format) {
    case WeightFormat::kPlain:
      return storage_of(plain, "dtype");
    case WeightFormat::kInt8:
      return Storage::kInt8;
    case WeightFormat::kInt4Wo:
      return Storage::kInt4;
    case WeightFormat::kFp8:
      return Storage::kFp8;
    default:
      throw Error("quantization",
                  fmt::format("{} is not executed; use none, int8, int4_wo or fp8", name_of(format)));
  }
}

const Kernels& kernels_of(const std::string& isa) {
  if (isa == "float64") return reference_kernels();
  const Kernels* k = cpu_kernels(isa.c_str());
  if (!k)
    throw Error(
        "--isa",
        "\"" + isa + "\" is none of float64, scalar, avx2, avx512, avx512-bf16, or this processor lacks it");
  return *k;
}

std::size_t physical_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && size > 0 ? static_cast<std::size_t>(pages) * static_cast<std::size_t>(size) : 0;
}

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
  const Kernels& kernels;
  std::vector<std::int64_t> windows;
  Numerics numerics;
  Threads threads;
  std::unique_ptr<Transformer> transformer;
  std::vector<StepRun> steps;
  std::map<std::string, double> operator_seconds;

  // Tokens of the request in a slot: its prompt and what it has produced.
  struct History {
    RequestId request = -1;
    std::vector<std::int32_t> tokens;
  };
  std::vector<History> histories;
  std::unordered_map<RequestId, std::vector<std::int32_t>> outputs;
  std::vector<StepSequence> sequences;
  std::vector<std::int32_t> slots;  // of sequences
  std::vector<float> scratch;

  State(const Deployment& d, const Workload& w, const ExecutorOptions& o)
      : deployment(d),
        workload(w),
        options(o),
        kernels(kernels_of(o.isa)),
        windows(d.model.attention_windows()),
        threads(o.threads) {
    if (windows.empty()) windows.push_back(0);
  }

  void check() const {
    const Mapping& m = deployment.mapping;
    const auto refuse = [](const char* key, const std::string& what) {
      throw Error(key, what + " is not executed yet; `foretoken simulate` predicts it");
    };
    if (deployment.scheduler.policy == SchedulerPolicy::kSglang)
      refuse("behavior", "SGLang's scheduler, which counts cached tokens and names no blocks,");
    if (m.stages.size() > 1) refuse("pipeline_parallel_size", "a pipeline of stages");
    if (m.ranks_per_engine() > 1) refuse("data_parallel_size", "attention data parallelism");
    if (m.engines() > 1) refuse("replicas", "more than one engine");
  }

  Layout layout() const {
    const Shard& shard = deployment.mapping.stages.front();
    const SchedulerConfig& s = deployment.scheduler;
    Layout l;
    l.ranks = shard.tensor_parallel;
    l.expert_parallel = shard.expert_parallel, l.moe_tensor_parallel = shard.moe_tensor_parallel;
    l.plain = storage_of(deployment.precision.activation, "dtype");
    l.weights = storage_of(deployment.precision.weights, deployment.precision.activation);
    l.cache = storage_of(deployment.precision.kv, "kv_cache_dtype");
    l.block_size = s.block_size;
    l.num_blocks = s.num_blocks;
    l.max_tokens =
        std::min<std::int64_t>(s.max_num_batched_tokens + s.max_num_seqs, s.max_num_seqs * s.max_model_len);
    l.max_sequences = s.max_num_seqs;
    l.max_length = s.max_model_len;
    return l;
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
                         sample});
    slots.push_back(slot);
  }
};

ExecutedBackend::ExecutedBackend(const Deployment& deployment, const Workload& workload,
                                 const ModelText& model, const ExecutorOptions& options)
    : state_(std::make_unique<State>(deployment, workload, options)) {
  State& s = *state_;
  s.check();
  s.numerics = read_numerics(parse_json(model.text, model.where), deployment.model,
                             deployment.scheduler.max_model_len, model.where);
  const auto checkpoint = options.weights.empty()
                              ? synthetic_checkpoint(deployment.model, s.numerics, options.seed)
                              : safetensors_checkpoint(options.weights, deployment.model, s.numerics);
  const Layout layout = s.layout();
  const std::size_t needed =
      Transformer::bytes_needed(deployment.model, s.numerics, *checkpoint, s.kernels, layout);
  if (const std::size_t room = physical_memory(); room > 0 && needed > room)
    throw Error(
        "model",
        fmt::format(
            "needs {:.1f} GiB for weights and KV cache, this machine has {:.1f} GiB; use a smaller model, "
            "quantization, or num_gpu_blocks_override (now {} blocks)",
            static_cast<double>(needed) / (1 << 30), static_cast<double>(room) / (1 << 30),
            layout.num_blocks));
  s.transformer = std::make_unique<Transformer>(deployment.model, s.numerics, *checkpoint, s.kernels, layout,
                                                deployment.precision, s.threads);
  s.scratch.resize(2 * static_cast<std::size_t>(deployment.model.vocab));
}

ExecutedBackend::~ExecutedBackend() = default;

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
    const auto logits = s.transformer->step(s.sequences);
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
      const std::int32_t token =
          s.kernels.sample(s.options.sampling, logits.data() + row * vocab, vocab, uniform, s.scratch.data());
      ++row;
      h.tokens.push_back(token);
      s.outputs[h.request].push_back(token);
    }
    for (const OperatorRun& o : s.transformer->operators_run()) {
      s.operator_seconds[std::string(o.op.name)] += o.seconds;
      saved += o.all_seconds - o.seconds;
    }
  }
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  run.seconds = std::max(1e-9, wall - saved);
  run.polluted = involuntary_switches() != before;
  for (const PrefillPart& p : batch.prefill) run.work.prefill.push_back({p.new_tokens, p.cached, 1});
  run.work.decode_sequences = batch.decode_sequences;
  run.work.sampled_rows = batch.sampled_rows;
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

std::string ExecutedBackend::description() const {
  static constexpr const char* kStorage[] = {"float32", "bfloat16", "float16", "int8", "int4", "fp8"};
  const Layout& l = state_->transformer->layout();
  return fmt::format("{} kernels, {} thread{}, {} weights, {} cache, {} rank{}, {} weights",
                     state_->kernels.name(), state_->threads.count(), state_->threads.count() == 1 ? "" : "s",
                     kStorage[static_cast<int>(l.weights)], kStorage[static_cast<int>(l.cache)], l.ranks,
                     l.ranks == 1 ? "" : "s", state_->options.weights.empty() ? "synthetic" : "safetensors");
}

}  // namespace foretoken
