#include "executor/executable.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "base/error.h"
#include "base/json_full.h"
#include "executor/cuda_library.h"
#include "executor/probe.h"

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
    case WeightFormat::kFp8Block:
      return Storage::kFp8Block;
    default:
      throw Error("quantization", fmt::format("{} is not executed; use none, int8, int4_wo, fp8 or fp8_block",
                                              name_of(format)));
  }
}

// Whether products round activations to the format of their weights. By default as the format's price has it:
// compute_type() of weights of 8 bits is their own.
bool quantises_x(const ExecutorOptions& options, Storage weights) {
  const std::string& asked = options.activations;
  if (asked.empty()) return of_8_bits(weights);
  if (asked == "bf16") return false;
  if (asked == "fp8" ? is_fp8(weights) : weights == Storage::kInt8) return true;
  throw Error("--activation-format",
              fmt::format("{} is multiplied by weights in {} alone; use --quantization {}, or leave it out",
                          asked, asked, asked));
}

Fp8Scales fp8_scales_of(const ExecutorOptions& options, const Checkpoint& checkpoint, const Layout& l,
                        const ModelConfig& model) {
  const std::string& asked = options.fp8_scales;
  if (l.weights != Storage::kFp8) {
    if (asked.empty()) return Fp8Scales::kRows;
    throw Error("--fp8-scales", "are of weights in fp8; use --quantization fp8, or leave it out");
  }
  if (asked.empty()) return checkpoint.fp8_scales();
  if (asked == "row") return Fp8Scales::kRows;
  if (asked == "tensor-token") return Fp8Scales::kTensorToken;
  if (asked == "static") return Fp8Scales::kStatic;
  const auto experts = [](const LayerKind& kind) { return std::holds_alternative<MoeMlp>(kind.mlp); };
  if (l.quantised_x && std::any_of(model.kinds.begin(), model.kinds.end(), experts))
    throw Error("--fp8-scales",
                "tensor, of rows that go to different experts, is not executed; use tensor-token or static");
  return Fp8Scales::kTensors;
}

// rank: of this process; each takes a device of its own where there are as many.
const Kernels& cuda_device_kernels(const ExecutorOptions& options, int rank) {
  static const CudaSearch search = open_cuda_library(options.cuda_library);
  if (search.library == nullptr)
    throw Error("--backend", search.why_not + "; --backend cpu executes on the processor");
  search.library->keep_choices(options.product_choices);
  return search.library->kernels(rank);
}

const Kernels& kernels_of(const ExecutorOptions& options) {
  if (options.kernels) return *options.kernels;
  const std::string& isa = options.isa;
  if (options.backend == "cuda") {
    if (!isa.empty()) throw Error("--isa", "is of the processor; leave it out with --backend cuda");
    return cuda_device_kernels(options, options.processes ? options.processes->rank() : 0);
  }
  if (isa == "float64") return reference_kernels();
  const Kernels* k = cpu_kernels(isa.c_str());
  if (!k)
    throw Error(
        "--isa",
        "\"" + isa + "\" is none of float64, scalar, avx2, avx512, avx512-bf16, or this processor lacks it");
  return *k;
}

// Nothing else of this program runs on the processors of a device's host; processes share them.
int threads_of(const ExecutorOptions& options, const Kernels& kernels) {
  if (options.threads > 0 || kernels.memory().host_reads()) return options.threads;
  const int sharing = options.processes ? options.processes->size() : 1;
  return static_cast<int>(std::thread::hardware_concurrency()) / sharing;
}

// Whether attention reaches over several instances' caches.
bool reaches(const Deployment& d) {
  return d.scheduler.policy == SchedulerPolicy::kLoongserve ||
         d.scheduler.policy == SchedulerPolicy::kInfiniteLlm;
}

