// What this processor can do: multiply-adds a second from registers, with one operand from the first-level cache, and
// with one from the second level; and bytes a second that it reads from these and from memory. Prints one line per
// source: its name and a sample per repetition, in GFLOP/s, and in GB/s where the name begins with "read-". Names that
// begin with "float16-" are of half precision, sums included, where the processor computes in it.
//
//   peaks REPETITIONS CPU...      one thread on each CPU, all at once; a sample is what they do together
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#include <unistd.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));
#if defined(__AVX512FP16__)
typedef _Float16 Half;
#elif defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
typedef __fp16 Half;
#endif
#if defined(__AVX512FP16__) || defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
#define HALF
typedef Half HalfVector __attribute__((vector_size(LANES * sizeof(float))));
#endif

// enough sums to hide the latency of one (4 cycles, two a cycle), few enough for 16 registers
constexpr int SUMS = 12;
constexpr double SECONDS = 0.01;

using Clock = std::chrono::steady_clock;
double now() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

long cache_bytes(int level) {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  const int names[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
  const long found = sysconf(names[level - 1]);
  if (found > 0) return found;
#endif
  const long usual[] = {32 << 10, 512 << 10, 32 << 20};
  return usual[level - 1];
}

// Twice the last-level cache, so that nothing of it is left there when it is read again; at most an eighth of memory.
long memory_bytes() {
  long most = 1L << 30;
#if defined(_SC_PHYS_PAGES)
  most = std::min(most, sysconf(_SC_PHYS_PAGES) / 8 * sysconf(_SC_PAGESIZE));
#endif
  return std::min(most, std::max(256L << 20, 2 * cache_bytes(3)));
}

volatile float sink;

template <class V>
void keep(const V (&sums)[SUMS]) {
  float total = 0;
  for (const V& sum : sums) total += static_cast<float>(sum[0]);
  sink = total;
}

template <class V>
V all(float value) {
  V result;
  for (size_t i = 0; i < sizeof(V) / sizeof(result[0]); ++i) result[i] = value;
  return result;
}

// Each pass makes `operands` multiply-adds of whole vectors, or reads so many vectors.
template <class V>
__attribute__((noinline)) void from_registers(const char*, long operands, long passes) {
  V sums[SUMS] = {};
  const V factor = all<V>(0.99f), shift = all<V>(0.01f);
  // sums that are all alike are one sum to the compiler
  for (int s = 0; s < SUMS; ++s) sums[s] += all<V>(0.01f * static_cast<float>(s));
  for (long pass = 0; pass < passes; ++pass)
    for (long i = 0; i < operands; i += SUMS) {
      for (V& sum : sums) sum = sum * factor + shift;
    }
  keep(sums);
}

template <class V>
__attribute__((noinline)) void from_memory(const char* from, long operands, long passes) {
  const V* data = reinterpret_cast<const V*>(from);
  V sums[SUMS] = {};
  const V factor = all<V>(0.001f);
  for (long pass = 0; pass < passes; ++pass)
    for (long i = 0; i < operands; i += SUMS)
      for (int s = 0; s < SUMS; ++s) sums[s] = data[i + s] * factor + sums[s];
  keep(sums);
}

__attribute__((noinline)) void read_only(const char* from, long operands, long passes) {
  const Vector* data = reinterpret_cast<const Vector*>(from);
  Vector sums[SUMS] = {};
  for (long pass = 0; pass < passes; ++pass)
    for (long i = 0; i < operands; i += SUMS)
      for (int s = 0; s < SUMS; ++s) sums[s] += data[i + s];
  keep(sums);
}

using Kernel = void (*)(const char*, long, long);

struct Worker {
  double begin = 0, end = 0;
};

// Nearly one, and as two numbers of half precision small and normal ones.
constexpr float ONES = 1.0f + 0x1p-12f;

// A std::vector would forget how its elements are to be aligned, and a load that straddles cache lines counts twice.
struct Operands {
  char* data;
  explicit Operands(long count) : data(static_cast<char*>(std::aligned_alloc(64, size_t(count) * sizeof(Vector)))) {
    if (!data) std::abort();
    for (long i = 0; i < count * LANES; ++i) reinterpret_cast<float*>(data)[i] = ONES;
  }
  ~Operands() { std::free(data); }
  Operands(const Operands&) = delete;
};

void pin(int cpu) {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
#else
  (void)cpu;
#endif
}

constexpr double FLOPS = 2.0 * LANES, HALF_FLOPS = 2 * FLOPS, BYTES = sizeof(Vector);  // of one operand

// One sample per repetition: all work, `each` per operand, over the time from the first start to the last end. `bytes`
// are those of one thread.
void measure(const char* name, Kernel kernel, long bytes, double each, int repetitions, const std::vector<int>& cpus) {
  const long operands = bytes / 64 / SUMS * SUMS * (64 / long(sizeof(Vector)));  // a multiple of cache lines
  std::vector<Worker> workers(cpus.size());
  std::vector<double> samples;
  std::atomic<int> arrived{0};
  std::atomic<long> passes{1};
  const int count = int(cpus.size());
  // repetition -1 finds out how many passes take SECONDS
  const auto barrier = [&](int target) {
    arrived.fetch_add(1);
    while (arrived.load() < target) std::this_thread::yield();
  };
  const auto work = [&](int index) {
    pin(cpus[size_t(index)]);
    Worker& mine = workers[size_t(index)];
    const Operands own(operands);  // by this thread, so that it lies near it
    int target = 0;
    if (index == 0) {
      long tried = 1;
      for (double took = 0; took < SECONDS / 4; tried *= 2) {
        const double start = now();
        kernel(own.data, operands, tried);
        took = now() - start;
        if (took >= SECONDS / 4) passes = long(double(tried) * SECONDS / took) + 1;
      }
    }
    for (int repetition = 0; repetition < repetitions; ++repetition) {
      barrier(target += count);
      mine.begin = now();
      kernel(own.data, operands, passes);
      mine.end = now();
      barrier(target += count);
      if (index == 0) {
        double begin = workers[0].begin, end = workers[0].end;
        for (const Worker& worker : workers) {
          if (worker.begin < begin) begin = worker.begin;
          if (worker.end > end) end = worker.end;
        }
        samples.push_back(each * double(operands) * double(passes) * count / (end - begin) / 1e9);
      }
    }
  };
  std::vector<std::thread> threads;
  for (int index = 0; index < count; ++index) threads.emplace_back(work, index);
  for (std::thread& thread : threads) thread.join();
  std::printf("%s", name);
  for (double sample : samples) std::printf(" %.3f", sample);
  std::printf("\n");
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: peaks REPETITIONS CPU...\n");
    return 2;
  }
  const int repetitions = std::atoi(arguments[1]);
  std::vector<int> cpus;
  for (int i = 2; i < count; ++i) cpus.push_back(std::atoi(arguments[i]));
  const long first = cache_bytes(1) / 2, second = cache_bytes(2) / 2;
  measure("registers", from_registers<Vector>, first, FLOPS, repetitions, cpus);
  measure("L1", from_memory<Vector>, first, FLOPS, repetitions, cpus);
  measure("L2", from_memory<Vector>, second, FLOPS, repetitions, cpus);
#ifdef HALF
  measure("float16-registers", from_registers<HalfVector>, first, HALF_FLOPS, repetitions, cpus);
  measure("float16-L1", from_memory<HalfVector>, first, HALF_FLOPS, repetitions, cpus);
  measure("float16-L2", from_memory<HalfVector>, second, HALF_FLOPS, repetitions, cpus);
#endif
  measure("read-L1", read_only, first, BYTES, repetitions, cpus);
  measure("read-L2", read_only, second, BYTES, repetitions, cpus);
  measure("read-DRAM", read_only, memory_bytes() / long(cpus.size()), BYTES, repetitions, cpus);
}
