// runtime.h and launch.h on the CUDA runtime.
#include "executor/cuda/runtime.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "executor/cuda/launch.h"
#include "executor/cuda/tensor_map.h"

namespace foretoken::cuda {

struct Stream::State {
  cudaStream_t stream = nullptr;
};
struct Event::State {
  cudaEvent_t event = nullptr;
};
struct Graph::State {
  ~State() {
    if (executable != nullptr) static_cast<void>(cudaGraphExecDestroy(executable));
  }
  cudaGraphExec_t executable = nullptr;
  std::size_t nodes = 0;
};

namespace {

void check(cudaError_t error, const std::string& call) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // or the next call reports it again
  throw CudaError(call,
                  std::string(cudaGetErrorName(error)) + " (" + std::to_string(static_cast<int>(error)) +
                      "): " + cudaGetErrorString(error),
                  static_cast<int>(error));
}
#define FORETOKEN_CUDA(call, ...) check(call(__VA_ARGS__), #call)

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

bool overlaps_kernels(int device) {
  constexpr std::size_t kKnown = 64;
  static std::array<std::atomic<int>, kKnown> known{};  // 0: not asked yet; else 1 + the major version
  const auto d = static_cast<std::size_t>(device);
  int major = d < kKnown ? known[d].load(std::memory_order_relaxed) - 1 : -1;
  if (major < 0) {
    FORETOKEN_CUDA(cudaDeviceGetAttribute, &major, cudaDevAttrComputeCapabilityMajor, device);
    if (d < kKnown) known[d].store(major + 1, std::memory_order_relaxed);
  }
  return major >= 9;
}

// Dynamic shared memory above 48 KiB has to be asked for, once a kernel and device.
void allow_shared(const void* kernel, int device, std::size_t bytes, const std::string& name) {
  constexpr std::size_t kWithoutAsking = 48 * 1024;
  if (bytes <= kWithoutAsking) return;
  static std::mutex mutex;
  static std::unordered_map<const void*, std::unordered_map<int, std::size_t>> allowed;
  const std::lock_guard lock(mutex);
  std::size_t& most = allowed[kernel][device];
  if (bytes <= most) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "cudaFuncSetAttribute(" + name + ", " + std::to_string(bytes) + " bytes of shared memory)");
  most = bytes;
}

}  // namespace

std::string no_device_reason() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return "";
  static_cast<void>(cudaGetLastError());
  const std::string code = " (error " + std::to_string(static_cast<int>(error)) + ")";
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0;
    static_cast<void>(cudaDriverGetVersion(&driver));
    if (driver == 0) return "no CUDA device: the driver is missing" + code;
    return "no CUDA device: the driver is for CUDA " + version_text(driver) + ", this build needs " +
           version_text(CUDART_VERSION) + code;
  }
  if (error == cudaErrorNoDevice || error == cudaSuccess)
    return "no CUDA device: the driver sees none" + code;
  return std::string("no CUDA device: ") + cudaGetErrorString(error) + code;
}

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return 0;
  }
  return count;
}

DeviceProperties device_properties(int device) {
  cudaDeviceProp found{};
  FORETOKEN_CUDA(cudaGetDeviceProperties, &found, device);
  DeviceProperties properties;
  properties.name = found.name;
  char bus[32] = "";
  FORETOKEN_CUDA(cudaDeviceGetPCIBusId, bus, sizeof bus, device);
  properties.pci_bus_id = bus;
  properties.compute_capability = 10 * found.major + found.minor;
  properties.multiprocessors = found.multiProcessorCount;
  properties.memory_bytes = found.totalGlobalMem;
  properties.shared_bytes = found.sharedMemPerBlockOptin;
  properties.l2_bytes = static_cast<std::size_t>(found.l2CacheSize);
  FORETOKEN_CUDA(cudaDriverGetVersion, &properties.driver_version);
  FORETOKEN_CUDA(cudaRuntimeGetVersion, &properties.runtime_version);
  return properties;
}

void use_device(int device) { FORETOKEN_CUDA(cudaSetDevice, device); }
int device_in_use() {
  int device = 0;
  FORETOKEN_CUDA(cudaGetDevice, &device);
  return device;
}