// apart: there are other kinds of engines beside it.
void check(const Deployment& deployment, bool apart, bool processes) {
  const Mapping& m = deployment.mapping;
  const auto refuse = [](const char* key, const std::string& what) {
    throw Error(key, what + " is not executed yet; `foretoken simulate` predicts it");
  };
  if (processes && reaches(deployment))
    refuse("behavior",
           deployment.behavior.name + ", whose attention reaches over several instances, in processes,");
  const bool several = apart || m.engines() > 1;
  if (m.stages.front().expert_load)
    throw Error(deployment.scenario.workload.expert_skew ? "expert_skew" : "enable_eplb",
                "is not executed: a model's own router says which experts a token takes; leave it out");
  if (deployment.speculation) {
    if (m.ranks_per_engine() > 1) refuse("speculative_config", "with data-parallel ranks that share experts");
    if (m.stages.front().sequence_parallel) refuse("speculative_config", "with sequence parallelism");
    if (processes) throw Error("speculative_config", "is executed by one process; start it without mpirun");
  }
  if (deployment.streaming.layers > 0 && (m.stages.size() > 1 || m.ranks_per_engine() > 1 || m.engines() > 1))
    refuse("layer_streaming", "with a pipeline, data-parallel ranks that share experts or several engines");
  const bool recurrent = deployment.model.is_recurrent();
  if (recurrent && deployment.scheduler.policy != SchedulerPolicy::kVllmV1)
    refuse("behavior", "a model with recurrent layers under another scheduler than vLLM's");
  if (recurrent && deployment.scheduler.enable_prefix_caching)
    refuse("enable_prefix_caching",
           "a prefix cache of a model with recurrent layers, whose states it has not,");
  const bool adapted = m.stages.front().lora.rank > 0;
  if (!recurrent && !adapted) return;
  const std::string what = recurrent ? "a model with recurrent layers" : "a model with low-rank adapters";
  if (m.stages.size() > 1) refuse("pipeline_parallel_size", what + " in a pipeline");
  if (m.ranks_per_engine() > 1)
    refuse("data_parallel_size", what + " on data-parallel ranks that share experts");
  if (several) refuse("replicas", what + " on several engines");
  if (m.stages.front().sequence_parallel)
    refuse("enable_sequence_parallelism", what + " with sequence parallelism");
  if (processes) refuse("tensor_parallel_size", what + " on ranks that are processes");
}

void check(const Layout& l) {
  if (l.processes == nullptr) return;
  const int n = l.processes->size();
  if (l.ranks != n)
    throw Error(
        "tensor_parallel_size",
        fmt::format(
            "is {}, and there are {} processes: each computes one tensor-parallel rank; start as many "
            "as tensor_parallel_size, or one that computes all",
            l.ranks, n));
  if (l.data_parallel > 1)
    throw Error(
        "data_parallel_size",
        "data-parallel ranks that share experts are computed by one process; start it without mpirun");
}

bool same_slices(const Layout& a, const Layout& b) {
  return a.ranks == b.ranks && a.expert_parallel == b.expert_parallel &&
         a.moe_tensor_parallel == b.moe_tensor_parallel && a.data_parallel == b.data_parallel &&
         a.weights == b.weights && a.plain == b.plain;
}

// Unlike replicas on the one machine that executes them.
void check_kinds(const std::vector<const Deployment*>& kinds) {
  for (const Deployment* kind : kinds) {
    if (kind->device.name != kinds.front()->device.name)
      throw Error("device", fmt::format("engines on {} and on {} are not executed by one machine; `foretoken "
                                        "simulate` predicts them",
                                        kinds.front()->device.name, kind->device.name));
    if (kinds.size() == 1) return;
    if (kind->speculation)
      throw Error("speculative_config",
                  "with unlike replicas is not executed yet; `foretoken simulate` predicts it");
    if (kind->scheduler.beam_width > 1)
      throw Error("beam_width", "with unlike replicas is not executed yet; `foretoken simulate` predicts it");
  }
}

