// cublas.h on cuBLASLt.
#include "executor/cuda/cublas.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "executor/cuda/product_choices.h"
#include "executor/cuda/remarks.h"

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
  explicit Described(const CublasOffer& p) {
    const bool integers = p.form == CublasForm::kInt8, blocks = p.form == CublasForm::kFp8Blocks,
               fp8 = !integers && p.form != CublasForm::kBf16;
    const auto size = [](std::int64_t value) { return static_cast<std::uint64_t>(value); };
    good = cublasLtMatmulDescInit(&matmul, integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                  integers ? CUDA_R_32I : CUDA_R_32F) == CUBLAS_STATUS_SUCCESS;
    const auto set = [&](cublasLtMatmulDescAttributes_t which, const auto& value) {
      good = good &&
             cublasLtMatmulDescSetAttribute(&matmul, which, &value, sizeof value) == CUBLAS_STATUS_SUCCESS;
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (p.bias != nullptr) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(p.bias));
    }
    // Without sums in registers of the CUDA cores between, as servers multiply: what tensor cores keep of a
    // sum of fp8 products is some 13 bits below its largest term (DeepSeek-V3, arXiv 2412.19437, 3.3.2).
    // Scales of blocks are applied there.
    if (fp8 && !blocks) set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, std::int8_t{1});
    if (fp8 && p.form != CublasForm::kFp8) {
      const std::int32_t alike = p.form == CublasForm::kFp8Tensors
                                     ? CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F
                                     : CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F,
                         of_w = blocks ? CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F : alike,
                         of_x = blocks ? CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F : alike;
      set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, of_w), set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, of_x);
      set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<const void*>(p.w_scales));
      set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<const void*>(p.x_scales));
    }
    const cudaDataType_t in = fp8        ? CUDA_R_8F_E4M3
                              : integers ? CUDA_R_8I
                                         : CUDA_R_16BF,
                         out = integers ? CUDA_R_32I : CUDA_R_32F;
    good = good &&
           cublasLtMatrixLayoutInit(&w, in, size(p.k), size(p.n), p.w_stride) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutInit(&x, in, size(p.k), size(p.m), p.x_stride) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatrixLayoutInit(&y, out, size(p.n), size(p.m), p.y_stride) == CUBLAS_STATUS_SUCCESS;
  }
};

std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address);
  return static_cast<std::uint32_t>(bits & (~bits + 1) & 0xff ? bits & (~bits + 1) & 0xff : 256);
}

std::vector<cublasLtMatmulAlgo_t> proposals(const CublasOffer& p, const Described& d) {
  if (!d.good) return {};
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

bool multiply(const CublasOffer& p, const Described& d, const cublasLtMatmulAlgo_t& by, float* y,
              Stream& stream) {
  if (p.before) p.before();
  // Of the scale's type.
  const float one = 1, beta = p.accumulate ? 1.0f : 0.0f;
  const std::int32_t whole_one = 1, whole_beta = 0;
  const bool integers = p.form == CublasForm::kInt8;
  const Library& l = library();
  if (cublasLtMatmul(l.handle, &d.matmul, integers ? static_cast<const void*>(&whole_one) : &one, p.w, &d.w,
                     p.x, &d.x, integers ? static_cast<const void*>(&whole_beta) : &beta, y, &d.y, y, &d.y,
                     &by, l.workspace.data(), l.workspace.bytes(),
                     static_cast<cudaStream_t>(stream.native())) != CUBLAS_STATUS_SUCCESS)
    return false;
  if (p.after) p.after(y, p.y_stride);
  return true;
}

bool capturing(Stream& stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(static_cast<cudaStream_t>(stream.native()), &status) != cudaSuccess ||
         status != cudaStreamCaptureStatusNone;
}

struct Choice {
  bool own = false;
  std::size_t offer = 0;
  cublasLtMatmulAlgo_t algorithm{};
};

// What the library has for the offers: the choices that there are beside `own`, and their descriptions.
struct Offered {
  std::vector<Described> descriptions;
  std::vector<Choice> choices;

  explicit Offered(std::span<const CublasOffer> offers) {
    for (std::size_t i = 0; i < offers.size(); ++i) {
      descriptions.emplace_back(offers[i]);
      for (const cublasLtMatmulAlgo_t& algorithm : proposals(offers[i], descriptions.back()))
        choices.push_back({false, i, algorithm});
    }
  }
};

// The fastest of what the library has and `own`, into memory of its own: y may be added to but once. Each
// finds the second-level cache full of other things, as the products of a step do. Nothing where there is no
// memory for that.
std::optional<Choice> measure(std::span<const CublasOffer> offers, const Offered& offered, Stream& stream,
                              const std::function<void(float*, std::int64_t)>& own) {
  Choice best = offered.choices.front();
  const CublasOffer& p = offers.front();
  // Room for others, who may be about to allocate.
  const std::size_t bytes = static_cast<std::size_t>(p.m * p.y_stride) * sizeof(float),
                    spare = std::size_t{256} << 20;
  const std::size_t cache = device_properties(device_in_use()).l2_bytes;
  if (free_memory() < bytes + cache + spare) return std::nullopt;
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
  for (const Choice& c : offered.choices) {
    const double time = seconds([&] {
      return multiply(offers[c.offer], offered.descriptions[c.offer], c.algorithm, to.as<float>(), stream);
    });
    if (time < 0 || time >= least) continue;
    least = time;
    best = c;
  }
  stream.synchronize();
  return best;
}

// ---- Choices from process to process ---------------------------------------------------------------------

std::string& choices_file() {
  static std::string& file = *new std::string;
  return file;
}

// Of the device in use, with the first product. The name tells a part of a device (MIG) from the whole.
ProductChoices& kept_choices() {
  static ProductChoices& kept = *[] {
    const DeviceProperties d = device_properties(device_in_use());
    std::string machine = d.name;
    const auto add = [&](const char* what, std::size_t value) {
      machine += std::string(", ") + what + " " + std::to_string(value);
    };
    add("compute capability", static_cast<std::size_t>(d.compute_capability));
    add("multiprocessors", static_cast<std::size_t>(d.multiprocessors));
    add("driver", static_cast<std::size_t>(d.driver_version));
    add("runtime", static_cast<std::size_t>(d.runtime_version));
    add("cuBLASLt", cublasLtGetVersion());
    machine += ", own kernels " FORETOKEN_KERNELS_ID;
    return new ProductChoices(choices_file(), machine);
  }();
  return kept;
}

static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(ProductChoice::algorithm));

