#include "executor/executable.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "base/json_full.h"

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

void check(const Deployment& deployment) {
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

Layout layout_of(const Deployment& deployment) {
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
  if (s.draft_tokens == 0) return l;
  // Verified rows all have logits. A draft model runs the levels of every sequence's tree, and a prompt that
  // ends with its first token beside it.
  const std::int64_t drafted = s.max_num_seqs * s.draft_tokens;
  l.max_tokens = std::max(l.max_tokens, drafted);
  l.max_sampled = std::min(l.max_tokens, drafted + s.max_num_seqs);
  l.max_sequences = 2 * s.max_num_seqs;
  return l;
}

}  // namespace

Executable::Executable(const Deployment& deployment, const ModelText& model, const ExecutorOptions& options,
                       std::size_t beside)
    : kernels_(&kernels_of(options.isa)), threads_(options.threads), synthetic_(options.weights.empty()) {
  check(deployment);
  numerics_ = read_numerics(parse_json(model.text, model.where), deployment.model,
                            deployment.scheduler.max_model_len, model.where);
  const auto checkpoint = synthetic_ ? synthetic_checkpoint(deployment.model, numerics_, options.seed)
                                     : safetensors_checkpoint(options.weights, deployment.model, numerics_);
  const Layout layout = layout_of(deployment);
  bytes_ = Transformer::bytes_needed(deployment.model, numerics_, *checkpoint, *kernels_, layout);
  const std::size_t needed = bytes_ + beside;
  if (const std::size_t room = physical_memory(); room > 0 && needed > room)
    throw Error("model",
                fmt::format("needs {:.1f} GiB for weights and KV cache, this machine has {:.1f} GiB; use a "
                            "smaller model, quantization, or num_gpu_blocks_override (now {} blocks)",
                            static_cast<double>(needed) / (1 << 30), static_cast<double>(room) / (1 << 30),
                            layout.num_blocks));
  transformer_ = std::make_unique<Transformer>(deployment.model, numerics_, *checkpoint, *kernels_, layout,
                                               deployment.precision, threads_);
}

std::string Executable::description() const {
  static constexpr const char* kStorage[] = {"float32", "bfloat16", "float16", "int8", "int4", "fp8"};
  const Layout& l = transformer_->layout();
  return fmt::format("{} kernels, {} thread{}, {} rank{}; {} weights in {}, cache in {}", kernels_->name(),
                     threads_.count(), threads_.count() == 1 ? "" : "s", l.ranks, l.ranks == 1 ? "" : "s",
                     synthetic_ ? "synthetic" : "stored", kStorage[static_cast<int>(l.weights)],
                     kStorage[static_cast<int>(l.cache)]);
}

}  // namespace foretoken
