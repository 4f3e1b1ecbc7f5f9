// The C ABI of a generated network: open on a weight file, run batches, close. runtime/abi.py is its other half.
#pragma once
#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <vector>

#include "team.h"
#include "vector.h"

namespace st3 {

enum Status { DONE = 0, BUSY = 1 };

struct WeightHeader {
  char magic[8];
  uint64_t content;  // digest of the bytes that follow; the library was generated for exactly these
};

// Zeroed memory on huge pages where the system gives them: a network's tensors are walked over at every run.
class Arena {
 public:
  explicit Arena(size_t size) {
    constexpr size_t PAGE = 2u << 20;
    const size_t align = size >= PAGE ? PAGE : 4096;
    const size_t bytes = (size + align) / align * align;
    memory_ = static_cast<char*>(std::aligned_alloc(align, bytes));
    if (memory_ == nullptr) throw std::bad_alloc();
    if (align == PAGE) madvise(memory_, bytes, MADV_HUGEPAGE);
    memset(memory_, 0, bytes);
  }
  Arena(Arena&& other) noexcept : memory_(other.memory_) { other.memory_ = nullptr; }
  Arena(const Arena&) = delete;
  ~Arena() { std::free(memory_); }
  char* data() const { return memory_; }

 private:
  char* memory_;
};

// A loaded network. With as many groups of pictures as threads, each thread runs whole groups on its own; otherwise
// the team shares every step.
template <class Network>
class Model {
 public:
  Model(const char* weights, int threads)
      : weights_(weights), team_(threads), apart_(threads > 1 && Network::GROUPS >= threads) {
    const int crews = apart_ ? threads : 1;
    for (int i = 0; i < crews; i++) {
      arenas_.emplace_back(Network::ARENA);
      crews_.push_back(std::make_unique<Crew>(apart_ ? 1 : threads, Network::STEPS));
    }
  }

  int run(const float* input, float* output) {
    if (busy_.test_and_set(std::memory_order_acquire)) return BUSY;
    if (apart_) {
      next_.store(0, std::memory_order_relaxed);
      team_.run([&](int thread) {
        for (int group; (group = next_.fetch_add(1, std::memory_order_relaxed)) < Network::GROUPS;)
          run_group(thread, group, input, output);
      });
    } else {
      for (int group = 0; group < Network::GROUPS; group++) {
        crews_[0]->reset();
        team_.run([&](int) { run_group(0, group, input, output); });
      }
    }
    busy_.clear(std::memory_order_release);
    return DONE;
  }

 private:
  void run_group(int crew, int group, const float* input, float* output) {
    Network::run(weights_, *crews_[crew], arenas_[crew].data(), input + group * Network::INPUT_FLOATS,
                 output + group * Network::OUTPUT_FLOATS);
  }

  const char* weights_;
  Team team_;
  const bool apart_;
  std::vector<Arena> arenas_;
  std::vector<std::unique_ptr<Crew>> crews_;
  std::atomic<int> next_{0};
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

template <class Network>
static void* open_model(const void* weights, uint64_t bytes, int32_t threads, char* error, uint64_t error_size) {
  WeightHeader header;
  if (bytes != Network::WEIGHT_BYTES || (memcpy(&header, weights, sizeof header), header.content != Network::CONTENT)) {
    snprintf(error, error_size, "the weight file does not belong to this library");
    return nullptr;
  }
  try {
    return new Model<Network>(static_cast<const char*>(weights), threads);
  } catch (const std::exception& problem) {
    snprintf(error, error_size, "not enough memory or threads (%s)", problem.what());
    return nullptr;
  }
}

}  // namespace st3

#define ST3_EXPORT extern "C" __attribute__((visibility("default")))
#define ST3_ABI(Network)                                                                                         \
  ST3_EXPORT int32_t st3_abi_version(void) { return ST3_ABI_VERSION; }                                            \
  ST3_EXPORT void* st3_open(const void* weights, uint64_t bytes, int32_t threads, char* error, uint64_t size) {   \
    return st3::open_model<Network>(weights, bytes, threads, error, size);                                        \
  }                                                                                                              \
  ST3_EXPORT int32_t st3_run(void* model, const float* input, float* output) {                                    \
    return static_cast<st3::Model<Network>*>(model)->run(input, output);                                          \
  }                                                                                                              \
  ST3_EXPORT void st3_close(void* model) { delete static_cast<st3::Model<Network>*>(model); }