void keep(const ProductKey& key, const Choice& choice, std::int64_t rows) {
  ProductChoice kept{choice.own, static_cast<std::uint32_t>(choice.offer), {}, rows};
  if (!choice.own) std::memcpy(kept.algorithm.data(), &choice.algorithm, sizeof kept.algorithm);
  kept_choices().keep(key, kept);
}

// What was kept, where the library still takes it.
std::optional<Choice> kept(const ProductKey& key, std::span<const CublasOffer> offers) {
  const std::optional<ProductChoice> found = kept_choices().find(key);
  if (!found) return std::nullopt;
  Choice choice{found->own, found->offer, {}};
  if (choice.own) return choice;
  if (const std::optional<CublasOffer> offer = measured_offer(*found, offers)) {
    std::memcpy(&choice.algorithm, found->algorithm.data(), sizeof choice.algorithm);
    const Described d(*offer);
    cublasLtMatmulHeuristicResult_t result{};
    if (d.good &&
        cublasLtMatmulAlgoCheck(library().handle, &d.matmul, &d.w, &d.x, &d.y, &d.y, &choice.algorithm,
                                &result) == CUBLAS_STATUS_SUCCESS &&
        result.workspaceSize <= library().workspace.bytes())
      return choice;
  }
  remark("cuBLASLt doesn't take a product choice of " + choices_file(), "that product is measured again");
  return std::nullopt;
}

}  // namespace

void keep_cublas_choices(const std::string& file) { choices_file() = file; }
void prepare_cublas() { library(); }
std::size_t cublas_bytes() { return made ? 0 : kWorkspace; }

bool cublas_product(std::span<const CublasOffer> offers, Stream& stream,
                    const std::function<void(float*, std::int64_t)>& own) {
  // `own` may ask for another product while it is measured.
  static std::recursive_mutex mutex;
  static auto& choices = *new std::map<ProductKey, Choice>;
  const std::lock_guard lock(mutex);
  if (library().handle == nullptr || offers.empty()) return false;
  const CublasOffer& p = offers.front();
  const auto bucket = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(p.m)));
  const ProductKey key{.form = p.form,
                       .m = bucket,
                       .n = p.n,
                       .k = p.k,
                       .w_stride = p.w_stride,
                       .x_stride = p.x_stride,
                       .y_stride = p.y_stride,
                       .w_alignment = alignment_of(p.w),
                       .x_alignment = alignment_of(p.x),
                       .y_alignment = alignment_of(p.y),
                       .bias = p.bias != nullptr,
                       .accumulate = p.accumulate,
                       .prepared = p.before != nullptr};
  auto known = choices.find(key);
  if (known == choices.end())
    if (const std::optional<Choice> from_before = kept(key, offers))
      known = choices.emplace(key, *from_before).first;
  if (known == choices.end()) {
    const Offered offered(offers);
    if (offered.choices.empty() && p.form != CublasForm::kBf16)
      remark(p.form == CublasForm::kInt8 ? "cuBLASLt has no products of int8"
                                         : "cuBLASLt has no products of fp8",
             "the executor's own kernels multiply the same numbers (first for " + std::to_string(p.m) +
                 " x " + std::to_string(p.n) + " x " + std::to_string(p.k) + ")");
    if (capturing(stream)) {
      if (offered.choices.empty()) return false;
      const Choice& c = offered.choices.front();
      return multiply(offers[c.offer], offered.descriptions[c.offer], c.algorithm, offers[c.offer].y, stream);
    }
    if (offered.choices.empty()) {
      known = choices.emplace(key, Choice{true, 0, {}}).first;
    } else {
      const std::optional<Choice> best = measure(offers, offered, stream, own);
      if (best) keep(key, *best, p.m);
      known = choices.emplace(key, best.value_or(offered.choices.front())).first;
    }
  }
  const Choice& choice = known->second;
  if (choice.own) return false;
  const CublasOffer& offer = offers[choice.offer];
  const Described described(offer);
  if (described.good && multiply(offer, described, choice.algorithm, offer.y, stream)) return true;
  // Another m of the bucket, for which the algorithm won't do.
  const std::vector<cublasLtMatmulAlgo_t> all = proposals(offer, described);
  return !all.empty() && multiply(offer, described, all.front(), offer.y, stream);
}

}  // namespace foretoken::cuda
