// runtime.h and launch.h on the processor: memory is the process's, work runs when it is issued, or when
// somebody waits for it (Settings::late_work).
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <vector>

#include "executor/cuda/activities.h"
#include "executor/cuda/emulation.h"
#include "executor/cuda/emulation_barriers.h"
#include "executor/cuda/launch.h"
#include "executor/cuda/runtime.h"

namespace foretoken::cuda {
namespace {

using Clock = std::chrono::steady_clock;

struct Recording {
  std::vector<std::function<void()>> work;
  bool ended = false;
};

// Captures that this thread has begun: meanwhile it may neither allocate nor wait.
thread_local int captures = 0;

void refuse_in_capture(const char* call) {
  if (captures > 0) throw CudaError(call, "not permitted while a stream is captured", 900);
}

}  // namespace

namespace {

// What was issued to a stream and hasn't run yet.
class Queue {
 public:
  std::uint64_t push(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(work));
    return ++issued_;
  }
  // Runs the first `place` pieces of all that were ever issued, or of them those that haven't run.
  void run_to(std::uint64_t place) {
    const std::lock_guard one_at_a_time(running_);
    for (;;) {
      std::function<void()> work;
      {
        const std::lock_guard lock(mutex_);
        if (waiting_.empty() || begun_ >= place) return;
        work = std::move(waiting_.front());
        waiting_.pop_front();
        ++begun_;
      }
      work();
    }
  }
  std::uint64_t issued() {
    const std::lock_guard lock(mutex_);
    return issued_;
  }
  bool has_work() {
    const std::lock_guard lock(mutex_);
    return !waiting_.empty();
  }

 private:
  std::recursive_mutex running_;
  std::mutex mutex_;
  std::deque<std::function<void()>> waiting_;
  std::uint64_t issued_ = 0, begun_ = 0;
};

// Those of all streams.
struct Queues {
  std::mutex mutex;
  std::vector<std::weak_ptr<Queue>> all;
};
Queues& queues() {
  static Queues& made = *new Queues;
  return made;
}

std::shared_ptr<Queue> make_queue() {
  auto queue = std::make_shared<Queue>();
  const std::lock_guard lock(queues().mutex);
  std::erase_if(queues().all, [](const auto& other) { return other.expired(); });
  queues().all.push_back(queue);
  return queue;
}

}  // namespace

struct Stream::State {
  std::shared_ptr<Recording> recording;
  std::shared_ptr<Queue> queue = make_queue();
  bool capturing() const { return recording != nullptr && !recording->ended; }
};
struct Event::State {
  // The work that sets it may run when the event is no more.
  std::shared_ptr<std::optional<Clock::time_point>> reached =
      std::make_shared<std::optional<Clock::time_point>>();
  std::shared_ptr<Recording> recording;
  std::shared_ptr<Queue> queue;  // where it was last recorded, and its place there
  std::uint64_t place = 0;
};
struct Graph::State {
  std::vector<std::function<void()>> work;
  bool captured = false;
};

