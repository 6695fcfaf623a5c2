// What all groups of operators on the device share: its memory, the stream, times by events, recorded steps.
#include "executor/cuda/cuda_kernels.h"

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "executor/cuda/activities.h"
#include "executor/cuda/clocks.h"
#include "executor/cuda/communicator.h"
#include "executor/cuda/cublas.h"
#include "executor/cuda/remarks.h"
#include "executor/cuda/sampling.h"
#include "executor/cuda/tensor_check.h"
#include "executor/cuda/warpgroup_check.h"

namespace foretoken::cuda {
namespace {

class Memory final : public KernelMemory {
 public:
  Memory(int device, Stream& stream) : device_(device), stream_(stream) {}

  std::byte* allocate(std::size_t bytes) const override {
    DeviceMemory memory(bytes);
    std::byte* const data = memory.data();
    fill(stream_, data, 0, bytes);
    stream_.synchronize();  // copies beside it don't wait for the stream
    const std::lock_guard lock(mutex_);
    allocated_ += bytes;
    memory_.emplace(data, std::move(memory));
    return data;
  }
  void release(std::byte* memory) const noexcept override {
    wait_for_readers();
    const std::lock_guard lock(mutex_);
    const auto at = memory_.find(memory);
    if (at == memory_.end()) return;
    allocated_ -= at->second.bytes();
    memory_.erase(at);
  }
  std::byte* allocate_host(std::size_t bytes) const override {
    PinnedMemory memory(bytes);
    std::byte* const data = memory.data();
    const std::lock_guard lock(mutex_);
    pinned_.emplace(data, std::move(memory));
    return data;
  }
  void release_host(std::byte* memory) const noexcept override {
    wait_for_readers();
    const std::lock_guard lock(mutex_);
    pinned_.erase(memory);
  }
  // What others leave: what was allocated here counts as room, as it does of the host's memory.
  std::size_t room() const override {
    const std::lock_guard lock(mutex_);
    return free_memory() + allocated_;
  }
  bool host_reads() const override { return false; }
  void copy(void* to, const void* from, std::size_t bytes) const override {
    if (bytes == 0) return;
    cuda::copy(stream_, to, from, bytes);
    stream_.synchronize();
  }
  void copy_later(std::span<const CopyPiece> pieces) const override { copy_pieces(stream_, pieces); }
  void copy_later(void* to, const void* from, std::size_t bytes) const override {
    if (bytes > 0) cuda::copy(stream_, to, from, bytes);
  }
  void clear(void* to, std::size_t bytes) const override {
    if (bytes > 0) fill(stream_, to, 0, bytes);
  }
  void wait() const override { stream_.synchronize(); }
  // Events of the last places; a ring of weights has few buffers, and each waits for its own last place.
  std::uint64_t place() const override {
    const std::lock_guard lock(mutex_);
    const std::uint64_t place = ++places_;
    events_[place % kPlaces].record(stream_);
    return place;
  }
  void copy_beside(void* to, const void* from, std::size_t bytes, std::uint64_t after) const override {
    use_device(device_);  // other threads would use the first one
    if (after > 0) {
      const std::lock_guard lock(mutex_);
      // One that was taken again is later than `after`, so what waits for it waits long enough.
      beside_.wait(events_[after % kPlaces]);
    }
    cuda::copy(beside_, to, from, bytes);
    beside_.synchronize();
  }

 private:
  // After a failure of the device every wait throws, also those of what is destroyed on the way out.
  void wait_for_readers() const noexcept {
    try {
      stream_.synchronize();
    } catch (const CudaError&) {
    }
  }

