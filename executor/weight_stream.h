// Weights that pass through a ring of buffers: packed layers wait in a file or in host memory and are
// fetched, in the order in which layers compute and round again for the next step, as buffers come free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "executor/kernel_memory.h"

namespace foretoken {

struct WeightStreamOptions {
  std::int64_t buffers = 2;  // layers in the ring
  bool overlap = false;      // a thread fetches ahead; else a layer is fetched when it is asked for
  bool from_storage = false;
  std::string folder = "/tmp";  // of the file, which has no name once it is open and goes with its last user
};

class WeightStream {
 public:
  // layer_bytes: of each streamed layer in order. Allocates the ring and the store. Throws Error for a file
  // that can't be made, std::bad_alloc.
  // memory: where the ring is; must outlive the stream.
  WeightStream(const std::vector<std::size_t>& layer_bytes, const WeightStreamOptions& options,
               const KernelMemory& memory = host_memory());
  ~WeightStream();
  WeightStream(const WeightStream&) = delete;
  WeightStream& operator=(const WeightStream&) = delete;

  // Of the kernels' memory that a stream takes.
  static std::size_t bytes_needed(const std::vector<std::size_t>& layer_bytes,
                                  const WeightStreamOptions& options,
                                  const KernelMemory& memory = host_memory());

  // Puts packed layer i, of the kernels' memory, into the store. All layers, before the first acquire().
  void store(std::size_t layer, const std::byte* packed);
  // The next layer in order, once it is there; it stays until release(). Throws Error where a read failed.
  const std::byte* acquire();
  void release();  // what was launched before may still read it
  // After a step that failed halfway, once nothing reads the ring: the first layer is the next one.
  void restart();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace foretoken