Layout layout_of(const Deployment& deployment, const Checkpoint& checkpoint, const ExecutorOptions& options,
                 const Kernels& kernels) {
  const Shard& shard = deployment.mapping.stages.front();
  const SchedulerConfig& s = deployment.scheduler;
  Layout l;
  l.ranks = shard.tensor_parallel;
  l.expert_parallel = shard.expert_parallel, l.moe_tensor_parallel = shard.moe_tensor_parallel;
  l.data_parallel = deployment.mapping.ranks_per_engine();
  l.stages = deployment.mapping.stages;
  l.processes = options.processes;
  l.reaches = reaches(deployment);
  l.plain = storage_of(deployment.precision.activation, "dtype");
  l.weights = storage_of(deployment.precision.weights, deployment.precision.activation);
  l.cache = storage_of(deployment.precision.kv, "kv_cache_dtype");
  l.quantised_x = quantises_x(options, l.weights);
  l.fp8_scales = fp8_scales_of(options, checkpoint, l, deployment.model);
  l.block_size = s.block_size;
  l.num_blocks = s.num_blocks;
  l.num_host_blocks = s.num_host_blocks;
  for (std::size_t t = 0; t < s.kv_tiers.tiers.size(); ++t) {
    KvStoreLayout& store = l.kv_tiers.emplace_back();
    store.blocks = s.kv_tiers.tiers[t].blocks;
    store.on_storage = deployment.scenario.engine.kv_tiers[t].kind == "storage";
    store.folder = options.temporary_folder;
    if (!s.kv_tiers.tiers[t].shared) continue;
    store.sharers = static_cast<std::size_t>(deployment.mapping.engines() * l.data_parallel);
    store.shared = std::make_shared<std::vector<std::shared_ptr<KvStore>>>();
  }
  if (s.llama_cpp.prompt_cache_blocks > 0) {
    KvStoreLayout& prompts = l.kv_tiers.emplace_back();
    prompts.blocks = s.llama_cpp.prompt_cache_blocks;
    prompts.grows = true;  // the limit may be far above what prompts take
  }
  l.streamed_layers = static_cast<int>(deployment.streaming.layers);
  l.stream.buffers = deployment.streaming.buffers;
  l.stream.overlap = deployment.streaming.overlap;
  l.stream.from_storage = shard.streams_from_storage;
  l.stream.folder = options.temporary_folder;
  // Splitwise computes a prompt beyond its budget alone.
  const std::int64_t step = s.policy == SchedulerPolicy::kSplitwise
                                ? std::max(s.max_num_batched_tokens, s.max_model_len)
                                : s.max_num_batched_tokens;
  l.max_tokens = std::min<std::int64_t>(step + s.max_num_seqs, s.max_num_seqs * s.max_model_len);
  l.max_sequences = s.max_num_seqs;
  l.max_length = s.max_model_len;
  if (kernels.graphs()) l.step_sizes = deployment.graph_sizes;
  l.operator_times = options.operator_times;
  l.fusion.norm_residual = deployment.fusion.norm_residual;
  l.fusion.rope_kv_write = deployment.fusion.rope_kv_write;
  // A scale of all tokens isn't known where one is made.
  l.fusion.quantisation =
      deployment.fusion.quantisation && l.quantised_x && l.fp8_scales != Fp8Scales::kTensors;
  l.lora = shard.lora;
  l.num_adapters = s.lora.num_adapters;
  if (s.draft_tokens == 0) return l;
  // Verified rows all have logits. A draft model runs the levels of every sequence's tree, and a prompt that
  // ends with its first token beside it.
  const std::int64_t drafted = s.max_num_seqs * s.draft_tokens;
  // vLLM V0's budget does not count them.
  l.max_tokens =
      s.policy == SchedulerPolicy::kVllmV0 ? l.max_tokens + drafted : std::max(l.max_tokens, drafted);
  l.max_sampled = std::min(l.max_tokens, drafted + s.max_num_seqs);
  l.max_sequences = 2 * s.max_num_seqs;
  return l;
}

}  // namespace

