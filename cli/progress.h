// A progress bar with the time left, on stderr and only when that is a terminal; of several at once the
// first.
#pragma once

#include <chrono>
#include <mutex>
#include <string>

namespace foretoken {

class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar();  // wipes the line
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  void update(double done_share);  // from any thread

 private:
  using Clock = std::chrono::steady_clock;
  std::string label_;
  bool terminal_;
  bool drawn_ = false;
  std::mutex mutex_;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

bool stderr_is_terminal();
bool colours_wanted();  // terminal, and NO_COLOR is not set

}  // namespace foretoken
