// Max and average pooling over windows, and the mean over a whole map.
#pragma once
#include "vector.h"

namespace st3 {

// One output row of one channel. The window's border reads the input's halo, which holds the pooling's neutral value.
// `share` has 1 / (number of pixels averaged) for each lane of each position, where that is not the same for all.
template <class Step>
static inline void pool_row(const char* input, char* output, const float* share, int row, int channel) {
  const char* x = input + row * Step::X_ROW + channel * Step::X_CHANNEL;
  char* y = output + row * Step::Y_ROW + channel * Step::Y_CHANNEL;
  for (int column = 0; column < Step::COLUMNS; column++) {
    const char* at = x + column * Step::X_COLUMN;
    vec value = load(at);
    for (int tap = 1; tap < Step::TAPS; tap++) {
      const vec next = load(at + Step::OFFSET[tap]);
      value = Step::MAXIMUM ? larger(value, next) : value + next;
    }
    if constexpr (!Step::MAXIMUM && Step::EVEN) value *= Step::FACTOR;
    if constexpr (!Step::MAXIMUM && !Step::EVEN)
      value *= load(reinterpret_cast<const char*>(share) + (row * Step::COLUMNS + column) * VECTOR);
    store(y + column * VECTOR, value);
  }
}

// One output row of one channel, by a table: for each tap of each position the float offset of each lane's pixel inside
// the input's channel, or -1 where the lane's window has no more pixels.
template <class Step>
static inline void adaptive_row(const char* input, char* output, const int32_t* index, const float* share, int row,
                                int channel) {
  const float* x = reinterpret_cast<const float*>(input + channel * Step::X_CHANNEL);
  char* y = output + row * Step::Y_ROW + channel * Step::Y_CHANNEL;
  for (int column = 0; column < Step::COLUMNS; column++) {
    const int place = row * Step::COLUMNS + column;
    const float nothing = Step::MAXIMUM ? -__builtin_inff() : 0.0f;
    vec value = splat(nothing);
    for (int tap = 0; tap < Step::TAPS; tap++) {
      const int32_t* lanes = index + (static_cast<long>(place) * Step::TAPS + tap) * LANES;
      vec next{};
      for (int lane = 0; lane < LANES; lane++) next[lane] = lanes[lane] < 0 ? nothing : x[lanes[lane]];
      value = Step::MAXIMUM ? larger(value, next) : value + next;
    }
    if constexpr (!Step::MAXIMUM) value *= load(reinterpret_cast<const char*>(share) + place * VECTOR);
    store(y + column * VECTOR, value);
  }
}

// Mean over all pixels of one channel; lane i of the result is picture i. `inside` has a lane mask per vector.
// With channels in the lanes, the mean of one vector of channels; every vector counts.
template <class Step>
static inline void mean_channel(const char* input, char* output, const int32_t* inside, int channel) {
  vec sum = vec{};
  for (int row = 0; row < Step::ROWS; row++) {
    const char* x = input + row * Step::X_ROW + channel * Step::X_CHANNEL;
    for (int column = 0; column < Step::COLUMNS; column++, inside += LANES) {
      if constexpr (Step::CHANNEL_LANES) {
        sum += load(x + column * VECTOR);
      } else {
        ivec mask;
        memcpy(&mask, inside, sizeof mask);
        sum += mask ? load(x + column * VECTOR) : vec{};
      }
    }
  }
  if constexpr (Step::CHANNEL_LANES) return store(output + channel * Step::Y_CHANNEL, sum * Step::FACTOR);
  vec mean = vec{};
  for (int image = 0; image < Step::IMAGES; image++) {
    float total = 0;
    for (int lane = 0; lane < Step::LANES_PER_IMAGE; lane++) total += sum[image * Step::LANES_PER_IMAGE + lane];
    mean[image] = total * Step::FACTOR;
  }
  store(output + channel * Step::Y_CHANNEL, mean);
}

}  // namespace st3
