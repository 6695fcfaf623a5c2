#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace foretoken {

bool stderr_is_terminal() {
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && term != nullptr && std::string_view(term) != "dumb";
}

bool colours_wanted() {
  const char* no = std::getenv("NO_COLOR");
  return stderr_is_terminal() && (no == nullptr || *no == '\0');
}

namespace {
std::atomic<int> bars{0};  // alive
}

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)), terminal_(bars++ == 0 && stderr_is_terminal()) {}

ProgressBar::~ProgressBar() {
  if (drawn_) fmt::print(stderr, "\r\033[K");
  --bars;
}

void ProgressBar::update(double done_share) {
  if (!terminal_) return;
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  if (now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  const double share = std::clamp(done_share, 0.0, 1.0);
  const double seconds = std::chrono::duration<double>(now - start_).count();
  constexpr int kCells = 30;
  const int full = static_cast<int>(share * kCells);
  std::string left;
  if (share > 0.01) {
    const auto s = static_cast<long>(seconds / share * (1 - share)) + 1;
    left = s < 60 ? fmt::format("{} s left", s) : fmt::format("{} min {:02} s left", s / 60, s % 60);
  }
  fmt::print(stderr, "\r\033[K{} [{}{}] {:3.0f} % {}", label_,
             std::string(static_cast<std::size_t>(full), '#'),
             std::string(static_cast<std::size_t>(kCells - full), '.'), share * 100, left);
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace foretoken
