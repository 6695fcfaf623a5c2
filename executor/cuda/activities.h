// Times of operators by what the driver records of each kernel, copy and fill ("activities"): when it began
// and ended on the device, and by an id that the host had pushed, in which part of a step it was launched.
// Nothing is put between kernels, as events are, so times are those of kernels alone, without the gaps
// between them.
//
// A step that was recorded is launched by one call, whose id all of its activities have: they are told apart
// by their order, which on one stream is that of the graph's nodes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace foretoken::cuda {

struct Activity {
  std::uint64_t start = 0, end = 0;  // nanoseconds
  std::uint32_t correlation = 0;     // of the call that launched it
};

struct ActivityRecords {
  std::vector<Activity> activities;
  std::vector<std::pair<std::uint32_t, std::uint64_t>>
      ids;  // correlation of a call, id that it was made under
  std::size_t dropped = 0;
};

// Who records: CUPTI (cupti.cpp), or the emulated device.
class ActivitySource {
 public:
  virtual ~ActivitySource() = default;
  // Calls of this thread are made under the id from now on; until pop().
  virtual void push(std::uint64_t id) = 0;
  virtual void pop() = 0;
  // What was recorded since the last time, of a device that has nothing left to do.
  virtual ActivityRecords collect() = 0;
};

// Null where there is none; then why_not says what is missing.
std::unique_ptr<ActivitySource> open_activities(std::string& why_not);

// Places of a step (KernelStopwatch) and the seconds of activities between them.
class ActivityTimes {
 public:
  explicit ActivityTimes(std::unique_ptr<ActivitySource> source) : source_(std::move(source)) {}
  ~ActivityTimes() { close(); }
  ActivityTimes(const ActivityTimes&) = delete;

  void restart();  // a step begins
  // captured: nodes of the graph that is being captured so far; nothing where launches run.
  int mark(std::optional<std::size_t> captured);
  // What was marked of the capture belongs to this recording, of `nodes` in all.
  void keep(const void* owner, std::uint64_t key, std::size_t nodes);
  // Launches the recording, whose places are this step's.
  void replay(const void* owner, std::uint64_t key, const std::function<void()>& launch);
  // Once the device is done. Kernels that overlap count once. Throws Error where records are missing.
  double seconds(int from, int to);

 private:
  struct Recording {
    std::vector<std::size_t> before;  // nodes before each place
    std::size_t nodes = 0;
  };
  void close();
  void attribute();

  std::unique_ptr<ActivitySource> source_;
  std::map<std::pair<const void*, std::uint64_t>, Recording> recordings_;
  std::uint64_t last_id_ = 0;
  bool open_ = false;
  // Of the step at hand: the id of its first place, and of its replay, if it is one.
  std::uint64_t first_id_ = 1, replay_id_ = 0;
  int places_ = 0;
  std::vector<std::size_t> captured_;
  const Recording* replayed_ = nullptr;
  bool attributed_ = false;
  std::vector<double> until_;  // seconds from the first place to each
};

}  // namespace foretoken::cuda
