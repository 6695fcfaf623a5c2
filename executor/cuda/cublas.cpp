// cublas.h on cuBLASLt.
#include "executor/cuda/cublas.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

namespace foretoken::cuda {
namespace {

constexpr std::size_t kWorkspace = std::size_t{32} << 20;
constexpr int kProposals = 8, kRuns = 5;

struct Library {
  cublasLtHandle_t handle = nullptr;  // null: there is none
  DeviceMemory workspace;
};

std::atomic<bool> made{false};

// Never destroyed: the driver may be gone by then.
Library& library() {
  static Library& library = *[] {
    auto* l = new Library;
    if (cublasLtCreate(&l->handle) != CUBLAS_STATUS_SUCCESS)
      l->handle = nullptr;
    else
      l->workspace = DeviceMemory(kWorkspace);
    made = true;
    return l;
  }();
  return library;
}

// The descriptions that a product needs; they own nothing.
struct Described {
  mutable cublasLtMatmulDescOpaque_t matmul;  // the library takes what it only reads without const
  mutable cublasLtMatrixLayoutOpaque_t w, x, y;
  bool good = false;

  // Column by column, as the library sees matrices, y^T[n, m] = w[k, n]^T x[k, m].
  explicit Described(const CublasProduct& p) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const auto size = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
    bool ok = cublasLtMatmulDescInit(&matmul, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
              cublasLtMatmulDescSetAttribute(&matmul, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                             sizeof transposed) == CUBLAS_STATUS_SUCCESS;
    if (p.bias != nullptr) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      const void* bias = p.bias;
      ok = ok &&
           cublasLtMatmulDescSetAttribute(&matmul, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                          sizeof epilogue) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulDescSetAttribute(&matmul, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias) ==
               CUBLAS_STATUS_SUCCESS;
    }
    good =
        ok &&
        cublasLtMatrixLayoutInit(&w, CUDA_R_16BF, size(p.k), size(p.n), p.w_stride) ==
            CUBLAS_STATUS_SUCCESS &&
        cublasLtMatrixLayoutInit(&x, CUDA_R_16BF, size(p.k), size(p.m), p.x_stride) ==
            CUBLAS_STATUS_SUCCESS &&
        cublasLtMatrixLayoutInit(&y, CUDA_R_32F, size(p.n), size(p.m), p.y_stride) == CUBLAS_STATUS_SUCCESS;
  }
};

std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address);
  return static_cast<std::uint32_t>(bits & (~bits + 1) & 0xff ? bits & (~bits + 1) & 0xff : 256);
}

std::vector<cublasLtMatmulAlgo_t> proposals(const CublasProduct& p, const Described& d) {
  cublasLtMatmulPreferenceOpaque_t preference;
  if (cublasLtMatmulPreferenceInit(&preference) != CUBLAS_STATUS_SUCCESS) return {};
  const std::size_t workspace = library().workspace.bytes();
  bool ok = cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &workspace, sizeof workspace) == CUBLAS_STATUS_SUCCESS;
  const auto align = [&](cublasLtMatmulPreferenceAttributes_t of, const void* address) {
    const std::uint32_t bytes = alignment_of(address);
    ok = ok &&
         cublasLtMatmulPreferenceSetAttribute(&preference, of, &bytes, sizeof bytes) == CUBLAS_STATUS_SUCCESS;
  };
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.w);
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.x);
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.y);
  align(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.y);
  cublasLtMatmulHeuristicResult_t found[kProposals];
  int count = 0;
  if (!ok || cublasLtMatmulAlgoGetHeuristic(library().handle, &d.matmul, &d.w, &d.x, &d.y, &d.y, &preference,
                                            kProposals, found, &count) != CUBLAS_STATUS_SUCCESS)
    return {};
  std::vector<cublasLtMatmulAlgo_t> all;
  for (int i = 0; i < count; ++i)
    if (found[i].state == CUBLAS_STATUS_SUCCESS) all.push_back(found[i].algo);
  return all;
}

