#include "cli/interrupt.h"

#include <csignal>

namespace foretoken {
namespace {

// A signal handler can reach nothing but globals.
std::atomic<bool> stop{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void on_signal(int signal) {
  stop.store(true);
  std::signal(signal, SIG_DFL);
}

}  // namespace

void catch_interrupts() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  // A reader that has gone is seen as EPIPE by the write.
  std::signal(SIGPIPE, SIG_IGN);
}

const std::atomic<bool>& stop_flag() { return stop; }

}  // namespace foretoken
