// A fixed set of threads that kernels split their outputs over. With one thread everything runs in the
// caller.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace foretoken {

class Threads {
 public:
  explicit Threads(int count = 1);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  int count() const { return count_; }

  // Calls f(i) for i in [0, tasks), each once, and returns when all are done. When a task throws, no others
  // are begun as soon as the threads see it, and run() throws what it threw (the first, of several). A run()
  // inside a task runs in that task's thread.
  template <class F>
  void run(std::int64_t tasks, F&& f) {
    const auto call = [](void* context, std::int64_t i) {
      (*static_cast<std::remove_reference_t<F>*>(context))(i);
    };
    run_tasks(tasks, call, &f);
  }

 private:
  void run_tasks(std::int64_t tasks, void (*call)(void*, std::int64_t), void* context);
  struct Pool;
  int count_;
  std::unique_ptr<Pool> pool_;
};

}  // namespace foretoken
