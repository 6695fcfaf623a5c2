#include "serving/lora.h"

#include <algorithm>
#include <stdexcept>

#include "base/random.h"

namespace foretoken {

AdapterDraw::AdapterDraw(const LoraConfig& config) : seed_(config.seed) {
  if (config.max_loras <= 0) return;
  double sum = 0;
  for (std::int64_t i = 0; i < config.num_adapters; ++i) {
    sum += exact_exp(-config.zipf_exponent * exact_log(static_cast<double>(i + 1)));
    cumulative_.push_back(sum);
  }
}

std::int32_t AdapterDraw::operator()(const Request& request) const {
  if (cumulative_.empty()) return -1;
  constexpr std::uint64_t kStream = 0x6c6f7261;  // "lora"
  // Conversations are counted apart from single requests.
  const bool talks = request.session >= 0;
  CounterRandom random(seed_, kStream + (talks ? 1 : 0),
                       static_cast<std::uint64_t>(talks ? request.session : request.id));
  const double u = random.uniform() * cumulative_.back();
  const auto at = std::lower_bound(cumulative_.begin(), cumulative_.end() - 1, u);
  return static_cast<std::int32_t>(at - cumulative_.begin());
}

// Those that are there are marked first, so that none of them leaves for one that is missing.
void AdapterSlots::use(std::span<const std::int32_t> adapters, std::vector<AdapterLoad>& loads) {
  const std::int64_t before = clock_;
  const auto find = [&](std::int32_t adapter) {
    return std::find_if(slots_.begin(), slots_.end(), [&](const Slot& s) { return s.adapter == adapter; });
  };
  for (const std::int32_t adapter : adapters)
    if (const auto at = find(adapter); at != slots_.end()) at->used = ++clock_;
  for (const std::int32_t adapter : adapters) {
    if (find(adapter) != slots_.end()) continue;
    const auto oldest = std::min_element(slots_.begin(), slots_.end(),
                                         [](const Slot& a, const Slot& b) { return a.used < b.used; });
    if (oldest == slots_.end() || oldest->used > before)
      throw std::logic_error("more adapters in a step than slots");
    *oldest = {adapter, ++clock_};
    loads.push_back({adapter, static_cast<std::int32_t>(oldest - slots_.begin())});
  }
}

}  // namespace foretoken
