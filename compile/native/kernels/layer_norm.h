// Normalises the channels of each pixel by themselves.
#pragma once
#include "vector.h"

namespace st3 {

// WIDTH parts of vectors of pixels: their mean over the channels, then the variance around it, then the result, in floats.
// Three passes over data that the first one brought into the cache; the sum of squares in one pass would lose digits.
template <class Step, int WIDTH>
static inline void normalise(const char* x, char* y, const float* weight, const float* bias) {
  fvec mean[WIDTH]{}, factor[WIDTH]{};
  for (int channel = 0; channel < Step::CHANNELS; channel++)
#pragma GCC unroll 8
    for (int i = 0; i < WIDTH; i++) mean[i] += load_floats(x + channel * Step::X_CHANNEL + i * PART);
  for (int i = 0; i < WIDTH; i++) mean[i] *= 1.0f / Step::CHANNELS;
  for (int channel = 0; channel < Step::CHANNELS; channel++)
#pragma GCC unroll 8
    for (int i = 0; i < WIDTH; i++) {
      const fvec distance = load_floats(x + channel * Step::X_CHANNEL + i * PART) - mean[i];
      factor[i] += distance * distance;
    }
  for (int i = 0; i < WIDTH; i++) factor[i] = 1.0f / root(factor[i] * (1.0f / Step::CHANNELS) + Step::EPSILON);
  for (int channel = 0; channel < Step::CHANNELS; channel++)
#pragma GCC unroll 8
    for (int i = 0; i < WIDTH; i++) {
      const fvec distance = load_floats(x + channel * Step::X_CHANNEL + i * PART) - mean[i];
      store_floats(y + channel * Step::Y_CHANNEL + i * PART, distance * factor[i] * weight[channel] + bias[channel]);
    }
}

// The columns [first, last) of a row; `first` is a multiple of WIDTH.
template <class Step>
static inline void normalise_row(const char* input, char* output, const float* weight, const float* bias, int row, int first,
                                 int last) {
  constexpr int WIDTH = 4, REST = Step::COLUMNS % WIDTH;
  const char* x = input + row * Step::X_ROW;
  char* y = output + row * Step::Y_ROW;
  int column = first;
  for (; column + WIDTH <= last; column += WIDTH)
    normalise<Step, WIDTH * SPLIT>(x + column * VECTOR, y + column * VECTOR, weight, bias);
  if constexpr (REST != 0)
    if (column < last) normalise<Step, REST * SPLIT>(x + column * VECTOR, y + column * VECTOR, weight, bias);
}

}  // namespace st3
