// Multiply-adds a second of one core, by another way than bench/machine/peaks.cpp: the loop is assembly, so that the number of
// instructions that run is known and no compiler has a say in it; other instructions (a register is added to, not
// multiplied), another number of sums, another clock. Prints one sample in GFLOP/s per repetition.
//
//   independent_peak REPETITIONS CPU
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <sched.h>

#if !defined(__x86_64__) || !defined(__FMA__)
#error "the loop is written for x86-64 with FMA"
#endif

namespace {

constexpr long LOOPS = 200000;

// the time that this thread ran, so that what interrupts it does not count
double seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

#define FMA(sum) "vfmadd231ps %%" R "mm31, %%" R "mm30, %%" R "mm" #sum "\n\t"
#define FMA16(sum) "vfmadd231ps %%ymm15, %%ymm14, %%ymm" #sum "\n\t"

#ifdef __AVX512F__
#define R "z"
constexpr int LANES = 16, SUMS = 20;
void loop(long count) {
  const float small = 1e-3f;
  asm volatile(
      "vbroadcastss %1, %%zmm30\n\tvbroadcastss %1, %%zmm31\n\t"
      "1:\n\t" FMA(0) FMA(1) FMA(2) FMA(3) FMA(4) FMA(5) FMA(6) FMA(7) FMA(8) FMA(9) FMA(10) FMA(11) FMA(12) FMA(13)
          FMA(14) FMA(15) FMA(16) FMA(17) FMA(18) FMA(19) "dec %0\n\tjnz 1b\n\t"
      : "+r"(count)
      : "m"(small)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm30", "xmm31");
}
#else
constexpr int LANES = 8, SUMS = 14;
void loop(long count) {
  const float small = 1e-3f;
  asm volatile(
      "vbroadcastss %1, %%ymm14\n\tvbroadcastss %1, %%ymm15\n\t"
      "1:\n\t" FMA16(0) FMA16(1) FMA16(2) FMA16(3) FMA16(4) FMA16(5) FMA16(6) FMA16(7) FMA16(8) FMA16(9) FMA16(10)
          FMA16(11) FMA16(12) FMA16(13) "dec %0\n\tjnz 1b\n\t"
      : "+r"(count)
      : "m"(small)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15");
}
#endif

// what was left in the registers may be huge or no number at all; sums begin at zero
void clear() {
#ifdef __AVX512F__
  asm volatile("vzeroall\n\t"
               "vpxorq %%zmm16, %%zmm16, %%zmm16\n\tvpxorq %%zmm17, %%zmm17, %%zmm17\n\t"
               "vpxorq %%zmm18, %%zmm18, %%zmm18\n\tvpxorq %%zmm19, %%zmm19, %%zmm19\n\t" ::
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                     "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19");
#else
  asm volatile("vzeroall" ::
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                     "xmm12", "xmm13", "xmm14", "xmm15");
#endif
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 2;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(std::atoi(arguments[2]), &set);
  sched_setaffinity(0, sizeof set, &set);
  for (int repetition = 0; repetition < std::atoi(arguments[1]); ++repetition) {
    clear();
    const double start = seconds();
    loop(LOOPS);
    const double took = seconds() - start;
    std::printf("%.3f\n", 2.0 * LANES * SUMS * double(LOOPS) / took / 1e9);
  }
}
