// Activations on vectors, as torch defines them, without a call of libm: NaN and infinities go through as they do there.
//
// Sources. exp: x = n ln 2 + r with ln 2 in two parts (Cody and Waite, 1980), then exp r = 1 + r + r^2 P(r). erf:
// x P(x^2) / Q(x^2) up to 3.92, beyond which it is 1 in float32. The coefficients are minimax fits of the relative error,
// found by least squares with Lawson's weights in double precision: 3e-9 for exp, 2e-8 for erf, before rounding. With
// float32 rounding exp is within 2e-7 and erf within 5e-7 of the exact value, relative; the tests hold them to that.
// tanh: x + x^3 P(x^2) up to 0.625 (Cephes' tanhf), beyond which 1 - 2 / (1 + exp 2x) loses no digits.
#pragma once
#include "vector.h"

namespace st3 {

enum Activation { IDENTITY, RELU, RELU6, SILU, HARDSWISH, SIGMOID, HARDSIGMOID, GELU, GELU_TANH, TANH };

// Whether an activation takes a few instructions, so that it may stand unrolled behind every accumulator.
constexpr bool cheap(Activation a) { return a == IDENTITY || a == RELU || a == RELU6; }

// Bounds that let NaN through, since a comparison with it is false.
template <class V>
static inline V at_least(V x, V low) {
  return x < low ? low : x;
}
template <class V>
static inline V at_most(V x, V high) {
  return x > high ? high : x;
}
static inline fvec all(float value) { return value - fvec{}; }

// 2^n for -126 <= n <= 127.
static inline fvec power_of_two(fivec n) { return reinterpret_cast<fvec>((n + 127) << 23); }

static inline fvec exp(fvec x) {
  const fvec magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, which its low bits then hold
  x = at_most(at_least(x, all(-104.0f)), all(89.0f));  // beyond these the result is 0 and infinity
  const fvec shifted = x * 1.44269504f + magic;
  const fvec n = shifted - magic;
  const fvec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  fvec p = r * 1.38131448e-3f + 8.36941879e-3f;
  p = p * r + 4.1668456e-2f;
  p = p * r + 1.66665152e-1f;
  p = p * r + 4.9999994e-1f;
  p = p * (r * r) + r + 1.0f;
  // in two factors, because the result may lie below or above what one exponent can hold
  const fivec power = reinterpret_cast<fivec>(shifted) - reinterpret_cast<fivec>(magic);
  const fivec half = power >> 1;
  return p * power_of_two(half) * power_of_two(power - half);
}

static inline fvec erf(fvec x) {
  const fvec c = at_most(at_least(x, all(-3.92f)), all(3.92f));
  const fvec t = c * c;
  fvec p = t * 2.05007041e-06f + 2.84883019e-04f;
  p = p * t + 3.76566057e-03f;
  p = p * t + 5.27488589e-02f;
  p = p * t + 1.90407574e-01f;
  p = p * t + 1.12837911f;
  fvec q = t * 3.80915517e-05f + 1.16254471e-03f;
  q = q * t + 1.49693061e-02f;
  q = q * t + 1.14109561e-01f;
  q = q * t + 5.02077043e-01f;
  q = q * t + 1.0f;
  const fvec inside = c * p / q;
  return x > 3.92f ? all(1.0f) : x < -3.92f ? all(-1.0f) : inside;
}

static inline fvec tanh(fvec x) {
  const fvec t = x * x;
  fvec p = t * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * t - 5.37397155531e-2f;
  p = p * t + 1.33314422036e-1f;
  p = p * t - 3.33332819422e-1f;
  const fvec size = x < 0.0f ? -x : x;
  const fvec far = 1.0f - 2.0f / (1.0f + exp(2.0f * size));
  return size < 0.625f ? p * t * x + x : x < 0.0f ? -far : far;
}

template <Activation A>
static inline fvec activate_floats(fvec x) {
  if constexpr (A == RELU6) return at_most(at_least(x, all(0.0f)), all(6.0f));
  if constexpr (A == SILU) return x / (1.0f + exp(-x));
  if constexpr (A == SIGMOID) return 1.0f / (1.0f + exp(-x));
  if constexpr (A == HARDSIGMOID) return activate_floats<RELU6>(x + 3.0f) * (1.0f / 6.0f);
  if constexpr (A == HARDSWISH) return x * activate_floats<HARDSIGMOID>(x);
  if constexpr (A == GELU) return x * 0.5f * (1.0f + erf(x * 0.707106781f));
  // (1 + tanh u) / 2 is 1 / (1 + exp(-2 u)), here with u = sqrt(2 / pi) (x + 0.044715 x^3)
  if constexpr (A == GELU_TANH) return x / (1.0f + exp(x * (-1.59576912f + x * x * -0.0713548163f)));
  if constexpr (A == TANH) return tanh(x);
  return x;
}

template <Activation A>
static inline vec activate(vec x) {
  if constexpr (A == RELU) return at_least(x, vec{});
  if constexpr (A == RELU6) return at_most(at_least(x, vec{}), splat(real(6)));
  if constexpr (cheap(A)) return x;
  return in_floats(x, activate_floats<A>);
}

}  // namespace st3
