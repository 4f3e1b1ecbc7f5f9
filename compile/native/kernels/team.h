// Threads that go through the network's steps together.
//
// Each thread begins with its own share of a step's tasks, neighbours of each other and the same share at every step: so
// it mostly reads what it wrote itself, and what another wrote must come from that core's cache. Whoever is done takes
// what is left of the others' shares.
//
// Nobody ever waits for a thread that has no work in hand: tasks are handed out one by one, a step is over when its
// tasks are done, and a thread that the system woke late or took away between tasks finds them taken and catches up.
//
// Neither this nor model.h uses anything that lives in the C++ library, so that an artifact needs libc alone.
#pragma once
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#include "atomic.h"

namespace st3 {

static inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until the condition holds; gives the core away when that takes longer than work in hand usually does.
template <class Condition>
static inline void spin_until(Condition condition) {
  for (int i = 0; !condition(); i++) {
    if (i < 2000) {
      relax();
    } else {
      sched_yield();
    }
  }
}

// Adds up the time of each step as a thread sees it: from the end of the step before to the end of this one.
struct Clock {
  uint64_t* step_ns;
  uint64_t last;
  static uint64_t now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
  }
  void lap(int step) {
    const uint64_t time = now();
    __atomic_fetch_add(step_ns + step, time - last, __ATOMIC_RELAXED);
    last = time;
  }
};

// Counts the tasks of each step of one run. A crew is the whole team, or one thread on its own.
class Crew {
 public:
  static size_t bytes(int size, int steps) { return sizeof(Counter) * (size + 1) * steps; }
  // For thread `self` of `size`; `memory` is bytes(size, steps) of zeroes, aligned to a cache line, and the same for all
  // of them; `clock` is null, or times this thread's steps.
  Crew(int self, int size, int steps, void* memory, Clock* clock)
      : counters_(static_cast<Counter*>(memory)), clock_(clock), self_(self), size_(size), steps_(steps) {}

  // Before a run, while no thread is in it.
  void reset() {
    for (int i = 0; i < steps_ * (size_ + 1); i++) counters_[i].value.store(0, __ATOMIC_RELAXED);
  }

  // Into how many parts each of `blocks` pieces of work is cut, `most` at the most, so that all threads are busy to the
  // end. More parts than that cost: each brings the piece's input into its cache.
  [[gnu::noinline]] int parts(int blocks, int most) const {
    if (size_ == 1) return 1;
    for (int parts = 1; parts < most; parts++) {
      const int tasks = blocks * parts, rounds = (tasks + size_ - 1) / size_;
      if (tasks >= 2 * size_ && tasks >= 0.93 * rounds * size_) return parts;
    }
    return most;
  }

  // Calls task(i) for each i below count, each once, on whichever thread is free; returns when all are done.
  template <class Task>
  void each(int step, int count, Task task) {
    share(step, count, [](const void* context, int i) { (*static_cast<const Task*>(context))(i); }, &task);
  }

 private:
  using Call = void (*)(const void* context, int task);

  // Apart from the tasks, so that a network has it once and not for every step.
  [[gnu::noinline]] void share(int step, int count, Call task, const void* context) {
    if (size_ == 1) {
      for (int i = 0; i < count; i++) task(context, i);
    } else {
      share_among_threads(step, count, task, context);
    }
    if (__builtin_expect(clock_ != nullptr, 0)) clock_->lap(step);
  }

  void share_among_threads(int step, int count, Call task, const void* context) {
    Counter* const taken = counters_ + step * (size_ + 1);
    Atomic<int>& done = taken[size_].value;
    for (int i = 0; i < size_; i++) {
      const int owner = (self_ + i) % size_;
      const int first = static_cast<long>(count) * owner / size_, end = static_cast<long>(count) * (owner + 1) / size_;
      Atomic<int>& mine = taken[owner].value;
      // looked at before it is written: a late thread must not take the line from those at work
      while (mine.load(__ATOMIC_RELAXED) < end - first) {
        const int next = first + mine.fetch_add(1, __ATOMIC_RELAXED);
        if (next >= end) break;
        task(context, next);
        done.fetch_add(1, __ATOMIC_RELEASE);
      }
    }
    spin_until([&] { return done.load(__ATOMIC_ACQUIRE) == count; });
  }

