// Who uses which low-rank adapter, and which adapters are in device memory.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "serving/request.h"

namespace foretoken {

struct LoraConfig {
  std::int64_t max_loras = 0;     // distinct adapters in a batch, and slots in device memory; 0: no adapters
  std::int64_t num_adapters = 0;  // 0, 1, ... that requests name
  double zipf_exponent = 0;       // adapter i is asked for in proportion to (i + 1)^-exponent; 0: uniform
  std::uint64_t seed = 0;
};

// The adapter of each request, the same for all turns of a conversation.
class AdapterDraw {
 public:
  explicit AdapterDraw(const LoraConfig& config);
  std::int32_t operator()(const Request& request) const;  // -1: the base model

 private:
  std::uint64_t seed_;
  std::vector<double> cumulative_;
};

// An adapter copied from host memory into a slot before the step.
struct AdapterLoad {
  std::int32_t adapter = 0, slot = 0;
};

// Slots of device memory, the least recently used adapter leaves first.
class AdapterSlots {
 public:
  explicit AdapterSlots(std::int64_t slots) : slots_(static_cast<std::size_t>(slots)) {}
  // The step's distinct adapters, at most as many as there are slots. Appends what has to be loaded.
  void use(std::span<const std::int32_t> adapters, std::vector<AdapterLoad>& loads);

 private:
  struct Slot {
    std::int32_t adapter = -1;
    std::int64_t used = 0;
  };
  std::vector<Slot> slots_;
  std::int64_t clock_ = 0;
};

}  // namespace foretoken
