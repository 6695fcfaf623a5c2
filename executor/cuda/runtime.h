// Devices, memory, streams, events and graphs: what host code needs of the CUDA runtime, without its headers.
// runtime.cpp implements it on the runtime, runtime_emulated.cpp on the processor (memory is the process's,
// work runs when it is issued or waited for). What fails throws CudaError with the call and the error's name.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "base/error.h"
#include "executor/kernel_memory.h"

namespace foretoken::cuda {

// where(): the call that failed.
class CudaError : public Error {
 public:
  CudaError(const std::string& call, const std::string& message, int code)
      : Error(call, message), code_(code) {}
  int code() const { return code_; }  // a cudaError_t, or the library's status; 0: not the runtime's

 private:
  int code_;
};

struct DeviceProperties {
  std::string name, pci_bus_id;
  int compute_capability = 0;  // ten times: 90 for 9.0
  int multiprocessors = 0;
  std::size_t memory_bytes = 0;  // in all
  std::size_t shared_bytes = 0;  // a block's most, dynamic ones on demand
  std::size_t l2_bytes = 0;
  int driver_version = 0, runtime_version = 0;  // as CUDA numbers them: 13000 for 13.0
};

int device_count();              // 0 where there is no driver or no device
std::string no_device_reason();  // "no CUDA device: ... (error 35)"; empty where there is one
DeviceProperties device_properties(int device = 0);
void use_device(int device);  // by the calling thread, from now on; 0 where none was chosen
int device_in_use();          // by the calling thread
std::size_t free_memory();    // bytes of the device in use
// An allowance for what the driver will take of them unasked: kernels' code, which is loaded with their first
// launch, recorded steps, and what allocations are rounded up by. (The context is there: free_memory() is
// without it.)
std::size_t unseen_bytes();
void synchronize();  // all streams of the device in use

// Memory of one of the places below, freed with its owner.
template <class Place>
class OwnedMemory {
 public:
  OwnedMemory() = default;
  explicit OwnedMemory(std::size_t bytes)
      : data_(bytes > 0 ? Place::allocate(bytes) : nullptr), bytes_(bytes) {}
  ~OwnedMemory() {
    if (data_ != nullptr) Place::release(data_, bytes_);
  }
  OwnedMemory(OwnedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  OwnedMemory& operator=(OwnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  std::byte* data() const { return data_; }  // null where bytes() is 0
  std::size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

struct OfDevice {
  static std::byte* allocate(std::size_t bytes);
  static void release(std::byte* memory, std::size_t bytes) noexcept;
};
struct OfHost {
  static std::byte* allocate(std::size_t bytes);
  static void release(std::byte* memory, std::size_t bytes) noexcept;
};
// Of the device, aligned to 256. Its content is not set (emulated: 0xFF in every byte).
using DeviceMemory = OwnedMemory<OfDevice>;
// Of the host, which the device's copies reach without a detour: only those are asynchronous.
using PinnedMemory = OwnedMemory<OfHost>;

class Event;

// Work in order. Streams don't wait for one another unless told to.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  void synchronize();             // the host waits for all of it
  void wait(const Event& event);  // what follows waits for what was recorded
  void* native() const;           // the cudaStream_t; null where emulated
  // Kernels, copies and fills of the graph that is being captured from it so far; nothing where none is.
  std::optional<std::size_t> captured() const;
  struct State;
  State& state() const { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(Stream& stream);
  // The same, but in a capture: a node of the graph that sets the event's time at every launch. (record()
  // there only lets another stream wait, which is captured with this one from then on.) It must live as long
  // as the graph.
  void record_time(Stream& stream);
  void synchronize() const;                               // the host waits for it
  bool done() const;                                      // whether it has been reached
  double milliseconds_since(const Event& earlier) const;  // both have been reached
  struct State;
  State& state() const { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

// All asynchronous, in any direction between host and device; memory of the host should be pinned and must
// stay as it is until the stream is past the copy.
void copy(Stream& stream, void* to, const void* from, std::size_t bytes);
// `rows` rows of row_bytes, `pitch` bytes from one row's start to the next one's.
void copy_rows(Stream& stream, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
               std::size_t row_bytes, std::size_t rows);
// Copies in no order among themselves, in few calls.
void copy_pieces(Stream& stream, std::span<const CopyPiece> pieces);
void fill(Stream& stream, void* to, int byte, std::size_t bytes);

// Work of a stream, recorded once and launched often. Pointers and sizes are those of the recording.
class Graph {
 public:
  Graph();
  ~Graph();
  Graph(Graph&&) noexcept;
  Graph& operator=(Graph&&) noexcept;
  // Records what `issue` issues on the stream, which doesn't run. A second time the graph is brought up to
  // date, which is cheap where only arguments and sizes changed; returns whether that was so. On the device
  // no memory may be allocated and nothing waited for meanwhile.
  template <class F>
  bool capture(Stream& stream, F&& issue) {
    begin_capture(stream);
    try {
      issue();
    } catch (...) {
      abandon_capture(stream);
      throw;
    }
    return end_capture(stream);
  }
  void begin_capture(Stream& stream);
  bool end_capture(Stream& stream);
  void abandon_capture(Stream& stream) noexcept;
  void launch(Stream& stream);
  bool empty() const;         // nothing was captured yet
  std::size_t nodes() const;  // kernels, copies and fills

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace foretoken::cuda