Executable::Executable(const Deployment& deployment, const ModelText& model, const ExecutorOptions& options,
                       std::size_t beside)
    : kernels_(&kernels_of(options)),
      threads_(threads_of(options, *kernels_)),
      synthetic_(options.weights.empty()) {
  numerics_ = read_numerics(parse_json(model.text, model.where), deployment.model,
                            deployment.scheduler.max_model_len, model.where);
  const auto checkpoint = synthetic_ ? synthetic_checkpoint(deployment.model, numerics_, options.seed)
                                     : safetensors_checkpoint(options.weights, deployment.model, numerics_);
  const std::vector<const Deployment*> kinds = deployment.kinds();
  check_kinds(kinds);
  std::vector<Layout> layouts;
  for (const Deployment* d : kinds) layouts.push_back(layout_of(*d, *checkpoint, options, *kernels_));
  for (const Deployment* d : kinds) check(*d, kinds.size() > 1, options.processes != nullptr);
  for (const Layout& l : layouts) check(l);
  // Engines whose ranks hold the same slices share their weights: with the first kind that has them.
  std::vector<std::size_t> like;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    like.push_back(0);
    while (!same_slices(layouts[like[i]], layouts[i])) ++like[i];
    const Transformer::Bytes one =
        Replica::bytes_needed(deployment.model, numerics_, *checkpoint, *kernels_, layouts[i], threads_);
    const auto engines = static_cast<std::size_t>(kinds[i]->mapping.engines());
    if (like[i] == i) bytes_.weights += one.weights;
    bytes_.cache += engines * one.cache, bytes_.workspace += engines * one.workspace;
    sampled_rows_ = std::max(sampled_rows_, layouts[i].sampled());
  }
  bytes_.workspace += Arena::padded(kernels_->sampling_scratch(sampled_rows_, deployment.model.vocab));
  if (options.probe) bytes_.workspace += MachineProbe::bytes_needed(*kernels_);
  check_memory(beside, layouts.back().num_blocks);
  const auto adapters = synthetic_adapters(deployment.model, layouts.front().lora.rank, options.seed);
  std::vector<const Replica*> owners(kinds.size());
  for (std::size_t i = 0; i < kinds.size(); ++i)
    for (int e = 0; e < kinds[i]->mapping.engines(); ++e) {
      const Replica*& owner = owners[like[i]];
      engines_.push_back(owner ? owner->twin(layouts[i])
                               : std::make_unique<Replica>(deployment.model, numerics_, *checkpoint,
                                                           *kernels_, layouts[i], kinds[i]->precision,
                                                           threads_, adapters.get()));
      if (!owner) owner = engines_.back().get();
    }
}

void Executable::check_memory(std::size_t beside, std::int64_t blocks) const {
  const KernelMemory& memory = kernels_->memory();
  const std::size_t room = memory.room(), own = kernels_->own_bytes();
  if (room == 0 || bytes() + beside + own <= room) return;
  // Small models are told in a smaller unit.
  const bool large = room >= std::size_t{1} << 30;
  const auto text = [&](std::size_t b) {
    return fmt::format("{:.1f} {}", static_cast<double>(b) / (large ? 1 << 30 : 1 << 20),
                       large ? "GiB" : "MiB");
  };
  std::string parts = fmt::format("{} of weights, {} of KV cache, {} of workspace", text(bytes_.weights),
                                  text(bytes_.cache), text(bytes_.workspace));
  if (beside > 0) parts += fmt::format(", {} for the model that it drafts for", text(beside));
  if (own > 0) parts += fmt::format(", {} for libraries, kernels and recorded steps", text(own));
  throw Error("model", fmt::format("needs {} ({}), {} has {}; use a smaller model, quantization, "
                                   "max_num_batched_tokens, or num_gpu_blocks_override (now {} blocks)",
                                   text(bytes() + beside + own), parts,
                                   memory.host_reads() ? "this machine" : "the device", text(room), blocks));
}

std::string Executable::description() const {
  static constexpr const char* kStorage[] = {"float32", "bfloat16", "float16",  "int8",
                                             "int4",    "fp8",      "fp8_block"};
  static constexpr const char* kFp8Scales[] = {"", " (a scale a matrix)", " (a scale a matrix and product)",
                                               " (a fixed scale a matrix)"};
  const Layout& l = engines_.front()->rank(0).layout();
  const auto count = [](auto n, const char* what) {
    return fmt::format(", {} {}{}", n, what, n == 1 ? "" : "s");
  };
  std::string ranks = fmt::format("{} rank{}", l.ranks, l.ranks == 1 ? "" : "s");
  if (l.processes != nullptr) ranks += " as processes";
  if (l.stages.size() > 1) ranks += count(l.stages.size(), "stage");
  if (l.data_parallel > 1) ranks += count(static_cast<std::size_t>(l.data_parallel), "data-parallel rank");
  if (engines_.size() > 1) ranks += count(engines_.size(), "engine");
  const std::string with =
      kernels_->memory().host_reads() ? count(threads_.count(), "thread") : ", " + kernels_->machine();
  return fmt::format("{} kernels{}, {}; {} weights{} in {}{}, cache in {}", kernels_->name(), with, ranks,
                     synthetic_ ? "synthetic" : "stored", l.quantised_x ? " and what they multiply" : "",
                     kStorage[static_cast<int>(l.weights)], kFp8Scales[static_cast<int>(l.fp8_scales)],
                     kStorage[static_cast<int>(l.cache)]);
}

}  // namespace foretoken