std::size_t free_memory() {
  std::size_t free = 0, total = 0;
  FORETOKEN_CUDA(cudaMemGetInfo, &free, &total);
  return free;
}

// As much as products leave to others when they measure (cublas.cpp).
std::size_t unseen_bytes() { return std::size_t{256} << 20; }

void synchronize() { FORETOKEN_CUDA(cudaDeviceSynchronize); }

std::byte* OfDevice::allocate(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "cudaMalloc(" + std::to_string(bytes) + " bytes)");
  return static_cast<std::byte*>(memory);
}
void OfDevice::release(std::byte* memory, std::size_t) noexcept { static_cast<void>(cudaFree(memory)); }

std::byte* OfHost::allocate(std::size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "cudaMallocHost(" + std::to_string(bytes) + " bytes)");
  return static_cast<std::byte*>(memory);
}
void OfHost::release(std::byte* memory, std::size_t) noexcept { static_cast<void>(cudaFreeHost(memory)); }

Stream::Stream() : state_(std::make_unique<State>()) {
  FORETOKEN_CUDA(cudaStreamCreateWithFlags, &state_->stream, cudaStreamNonBlocking);
}
Stream::~Stream() { static_cast<void>(cudaStreamDestroy(state_->stream)); }
void Stream::synchronize() { FORETOKEN_CUDA(cudaStreamSynchronize, state_->stream); }
void Stream::wait(const Event& event) {
  FORETOKEN_CUDA(cudaStreamWaitEvent, state_->stream, event.state().event, 0);
}
void* Stream::native() const { return state_->stream; }
std::optional<std::size_t> Stream::captured() const {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
  std::size_t nodes = 0;
#if CUDART_VERSION >= 13000
  FORETOKEN_CUDA(cudaStreamGetCaptureInfo, state_->stream, &status, nullptr, &graph, nullptr, nullptr,
                 nullptr);
#else
  FORETOKEN_CUDA(cudaStreamGetCaptureInfo_v2, state_->stream, &status, nullptr, &graph, nullptr, nullptr);
#endif
  if (status != cudaStreamCaptureStatusActive) return std::nullopt;
  FORETOKEN_CUDA(cudaGraphGetNodes, graph, nullptr, &nodes);
  return nodes;
}

Event::Event() : state_(std::make_unique<State>()) { FORETOKEN_CUDA(cudaEventCreate, &state_->event); }
Event::~Event() { static_cast<void>(cudaEventDestroy(state_->event)); }
void Event::record(Stream& stream) { FORETOKEN_CUDA(cudaEventRecord, state_->event, stream.state().stream); }
void Event::record_time(Stream& stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  FORETOKEN_CUDA(cudaStreamIsCapturing, stream.state().stream, &status);
  FORETOKEN_CUDA(cudaEventRecordWithFlags, state_->event, stream.state().stream,
                 status == cudaStreamCaptureStatusNone ? cudaEventRecordDefault : cudaEventRecordExternal);
}
void Event::synchronize() const { FORETOKEN_CUDA(cudaEventSynchronize, state_->event); }
bool Event::done() const {
  const cudaError_t error = cudaEventQuery(state_->event);
  if (error == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  check(error, "cudaEventQuery");
  return true;
}
double Event::milliseconds_since(const Event& earlier) const {
  float milliseconds = 0;
  FORETOKEN_CUDA(cudaEventElapsedTime, &milliseconds, earlier.state_->event, state_->event);
  return milliseconds;
}

void copy(Stream& stream, void* to, const void* from, std::size_t bytes) {
  if (bytes != 0) FORETOKEN_CUDA(cudaMemcpyAsync, to, from, bytes, cudaMemcpyDefault, stream.state().stream);
}
void copy_rows(Stream& stream, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
               std::size_t row_bytes, std::size_t rows) {
  if (row_bytes != 0 && rows != 0)
    FORETOKEN_CUDA(cudaMemcpy2DAsync, to, to_pitch, from, from_pitch, row_bytes, rows, cudaMemcpyDefault,
                   stream.state().stream);
}
void copy_pieces(Stream& stream, std::span<const CopyPiece> pieces) {
#if CUDART_VERSION >= 13000
  if (pieces.size() > 1) {
    std::vector<void*> to;
    std::vector<const void*> from;
    std::vector<std::size_t> bytes;
    for (const CopyPiece& p : pieces) {
      if (p.bytes == 0) continue;
      to.push_back(p.to), from.push_back(p.from), bytes.push_back(p.bytes);
    }
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    std::size_t first = 0;
    if (!to.empty())
      FORETOKEN_CUDA(cudaMemcpyBatchAsync, to.data(), from.data(), bytes.data(), to.size(), &attributes,
                     &first, 1, stream.state().stream);
    return;
  }
#endif
  for (const CopyPiece& p : pieces) copy(stream, p.to, p.from, p.bytes);
}
void fill(Stream& stream, void* to, int byte, std::size_t bytes) {
  if (bytes != 0) FORETOKEN_CUDA(cudaMemsetAsync, to, byte, bytes, stream.state().stream);
}

std::optional<TensorMap> make_tensor_map(const void* first, std::int64_t columns, std::int64_t rows,
                                         int box_rows) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = []() -> Encode {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    if (error == cudaSuccess && result == cudaDriverEntryPointSuccess) return reinterpret_cast<Encode>(found);
    static_cast<void>(cudaGetLastError());
    return nullptr;
  }();
  if (encode == nullptr) return std::nullopt;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)},
                   row_bytes[] = {2 * static_cast<cuuint64_t>(columns)};
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows)}, steps[] = {1, 1};
  CUtensorMap encoded;
  const CUresult result =
      encode(&encoded, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(first), sizes, row_bytes, box,
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return std::nullopt;
  TensorMap map;
  static_assert(sizeof map == sizeof encoded);
  std::memcpy(map.words, &encoded, sizeof map);
  return map;
}

