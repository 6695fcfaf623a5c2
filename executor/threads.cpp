// A pool of threads that sleep between runs; each run deals out task numbers by an atomic counter.
#include "executor/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace foretoken {

namespace {
thread_local bool inside_task = false;
}

struct Threads::Pool {
  std::mutex mutex;
  std::condition_variable wake, done;
  std::uint64_t generation = 0;  // of the run that is offered
  int working = 0;
  bool stop = false;
  void (*call)(void*, std::int64_t) = nullptr;
  void* context = nullptr;
  std::int64_t tasks = 0;
  std::atomic<std::int64_t> next{0};
  std::exception_ptr thrown;  // by the run's first task that failed
  std::vector<std::thread> threads;

  void take() noexcept {
    inside_task = true;
    try {
      for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) call(context, i);
    } catch (...) {
      next.store(tasks, std::memory_order_relaxed);
      const std::lock_guard lock(mutex);
      if (!thrown) thrown = std::current_exception();
    }
    inside_task = false;
  }

  void loop() {
    std::uint64_t seen = 0;
    for (;;) {
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return stop || generation != seen; });
        if (stop) return;
        seen = generation;
      }
      take();
      std::lock_guard lock(mutex);
      if (--working == 0) done.notify_one();
    }
  }
};

Threads::Threads(int count) : count_(std::max(1, count)) {
  if (count_ == 1) return;
  pool_ = std::make_unique<Pool>();
  for (int i = 1; i < count_; ++i) pool_->threads.emplace_back([pool = pool_.get()] { pool->loop(); });
}

Threads::~Threads() {
  if (!pool_) return;
  {
    std::lock_guard lock(pool_->mutex);
    pool_->stop = true;
  }
  pool_->wake.notify_all();
  for (auto& thread : pool_->threads) thread.join();
}

void Threads::run_tasks(std::int64_t tasks, void (*call)(void*, std::int64_t), void* context) {
  if (!pool_ || tasks <= 1 || inside_task) {
    for (std::int64_t i = 0; i < tasks; ++i) call(context, i);
    return;
  }
  {
    std::lock_guard lock(pool_->mutex);
    pool_->call = call;
    pool_->context = context;
    pool_->tasks = tasks;
    pool_->next.store(0, std::memory_order_relaxed);
    pool_->working = count_ - 1;
    ++pool_->generation;
  }
  pool_->wake.notify_all();
  pool_->take();
  std::unique_lock lock(pool_->mutex);
  pool_->done.wait(lock, [&] { return pool_->working == 0; });
  if (pool_->thrown) std::rethrow_exception(std::exchange(pool_->thrown, nullptr));
}

}  // namespace foretoken
