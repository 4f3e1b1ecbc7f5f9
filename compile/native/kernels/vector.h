// One vector of ST3_LANES floats, portable through GCC's vector extensions.
#pragma once
#include <cstdint>
#include <cstring>

#ifndef ST3_LANES
#error "ST3_LANES must be set by the generator"
#endif

namespace st3 {

constexpr int LANES = ST3_LANES;
constexpr long VECTOR = 4L * LANES;  // bytes

typedef float vec __attribute__((vector_size(4 * ST3_LANES), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * ST3_LANES), may_alias));

// The array with a number in a weight file: its directory of offsets follows the header of 64 bytes.
template <class T>
static inline const T* array(const char* weights, int number) {
  return reinterpret_cast<const T*>(weights + reinterpret_cast<const int64_t*>(weights + 64)[number]);
}

static inline vec load(const char* at) { return *reinterpret_cast<const vec*>(at); }
static inline void store(char* at, vec value) { *reinterpret_cast<vec*>(at) = value; }
static inline vec splat(float value) { return value - vec{}; }  // x - 0 is x, for -0 too
static inline vec splat(vec value) { return value; }

static inline vec larger(vec a, vec b) { return ((b > a) | (b != b)) ? b : a; }  // NaN wins, as in torch

// The processor's own square root; -fno-math-errno keeps libm out.
static inline vec root(vec x) {
  for (int lane = 0; lane < LANES; lane++) x[lane] = __builtin_sqrtf(x[lane]);
  return x;
}

// The same value, in a register: what several multiply-adds share g++ otherwise loads again for each of them.
static inline vec held(vec value) {
#if defined(__AVX512F__)
  asm("" : "+v"(value));
#elif defined(__AVX__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
  return value;
}

// The same address, in one register: a multiply-add whose operand lies at the sum of two takes twice the processor's room.
static inline const char* held(const char* address) {
  asm("" : "+r"(address));
  return address;
}

}  // namespace st3
