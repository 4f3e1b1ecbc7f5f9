// Another size of a map: each pixel a weighted sum of the input's.
#pragma once
#include "vector.h"

namespace st3 {

// One output row of one channel, by tables: for each tap of each position the offset in numbers of each lane's pixel inside
// the input's channel, and its weight.
template <class Step>
static inline void resize_row(const char* input, char* output, const int32_t* index, const real* weight, int row,
                              int channel) {
  const real* x = reinterpret_cast<const real*>(input + channel * Step::X_CHANNEL);
  char* y = output + row * Step::Y_ROW + channel * Step::Y_CHANNEL;
  for (int column = 0; column < Step::COLUMNS; column++) {
    const long place = (static_cast<long>(row) * Step::COLUMNS + column) * Step::TAPS;
    vec value{};
    for (int tap = 0; tap < Step::TAPS; tap++) {
      const int32_t* lanes = index + (place + tap) * LANES;
      vec next{};
      for (int lane = 0; lane < LANES; lane++) next[lane] = x[lanes[lane]];
      value += next * load(reinterpret_cast<const char*>(weight) + (place + tap) * VECTOR);
    }
    store(y + column * VECTOR, value);
  }
}

}  // namespace st3
