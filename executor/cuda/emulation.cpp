#include "executor/cuda/emulation.h"

#include <algorithm>
#include <bit>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "executor/cuda/emulation_barriers.h"
#include "executor/cuda/emulation_fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace foretoken::cuda {

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulation {
namespace {

constexpr unsigned kLanes = 32, kMostWarps = 32;

struct Copy {
  void* to;
  const void* from;
  unsigned bytes, group;
  bool valid;
};

enum class Wait : std::uint8_t { kNothing, kBarrier, kExchange, kPhase };

struct Product {
  const void* d;
  std::shared_ptr<void> shared;
  std::function<void(void*, bool)> run;
  unsigned group;
};

struct Thread {
  Fiber* fiber = nullptr;  // null: has not started
  uint3 index{};
  Wait wait = Wait::kNothing;
  bool dependency_waited = false;
  unsigned groups = 0;  // committed
  std::vector<Copy> copies;
  unsigned product_groups = 0;
  std::vector<Product> products;
  const void* phase_of = nullptr;  // the barrier whose phase it waits for
  bool bounded = false, gave_up = false;
};

struct Warp {
  unsigned runnable = 0, ended = 0, arrived = 0, cursor = 0;
  const char* function = nullptr;  // that the arrived lanes wait in
  // A lane that goes on writes its own place of `in` for the next exchange; `out` is written when all have
  // come to that.
  alignas(16) std::byte in[kLanes * kLaneBytes];
  alignas(16) std::byte out[kLanes * kLaneBytes];
};

class Block {
 public:
  void run(const char* kernel, dim3 grid, dim3 block, std::size_t shared, bool overlaps,
           const std::function<void()>& body);

  void barrier();
  const std::byte* exchange(const char* name, const void* in, std::size_t bytes, Complete complete,
                            const void* complete_context);
  void init_barrier(const void* at, unsigned arrivals) { refuse(barriers_.init(at, arrivals)); }
  void arrive(const void* at, long long bytes);
  void copy_box(std::byte* to, const TensorMap& map, int row, int column, const void* at);
  bool wait_for_phase(const void* at, unsigned parity, bool bounded);
  std::byte* shared() const { return shared_; }
  Thread& thread() { return threads_[current_]; }
  [[noreturn]] void fail(const std::string& what);

 private:
  struct SharedDelete {
    void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t(128)); }
  };

  void run_block();
  void wait(Wait for_what);
  int pick();
  unsigned pick_bit(unsigned bits, unsigned cursor, bool first);
  void enter(unsigned thread);
  void fiber_main();
  static void fiber_entry(context::transfer_t from);
  void switch_to(Fiber* fiber, bool for_good);
  void arrived(context::transfer_t from);
  Fiber* idle_fiber();
  void refuse(const std::string& fault) {
    if (!fault.empty()) fail(fault);
  }
  void stop_running();
  void run_again(unsigned thread);
  void wake_waiters(const void* at);
  bool give_up_bounded_waits();
  void report_deadlock();
  std::string place() const;

  const std::function<void()>* body_ = nullptr;
  const char* kernel_ = "";
  bool overlaps_ = false;
  Order order_ = Order::kForward;
  std::uint64_t random_ = 0;
  std::byte* shared_ = nullptr;
  unsigned count_ = 0, warp_count_ = 0, ended_ = 0, at_barrier_ = 0;
  unsigned current_ = 0, current_warp_ = 0, runnable_warps_ = 0;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  Fiber* running_ = nullptr;   // null: the caller's own stack
  Fiber* previous_ = nullptr;  // whose context the next to arrive stores
  context::fcontext_t caller_ = nullptr;
  std::exception_ptr error_;
  Barriers barriers_;
#if defined(__SANITIZE_ADDRESS__)
  const void* caller_bottom_ = nullptr;
  std::size_t caller_bytes_ = 0;
#endif
};

std::mutex grid_mutex;
Block* running_block = nullptr;

std::string triple(unsigned x, unsigned y, unsigned z) {
  return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
}

std::string Block::place() const {
  return std::string("kernel ") + (*kernel_ != 0 ? kernel_ : "without a name") + ", block " +
         triple(blockIdx.x, blockIdx.y, blockIdx.z) + ", thread " +
         triple(threadIdx.x, threadIdx.y, threadIdx.z);
}

