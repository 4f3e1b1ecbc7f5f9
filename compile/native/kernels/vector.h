// One vector of ST3_LANES numbers, portable through GCC's vector extensions.
//
// A network computes in `real`: float, or with ST3_HALF the processor's own half precision (_Float16), sums included. What
// half precision is too coarse for (means, exponentials) is computed in `Floats`, a vector's numbers as floats.
#pragma once
#include <cstdint>
#include <cstring>

#ifndef ST3_LANES
#error "ST3_LANES must be set by the generator"
#endif

namespace st3 {

#ifdef ST3_HALF
#ifdef __aarch64__
typedef __fp16 real;  // g++ has _Float16 from 13 on there
#else
typedef _Float16 real;  // from 12 on
#endif
typedef int16_t integer;
#else
typedef float real;
typedef int32_t integer;
#endif

constexpr int LANES = ST3_LANES;
constexpr long VECTOR = sizeof(real) * LANES;  // bytes

typedef real vec __attribute__((vector_size(sizeof(real) * ST3_LANES), may_alias));
typedef integer ivec __attribute__((vector_size(sizeof(real) * ST3_LANES), may_alias));
// as many bytes as floats
typedef float fvec __attribute__((vector_size(sizeof(real) * ST3_LANES), may_alias));
typedef int32_t fivec __attribute__((vector_size(sizeof(real) * ST3_LANES), may_alias));

// The array with a number in a weight file: its directory of offsets follows the header of 64 bytes.
template <class T>
static inline const T* array(const char* weights, int number) {
  return reinterpret_cast<const T*>(weights + reinterpret_cast<const int64_t*>(weights + 64)[number]);
}

static inline vec load(const char* at) { return *reinterpret_cast<const vec*>(at); }
// Of a table of lanes or masks, which may lie at any place.
static inline ivec load_integers(const integer* at) {
  ivec result;
  memcpy(&result, at, sizeof result);
  return result;
}
static inline void store(char* at, vec value) { *reinterpret_cast<vec*>(at) = value; }
// x - 0 is x, for -0 too. A scalar __fp16 becomes a float beside a vector, which g++ refuses.
static inline vec splat(real value) {
#if defined(ST3_HALF) && defined(__aarch64__)
  return __builtin_shuffle(vec{value}, ivec{});
#else
  return value - vec{};
#endif
}
static inline vec splat(vec value) { return value; }

// A vector's numbers as floats, in as many parts of FLOATS numbers as they take vectors.
constexpr int SPLIT = sizeof(float) / sizeof(real);
constexpr int FLOATS = LANES / SPLIT;
constexpr long PART = VECTOR / SPLIT;  // bytes of a part's numbers in memory

#ifdef ST3_HALF
typedef real part_vec __attribute__((vector_size(sizeof(real) * ST3_LANES / 2), may_alias));

// g++ 12 writes the conversions lane by lane where it is not told
static inline fvec widened(part_vec x) {
#ifdef __AVX512FP16__
  fvec result;
  asm("vcvtph2psx %1, %0" : "=v"(result) : "v"(x));
  return result;
#else
  return __builtin_convertvector(x, fvec);
#endif
}
static inline part_vec narrowed(fvec x) {
#ifdef __AVX512FP16__
  part_vec result;
  asm("vcvtps2phx %1, %0" : "=v"(result) : "v"(x));
  return result;
#else
  return __builtin_convertvector(x, part_vec);
#endif
}
#else
typedef vec part_vec;
static inline fvec widened(vec x) { return x; }
static inline vec narrowed(fvec x) { return x; }
#endif

static inline fvec load_floats(const char* at) { return widened(*reinterpret_cast<const part_vec*>(at)); }
static inline void store_floats(char* at, fvec value) { *reinterpret_cast<part_vec*>(at) = narrowed(value); }

// A function of floats, for each number.
template <class Function>
static inline vec in_floats(vec x, const Function& function) {
  part_vec parts[SPLIT];
  memcpy(parts, &x, sizeof x);
#pragma GCC unroll 2
  for (int i = 0; i < SPLIT; i++) parts[i] = narrowed(function(widened(parts[i])));
  memcpy(&x, parts, sizeof x);
  return x;
}

static inline vec larger(vec a, vec b) { return ((b > a) | (b != b)) ? b : a; }  // NaN wins, as in torch

// The processor's own square root; -fno-math-errno keeps libm out.
static inline fvec root(fvec x) {
  for (int lane = 0; lane < FLOATS; lane++) x[lane] = __builtin_sqrtf(x[lane]);
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
