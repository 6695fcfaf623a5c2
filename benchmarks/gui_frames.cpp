// How long the window takes from a change of a slider to the painted picture, with every view in sight:
//   build/release/benchmarks/gui_frames [SCENARIO] [--steps N]
// Median, 99th percentile and longest of N changes of each slider's key, in milliseconds of this machine.
// Simulations run beside it, as they do for a user. Then what the simulation of 20,000 requests takes: alone,
// and from a change to the picture with its numbers, which includes the pause that waits for another change.
#include <QApplication>
#include <QDockWidget>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/json_full.h"
#include "gui/window.h"

int main(int argc, char** argv) {
  using namespace foretoken::gui;
  qputenv("QT_QPA_PLATFORM", "offscreen");
  QApplication app(argc, argv);
  Window::use_theme(Window::Theme::kLight);
  int steps = 300;
  const char* scenario = nullptr;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--steps") == 0 && i + 1 < argc)
      steps = std::atoi(argv[++i]);
    else
      scenario = argv[i];
  }
  Window window(false);
  if (scenario != nullptr) window.session().open(scenario);
  // Side by side, so that all of them are painted.
  QList<QDockWidget*> docks = window.findChildren<QDockWidget*>();
  for (int i = 0; i < docks.size(); ++i)
    window.addDockWidget(i % 3 == 0 ? Qt::LeftDockWidgetArea : Qt::RightDockWidgetArea, docks[i],
                         i % 3 == 1 ? Qt::Horizontal : Qt::Vertical);
  window.resize(2560, 1440);
  window.show();
  window.session().wait();
  std::printf("%-34s %8s %8s %8s   of %d changes, %lld views, ms\n", "key", "median", "p99", "longest", steps,
              static_cast<long long>(docks.size() - 1));
  struct Slider {
    const char* key;
    double low, high;
  };
  for (const Slider& s : {Slider{"/workload/request_rate", 0.5, 20}, Slider{"/engine/max_num_seqs", 8, 512},
                          Slider{"/engine/max_num_batched_tokens", 512, 16384},
                          Slider{"/engine/gpu_memory_utilization", 0.6, 0.95}}) {
    std::vector<double> times;
    for (int i = 0; i < steps; ++i) {
      const double at = s.low + (s.high - s.low) * i / steps;
      const bool whole = s.low >= 1;
      const auto start = std::chrono::steady_clock::now();
      window.form().enter(s.key, whole ? QString::number(std::lround(at)) : QString::number(at, 'f', 3),
                          true);
      // Charts draw when they are next asked, widgets paint after that.
      for (int round = 0; round < 3; ++round) QApplication::processEvents();
      times.push_back(
          std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(times.begin(), times.end());
    std::printf("%-34s %8.2f %8.2f %8.2f\n", s.key, times[times.size() / 2], times[times.size() * 99 / 100],
                times.back());
  }
  Session& session = window.session();
  session.edit("/workload/num_prompts", foretoken::Json(20000));
  session.wait();
  if (!session.estimated() || !session.estimated()->verdict.empty()) return 0;
  const auto since = [](std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  };
  std::vector<double> alone, shown;
  for (int i = 0; i < 9; ++i) {
    auto start = std::chrono::steady_clock::now();
    simulate_of(*session.world(), session.estimated(), nullptr);
    alone.push_back(since(start));
    start = std::chrono::steady_clock::now();
    session.edit("/workload/seed", foretoken::Json(i + 1));
    while (!session.simulated()) QApplication::processEvents(QEventLoop::WaitForMoreEvents);
    for (int round = 0; round < 3; ++round) QApplication::processEvents();
    shown.push_back(since(start));
    session.wait();
  }
  for (auto* times : {&alone, &shown}) {
    std::sort(times->begin(), times->end());
    std::printf("%-34s %8.1f %8s %8.1f   of %zu simulations of 20,000 requests, ms\n",
                times == &alone ? "simulation" : "simulation, change to picture", (*times)[times->size() / 2],
                "", times->back(), times->size());
  }
}