void Block::fail(const std::string& what) { throw Error(place(), what); }

void Block::switch_to(Fiber* fiber, bool for_good) {
  previous_ = running_;
  running_ = fiber;
  const context::fcontext_t to = fiber == nullptr ? caller_ : fiber->at;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake,
                                 fiber == nullptr ? caller_bottom_ : fiber->bottom(),
                                 fiber == nullptr ? caller_bytes_ : kStackBytes);
#else
  static_cast<void>(for_good);
#endif
  const context::transfer_t from = context::jump_fcontext(to, this);
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake, &bottom, &bytes);
  if (previous_ == nullptr) caller_bottom_ = bottom, caller_bytes_ = bytes;
#endif
  arrived(from);
}

void Block::arrived(context::transfer_t from) {
  (previous_ == nullptr ? caller_ : previous_->at) = from.fctx;
}

void Block::fiber_entry(context::transfer_t from) {
  Block& block = *static_cast<Block*>(from.data);
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (block.previous_ == nullptr) block.caller_bottom_ = bottom, block.caller_bytes_ = bytes;
#endif
  block.arrived(from);
  block.fiber_main();
}

Fiber* Block::idle_fiber() {
  if (idle_.empty()) {
    fibers_.push_back(std::make_unique<Fiber>());
    idle_.push_back(fibers_.back().get());
  }
  Fiber* fiber = idle_.back();
  idle_.pop_back();
  if (fiber->at == nullptr) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber->bottom(), kStackBytes);
#endif
    fiber->at = context::make_fcontext(fiber->bottom() + kStackBytes, kStackBytes, fiber_entry);
  }
  return fiber;
}

// Sets what the kernel sees as its coordinates.
void Block::enter(unsigned thread) {
  current_ = thread;
  threadIdx = threads_[thread].index;
}

// Runs the chosen thread from its start to its end, and others that have not started, for as long as none of
// them waits: a kernel that never waits runs on one stack.
void Block::fiber_main() {
  for (;;) {
    Thread& thread = threads_[current_];
    thread.fiber = running_;
    try {
      (*body_)();
      if (overlaps_ && !thread.dependency_waited)
        fail("the launch overlaps and the thread ended without grid_dependency_wait()");
    } catch (...) {
      error_ = std::current_exception();
    }
    if (error_) {
      switch_to(nullptr, false);
      continue;
    }
    Warp& warp = warps_[current_ / kLanes];
    const unsigned bit = 1u << (current_ % kLanes);
    warp.runnable &= ~bit;
    warp.ended |= bit;
    if (warp.runnable == 0) runnable_warps_ &= ~(1u << (current_ / kLanes));
    ++ended_;
    thread.fiber = nullptr;
    const int next = pick();
    if (next < 0) {
      idle_.push_back(running_);
      switch_to(nullptr, false);
    } else {
      enter(static_cast<unsigned>(next));
      if (Fiber* fiber = threads_[current_].fiber) {
        idle_.push_back(running_);
        switch_to(fiber, false);
      }
    }
    // Back from idling, or never left: the current thread has not started.
  }
}

// The running thread waits; another goes on.
void Block::wait(Wait for_what) {
  const unsigned self = current_;
  Thread& thread = threads_[self];
  thread.wait = for_what;
  const int next = pick();
  if (next < 0) {
    switch_to(nullptr, false);  // and never comes back: the block is given up
  } else if (static_cast<unsigned>(next) != self) {
    enter(static_cast<unsigned>(next));
    Fiber* fiber = threads_[current_].fiber;
    switch_to(fiber != nullptr ? fiber : idle_fiber(), false);
  }
  thread.wait = Wait::kNothing;
}

// Of the set bits the first one at or after cursor in the order, going round.
unsigned Block::pick_bit(unsigned bits, unsigned cursor, bool first) {
  switch (order_) {
    case Order::kForward: {
      const unsigned after = first ? bits : cursor >= 31 ? 0 : bits & (~0u << (cursor + 1));
      return static_cast<unsigned>(std::countr_zero(after != 0 ? after : bits));
    }
    case Order::kReverse: {
      const unsigned before = first ? bits : bits & ((1u << cursor) - 1);
      return 31 - static_cast<unsigned>(std::countl_zero(before != 0 ? before : bits));
    }
    case Order::kShuffled:
      break;
  }
  random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
  auto skip = static_cast<unsigned>((random_ >> 32) % static_cast<unsigned>(std::popcount(bits)));
  for (; skip > 0; --skip) bits &= bits - 1;
  return static_cast<unsigned>(std::countr_zero(bits));
}