  static constexpr std::size_t kPlaces = 64;
  int device_;
  Stream& stream_;
  mutable Stream beside_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::byte*, DeviceMemory> memory_;
  mutable std::unordered_map<std::byte*, PinnedMemory> pinned_;
  mutable std::size_t allocated_ = 0;
  mutable std::uint64_t places_ = 0;
  mutable Event events_[kPlaces];
};

// Events are made once and recorded again and again: recorded steps hold them.
class EventStopwatch final : public KernelStopwatch {
 public:
  explicit EventStopwatch(Stream& stream) : stream_(stream) {}
  void restart() override { used_ = 0; }
  int mark() override {
    if (used_ == events_.size()) events_.push_back(std::make_unique<Event>());
    events_[used_]->record_time(stream_);
    return static_cast<int>(used_++);
  }
  double seconds(int from, int to) override {
    const auto at = [&](int i) -> const Event& { return *events_[static_cast<std::size_t>(i)]; };
    return at(to).milliseconds_since(at(from)) / 1000;
  }

 private:
  Stream& stream_;
  std::vector<std::unique_ptr<Event>> events_;
  std::size_t used_ = 0;
};

// By activities, of which the kernels have one account, as steps run one after another.
class ActivityStopwatch final : public KernelStopwatch {
 public:
  ActivityStopwatch(ActivityTimes& times, Stream& stream) : times_(times), stream_(stream) {}
  void restart() override { times_.restart(); }
  int mark() override { return times_.mark(stream_.captured()); }
  double seconds(int from, int to) override { return times_.seconds(from, to); }

 private:
  ActivityTimes& times_;
  Stream& stream_;
};

// A step is launched once before it is recorded: meanwhile kernels are loaded and products choose their
// algorithms by measuring, which a recording doesn't allow.
class RecordedSteps final : public StepGraphs {
 public:
  // activities: null while operators aren't timed by them.
  RecordedSteps(Stream& stream, const std::unique_ptr<ActivityTimes>& activities)
      : stream_(stream), activities_(activities) {}
  void run(std::uint64_t key, const std::function<void()>& launches) override {
    const auto at = graphs_.find(key);
    if (at == graphs_.end()) {
      launches();
      graphs_.try_emplace(key);  // not of a step that failed
      return;
    }
    Graph& graph = at->second;
    if (graph.empty()) {
      graph.capture(stream_, launches);
      if (activities_) activities_->keep(this, key, graph.nodes());
    }
    if (activities_)
      activities_->replay(this, key, [&] { graph.launch(stream_); });
    else
      graph.launch(stream_);
  }