namespace {

void issue(Stream& stream, std::function<void()> work) {
  Stream::State& state = stream.state();
  if (state.capturing()) {
    state.recording->work.push_back(std::move(work));
    return;
  }
  const std::uint64_t place = state.queue->push(std::move(work));
  if (!emulation::settings().late_work) state.queue->run_to(place);
}

// What the emulated driver records of kernels, copies and fills, while somebody asks. A launch has a
// correlation of its own; that of a graph is one for all of its work.
struct Recorder {
  std::mutex mutex;
  ActivityRecords records;
  std::vector<std::uint64_t> ids;  // pushed
  std::uint32_t calls = 0, graph_call = 0;
};
Recorder& recorder() {
  static Recorder& recorder = *new Recorder;
  return recorder;
}
std::atomic<int> recording_sources{0};

std::uint32_t begin_call() {
  Recorder& r = recorder();
  const std::lock_guard lock(r.mutex);
  ++r.calls;
  if (!r.ids.empty()) r.records.ids.emplace_back(r.calls, r.ids.back());
  return r.calls;
}

// As issue(), of what has a record. Of a graph's work the call is that which launches it.
void issue_recorded(Stream& stream, std::function<void()> work) {
  const bool captured = stream.state().capturing();
  const std::uint32_t call = captured || recording_sources == 0 ? 0 : begin_call();
  issue(stream, [work = std::move(work), call] {
    const Clock::time_point start = Clock::now();
    work();
    if (recording_sources == 0) return;
    Recorder& r = recorder();
    const std::lock_guard lock(r.mutex);
    const auto nanoseconds = [](Clock::time_point at) {
      return static_cast<std::uint64_t>(
          std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count());
    };
    r.records.activities.push_back(
        {nanoseconds(start), nanoseconds(Clock::now()), call > 0 ? call : r.graph_call});
  });
}

class EmulatedActivities final : public ActivitySource {
 public:
  EmulatedActivities() { ++recording_sources; }
  ~EmulatedActivities() override { --recording_sources; }
  void push(std::uint64_t id) override {
    const std::lock_guard lock(recorder().mutex);
    recorder().ids.push_back(id);
  }
  void pop() override {
    const std::lock_guard lock(recorder().mutex);
    recorder().ids.pop_back();
  }
  ActivityRecords collect() override {
    const std::lock_guard lock(recorder().mutex);
    return std::exchange(recorder().records, {});
  }
};

// Memory that only the device reaches (Settings::guard_memory): pages that are closed but while kernels and
// copies run. What lies in them ends where the next closed page begins.
class GuardedMemory {
 public:
  std::byte* allocate(std::size_t bytes) {
    const std::size_t pages = (bytes + kPage - 1) / kPage * kPage;
    void* base =
        ::mmap(nullptr, pages + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    std::byte* data = static_cast<std::byte*>(base) + (pages - bytes) / kAlignment * kAlignment;
    const std::lock_guard lock(mutex_);
    ranges_[data] = {base, pages};
    if (open_ > 0) ::mprotect(base, pages, PROT_READ | PROT_WRITE);
    return data;
  }
  bool release(std::byte* data) noexcept {
    const std::lock_guard lock(mutex_);
    const auto range = ranges_.find(data);
    if (range == ranges_.end()) return false;
    ::munmap(range->second.base, range->second.bytes + kPage);
    ranges_.erase(range);
    return true;
  }
  void open() {
    const std::lock_guard lock(mutex_);
    if (open_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    const std::lock_guard lock(mutex_);
    if (--open_ == 0) protect(PROT_NONE);
  }

 private:
  static constexpr std::size_t kPage = 4096, kAlignment = 256;
  struct Range {
    void* base;
    std::size_t bytes;
  };
  void protect(int rights) {
    for (const auto& [data, range] : ranges_) ::mprotect(range.base, range.bytes, rights);
  }
  std::mutex mutex_;
  std::map<std::byte*, Range> ranges_;
  int open_ = 0;
};

GuardedMemory& guarded() {
  static GuardedMemory memory;
  return memory;
}

// While one lives, the device is at work.
struct DeviceAtWork {
  DeviceAtWork() { guarded().open(); }
  ~DeviceAtWork() { guarded().close(); }
  DeviceAtWork(const DeviceAtWork&) = delete;
};

// The host waits. Memory is opened once for all of the work.
void wait_for(Queue& queue, std::uint64_t place) {
  if (!queue.has_work()) return queue.run_to(place);  // or for another thread, which runs the last of it
  const DeviceAtWork at_work;
  queue.run_to(place);
}

std::atomic<std::size_t> device_bytes{0};  // of all DeviceMemory that there is

constexpr int kUnset = 0xff;  // every byte of memory that nobody has written

// Of exactly this size, so that AddressSanitizer sees what lies beyond it.
std::byte* allocate(std::size_t bytes) {
  return static_cast<std::byte*>(::operator new(bytes, std::align_val_t(256)));
}
void release(std::byte* memory) noexcept { ::operator delete(memory, std::align_val_t(256)); }

}  // namespace

int device_count() { return 1; }
std::string no_device_reason() { return ""; }

DeviceProperties device_properties(int device) {
  if (device != 0) throw CudaError("device_properties", "there is no device " + std::to_string(device), 101);
  const emulation::Settings& settings = emulation::settings();
  DeviceProperties properties;
  properties.name = "emulated on the processor";
  properties.compute_capability = settings.compute_capability;
  properties.multiprocessors = settings.multiprocessors;
  properties.memory_bytes = settings.memory_bytes;
  properties.shared_bytes = settings.shared_bytes;
  properties.l2_bytes = std::size_t{1} << 25;
  return properties;
}

void use_device(int device) {
  if (device != 0) throw CudaError("use_device", "there is no device " + std::to_string(device), 101);
}
int device_in_use() { return 0; }
std::size_t free_memory() {
  const std::size_t all = emulation::settings().memory_bytes, taken = device_bytes;
  return all - std::min(all, taken);
}
std::size_t unseen_bytes() { return 0; }
void synchronize() {
  refuse_in_capture("synchronize");
  std::vector<std::weak_ptr<Queue>> all;
  {
    const std::lock_guard lock(queues().mutex);
    all = queues().all;
  }
  for (const auto& one : all)
    if (const auto queue = one.lock()) wait_for(*queue, queue->issued());
}

std::byte* OfDevice::allocate(std::size_t bytes) {
  refuse_in_capture("DeviceMemory");
  if (bytes > free_memory())
    throw CudaError("DeviceMemory(" + std::to_string(bytes) + " bytes)",
                    "out of memory, " + std::to_string(free_memory()) + " bytes are free", 2);
  std::byte* const data =
      emulation::settings().guard_memory ? guarded().allocate(bytes) : cuda::allocate(bytes);
  const DeviceAtWork at_work;
  std::memset(data, kUnset, bytes);
  device_bytes += bytes;
  return data;
}
void OfDevice::release(std::byte* memory, std::size_t bytes) noexcept {
  device_bytes -= bytes;
  if (!guarded().release(memory)) cuda::release(memory);
}
std::byte* OfHost::allocate(std::size_t bytes) {
  refuse_in_capture("PinnedMemory");
  std::byte* const data = cuda::allocate(bytes);
  std::memset(data, kUnset, bytes);
  return data;
}
void OfHost::release(std::byte* memory, std::size_t) noexcept { cuda::release(memory); }

Stream::Stream() : state_(std::make_unique<State>()) {}
Stream::~Stream() = default;
void Stream::synchronize() {
  refuse_in_capture("Stream::synchronize");
  wait_for(*state_->queue, state_->queue->issued());
}
void Stream::wait(const Event& event) {
  // A stream that waits for what is being captured is captured with it.
  if (const auto& recording = event.state().recording; recording != nullptr && !recording->ended) {
    state_->recording = recording;
    return;
  }
  const Event::State& of = event.state();
  if (of.queue != nullptr && of.queue != state_->queue)
    issue(*this, [queue = of.queue, place = of.place] { queue->run_to(place); });
}
void* Stream::native() const { return nullptr; }
std::optional<std::size_t> Stream::captured() const {
  if (!state_->capturing()) return std::nullopt;
  return state_->recording->work.size();
}

Event::Event() : state_(std::make_unique<State>()) {}
Event::~Event() = default;
void Event::record(Stream& stream) {
  if (stream.state().capturing()) {
    state_->recording = stream.state().recording;
  } else {
    state_->recording = nullptr;
    record_time(stream);
  }
}
void Event::record_time(Stream& stream) {
  const auto& reached = state_->reached;
  if (!stream.state().capturing()) reached->reset();
  issue(stream, [reached] { *reached = Clock::now(); });
  if (stream.state().capturing()) return;
  state_->queue = stream.state().queue;
  state_->place = state_->queue->issued();
}
void Event::synchronize() const {
  refuse_in_capture("Event::synchronize");
  if (state_->queue != nullptr) wait_for(*state_->queue, state_->place);
}
bool Event::done() const {
  synchronize();
  return true;
}
double Event::milliseconds_since(const Event& earlier) const {
  const auto &from = *earlier.state_->reached, &to = *state_->reached;
  if (!from || !to)
    throw CudaError("milliseconds_since", "an event that was not recorded or not waited for", 400);
  return std::chrono::duration<double, std::milli>(*to - *from).count();
}

void copy(Stream& stream, void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  issue_recorded(stream, [=] {
    const DeviceAtWork at_work;
    std::memcpy(to, from, bytes);
  });
}
void copy_rows(Stream& stream, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
               std::size_t row_bytes, std::size_t rows) {
  if (row_bytes == 0 || rows == 0) return;
  if (to_pitch < row_bytes || from_pitch < row_bytes)
    throw CudaError("copy_rows", "rows that are longer than the pitch", 12);
  issue_recorded(stream, [=] {
    const DeviceAtWork at_work;
    for (std::size_t row = 0; row < rows; ++row)
      std::memcpy(static_cast<std::byte*>(to) + row * to_pitch,
                  static_cast<const std::byte*>(from) + row * from_pitch, row_bytes);
  });
}
void copy_pieces(Stream& stream, std::span<const CopyPiece> pieces) {
  for (const CopyPiece& p : pieces) copy(stream, p.to, p.from, p.bytes);
}
void fill(Stream& stream, void* to, int byte, std::size_t bytes) {
  if (bytes == 0) return;
  issue_recorded(stream, [=] {
    const DeviceAtWork at_work;
    std::memset(to, byte, bytes);
  });
}

std::optional<TensorMap> make_tensor_map(const void* first, std::int64_t columns, std::int64_t rows,
                                         int box_rows) {
  const bool taken = reinterpret_cast<std::uintptr_t>(first) % 16 == 0 && columns > 0 && columns % 8 == 0 &&
                     rows > 0 && rows <= std::int64_t{1} << 32 && box_rows > 0 && box_rows <= 256;
  if (!taken || emulation::settings().tensor_maps == emulation::TensorMaps::kNone) return std::nullopt;
  return emulation::encode(first, columns, rows, box_rows);
}

Graph::Graph() : state_(std::make_unique<State>()) {}
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;

void Graph::begin_capture(Stream& stream) {
  if (stream.state().capturing()) throw CudaError("begin_capture", "the stream is captured already", 901);
  stream.state().recording = std::make_shared<Recording>();
  ++captures;
}
bool Graph::end_capture(Stream& stream) {
  if (!stream.state().capturing()) throw CudaError("end_capture", "the stream is not captured", 901);
  Recording& recording = *stream.state().recording;
  recording.ended = true;
  --captures;
  const bool same = state_->captured && state_->work.size() == recording.work.size();
  state_->work = std::move(recording.work);
  state_->captured = true;
  stream.state().recording = nullptr;
  return same;
}
void Graph::abandon_capture(Stream& stream) noexcept {
  if (!stream.state().capturing()) return;
  stream.state().recording->ended = true;
  stream.state().recording = nullptr;
  --captures;
}
void Graph::launch(Stream& stream) {
  if (empty()) throw CudaError("Graph::launch", "nothing was captured", 0);
  if (recording_sources > 0)
    issue(stream, [call = begin_call()] {
      const std::lock_guard lock(recorder().mutex);
      recorder().graph_call = call;
    });
  for (const auto& work : state_->work) issue(stream, work);
}
bool Graph::empty() const { return !state_->captured; }
std::size_t Graph::nodes() const { return state_->work.size(); }

std::unique_ptr<ActivitySource> open_activities(std::string&) {
  return std::make_unique<EmulatedActivities>();
}

void launch_emulated(const Launch& launch, Stream& stream, std::function<void()> body) {
  issue_recorded(stream, [launch, body = std::move(body)] {
    const DeviceAtWork at_work;
    emulation::run_grid(launch.name, launch.grid, launch.block, launch.shared, launch.overlaps, body);
  });
}

}  // namespace foretoken::cuda
