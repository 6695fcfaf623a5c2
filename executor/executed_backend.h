// The backend that executes: every step of the serving loop runs on a transformer, and takes as long as it
// took.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "deployment/deployment.h"
#include "executor/executable.h"
#include "serving/backend.h"
#include "serving/workload.h"

namespace foretoken {

// One step as it ran.
struct StepRun {
  Work work;                        // of the fullest data-parallel rank
  double seconds = 0;               // ranks side by side, as on a machine of usual speed
  double speed = 1;                 // of the machine at the time: usual seconds of a probe over its seconds
  bool polluted = false;            // another process took the processor meanwhile
  std::vector<Work> drafting = {};  // what the draft model ran after it
  std::int32_t engine = 0;
};

class ExecutedBackend final : public Backend {
 public:
  // Loads the model; refuses by name what the executor does not do. workload: whose prompts are served; both
  // references must outlive the backend.
  ExecutedBackend(const Deployment& deployment, const Workload& workload, const ModelText& model,
                  const ExecutorOptions& options);
  ~ExecutedBackend() override;
  // What the probe between steps took when the machine was calibrated; steps are stated for a machine that
  // fast. Without it they are stated as they were.
  void set_usual_probe(double seconds);
  // Who is asked whether blocks are worth loading, which is decided by predicted times (kv_load_policy cost),
  // and what copies between tiers would take; must outlive the serving.
  void set_prices(Backend& prices);

  std::span<const std::int64_t> windows() const override;
  bool wants_sequences() const override { return true; }
  StepTime run(const Step& step) override;
  // Copies the blocks from the one engine's cache to the other's.
  Picoseconds transfer(const KvTransfer& transfer) override;
  // Copies the blocks between the device's cache, the memory that stands for the host's and files.
  Picoseconds move_blocks(const TierMove& move) override;
  bool worth_loading(const TierLoad& load) override;
  // Copies blocks between instances whose attention reaches over several caches.
  Picoseconds rearrange(std::span<const CachedPart> held, Picoseconds now, Picoseconds predicted) override;
  void release(RequestId request) override;
  void verify(const Step& step, std::size_t rank, std::span<Verification> sequences) override;

  std::span<const StepRun> steps() const;
  // Caches that were moved: their number, seconds, and bytes through the busiest device (moved_bytes).
  struct Moved {
    std::int64_t count = 0;
    double seconds = 0, bytes = 0;
  };
  Moved moved() const;
  // Seconds of each operator by name, all steps.
  std::map<std::string, double> operator_seconds() const;
  // Of these, what copies between tiers would have taken by the prices that were set.
  std::map<std::string, double> predicted_copy_seconds() const;
  // Token ids that a request produced so far; empty for an unknown one.
  std::vector<std::int32_t> output(RequestId request) const;
  std::vector<std::int32_t> prompt(RequestId request) const;
  // Beam search, over its steps: KV blocks that a request's beams read, and those that they would read if
  // they shared none.
  struct BeamSharing {
    std::int64_t blocks = 0, unshared = 0;
    double share() const {
      return unshared > 0 ? 1 - static_cast<double>(blocks) / static_cast<double>(unshared) : 0;
    }
  };
  BeamSharing beam_sharing() const;
  std::string condition() const;  // Kernels::condition(), now
  std::vector<std::string> remarks() const;
  std::string description() const;  // "avx512-bf16 kernels, 1 thread, bf16 weights, ..."

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace foretoken