// The thread to run next; -1: all have ended, or none can go on (error_ says so).
int Block::pick() {
  if (runnable_warps_ == 0) {
    if (ended_ == count_) return -1;
    if (at_barrier_ < count_) {
      if (!give_up_bounded_waits()) {
        report_deadlock();
        return -1;
      }
    } else {
      at_barrier_ = 0;
      for (unsigned w = 0; w < warp_count_; ++w) {
        const unsigned lanes = std::min(kLanes, count_ - w * kLanes);
        warps_[w].runnable = lanes == kLanes ? ~0u : (1u << lanes) - 1;
        warps_[w].cursor = kLanes;
        runnable_warps_ |= 1u << w;
      }
    }
    current_warp_ = pick_bit(runnable_warps_, 0, true);
  } else if (order_ == Order::kShuffled) {
    current_warp_ = pick_bit(runnable_warps_, 0, true);
  } else if ((runnable_warps_ >> current_warp_ & 1) == 0) {
    current_warp_ = pick_bit(runnable_warps_, current_warp_, false);
  }
  Warp& warp = warps_[current_warp_];
  warp.cursor = pick_bit(warp.runnable, warp.cursor % kLanes, warp.cursor == kLanes);
  return static_cast<int>(current_warp_ * kLanes + warp.cursor);
}

void Block::report_deadlock() {
  unsigned at_exchange = 0, at_phase = 0;
  std::string function, lacks;
  unsigned example = 0;
  for (unsigned t = count_; t-- > 0;) {
    const Warp& warp = warps_[t / kLanes];
    if ((warp.ended >> (t % kLanes) & 1) != 0) continue;
    if (threads_[t].wait == Wait::kExchange) {
      ++at_exchange;
      function = warp.function;
      example = t;
    } else if (threads_[t].wait == Wait::kPhase) {
      ++at_phase;
      lacks = barriers_.lacks(threads_[t].phase_of);
    } else if (at_exchange == 0) {
      example = t;
    }
  }
  threadIdx = threads_[example].index;
  std::string what = "the block can't go on: ";
  if (at_exchange > 0)
    what += std::to_string(at_exchange) + " of its " + std::to_string(count_) + " threads wait in " +
            function + " for lanes that don't come, ";
  if (at_phase > 0) what += std::to_string(at_phase) + " wait for a barrier whose " + lacks + ", ";
  what += std::to_string(at_barrier_) + " wait in sync_threads, " + std::to_string(ended_) + " have ended";
  error_ = std::make_exception_ptr(Error(place(), what));
}

void Block::stop_running() {
  Warp& warp = warps_[current_ / kLanes];
  warp.runnable &= ~(1u << (current_ % kLanes));
  if (warp.runnable == 0) runnable_warps_ &= ~(1u << (current_ / kLanes));
}
void Block::run_again(unsigned thread) {
  warps_[thread / kLanes].runnable |= 1u << (thread % kLanes);
  runnable_warps_ |= 1u << (thread / kLanes);
  threads_[thread].phase_of = nullptr;
}

void Block::barrier() {
  stop_running();
  ++at_barrier_;
  wait(Wait::kBarrier);
}

void Block::arrive(const void* at, long long bytes) {
  refuse(barriers_.arrive(at, bytes));
  wake_waiters(at);
}
void Block::copy_box(std::byte* to, const TensorMap& map, int row, int column, const void* at) {
  refuse(barriers_.copy(at, to, map, row, column));
  wake_waiters(at);
}
void Block::wake_waiters(const void* at) {
  if (!barriers_.may_pass(at)) return;
  for (unsigned t = 0; t < count_; ++t)
    if (threads_[t].phase_of == at) run_again(t);
}
bool Block::wait_for_phase(const void* at, unsigned parity, bool bounded) {
  Thread& thread = threads_[current_];
  for (;;) {
    bool passed = false;
    refuse(barriers_.look(at, parity, passed));
    if (passed) return true;
    thread.phase_of = at, thread.bounded = bounded, thread.gave_up = false;
    stop_running();
    wait(Wait::kPhase);
    if (thread.gave_up) return false;
  }
}
bool Block::give_up_bounded_waits() {
  bool any = false;
  for (unsigned t = 0; t < count_; ++t)
    if (threads_[t].phase_of != nullptr && threads_[t].bounded) {
      threads_[t].gave_up = any = true;
      run_again(t);
    }
  return any;
}