bool multiply(const CublasProduct& p, const Described& d, const cublasLtMatmulAlgo_t& by, float* y,
              Stream& stream, const CublasSteps& steps) {
  if (steps.before) steps.before();
  const float one = 1, beta = p.accumulate ? 1.0f : 0.0f;
  const Library& l = library();
  if (cublasLtMatmul(l.handle, &d.matmul, &one, p.w, &d.w, p.x, &d.x, &beta, y, &d.y, y, &d.y, &by,
                     l.workspace.data(), l.workspace.bytes(),
                     static_cast<cudaStream_t>(stream.native())) != CUBLAS_STATUS_SUCCESS)
    return false;
  if (steps.after) steps.after(y, p.y_stride);
  return true;
}

bool capturing(Stream& stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(static_cast<cudaStream_t>(stream.native()), &status) != cudaSuccess ||
         status != cudaStreamCaptureStatusNone;
}

struct Choice {
  bool own = false;
  cublasLtMatmulAlgo_t algorithm{};
};

// The fastest of the proposals and `own`, into memory of its own: y may be added to but once. Each finds the
// second-level cache full of other things, as the products of a step do.
Choice measure(const CublasProduct& p, const Described& d, const std::vector<cublasLtMatmulAlgo_t>& all,
               Stream& stream, const std::function<void(float*, std::int64_t)>& own,
               const CublasSteps& steps) {
  Choice best{false, all.front()};
  // Room for others, who may be about to allocate.
  const std::size_t bytes = static_cast<std::size_t>(p.m * p.y_stride) * sizeof(float),
                    spare = std::size_t{256} << 20;
  const std::size_t cache = device_properties(device_in_use()).l2_bytes;
  if (free_memory() < bytes + cache + spare) return best;
  const DeviceMemory to(bytes), others(cache);
  fill(stream, to.data(), 0, bytes);
  Event start, end;
  const auto seconds = [&](const auto& run) {
    if (!run()) return -1.0;
    double least = -1;
    for (int i = 0; i < kRuns; ++i) {
      fill(stream, others.data(), i, cache);
      start.record(stream);
      if (!run()) return -1.0;
      end.record(stream);
      end.synchronize();
      const double time = end.milliseconds_since(start);
      least = least < 0 ? time : std::min(least, time);
    }
    return least;
  };
  double least = seconds([&] {
    own(to.as<float>(), p.y_stride);
    return true;
  });
  best.own = true;
  for (const cublasLtMatmulAlgo_t& candidate : all) {
    const double time = seconds([&] { return multiply(p, d, candidate, to.as<float>(), stream, steps); });
    if (time < 0 || time >= least) continue;
    least = time;
    best = {false, candidate};
  }
  stream.synchronize();
  return best;
}

}  // namespace

void prepare_cublas() { library(); }
std::size_t cublas_bytes() { return made ? 0 : kWorkspace; }

bool cublas_product(const CublasProduct& p, Stream& stream,
                    const std::function<void(float*, std::int64_t)>& own, const CublasSteps& steps) {
  using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                         std::uint32_t, std::uint32_t, std::uint32_t, bool, bool, bool>;
  static std::mutex mutex;
  static auto& choices = *new std::map<Key, Choice>;
  const std::lock_guard lock(mutex);
  if (library().handle == nullptr) return false;
  const Described d(p);
  if (!d.good) return false;
  const auto bucket = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(p.m)));
  const Key key{bucket,
                p.n,
                p.k,
                p.w_stride,
                p.x_stride,
                p.y_stride,
                alignment_of(p.w),
                alignment_of(p.x),
                alignment_of(p.y),
                p.bias != nullptr,
                p.accumulate,
                steps.before != nullptr};
  auto known = choices.find(key);
  if (known == choices.end()) {
    const std::vector<cublasLtMatmulAlgo_t> all = proposals(p, d);
    if (capturing(stream)) return !all.empty() && multiply(p, d, all.front(), p.y, stream, steps);
    known =
        choices.emplace(key, all.empty() ? Choice{true, {}} : measure(p, d, all, stream, own, steps)).first;
  }
  if (known->second.own) return false;
  if (multiply(p, d, known->second.algorithm, p.y, stream, steps)) return true;
  // Another m of the bucket, for which the algorithm won't do.
  const std::vector<cublasLtMatmulAlgo_t> all = proposals(p, d);
  return !all.empty() && multiply(p, d, all.front(), p.y, stream, steps);
}

}  // namespace foretoken::cuda