Graph::Graph() : state_(std::make_unique<State>()) {}
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;

void Graph::begin_capture(Stream& stream) {
  FORETOKEN_CUDA(cudaStreamBeginCapture, stream.state().stream, cudaStreamCaptureModeThreadLocal);
}

bool Graph::end_capture(Stream& stream) {
  cudaGraph_t captured = nullptr;
  FORETOKEN_CUDA(cudaStreamEndCapture, stream.state().stream, &captured);
  const std::unique_ptr<CUgraph_st, cudaError_t (*)(cudaGraph_t)> graph(captured, cudaGraphDestroy);
  FORETOKEN_CUDA(cudaGraphGetNodes, captured, nullptr, &state_->nodes);
  if (state_->executable != nullptr) {
    cudaGraphExecUpdateResultInfo result{};
    if (cudaGraphExecUpdate(state_->executable, captured, &result) == cudaSuccess) return true;
    static_cast<void>(cudaGetLastError());
    static_cast<void>(cudaGraphExecDestroy(std::exchange(state_->executable, nullptr)));
  }
  FORETOKEN_CUDA(cudaGraphInstantiate, &state_->executable, captured, 0);
  return false;
}

void Graph::abandon_capture(Stream& stream) noexcept {
  cudaGraph_t captured = nullptr;
  static_cast<void>(cudaStreamEndCapture(stream.state().stream, &captured));
  if (captured != nullptr) static_cast<void>(cudaGraphDestroy(captured));
  static_cast<void>(cudaGetLastError());
}

void Graph::launch(Stream& stream) {
  if (empty()) throw CudaError("Graph::launch", "nothing was captured", 0);
  FORETOKEN_CUDA(cudaGraphLaunch, state_->executable, stream.state().stream);
}
bool Graph::empty() const { return state_->executable == nullptr; }
std::size_t Graph::nodes() const { return state_->nodes; }

void launch_kernel(const void* kernel, const Launch& launch, Stream& stream, void** args) {
  const int device = device_in_use();
  allow_shared(kernel, device, launch.shared, launch.name);
  cudaLaunchConfig_t config{};
  config.gridDim = launch.grid;
  config.blockDim = launch.block;
  config.dynamicSmemBytes = launch.shared;
  config.stream = stream.state().stream;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = launch.overlaps && overlaps_kernels(device) ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelExC(&config, kernel, args);
  if (error != cudaSuccess) check(error, std::string("launch of kernel ") + launch.name);
}

}  // namespace foretoken::cuda