const std::byte* Block::exchange(const char* name, const void* in, std::size_t bytes, Complete complete,
                                 const void* complete_context) {
  const unsigned lane = current_ % kLanes, bit = 1u << lane;
  Warp& warp = warps_[current_ / kLanes];
  if (count_ % kLanes != 0)
    fail(std::string(name) + " in a block of " + std::to_string(count_) + " threads, not a multiple of 32");
  if (warp.arrived == 0)
    warp.function = name;
  else if (std::strcmp(warp.function, name) != 0)
    fail(std::string(name) + " while other lanes of the warp are in " + warp.function);
  std::memcpy(warp.in + lane * kLaneBytes, in, bytes);
  warp.arrived |= bit;
  if (warp.arrived == ~0u) {
    complete(warp.in, warp.out, complete_context);
    warp.arrived = 0;
    warp.runnable = ~0u;
    warp.cursor = kLanes;
    runnable_warps_ |= 1u << (current_ / kLanes);
  } else {
    stop_running();
  }
  wait(Wait::kExchange);
  return warp.out + lane * kLaneBytes;
}

void Block::run_block() {
  ended_ = at_barrier_ = 0;
  runnable_warps_ = 0;
  for (unsigned t = 0; t < count_; ++t) {
    Thread& thread = threads_[t];
    thread.fiber = nullptr;
    thread.wait = Wait::kNothing;
    thread.dependency_waited = false;
    thread.groups = 0;
    thread.copies.clear();
    thread.product_groups = 0;
    thread.products.clear();
    thread.phase_of = nullptr;
  }
  barriers_.clear();
  for (unsigned w = 0; w < warp_count_; ++w) {
    Warp& warp = warps_[w];
    const unsigned lanes = std::min(kLanes, count_ - w * kLanes);
    warp.runnable = lanes == kLanes ? ~0u : (1u << lanes) - 1;
    warp.ended = warp.arrived = 0;
    warp.cursor = kLanes;
    runnable_warps_ |= 1u << w;
  }
  current_warp_ = pick_bit(runnable_warps_, 0, true);
  enter(static_cast<unsigned>(pick()));
  switch_to(idle_fiber(), false);
  if (error_) {
    // Threads that wait stay where they are; their stacks are used afresh.
    idle_.clear();
    for (const auto& fiber : fibers_) {
      fiber->at = nullptr;
      idle_.push_back(fiber.get());
    }
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
  refuse(barriers_.end());
}

void Block::run(const char* kernel, dim3 grid, dim3 block, std::size_t shared, bool overlaps,
                const std::function<void()>& body) {
  const Settings& set = settings();
  kernel_ = kernel;
  overlaps_ = overlaps;
  body_ = &body;
  blockIdx = threadIdx = uint3{};
  const std::uint64_t total = std::uint64_t{block.x} * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    throw Error(std::string("kernel ") + kernel, "a grid of " + triple(grid.x, grid.y, grid.z) + " blocks");
  if (total == 0 || total > 1024 || block.z > 64)
    throw Error(std::string("kernel ") + kernel,
                "blocks of " + triple(block.x, block.y, block.z) + " threads");
  if (shared > set.shared_bytes)
    throw Error(std::string("kernel ") + kernel, std::to_string(shared) + " bytes of dynamic shared memory");
  gridDim = grid;
  blockDim = block;
  order_ = set.threads;
  random_ = mix64(set.seed) | 1;
  count_ = static_cast<unsigned>(total);
  warp_count_ = (count_ + kLanes - 1) / kLanes;
  if (threads_.size() < count_) threads_.resize(count_);
  if (warps_.size() < warp_count_) warps_.resize(warp_count_);
  unsigned t = 0;
  for (unsigned z = 0; z < block.z; ++z)
    for (unsigned y = 0; y < block.y; ++y)
      for (unsigned x = 0; x < block.x; ++x) threads_[t++].index = uint3{x, y, z};

  // Of exactly this size, so that AddressSanitizer sees what lies beyond it.
  const std::unique_ptr<std::byte, SharedDelete> memory(
      shared == 0 ? nullptr : static_cast<std::byte*>(::operator new(shared, std::align_val_t(128))));
  shared_ = memory.get();

  const std::uint64_t blocks = std::uint64_t{grid.x} * grid.y * grid.z;
  std::vector<std::uint64_t> order;
  if (set.blocks == Order::kShuffled) {
    order.resize(blocks);
    for (std::uint64_t i = 0; i < blocks; ++i) order[i] = i;
    CounterRandom random(set.seed, 0);
    for (std::uint64_t i = blocks; i > 1; --i)
      std::swap(order[i - 1],
                order[static_cast<std::uint64_t>(random.uniform_int(0, static_cast<std::int64_t>(i) - 1))]);
  }
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t b = !order.empty() ? order[i] : set.blocks == Order::kReverse ? blocks - 1 - i : i;
    blockIdx = uint3{static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                     static_cast<unsigned>(b / grid.x / grid.y)};
    if (shared != 0) std::memset(shared_, 0xff, shared);
    run_block();
  }
}

}  // namespace

