#include "executor/weight_stream.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "executor/arena.h"
#include "executor/unnamed_file.h"

namespace foretoken {
namespace {

std::size_t buffer_bytes(const std::vector<std::size_t>& layers) {
  return Arena::padded(layers.empty() ? 0 : *std::max_element(layers.begin(), layers.end()));
}

std::size_t sum(const std::vector<std::size_t>& layers) {
  return std::accumulate(layers.begin(), layers.end(), std::size_t{0});
}

}  // namespace

struct WeightStream::State {
  const std::vector<std::size_t> bytes;
  const WeightStreamOptions options;
  const std::size_t buffer_size;
  const KernelMemory& memory;
  std::vector<std::size_t> offsets;
  // host: the store, or what was read of it where kernels don't work in the host's memory.
  Arena ring, host;
  std::byte *ring_bytes = nullptr, *host_bytes = nullptr;
  std::vector<std::uint64_t> places;  // where each buffer was last released
  std::unique_ptr<UnnamedFile> file;

  // Fetches, acquisitions and releases so far; the n-th concerns layer n % layers in buffer n % buffers.
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t fetched = 0, acquired = 0, released = 0;
  bool stop = false;
  std::exception_ptr error;  // what the last fetch threw
  std::thread thread;

  State(const std::vector<std::size_t>& layer_bytes, const WeightStreamOptions& o, const KernelMemory& m)
      : bytes(layer_bytes), options(o), buffer_size(buffer_bytes(layer_bytes)), memory(m) {
    for (std::size_t at = 0; const std::size_t b : bytes) offsets.push_back(at), at += b;
    ring = Arena(buffer_size * static_cast<std::size_t>(options.buffers), memory);
    ring_bytes = ring.bytes(ring.size());
    places.assign(static_cast<std::size_t>(options.buffers), 0);
    if (options.from_storage) file = std::make_unique<UnnamedFile>(options.folder, "streamed weights");
    if (options.from_storage && memory.host_reads()) return;
    host = Arena(options.from_storage ? buffer_size : sum(bytes), memory, Arena::Place::kHost);
    host_bytes = host.bytes(host.size());
  }

  std::byte* buffer(std::uint64_t n) const {
    return ring_bytes + n % static_cast<std::uint64_t>(options.buffers) * buffer_size;
  }
  std::uint64_t& place(std::uint64_t n) { return places[n % places.size()]; }

  // after: where the buffer was last released.
  void fetch(std::uint64_t n, std::uint64_t after) const {
    const std::size_t layer = n % bytes.size();
    if (file && memory.host_reads()) return file->read(buffer(n), bytes[layer], offsets[layer]);
    if (file) file->read(host_bytes, bytes[layer], offsets[layer]);
    memory.copy_beside(buffer(n), file ? host_bytes : host_bytes + offsets[layer], bytes[layer], after);
  }

  void end_fetching() {
    if (!thread.joinable()) return;
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    changed.notify_all();
    thread.join();
    stop = false;
  }

  void fetch_ahead() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock,
                   [&] { return stop || fetched < released + static_cast<std::uint64_t>(options.buffers); });
      if (stop) return;
      const std::uint64_t n = fetched, after = place(n);
      lock.unlock();
      std::exception_ptr thrown;
      try {
        fetch(n, after);
      } catch (...) {
        thrown = std::current_exception();
      }
      lock.lock();
      error = thrown;
      ++fetched;
      changed.notify_all();
      if (error) return;
    }
  }
};

WeightStream::WeightStream(const std::vector<std::size_t>& layer_bytes, const WeightStreamOptions& options,
                           const KernelMemory& memory)
    : state_(std::make_unique<State>(layer_bytes, options, memory)) {}

WeightStream::~WeightStream() { state_->end_fetching(); }

std::size_t WeightStream::bytes_needed(const std::vector<std::size_t>& layer_bytes,
                                       const WeightStreamOptions& options, const KernelMemory& memory) {
  return buffer_bytes(layer_bytes) * static_cast<std::size_t>(options.buffers) +
         (options.from_storage || !memory.host_reads() ? 0 : Arena::padded(sum(layer_bytes)));
}

void WeightStream::store(std::size_t layer, const std::byte* packed) {
  State& s = *state_;
  if (!s.file) return s.memory.copy(s.host_bytes + s.offsets[layer], packed, s.bytes[layer]);
  const std::byte* from = packed;
  if (!s.memory.host_reads()) s.memory.copy(s.host_bytes, packed, s.bytes[layer]), from = s.host_bytes;
  s.file->write(from, s.bytes[layer], s.offsets[layer]);
}

const std::byte* WeightStream::acquire() {
  State& s = *state_;
  const std::uint64_t n = s.acquired;
  if (!s.options.overlap) {
    s.fetch(n, s.place(n));
    ++s.acquired;
    return s.buffer(n);
  }
  if (!s.thread.joinable()) s.thread = std::thread([&s] { s.fetch_ahead(); });
  std::unique_lock lock(s.mutex);
  s.changed.wait(lock, [&] { return s.fetched > n || s.error; });
  if (s.error && s.fetched <= n + 1) std::rethrow_exception(s.error);
  ++s.acquired;
  return s.buffer(n);
}

void WeightStream::release() {
  State& s = *state_;
  const std::lock_guard lock(s.mutex);
  s.place(s.released) = s.memory.place();
  ++s.released;
  s.changed.notify_all();
}

// What was fetched ahead is fetched again: a failure is rare.
void WeightStream::restart() {
  State& s = *state_;
  s.end_fetching();
  const std::uint64_t layers = s.bytes.size(), begun = std::max(s.acquired, s.fetched),
                      next = (begun + layers - 1) / layers * layers;
  s.fetched = s.acquired = s.released = next;
  s.places.assign(s.places.size(), 0);
  s.error = nullptr;
}

}  // namespace foretoken
