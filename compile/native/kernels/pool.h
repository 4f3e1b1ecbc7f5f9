// Everything without weights: max and average pooling, the global mean, and element-wise addition.
#pragma once
#include "vector.h"

namespace st3 {

// One output row of one channel. The window's border reads the input's halo, which holds the pooling's neutral value.
template <class Step>
static inline void pool_row(const char* input, char* output, int row, int channel) {
  const char* x = input + row * Step::X_ROW + channel * Step::X_CHANNEL;
  char* y = output + row * Step::Y_ROW + channel * Step::Y_CHANNEL;
  for (int column = 0; column < Step::COLUMNS; column++) {
    const char* at = x + column * Step::X_COLUMN;
    vec value = load(at);
    for (int tap = 1; tap < Step::TAPS; tap++) {
      const vec next = load(at + Step::OFFSET[tap]);
      if constexpr (Step::MAXIMUM) {
        value = ((next > value) | (next != next)) ? next : value;  // NaN wins, as in torch
      } else {
        value += next;
      }
    }
    store(y + column * VECTOR, Step::MAXIMUM ? value : value * Step::FACTOR);
  }
}

// Mean over all pixels of one channel; lane i of the result is picture i. `inside` has a lane mask per vector.
template <class Step>
static inline void mean_channel(const char* input, char* output, const int32_t* inside, int channel) {
  vec sum = vec{};
  for (int row = 0; row < Step::ROWS; row++) {
    const char* x = input + row * Step::X_ROW + channel * Step::X_CHANNEL;
    for (int column = 0; column < Step::COLUMNS; column++, inside += LANES) {
      ivec mask;
      memcpy(&mask, inside, sizeof mask);
      sum += mask ? load(x + column * VECTOR) : vec{};
    }
  }
  vec mean = vec{};
  for (int image = 0; image < Step::IMAGES; image++) {
    float total = 0;
    for (int lane = 0; lane < Step::LANES_PER_IMAGE; lane++) total += sum[image * Step::LANES_PER_IMAGE + lane];
    mean[image] = total * Step::FACTOR;
  }
  store(output + channel * Step::Y_CHANNEL, mean);
}

template <class Step>
static inline void add_row(const char* left, const char* right, char* output, int row, int channel) {
  const char* a = left + row * Step::A_ROW + channel * Step::A_CHANNEL;
  const char* b = Step::BINARY ? right + row * Step::B_ROW + channel * Step::B_CHANNEL : nullptr;
  char* y = output + row * Step::Y_ROW + channel * Step::Y_CHANNEL;
  for (int column = 0; column < Step::COLUMNS; column++) {
    vec value = load(a + column * VECTOR);
    if constexpr (Step::BINARY) value += load(b + column * VECTOR);
    store(y + column * VECTOR, activate<Step::ACTIVATION>(value));
  }
}

}  // namespace st3
