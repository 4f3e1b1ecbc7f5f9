// Runs a CUDA kernel on a CPU: one std::thread a CUDA thread, one block after another. Included before the kernel.
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#define EMULATED 1
#define __device__
#define __global__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __shared__

struct Index {
  int x, y, z;
};
static thread_local Index threadIdx, blockIdx;
static std::barrier<>* everyone;
static void __syncthreads() { everyone->arrive_and_wait(); }

static float __uint_as_float(unsigned int bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
static unsigned int __float_as_uint(float value) {
  unsigned int bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
static float half_to_float(unsigned int bits) {
  const unsigned short narrow = static_cast<unsigned short>(bits);
  _Float16 value;
  std::memcpy(&value, &narrow, 2);
  return static_cast<float>(value);
}
static unsigned short float_to_half(float value) {
  const _Float16 narrow = static_cast<_Float16>(value);
  unsigned short bits;
  std::memcpy(&bits, &narrow, 2);
  return bits;
}
static unsigned short float_to_bfloat(float value) {
  if (std::isnan(value)) return 0x7fff;
  const unsigned int bits = __float_as_uint(value);
  return static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

unsigned int shared[SHARED_BYTES / 4];  // of the block that runs

template <typename Kernel, typename... Arguments>
void run(Kernel kernel, int grid_x, int grid_y, int threads, Arguments... arguments) {
  for (int y = 0; y < grid_y; ++y)
    for (int x = 0; x < grid_x; ++x) {
      std::barrier<> barrier(threads);
      everyone = &barrier;
      std::memset(shared, 0xff, sizeof shared);  // NaN: what nobody wrote must not be used
      std::vector<std::thread> block;
      for (int thread = 0; thread < threads; ++thread)
        block.emplace_back([=, &barrier] {
          threadIdx = {thread, 0, 0};
          blockIdx = {x, y, 0};
          kernel(arguments...);
          barrier.arrive_and_drop();
        });
      for (std::thread& thread : block) thread.join();
    }
}