 private:
  Stream& stream_;
  const std::unique_ptr<ActivityTimes>& activities_;
  std::unordered_map<std::uint64_t, Graph> graphs_;
};

}  // namespace

struct CudaKernels::State {
  int number = device_in_use();
  DeviceProperties device = device_properties(number);
  ClockReader clocks{device.pci_bus_id};
  Stream stream;
  Memory memory{number, stream};
  std::unique_ptr<ActivityTimes> activities;  // once operators are timed by them
  // Of the processes that met last.
  const Processes* processes = nullptr;
  std::unique_ptr<Communicator> communicator;
  PinnedMemory gathered;
  const bool has_warpgroups = device.compute_capability == 90;
  const bool right_warpgroups = has_warpgroups && warpgroup_products_are_right(stream);
  bool warpgroups = right_warpgroups;
  const bool right_tensor_maps = right_warpgroups && tensor_copies_are_right(stream);
  bool tensor_maps = right_tensor_maps;
  std::mutex maps_mutex;
  std::map<std::tuple<const void*, std::int64_t, int>, TensorMap> maps;
};

CudaKernels::CudaKernels()
    : state_(std::make_unique<State>()), sampling_(std::make_unique<SamplingBuffers>(state_->stream)) {}
CudaKernels::~CudaKernels() = default;

const char* CudaKernels::name() const { return "cuda"; }
std::string CudaKernels::machine() const {
  const DeviceProperties& d = state_->device;
  return d.name + ", CUDA driver " + std::to_string(d.driver_version / 1000) + "." +
         std::to_string(d.driver_version % 1000 / 10) +
         (!state_->has_warpgroups      ? ""
          : !state_->right_warpgroups  ? ", wgmma failed its check and isn't used"
          : !state_->right_tensor_maps ? ", TMA failed its check and isn't used"
                                       : "");
}
std::string CudaKernels::condition() const {
  const Clocks c = state_->clocks.read();
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (c.sm_mhz) add(std::to_string(*c.sm_mhz) + " MHz");
  if (c.memory_mhz) add("memory " + std::to_string(*c.memory_mhz) + " MHz");
  if (c.power_w) add(std::to_string(static_cast<int>(*c.power_w + 0.5)) + " W");
  if (c.temperature_c) add(std::to_string(*c.temperature_c) + " C");
  if (c.throttle_reasons && *c.throttle_reasons > 1) add(throttle_text(*c.throttle_reasons));
  return text;
}
const KernelMemory& CudaKernels::memory() const { return state_->memory; }
std::size_t CudaKernels::own_bytes() const { return cublas_bytes() + unseen_bytes(); }
std::vector<std::string> CudaKernels::remarks() const { return cuda::remarks(); }
std::unique_ptr<KernelStopwatch> CudaKernels::stopwatch(OperatorTimes how) const {
  if (how == OperatorTimes::kActivities) {
    if (!state_->activities) {
      std::string why_not;
      auto source = open_activities(why_not);
      if (!source) throw Error("--operator-times", "cupti: " + why_not + "; use on");
      state_->activities = std::make_unique<ActivityTimes>(std::move(source));
    }
    return std::make_unique<ActivityStopwatch>(*state_->activities, state_->stream);
  }
  return std::make_unique<EventStopwatch>(state_->stream);
}
std::unique_ptr<StepGraphs> CudaKernels::graphs() const {
  return std::make_unique<RecordedSteps>(state_->stream, state_->activities);
}
// Powers of two from 256 on: at most twice the blocks that the longest context needs, and few recordings.
std::int64_t CudaKernels::context_bucket(std::int64_t longest) const {
  return static_cast<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(longest, 256))));
}
void CudaKernels::all_gather(Processes& processes, std::span<const float> mine, float* all) const {
  State& s = *state_;
  if (s.processes != &processes) {
    s.processes = &processes;
    s.communicator = make_communicator(processes);
  }
  if (s.communicator) return s.communicator->all_gather(mine, all, s.stream);
  const std::size_t bytes = mine.size_bytes(), ranks = static_cast<std::size_t>(processes.size());
  if (s.gathered.bytes() < (1 + ranks) * bytes) s.gathered = PinnedMemory((1 + ranks) * bytes);
  auto* own = s.gathered.as<float>();
  s.memory.copy(own, mine.data(), bytes);
  processes.all_gather({own, mine.size()}, own + mine.size());
  s.memory.copy(all, own + mine.size(), ranks * bytes);
}
Stream& CudaKernels::stream() const { return state_->stream; }
const DeviceProperties& CudaKernels::device() const { return state_->device; }
bool CudaKernels::warpgroups() const { return state_->warpgroups; }
bool CudaKernels::tensor_maps() const { return state_->tensor_maps; }
void CudaKernels::use_tensor_maps(bool use) const { state_->tensor_maps = use && state_->right_tensor_maps; }
const TensorMap& CudaKernels::tensor_map(const void* first, std::int64_t columns, int box_rows) const {
  const std::lock_guard lock(state_->maps_mutex);
  const auto [at, made] = state_->maps.try_emplace({first, columns, box_rows});
  if (made) {
    const auto map = make_tensor_map(first, columns, kMostMapRows, box_rows);
    if (!map) {
      state_->maps.erase(at);
      throw CudaError(
          "cuTensorMapEncodeTiled",
          "no map of rows of " + std::to_string(columns) + " numbers in boxes of " + std::to_string(box_rows),
          0);
    }
    at->second = *map;
  }
  return at->second;
}
void CudaKernels::use_warpgroups(bool use) const { state_->warpgroups = use && state_->right_warpgroups; }

}  // namespace foretoken::cuda
