// The C ABI of a generated network: open on a weight file, run batches, close. runtime/abi.py is its other half.
#pragma once
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <new>

#include "team.h"
#include "vector.h"

namespace st3 {

enum Status { DONE = 0, BUSY = 1 };

struct WeightHeader {
  char magic[8];
  uint64_t content;  // of the network and its weights; the library was generated for these
  uint64_t bytes;    // length of the file
};

// Zeroed memory, on huge pages where the system gives them: a network's tensors are walked over at every run.
static inline char* zeroed(size_t size) {
  constexpr size_t PAGE = 2u << 20;
  const size_t align = size >= PAGE ? PAGE : 4096;
  const size_t bytes = (size + align) / align * align;
  char* memory = static_cast<char*>(aligned_alloc(align, bytes));
  if (memory == nullptr) return nullptr;
  if (align == PAGE) madvise(memory, bytes, MADV_HUGEPAGE);
  memset(memory, 0, bytes);
  return memory;
}

// A loaded network. With as many groups of pictures as threads, each thread runs whole groups on its own; otherwise
// the team shares every step.
template <class Network>
class Model {
 public:
  Model(const char* weights, int threads)
      : weights_(weights), team_(threads), threads_(threads), apart_(threads > 1 && Network::GROUPS >= threads) {}
  Model(const Model&) = delete;
  ~Model() {
    for (int i = 0; arenas_ != nullptr && i < crews(); i++) free(arenas_[i]);
    free(arenas_);
  }

  // Takes memory and threads; false if there are not enough.
  bool start() {
    arenas_ = static_cast<char**>(calloc(crews(), sizeof(char*)));
    if (arenas_ == nullptr) return false;
    for (int i = 0; i < crews(); i++) {
      arenas_[i] = zeroed(ARENA + Crew::bytes(crew_size(), Network::STEPS));
      if (arenas_[i] == nullptr) return false;
    }
    return team_.start();
  }

  // Runs the batch; `step_ns`, where it is not null, must be zeroes and gets each step's mean time over the crews.
  int run(const float* input, float* const* outputs, uint64_t* step_ns) {
    if (busy_.exchange(true, __ATOMIC_ACQUIRE)) return BUSY;
    if (apart_) {
      next_.store(0, __ATOMIC_RELAXED);
      team_.run([&](int thread) {
        for (int group; (group = next_.fetch_add(1, __ATOMIC_RELAXED)) < Network::GROUPS;)
          run_group(0, thread, group, input, outputs, step_ns);
      });
      for (int i = 0; step_ns != nullptr && i < Network::STEPS; i++) step_ns[i] /= threads_;
    } else {
      for (int group = 0; group < Network::GROUPS; group++) {
        crew(0, 0).reset();
        team_.run([&](int thread) { run_group(thread, 0, group, input, outputs, thread == 0 ? step_ns : nullptr); });
      }
    }
    busy_.store(false, __ATOMIC_RELEASE);
    return DONE;
  }

 private:
  // The counters lie behind the tensors.
  static constexpr size_t ARENA = (Network::ARENA + 63) / 64 * 64;

  int crews() const { return apart_ ? threads_ : 1; }
  int crew_size() const { return apart_ ? 1 : threads_; }
  Crew crew(int self, int index, Clock* clock = nullptr) const {
    return Crew(self, crew_size(), Network::STEPS, arenas_[index] + ARENA, clock);
  }

  // Thread `self` of crew `index`.
  void run_group(int self, int index, int group, const float* input, float* const* outputs, uint64_t* step_ns) {
    Clock clock{step_ns, step_ns != nullptr ? Clock::now() : 0};
    Crew mine = crew(self, index, step_ns != nullptr ? &clock : nullptr);
    float* own[Network::OUTPUTS];  // this group's rows of each output
    for (int i = 0; i < Network::OUTPUTS; i++) own[i] = outputs[i] + group * Network::OUTPUT_FLOATS[i];
    Network::run(weights_, mine, arenas_[index], input + group * Network::INPUT_FLOATS, own);
  }

  const char* weights_;
  Team team_;
  const int threads_;
  const bool apart_;
  char** arenas_ = nullptr;
  Atomic<int> next_{0};
  Atomic<bool> busy_{false};
};

template <class Network>
static void close_model(void* model) {
  static_cast<Model<Network>*>(model)->~Model();
  free(model);
}

template <class Network>
static void* open_model(const void* weights, uint64_t bytes, int32_t threads, char* error, uint64_t error_size) {
  if (reinterpret_cast<uintptr_t>(weights) % 64 != 0) {
    snprintf(error, error_size, "the weights must lie at a multiple of 64 bytes, as a mapped file does");
    return nullptr;
  }
  WeightHeader header;
  memset(&header, 0, sizeof header);
  if (bytes >= sizeof header) memcpy(&header, weights, sizeof header);
  if (header.bytes != bytes || header.content != ST3_CONTENT) {
    snprintf(error, error_size, "the weight file does not belong to this library");
    return nullptr;
  }
  using Whole = Model<Network>;
  if (void* memory = aligned_alloc(64, (sizeof(Whole) + 63) / 64 * 64)) {
    auto* model = new (memory) Whole(static_cast<const char*>(weights), threads);
    if (model->start()) return model;
    close_model<Network>(model);
  }
  snprintf(error, error_size, "not enough memory or threads");
  return nullptr;
}

}  // namespace st3

#define ST3_EXPORT extern "C" __attribute__((visibility("default")))
#define ST3_ABI(Network)                                                                                         \
  ST3_EXPORT int32_t st3_abi_version(void) { return ST3_ABI_VERSION; }                                            \
  ST3_EXPORT void* st3_open(const void* weights, uint64_t bytes, int32_t threads, char* error, uint64_t size) {   \
    return st3::open_model<Network>(weights, bytes, threads, error, size);                                        \
  }                                                                                                              \
  ST3_EXPORT int32_t st3_run(void* model, const float* input, float* const* outputs) {                            \
    return static_cast<st3::Model<Network>*>(model)->run(input, outputs, nullptr);                                 \
  }                                                                                                              \
  ST3_EXPORT int32_t st3_profile(void* model, const float* input, float* const* outputs, uint64_t* step_ns) {     \
    return static_cast<st3::Model<Network>*>(model)->run(input, outputs, step_ns);                                \
  }                                                                                                              \
  ST3_EXPORT int32_t st3_step_count(void) { return Network::STEPS; }                                             \
  ST3_EXPORT uint64_t st3_input_floats(void) { return Network::GROUPS * Network::INPUT_FLOATS; }                 \
  ST3_EXPORT int32_t st3_output_count(void) { return Network::OUTPUTS; }                                         \
  ST3_EXPORT uint64_t st3_output_floats(int32_t index) { return Network::GROUPS * Network::OUTPUT_FLOATS[index]; } \
  ST3_EXPORT void st3_close(void* model) { st3::close_model<Network>(model); }