Settings& settings() {
  static Settings settings;
  return settings;
}

void run_grid(const char* kernel, dim3 grid, dim3 block, std::size_t shared, bool overlaps,
              const std::function<void()>& body) {
  const std::lock_guard lock(grid_mutex);
  static Block the_block;
  running_block = &the_block;
  the_block.run(kernel, grid, block, shared, overlaps, body);
}

void barrier() { running_block->barrier(); }
const std::byte* exchange(const char* name, const void* in, std::size_t bytes, Complete complete,
                          const void* complete_context) {
  return running_block->exchange(name, in, bytes, complete, complete_context);
}
std::byte* dynamic_shared() { return running_block->shared(); }
void init_barrier(const void* at, unsigned arrivals) { running_block->init_barrier(at, arrivals); }
void arrive(const void* at, long long bytes) { running_block->arrive(at, bytes); }
bool wait_for_phase(const void* at, unsigned parity, bool bounded) {
  return running_block->wait_for_phase(at, parity, bounded);
}
void copy_box(std::byte* to, const TensorMap& map, int row, int column, const void* at) {
  running_block->copy_box(to, map, row, column, at);
}
void grid_dependency_wait() { running_block->thread().dependency_waited = true; }
void fail(const std::string& what) { running_block->fail(what); }

void copy_async(void* shared, const void* global, unsigned bytes, bool valid) {
  Thread& thread = running_block->thread();
  std::memset(shared, 0xff, bytes);
  thread.copies.push_back({shared, global, bytes, thread.groups, valid});
}

void product(const void* d, const std::function<std::shared_ptr<void>()>& make,
             std::function<void(void* shared, bool last)> run) {
  Thread& thread = running_block->thread();
  const auto same = std::find_if(thread.products.begin(), thread.products.end(),
                                 [d](const Product& p) { return p.d == d; });
  auto shared = same != thread.products.end() ? same->shared : make();
  thread.products.push_back({d, std::move(shared), std::move(run), thread.product_groups});
}

void products_commit() { ++running_block->thread().product_groups; }

void products_wait(unsigned newest) {
  std::vector<Product>& products = running_block->thread().products;
  const unsigned groups = running_block->thread().product_groups;
  std::size_t done = 0;
  for (; done < products.size() && products[done].group + newest < groups; ++done) {
    const void* d = products[done].d;
    const bool last = std::none_of(products.begin() + static_cast<std::ptrdiff_t>(done) + 1, products.end(),
                                   [d](const Product& p) { return p.d == d; });
    products[done].run(products[done].shared.get(), last);
  }
  products.erase(products.begin(), products.begin() + static_cast<std::ptrdiff_t>(done));
}

void copy_async_commit() { ++running_block->thread().groups; }

void copy_async_wait(unsigned newest) {
  Thread& thread = running_block->thread();
  auto copy = thread.copies.begin();
  for (; copy != thread.copies.end() && copy->group + newest < thread.groups; ++copy) {
    if (copy->valid)
      std::memcpy(copy->to, copy->from, copy->bytes);
    else
      std::memset(copy->to, 0, copy->bytes);
  }
  thread.copies.erase(thread.copies.begin(), copy);
}

}  // namespace emulation
}  // namespace foretoken::cuda