  // Per step one for each thread's share, of tasks taken, and one of tasks done.
  struct alignas(64) Counter {
    Atomic<int> value{0};
  };
  Counter* counters_;
  Clock* clock_;
  int self_, size_, steps_;
};

// Threads that sleep between runs. The caller of run() is thread 0; the others join a run while it is open.
class Team {
 public:
  explicit Team(int size) : size_(size) {}
  Team(const Team&) = delete;
  ~Team() {
    stop_.store(true);
    announce();
    for (int i = 0; i < started_; i++) pthread_join(workers_[i].id, nullptr);
    free(workers_);
  }

  // Starts the workers; false if the system has no memory or threads left.
  bool start() {
    workers_ = static_cast<Worker*>(calloc(size_, sizeof(Worker)));
    if (workers_ == nullptr) return false;
    for (; started_ < size_ - 1; started_++) {
      Worker& worker = workers_[started_];
      worker.team = this;
      worker.thread = started_ + 1;
      if (pthread_create(&worker.id, nullptr, &Team::enter, &worker) != 0) return false;
    }
    return true;
  }

  // Calls job(thread) on this thread and on every worker that comes before this one has finished.
  template <class Job>
  void run(Job&& job) {
    if (size_ == 1) return job(0);
    call_ = [](void* context, int thread) { (*static_cast<Job*>(context))(thread); };
    context_ = &job;
    inside_.store(OPEN, __ATOMIC_RELEASE);
    announce();
    job(0);
    inside_.fetch_and(~OPEN, __ATOMIC_ACQ_REL);
    spin_until([&] { return inside_.load(__ATOMIC_ACQUIRE) == 0; });
  }

 private:
  struct Worker {
    pthread_t id;
    Team* team;
    int thread;
  };

  static void* enter(void* worker) {
    static_cast<Worker*>(worker)->team->work(static_cast<Worker*>(worker)->thread);
    return nullptr;
  }

  void futex(int operation, uint32_t value) {
    static_assert(sizeof epoch_ == 4, "the kernel looks at 32 bits");
    syscall(SYS_futex, &epoch_, operation, value, nullptr, nullptr, 0);
  }

  static constexpr uint32_t OPEN = 1u << 31;  // above the number of workers inside

  void announce() {
    // sequentially consistent, like the sleeper's side: either it sees the new epoch or this sees the sleeper
    epoch_.fetch_add(1);
    if (sleepers_.load() != 0) futex(FUTEX_WAKE_PRIVATE, INT32_MAX);
  }

  void work(int thread) {
    for (uint32_t seen = 0;;) {
      for (int i = 0; i < 5000 && epoch_.load(__ATOMIC_ACQUIRE) == seen; i++) relax();
      sleepers_.fetch_add(1);
      while (epoch_.load() == seen) futex(FUTEX_WAIT_PRIVATE, seen);
      sleepers_.fetch_sub(1);
      seen = epoch_.load(__ATOMIC_ACQUIRE);
      if (stop_.load()) return;
      uint32_t state = inside_.load(__ATOMIC_ACQUIRE);
      while ((state & OPEN) && !inside_.compare_exchange_weak(state, state + 1, __ATOMIC_ACQ_REL)) {
      }
      if (!(state & OPEN)) continue;
      call_(context_, thread);
      inside_.fetch_sub(1, __ATOMIC_ACQ_REL);
    }
  }

  const int size_;
  int started_ = 0;
  Worker* workers_ = nullptr;
  void (*call_)(void*, int) = nullptr;
  void* context_ = nullptr;
  Atomic<bool> stop_{false};
  alignas(64) Atomic<uint32_t> epoch_{0};
  Atomic<uint32_t> sleepers_{0};
  alignas(64) Atomic<uint32_t> inside_{0};
};

}  // namespace st3
