// A deployment's model, loaded and laid out as the deployment says, ready to run.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "deployment/deployment.h"
#include "executor/replica.h"

namespace foretoken {

struct ExecutorOptions {
  std::string weights;          // a safetensors file or folder; empty: synthetic
  std::string draft_weights;    // the draft model's, likewise
  std::uint64_t seed = 0;       // of synthetic weights and of the prompts' tokens
  int threads = 0;              // 0: one; to load a device's weights, as many as the host has processors
  std::string backend = "cpu";  // or "cuda"
  std::string cuda_library;     // the file, for open_cuda_library()
  std::string product_choices;  // the file, for CudaLibrary::keep_choices()
  std::string isa;  // of the processor: "" for the processor's best, or "float64" (the reference), "scalar",
                    // "avx2", "avx512", "avx512-bf16"
  const Kernels* kernels = nullptr;  // these, whatever the two above say; must outlive what is made
  OperatorTimes operator_times = OperatorTimes::kMarks;  // kNone: the step alone is timed
  // What products by weights of 8 bits round activations to: "bf16", "fp8", "int8" (fp8 by fp8 and int8 by
  // int8 weights alone), or "" for what the weights' format means to servers and to the simulator's prices:
  // their own.
  std::string activations;
  // Of weights in fp8, and what they multiply: "row", "tensor-token", "tensor" or "static" (Fp8Scales in that
  // order), or "" for what the checkpoint has, or the configuration says where weights are synthetic.
  std::string fp8_scales;
  bool probe = false;                     // a MachineProbe will run beside it, in the same memory
  SamplingArgs sampling;                  // greedy; a backend takes the workload's
  std::string temporary_folder = "/tmp";  // where streamed weights and KV blocks of storage wait
  Processes* processes = nullptr;  // that compute a tensor-parallel rank each; null: this one computes all
};

class Executable {
 public:
  // Refuses by name what the executor does not do, and what does not fit this machine's or the device's
  // memory before anything is allocated, with what it takes. The deployment must outlive it. beside: bytes
  // that are taken already.
  Executable(const Deployment& deployment, const ModelText& model, const ExecutorOptions& options,
             std::size_t beside = 0);
  // Of the kernels' memory, with what sampling and a probe take, whom their owners allocate it for.
  std::size_t bytes() const { return bytes_.weights + bytes_.cache + bytes_.workspace; }
  std::int64_t sampled_rows() const { return sampled_rows_; }  // of a step, at most, of any engine
  // In the order of the serving loop (Deployment::kinds).
  Replica& engine(std::size_t i) { return *engines_[i]; }
  Transformer& transformer() { return engines_.front()->rank(0); }
  const Kernels& kernels() const { return *kernels_; }
  std::string description() const;  // "avx512-bf16 kernels, 1 thread, ..."

 private:
  void check_memory(std::size_t beside, std::int64_t blocks) const;
  const Kernels* kernels_;
  Threads threads_;
  bool synthetic_;
  Transformer::Bytes bytes_;
  std::int64_t sampled_rows_ = 0;
  Numerics numerics_;
  std::vector<std::unique_ptr<Replica>> engines_;
};

}  // namespace foretoken
