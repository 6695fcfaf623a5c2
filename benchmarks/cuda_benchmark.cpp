// The executor's kernels on a CUDA device, as the executor launches them (activations in float32): products
// by format and rows, attention of decoding and of prompts, latent attention, experts, the small operators,
// sampling, copies, launches. Without a device it says so and ends well.
//
// How a time is made: launches go around copies of weights and caches that hold more than five times the L2
// cache together; at least 20 of them lie between two marks, recorded and run as one, so that the host's time
// a launch is left out (`launches` measures that); it is the median of many such regions, `spread` half of
// their 10th to 90th percentile over it. Activations are normal, weights normal with a deviation of 0.02.
// Each row says the clocks, power and heat before it and while its launches run (NVML).
//
// FORETOKEN_BENCHMARK_BACKEND=cpu runs the processor's kernels instead: to try this program, not to compare.
// FORETOKEN_BENCHMARK_SECONDS is the time a row is measured for (0.15). --describe prints the device and its
// clocks, and ends.
#include "benchmarks/cuda_benchmark.h"

namespace foretoken::cuda_benchmark {
namespace {

std::vector<std::pair<std::string, std::string>> facts(const cuda::DeviceProperties& d) {
  const auto version = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  std::vector<std::pair<std::string, std::string>> list{
      {"device", d.name},
      {"compute_capability",
       std::to_string(d.compute_capability / 10) + "." + std::to_string(d.compute_capability % 10)},
      {"multiprocessors", std::to_string(d.multiprocessors)},
      {"memory_bytes", std::to_string(d.memory_bytes)},
      {"l2_bytes", std::to_string(d.l2_bytes)},
      {"driver_cuda", version(d.driver_version)},
      {"runtime_cuda", version(d.runtime_version)}};
  const cuda::Clocks c = cuda::ClockReader(d.pci_bus_id).read();
  const auto add_if = [&](const char* key, const auto& value) {
    if (value) list.emplace_back(key, std::to_string(*value));
  };
  add_if("sm_mhz", c.sm_mhz), add_if("memory_mhz", c.memory_mhz), add_if("watt", c.power_w);
  add_if("celsius", c.temperature_c);
  if (c.throttle_reasons) list.emplace_back("throttle", cuda::throttle_text(*c.throttle_reasons));
  return list;
}

int describe() {
  const ChosenKernels backend = open_backend("cuda");
  if (!backend.device) std::cout << backend.why_not << "\n";
  if (backend.device)
    for (const auto& [key, value] : facts(*backend.device)) std::cout << key << ": " << value << "\n";
  return 0;
}

}  // namespace
}  // namespace foretoken::cuda_benchmark

int main(int count, char** arguments) {
  using namespace foretoken;
  using namespace foretoken::cuda_benchmark;
  if (count == 2 && std::string(arguments[1]) == "--describe") return describe();
  benchmark::Initialize(&count, arguments);
  if (benchmark::ReportUnrecognizedArguments(count, arguments)) return 2;
  const ChosenKernels backend = open_backend(wanted_backend("cuda"));
  if (backend.kernels == nullptr) {
    std::cerr << backend.why_not << "; nothing was measured\n";
    return 0;
  }
  std::unique_ptr<Bench> opened;
  try {
    opened = std::make_unique<Bench>(backend);
  } catch (const std::exception& e) {
    std::cerr << "error: " << e.what() << "\n";
    return 1;
  }
  bench = opened.get();
  benchmark::AddCustomContext("kernels", backend.kernels->name());
  benchmark::AddCustomContext("machine", backend.kernels->machine());
  if (backend.device)
    for (const auto& [key, value] : facts(*backend.device)) benchmark::AddCustomContext(key, value);
  register_machine();
  register_products();
  register_attention();
  register_experts();
  register_small();
  benchmark::RunSpecifiedBenchmarks();
  known_weights.clear(), release_experts();  // while the device is there
  benchmark::Shutdown();
}
