// One or two maps combined position by position: sums, products, activations, a factor per channel and picture.
#pragma once
#include "activation.h"

namespace st3 {

enum Operation { ALONE, ADD, MULTIPLY };

template <Operation O>
static inline vec combine(vec a, vec b) {
  if constexpr (O == ADD) return a + b;
  if constexpr (O == MULTIPLY) return a * b;
  return a;
}

// A map (C, 1, 1) has picture i in lane i; here that value comes to all lanes of the picture.
template <int LANES_PER_IMAGE>
static inline vec spread(vec value) {
  ivec image{};
  for (int lane = 0; lane < LANES; lane++) image[lane] = lane / LANES_PER_IMAGE;
  return __builtin_shuffle(value, image);
}

template <class Step>
static inline void combine_row(const char* left, const char* right, char* output, int row, int channel) {
  const char* a = left + row * Step::A_ROW + channel * Step::A_CHANNEL;
  const char* b = Step::OPERATION == ALONE ? nullptr : right + row * Step::B_ROW + channel * Step::B_CHANNEL;
  char* y = output + row * Step::Y_ROW + channel * Step::Y_CHANNEL;
  vec same{};
  if constexpr (Step::PER_CHANNEL) same = spread<Step::LANES_PER_IMAGE>(load(b));
  for (int column = 0; column < Step::COLUMNS; column++) {
    vec other = same;
    if constexpr (Step::OPERATION != ALONE && !Step::PER_CHANNEL) other = load(b + column * VECTOR);
    store(y + column * VECTOR, activate<Step::ACTIVATION>(combine<Step::OPERATION>(load(a + column * VECTOR), other)));
  }
}

}  // namespace st3
